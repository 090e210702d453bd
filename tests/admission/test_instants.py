"""Which instants are due, simulated: any number of processes, gaps, and clocks that are set."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import attrs
import hypothesis
from hypothesis import strategies as st

from supervisor.admission.cron import Cron
from supervisor.admission.instants import MAX_CAUGHT_UP, Instants
from supervisor.store.schedule_files import Schedule, State

SECOND = 10**9
BEGIN = int(datetime(2026, 10, 24, 20, tzinfo=UTC).timestamp()) * SECOND
HOUR = 3600 * SECOND
DAY = 24 * HOUR


def make(cron: str = "* * * * *", **changes: object) -> Schedule:
    made = Schedule(
        name="nightly",
        cron=cron,
        zone="UTC",
        overlap="skip",
        catch_up="latest",
        window_ns=HOUR,
        jitter_ns=0,
        created_ns=BEGIN,
        request={},
        settings=(0, 0, {}),
    )
    return attrs.evolve(made, **changes)


def fire(schedule: Schedule, state: State, now_ns: int) -> tuple[State, list[int]]:
    """Fire what is due, as a supervisor does; return the state after that, as it stands in the row."""
    due = Instants(schedule, state).due(now_ns)
    for instant in due:
        state = state.deciding(instant, "job")
    text = Instants(schedule, state).settled(now_ns).encode()
    return State.decode(text, schedule.created_ns), due


def test_the_latest_missed_instant_is_caught_up_within_its_window() -> None:
    schedule, state = make("0 * * * *"), State(since_ns=BEGIN)
    assert Instants(schedule, state).due(BEGIN) == []  # instants up to its creation are not missed
    assert Instants(schedule, state).due(BEGIN + 5 * HOUR + HOUR // 2) == [BEGIN + 5 * HOUR]
    daily = make("0 3 * * *")
    assert Instants(daily, state).due(BEGIN + 24 * HOUR) == []  # it was missed for too long
    assert Instants(attrs.evolve(daily, window_ns=DAY), state).due(BEGIN + 24 * HOUR) != []


def test_none_fires_what_is_on_time_only() -> None:
    schedule, state = make("0 * * * *", catch_up="none"), State(since_ns=BEGIN)
    assert Instants(schedule, state).due(BEGIN + HOUR + 59 * SECOND) == [BEGIN + HOUR]
    assert Instants(schedule, state).due(BEGIN + HOUR + 61 * SECOND) == []


def test_a_window_of_nothing_fires_what_is_on_time() -> None:
    schedule = make("0 * * * *", window_ns=0)
    assert Instants(schedule, State(since_ns=BEGIN)).due(BEGIN + HOUR + SECOND) == [BEGIN + HOUR]


def test_all_fires_the_newest_hundred_oldest_first_whatever_was_missed() -> None:
    schedule, state = make("* * * * *", catch_up="all", window_ns=30 * DAY), State(since_ns=BEGIN)
    now_ns = BEGIN + 20 * DAY
    due = Instants(schedule, state).due(now_ns)
    assert (len(due), due[-1]) == (MAX_CAUGHT_UP, now_ns)
    assert {b - a for a, b in pairwise(due)} == {60 * SECOND}
    state, _ = fire(schedule, state, now_ns)
    assert Instants(schedule, state).due(now_ns) == []
    assert Instants(schedule, state).next_at(now_ns) == now_ns + 60 * SECOND


def test_jitter_is_the_same_everywhere_and_keeps_the_order() -> None:
    schedule, state = make("* * * * *", jitter_ns=10 * 60 * SECOND), State(since_ns=BEGIN)
    instants = [BEGIN + minute * 60 * SECOND for minute in range(1, 200)]
    times = [Instants(schedule, state).fires_at(instant) for instant in instants]
    assert times == sorted(times) == [Instants(schedule, State(since_ns=0)).fires_at(each) for each in instants]
    assert len({at - instant for at, instant in zip(times, instants, strict=True)}) > 100
    assert all(0 <= at - instant < 60 * SECOND for at, instant in zip(times, instants, strict=True))
    first, at_ns = instants[0], times[0]
    assert Instants(schedule, state).next_at(first) == at_ns
    assert Instants(schedule, state).due(at_ns - 1) == []
    assert Instants(schedule, state).due(at_ns) == [first]


def test_a_clock_that_is_set_back_repeats_nothing_and_postpones_nothing() -> None:
    schedule, state = make("0 * * * *"), State(since_ns=BEGIN)
    for hour in (1, 2, 3):
        state, due = fire(schedule, state, BEGIN + hour * HOUR)
        assert due == [BEGIN + hour * HOUR]
    wrong = BEGIN + 400 * DAY
    state, due = fire(schedule, state, wrong)  # the clock is wrong, and is corrected
    assert due == [wrong]
    assert Instants(schedule, state).due(BEGIN + 3 * HOUR + 60 * SECOND) == []
    assert Instants(schedule, state).next_at(BEGIN + 3 * HOUR + 60 * SECOND) == BEGIN + 4 * HOUR
    state, due = fire(schedule, state, BEGIN + 4 * HOUR)
    assert due == [BEGIN + 4 * HOUR]
    assert Instants(schedule, state).next_at(BEGIN + HOUR - SECOND) == BEGIN + 5 * HOUR  # by an hour and a half


def test_a_clock_that_was_ahead_when_the_schedule_was_added_postpones_nothing() -> None:
    schedule, state = make("0 * * * *", created_ns=BEGIN + 400 * DAY), State(since_ns=BEGIN + 400 * DAY)
    state, due = fire(schedule, state, BEGIN + HOUR // 2)
    assert due == []
    assert Instants(schedule, state).due(BEGIN + HOUR) == [BEGIN + HOUR]


def test_the_state_stays_short() -> None:
    schedule, state = make("* * * * *"), State(since_ns=BEGIN)
    for minute in range(1, 500):
        state, _ = fire(schedule, state, BEGIN + minute * 60 * SECOND)
    assert state.spans == ((BEGIN + 60 * SECOND, BEGIN + 499 * 60 * SECOND),)
    for jump in range(1, 50):
        state, _ = fire(schedule, state, BEGIN + jump * DAY)
    assert len(state.encode()) < 1000


def test_a_damaged_state_is_that_of_a_new_schedule() -> None:
    for text in ("", "[]", "{}", '{"spans": 1}', b"\xff"):
        assert State.decode(text, 5) == State(since_ns=5)


STEPS = st.lists(
    st.one_of(
        st.integers(1, 90).map(lambda minutes: timedelta(minutes=minutes)),
        st.integers(2, 60).map(lambda hours: timedelta(hours=hours)),  # no process is awake
        st.integers(1, 120).map(lambda minutes: -timedelta(minutes=minutes)),  # the clock is set back
    ),
    min_size=1,
    max_size=40,
)


@hypothesis.given(
    cron=st.sampled_from(["* * * * *", "*/7 * * * *", "30 2 * * *", "0 */3 * * 1-5", "15 2,3 25,28 3,10 *"]),
    zone=st.sampled_from(["Europe/Berlin", "Australia/Lord_Howe", "America/St_Johns", "UTC"]),
    catch_up=st.sampled_from(["latest", "none", "all"]),
    begin=st.sampled_from([datetime(2026, 10, 24, 20, tzinfo=UTC), datetime(2027, 3, 27, 20, tzinfo=UTC)]),
    steps=STEPS,
)
@hypothesis.settings(max_examples=60)
def test_each_instant_that_is_due_has_one_job_whatever_the_clock_does(
    cron: str, zone: str, catch_up: str, begin: datetime, steps: list[timedelta]
) -> None:
    now_ns = int(begin.timestamp()) * SECOND
    schedule, state = make(cron, zone=zone, catch_up=catch_up, created_ns=now_ns), State(since_ns=now_ns)
    reference, fired = Cron(cron, zone), Counter[int]()
    for step in steps:
        before_ns, now_ns = now_ns, now_ns + int(step.total_seconds()) * SECOND
        state, due = fire(schedule, state, now_ns)
        state, again = fire(schedule, state, now_ns)  # another process
        assert again == []
        fired.update(due)
        last = reference.preceding(now_ns)
        assert last is not None
        if before_ns < last <= now_ns and now_ns - last <= 60 * SECOND:  # it has just come
            assert fired[last] == 1
        following = Instants(schedule, state).next_at(now_ns)
        assert following is not None
        assert following > now_ns
        assert not state.has_decided(following)
    assert set(fired.values()) <= {1}
