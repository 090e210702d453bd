"""Groups wait out the usage limits that their jobs meet, by clocks that the tests set."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import pytest

from supervisor.admission import groups
from supervisor.jobs.catalog import Catalog
from supervisor.model import ErrorInfo, Exit, PauseInfo
from supervisor.settings import Settings
from supervisor.states import Reason, State
from supervisor.store import Index, Row
from supervisor.store.rows import JobOutcome, dump, row_of_record
from supervisor.store.state_root import new_job_id
from supervisor.store.tickets import Moment
from supervisor.store.usage_limits import LimitState, state_after

SECOND = 10**9
MINUTE = 60 * SECOND
DAY = 86400 * SECOND
BEGIN = datetime(2026, 11, 28, 12, tzinfo=UTC)


class Clocks:
    """The two clocks of a machine; the wall clock can be set."""

    def __init__(self) -> None:
        self.wall, self.boot = int(BEGIN.timestamp()) * SECOND, DAY

    def wall_ns(self) -> int:
        return self.wall

    def boot_ns(self) -> int:
        return self.boot

    def pass_time(self, seconds: float) -> None:
        self.wall += int(seconds * SECOND)
        self.boot += int(seconds * SECOND)


class World:
    """A state root, its clocks, and jobs that are rows only."""

    def __init__(self, catalog: Catalog, clocks: Clocks) -> None:
        self.index: Index = catalog.index
        self.clocks = clocks

    def group(self, name: str = "g", **settings: Any) -> None:
        groups.change_group(self.index, name, lambda group: attrs.evolve(group, **settings), create=True)

    def enter(self, number: int = 1, group: str = "g", weight: int = 1) -> list[Row]:
        rows: list[Row] = []
        for _ in range(number):
            record: dict[str, Any] = {"v": 1, "job_id": new_job_id(), "kind": "raw", "argv": ["a"], "workspace": "/w"}
            record |= {"labels": {}, "created_ns": self.clocks.wall, "deadline_seconds": None, "ttl_seconds": 10**7}
            record |= {"digest": "", "idempotency_key": None, "owner": "me", "priority": 0, "weight": weight}
            text = dump(record := {**record, "groups": [group]})
            row = row_of_record("w-" + "0" * 12, record, text)
            self.index.layout.make_job(row.workspace_key, row.job_id, text.encode())
            assert self.index.write(lambda row=row: self.index.insert(row))
            rows.append(row)
        return rows

    def start(self) -> list[str]:
        """Admit jobs, and have them launched now; return their ids."""
        found = [grant.job_id for grant in self.index.take_turns().grants]
        for job_id in found:
            statement = "UPDATE jobs SET state = 'running', started_ns = ? WHERE job_id = ?"
            self.index.write(
                lambda job_id=job_id, statement=statement: self.index._db.execute(statement, (self.clocks.wall, job_id))
            )
        return found

    def end(self, job_id: str, error: ErrorInfo | None = None) -> None:
        row = self.index.get(job_id)
        assert row is not None
        state, reason = (State.FAILED, Reason.REPORTED_ERROR) if error else (State.DONE, Reason.EXITED)
        outcome = JobOutcome(state=state, reason=reason, error=error, exit=Exit(ended_ns=self.clocks.wall))
        assert self.index.write(lambda: self.index.finish(row.with_outcome(outcome)))

    def pauses(self, name: str = "g") -> tuple[PauseInfo, ...]:
        return groups.group_info(self.index, name).paused

    def wait_seconds(self) -> float | None:
        return self.index.read_queue(lambda queue: queue.next_seconds(self.index.layout.clock.moment()))


@pytest.fixture(autouse=True)
def each_turn_looks_at_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.store.turns._FOLLOW_NS", -1)


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def world(state_dir: Path, clocks: Clocks) -> Iterator[World]:
    with Catalog(Settings(state_dir=state_dir)) as opened:
        opened.index.layout.clock.source = clocks
        yield World(opened, clocks)


def limited(until: str | None = None, source: str = "field", **more: Any) -> ErrorInfo:
    details = {"resets_at": until, "resets_at_source": source, **more} if until else {}
    return ErrorInfo(code="rate_limited", message="", repair="", retryable=True, details=details)


def test_a_limit_pauses_the_group_until_a_minute_after_its_end(world: World) -> None:
    world.group(limit=2)
    world.enter(3)
    first, second = world.start()
    world.end(first, limited("2026-11-28T14:00:00Z", limit="five_hour"))
    (pause,) = world.pauses()
    assert (pause.by, pause.until) == ("rate_limited", datetime(2026, 11, 28, 14, 1, tzinfo=UTC))
    assert first in (pause.detail or "")
    assert "five_hour" in (pause.detail or "")
    world.end(second)
    assert world.start() == [], "it began before the limit was met, and says nothing about its end"
    assert world.wait_seconds() == 7260
    world.clocks.pass_time(7259)
    assert world.start() == []
    world.clocks.pass_time(1)
    (third,) = world.start()
    world.clocks.pass_time(60)
    world.end(third)
    assert not os.listdir(f"{world.index.layout.root}/pauses")


def test_a_job_that_succeeds_in_the_minute_of_a_restart_does_not_shorten_it(world: World) -> None:
    world.group()
    world.enter(10)
    for each in world.start():
        world.end(each, limited("2026-11-28T14:00:00Z"))
    world.enter(100)
    world.clocks.pass_time(7260)
    (first,) = world.start()
    world.end(first)
    (second,) = world.start()  # in the place of the first
    assert world.start() == []
    world.clocks.pass_time(2)
    assert len(world.start()) == 2, "one a second"
    world.clocks.pass_time(58)
    world.end(second)
    assert len(world.start()) == 96, "all the others"


def test_a_group_that_ignores_limits_is_not_paused_and_counts_them_as_failures(world: World) -> None:
    world.group(on_rate_limit="ignore", pause_on_failure=1)
    world.enter()
    world.end(*world.start(), limited("2026-11-28T14:00:00Z"))
    assert [pause.by for pause in world.pauses()] == ["failures"]


def test_limits_do_not_count_as_failures(world: World) -> None:
    world.group(pause_on_failure=1)
    world.enter()
    world.end(*world.start(), limited("2026-11-28T14:00:00Z"))
    assert [pause.by for pause in world.pauses()] == ["rate_limited"]


def test_every_group_of_the_job_waits(world: World) -> None:
    world.group("a")
    world.group("b", on_rate_limit="ignore")
    (row,) = world.enter(group="a")
    world.index.write(
        lambda: world.index._db.execute(
            "UPDATE jobs SET spec = ? WHERE job_id = ?", (dump({**row.request, "groups": ["a", "b"]}), row.job_id)
        )
    )
    world.end(*world.start(), limited("2026-11-28T14:00:00Z"))
    assert [pause.by for pause in world.pauses("a")] == ["rate_limited"]
    assert world.pauses("b") == ()


def test_the_later_of_two_ends_holds(world: World) -> None:
    world.group()
    world.enter(3)
    first, second, third = world.start()
    world.end(first, limited("2026-11-28T14:00:00Z"))
    world.end(second, limited("2026-11-30T09:00:00Z"))
    world.end(third, limited("2026-11-28T13:00:00Z"))
    assert [pause.until for pause in world.pauses()] == [datetime(2026, 11, 30, 9, 1, tzinfo=UTC)]


def test_an_end_that_is_over_pauses_nothing(world: World) -> None:
    world.group()
    world.enter(2)
    first, second = world.start()
    world.end(first, limited("2026-11-28T11:00:00Z"))
    world.end(second, limited("2026-11-28T11:58:59Z"))
    assert world.pauses() == ()


def test_a_restart_after_an_end_that_is_over_takes_a_minute_too(world: World) -> None:
    """All processes that watched the jobs were killed: their ends are recorded long after the reset."""
    world.group(limit=6)
    world.enter(20)
    running = world.start()
    world.clocks.pass_time(7200)
    for job_id in running:
        world.end(job_id, limited("2026-11-28T12:09:00Z"))
        world.clocks.pass_time(0.5)
    assert world.pauses() == ()
    starts = []
    for _ in range(7):
        starts.append(len(world.start()))
        world.clocks.pass_time(10)
    assert starts == [1, 1, 1, 1, 1, 1, 0]


def test_a_guess_counts_from_when_the_job_said_so(world: World) -> None:
    world.group(limit=2)
    world.enter(5)
    first, second = world.start()
    world.clocks.pass_time(240)
    world.end(first, limited("2026-11-28T12:05:30Z", source="guess"))
    assert [pause.until for pause in world.pauses()] == [datetime(2026, 11, 28, 12, 5, 30, tzinfo=UTC)]
    world.clocks.pass_time(3600)
    world.end(second, limited("2026-11-28T12:05:31Z", source="guess"))
    assert world.pauses() == ()
    (_probe,) = world.start()
    world.clocks.pass_time(3600)
    assert world.start() == [], "the probe runs"


def test_what_is_over_ends_no_pause(world: World) -> None:
    world.group()
    world.enter(3)
    first, second, third = world.start()
    world.end(first, limited())
    world.end(second, limited("2026-11-28T11:00:00Z"))
    assert [pause.until for pause in world.pauses()] == [datetime(2026, 11, 28, 12, 5, tzinfo=UTC)]
    world.end(third, limited("2026-11-28T14:00:00Z"))
    assert [pause.until for pause in world.pauses()] == [datetime(2026, 11, 28, 14, 1, tzinfo=UTC)]


def test_a_limit_leaves_alone_that_another_one_is_nearly_used_up(world: World) -> None:
    world.group(limit=3)
    (row,) = world.enter(1)
    world.start()
    tell(world, row, news(0.95, name="seven_day", resets_at=world.clocks.wall / SECOND + 86400))
    world.end(row.job_id, limited("2026-11-28T13:00:00Z", limit="five_hour"))
    world.enter(5)
    world.clocks.pass_time(7200)
    assert len(world.start()) == 1


def test_the_restart_takes_a_minute(world: World) -> None:
    world.group(limit=6)
    world.enter(20)
    world.end(world.start()[0], limited("2026-11-28T12:09:00Z"))
    for job_id in [row.job_id for row in world.index.unfinished() if row.started_ns is not None]:
        world.end(job_id)
    world.clocks.pass_time(600)
    starts = []
    for _ in range(7):
        starts.append(len(world.start()))
        wait = world.wait_seconds()
        world.clocks.pass_time(10)
        assert wait is None or wait == 10
    assert starts == [1, 1, 1, 1, 1, 1, 0]


def test_the_restart_of_a_group_without_a_limit_is_no_stampede(world: World) -> None:
    world.group()
    world.enter(1)
    world.end(*world.start(), limited("2026-11-28T12:09:00Z"))
    world.enter(200)
    world.clocks.pass_time(600)
    assert len(world.start()) == 1
    world.clocks.pass_time(30)
    assert len(world.start()) == 30
    world.clocks.pass_time(30)
    assert len(world.start()) == 169


def test_a_heavy_job_starts_in_the_restart_too(world: World) -> None:
    world.group(limit=4)
    world.enter(1)
    world.end(*world.start(), limited("2026-11-28T12:09:00Z"))
    world.enter(1, weight=4)
    world.clocks.pass_time(600)
    assert len(world.start()) == 1


def test_without_a_known_end_pauses_double_and_one_job_at_a_time_is_the_probe(world: World) -> None:
    world.group(limit=3)
    world.enter(30)
    running = world.start()
    for job_id in running:  # all of them meet the same limit
        world.end(job_id, limited())
    for minutes in (5, 10, 20, 40, 60, 60):
        (pause,) = world.pauses()
        assert pause.until == datetime.fromtimestamp(world.clocks.wall / SECOND + minutes * 60, UTC)
        world.clocks.pass_time(minutes * 60 - 1)
        assert world.start() == []
        world.clocks.pass_time(1)
        (probe,) = world.start()
        world.clocks.pass_time(7200)
        assert world.start() == [], "one at a time, however long it runs"
        world.end(probe, limited())
    world.clocks.pass_time(3600)
    (probe,) = world.start()
    world.end(probe)
    assert len(world.start()) == 3, "the probe has succeeded"
    assert world.pauses() == ()


def test_a_probe_that_fails_otherwise_is_followed_by_another_one(world: World) -> None:
    world.group()
    world.enter(5)
    first = world.start()
    world.end(first[0], limited("2026-11-28T12:01:00Z", source="guess"))
    for job_id in first[1:]:
        world.end(job_id)
    world.enter(3)
    world.clocks.pass_time(300)
    (probe,) = world.start()
    world.end(probe, ErrorInfo(code="job_failed", message="", repair=""))
    assert len(world.start()) == 1


def test_a_known_end_replaces_a_guess(world: World) -> None:
    world.group()
    world.enter(2)
    first, second = world.start()
    world.end(first, limited())
    world.end(second, limited("2026-11-28T12:02:00Z", source="text"))
    world.clocks.pass_time(180)
    world.enter(2)
    assert len(world.start()) == 1
    world.clocks.pass_time(60)
    assert len(world.start()) == 1


def test_a_waiting_job_says_for_which_limit_it_waits_and_until_when(world: World) -> None:
    world.group(limit=3)
    waiting = world.enter(5)[-1]
    first, *others = world.start()
    assert world.index.standing(waiting) == ("limit", 2)
    world.end(first, limited("2026-11-28T14:00:00Z"))
    assert world.index.standing(waiting) == ("rate_limited", 2)
    until = datetime(2026, 11, 28, 14, 1, tzinfo=UTC)
    assert world.index.limit_end_ns(waiting) == int(until.timestamp()) * SECOND
    groups.change_group(world.index, "g", groups.pause(None, "by hand"))
    assert world.index.standing(waiting) == ("paused", 2), "it would not start if the limit ended"
    groups.change_group(world.index, "g", groups.resume)
    for each in others:
        world.end(each)
    world.clocks.pass_time(7260)
    assert len(world.start()) == 1
    assert world.index.standing(waiting) == ("rate_limited", 1), "the restart takes a minute"
    assert world.index.limit_end_ns(waiting) is None


def test_a_user_resumes_the_group(world: World) -> None:
    world.group(limit=3)
    rows = world.enter(5)
    for job_id in world.start():
        world.end(job_id, limited())
    groups.resume_group(world.index, "g")  # admits by itself
    assert [world.index.standing(row) for row in rows[3:]] == [("launching", None)] * 2
    assert world.pauses() == ()


def test_a_set_clock_changes_nothing_within_a_boot(world: World) -> None:
    world.group()
    world.enter(1)
    world.end(*world.start(), limited("2026-11-28T13:00:00Z"))
    world.enter(1)
    for jump in (-40 * DAY, 80 * DAY):
        world.clocks.wall += jump
        assert world.start() == []
        assert world.wait_seconds() == 3660
    world.clocks.wall -= 70 * DAY
    world.clocks.pass_time(3660)
    assert len(world.start()) == 1


def test_after_a_reboot_the_wall_clock_counts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.group()
    world.enter(1)
    world.end(*world.start(), limited("2026-11-28T13:00:00Z"))
    world.enter(1)
    monkeypatch.setattr("supervisor.system.processes.boot_id", lambda: "another-boot-of-the-machine")
    world.clocks.boot = 0
    world.clocks.pass_time(3659)
    assert world.start() == []
    world.clocks.pass_time(1)
    assert len(world.start()) == 1


def test_a_clock_that_is_set_back_lengthens_a_pause_by_a_day_at_most() -> None:
    state = LimitState(until_ns=10 * DAY + MINUTE, since_ns=10 * DAY, boot="a", until_boot_ns=DAY)
    for back in (0, 1, DAY - 1, DAY, 2 * DAY, 9 * DAY):
        left = state.left_ns(Moment(10 * DAY - back, 0, "b"))
        assert left <= MINUTE + DAY


def test_pauses_and_probes_survive_the_index(state_dir: Path, clocks: Clocks) -> None:
    with Catalog(Settings(state_dir=state_dir)) as first:
        first.index.layout.clock.source = clocks
        world = World(first, clocks)
        world.group(limit=3)
        world.enter(1)
        world.end(*world.start(), limited())
        clocks.pass_time(300)
    for path in state_dir.glob("registry.db*"):
        path.unlink()
    with Catalog(Settings(state_dir=state_dir)) as second:
        second.index.layout.clock.source = clocks
        world = World(second, clocks)
        world.enter(5)
        assert len(world.start()) == 1, "a probe"


def test_a_file_without_a_state_is_a_pause_until_its_end(world: World) -> None:
    world.group()
    path = Path(world.index.layout.root, "pauses")
    path.mkdir()
    until = world.clocks.wall + MINUTE
    for more in ({}, {"since_ns": "x"}, {"until_ns": until, "since_ns": 1, "boot": 2, "until_boot_ns": 3, "round": 1}):
        content = {**more, "v": 1, "until_ns": until, "detail": None}
        (path / "g.rate_limited").write_text(json.dumps(content))
        world.enter(1)
        assert world.start() == []
    world.clocks.pass_time(60)
    assert len(world.start()) == 3


def test_details_that_are_rubbish_are_a_guess() -> None:
    now = Moment(100 * DAY, DAY, "a")
    for at in (None, 7, "", "soon", "0001-01-01T00:00:00+23:59", ["2026"], "9999-12-31T23:59:59-23:59"):
        error = {"code": "rate_limited", "details": {"resets_at": at, "resets_at_source": "field"}}
        found = state_after(error, now.wall_ns, now.wall_ns, None, now)
        assert found is not None
        assert found.round == 1 or found.left_ns(now) <= 0 or at == "9999-12-31T23:59:59-23:59", at


# ------------------------------------------------------------ news of a running job


def news(utilization: float | None, status: str = "allowed_warning", **more: Any) -> dict[str, Any]:
    return {"status": status, "name": "five_hour", "utilization": utilization, **more}


def tell(world: World, row: Row, limit: dict[str, Any]) -> None:
    world.index.write(lambda: world.index.note_limit(row, limit))


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def test_a_rejection_pauses_the_group_while_the_job_still_runs(world: World) -> None:
    world.group()
    (row,) = world.enter(1)
    world.start()
    tell(world, row, news(None, "rejected", resets_at=seconds("2026-11-28T14:00:00Z") - 0.5))
    assert [pause.until for pause in world.pauses()] == [datetime(2026, 11, 28, 14, 1, tzinfo=UTC)]
    world.enter(1)
    assert world.start() == []


def test_a_rejection_without_a_time_is_a_guess(world: World) -> None:
    world.group()
    (row,) = world.enter(1)
    world.start()
    for resets_at in (None, "soon", float("inf")):
        tell(world, row, news(None, "rejected", resets_at=resets_at))
    assert [pause.until for pause in world.pauses()] == [datetime(2026, 11, 28, 12, 5, tzinfo=UTC)]


def test_from_ninety_per_cent_on_one_job_starts_at_a_time(world: World) -> None:
    world.group(limit=4)
    (row, *_) = world.enter(10)
    running = world.start()
    tell(world, row, news(0.89, resets_at=seconds("2026-11-28T14:00:00Z")))
    world.end(running.pop())
    assert len(world.start()) == 1
    tell(world, row, news(0.9, resets_at=seconds("2026-11-28T14:00:00Z")))
    assert world.pauses() == ()
    for job_id in running:
        world.end(job_id)
        assert world.start() == [], "one of them still runs"
    (last,) = [each.job_id for each in world.index.unfinished() if each.started_ns is not None]
    world.end(last)
    (probe,) = world.start()
    assert world.wait_seconds() == 7200
    world.end(probe)
    assert len(world.start()) == 1, "a success does not change what is used up"
    tell(world, row, news(0.1, name="seven_day"))
    assert world.start() == [], "another limit"
    tell(world, row, news(0.1))
    assert len(world.start()) == 3


def test_a_limit_that_ends_is_used_up_no_more(world: World) -> None:
    world.group(limit=3)
    (row, *_) = world.enter(5)
    world.start()
    tell(world, row, news(0.99, resets_at=seconds("2026-11-28T12:10:00Z")))
    world.end(row.job_id)
    assert world.start() == []
    world.clocks.pass_time(600)
    assert len(world.start()) == 1


def test_a_group_that_ignores_limits_ignores_news(world: World) -> None:
    world.group(on_rate_limit="ignore")
    (row,) = world.enter(1)
    world.start()
    tell(world, row, news(None, "rejected", resets_at=seconds("2026-11-28T14:00:00Z")))
    tell(world, row, news(1.0))
    world.enter(2)
    assert len(world.start()) == 2


@pytest.mark.parametrize("limit", [{}, {"status": "new_word"}, news(None), news("x"), {"utilization": 1.0}])  # type: ignore[arg-type]  # rubbish
def test_odd_news_breaks_nothing(world: World, limit: dict[str, Any]) -> None:
    world.group()
    (row,) = world.enter(1)
    world.start()
    tell(world, row, limit)
    world.enter(1)
    assert len(world.start()) == (0 if limit.get("utilization") == 1.0 else 1)
