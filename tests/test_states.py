from __future__ import annotations

import pytest

from supervisor.states import REASONS, TERMINAL, TRANSITIONS, Event, IllegalTransition, Reason, State, step

ENDS = set(Event) - {Event.LAUNCHED, Event.LAUNCH_FAILED}


def reachable(start: State) -> set[State]:
    """Return the states that are reached by some chain of events."""
    seen: set[State] = set()
    waiting = [start]
    while waiting:
        state = waiting.pop()
        if state not in seen:
            seen.add(state)
            waiting.extend(TRANSITIONS[state].values())
    return seen


def test_the_words_are_those_of_the_contract() -> None:
    assert [str(state) for state in State] == ["queued", "running", "done", "failed", "cancelled", "timeout"]
    assert {str(reason) for reason in Reason} == {
        "exited",
        "nonzero_exit",
        "killed_by_signal",
        "invalid_output",
        "reported_error",
        "launch_failed",
        "output_limit",
        "memory_limit",
        "cancelled",
        "deadline",
        "lost",
        "dependency_failed",
        "start_expired",
        "budget",
    }


def test_every_state_stands_in_the_table() -> None:
    assert set(TRANSITIONS) == set(State)


def test_every_state_can_be_reached_from_queued() -> None:
    assert reachable(State.QUEUED) == set(State)


def test_four_states_are_terminal_and_nothing_leads_out_of_them() -> None:
    assert {State.DONE, State.FAILED, State.CANCELLED, State.TIMEOUT} == TERMINAL
    assert all(TRANSITIONS[state] == {} for state in TERMINAL)
    assert {state for state in State if state.terminal} == TERMINAL


@pytest.mark.parametrize("state", State)
def test_a_terminal_state_can_be_reached_from_every_state(state: State) -> None:
    assert reachable(state) & TERMINAL


def test_no_way_leads_back() -> None:
    for state in State:
        for after in TRANSITIONS[state].values():
            assert state not in reachable(after)


@pytest.mark.parametrize("event", Event)
@pytest.mark.parametrize("state", State)
def test_every_pair_steps_or_is_illegal(state: State, event: Event) -> None:
    if event in TRANSITIONS[state]:
        assert step(state, event) is TRANSITIONS[state][event]
    else:
        with pytest.raises(IllegalTransition, match=f"'{event.value}' cannot happen to a job that is {state.value}"):
            step(state, event)


@pytest.mark.parametrize("event", sorted(ENDS))
def test_an_end_means_the_same_whether_or_not_the_launch_was_recorded(event: Event) -> None:
    assert step(State.QUEUED, event) is step(State.RUNNING, event)
    assert step(State.RUNNING, event) in TERMINAL


@pytest.mark.parametrize(
    ("before", "event", "after"),
    [
        ("queued", Event.LAUNCHED, "running"),
        ("queued", Event.LAUNCH_FAILED, "failed"),
        ("queued", Event.STOPPED_BY_CANCEL, "cancelled"),
        ("running", Event.SUCCEEDED, "done"),
        ("running", Event.FAILED, "failed"),
        ("running", Event.STOPPED_BY_CANCEL, "cancelled"),
        ("running", Event.STOPPED_BY_DEADLINE, "timeout"),
        ("running", Event.STOPPED_BY_OUTPUT_LIMIT, "failed"),
        ("running", Event.LOST, "failed"),
    ],
)
def test_the_ways_of_the_design(before: str, event: Event, after: str) -> None:
    assert step(State(before), event) == after


def test_a_running_job_cannot_be_launched() -> None:
    assert set(TRANSITIONS[State.RUNNING]) == ENDS


def test_reasons_cover_every_event_and_every_reason_belongs_to_one() -> None:
    assert set(REASONS) == set(Event)
    given = [reason for reasons in REASONS.values() for reason in reasons]
    assert sorted(given) == sorted(Reason)


@pytest.mark.parametrize("event", Event)
def test_exactly_the_events_that_end_a_job_have_reasons(event: Event) -> None:
    ends = step(State.QUEUED, event) in TERMINAL
    assert bool(REASONS[event]) is ends
