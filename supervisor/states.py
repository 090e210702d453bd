"""The states of a job and every way out of each of them.

Two rules:

1. Everything that is true about states stands in this file, and nothing else does.
2. A state changes only by ``step()``. It is pure: who acts on the change is decided elsewhere.

Theory of operation. A job is ``queued`` from the moment it exists until its command has
been spawned, ``running`` until its command *and everything that a requested stop has to
reach* are gone, then in one of four terminal states for good. A requested stop is not a
state: it is a fact recorded beside it, and decides only which event the end of the process
becomes. The end of the process is observed first (``Event``), then interpreted (``Reason``).
An end may be observed before anybody recorded the launch, so every way out of ``running``
leads out of ``queued`` as well.
"""

from __future__ import annotations

from enum import StrEnum, unique
from typing import Final

__all__ = ["REASONS", "TERMINAL", "TRANSITIONS", "Event", "IllegalTransition", "Reason", "State", "step"]


@unique
class State(StrEnum):
    """Where a job is in its life."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"

    @property
    def terminal(self) -> bool:
        """Whether nothing leads out of this state."""
        return self in TERMINAL


@unique
class Event(StrEnum):
    """What can happen to a job."""

    LAUNCHED = "launched"
    LAUNCH_FAILED = "launch failed"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED_BY_CANCEL = "stopped after cancel"
    STOPPED_BY_DEADLINE = "stopped after deadline"
    STOPPED_BY_OUTPUT_LIMIT = "stopped after output limit"
    LOST = "lost"


@unique
class Reason(StrEnum):
    """Why a finished job is in the state it is in."""

    EXITED = "exited"
    NONZERO_EXIT = "nonzero_exit"
    KILLED_BY_SIGNAL = "killed_by_signal"
    INVALID_OUTPUT = "invalid_output"
    REPORTED_ERROR = "reported_error"
    LAUNCH_FAILED = "launch_failed"
    OUTPUT_LIMIT = "output_limit"
    CANCELLED = "cancelled"
    DEADLINE = "deadline"
    LOST = "lost"


class IllegalTransition(Exception):
    """An event was applied to a state that has no way out by it: a defect in the caller."""


_ENDS: Final[dict[Event, State]] = {
    Event.SUCCEEDED: State.DONE,
    Event.FAILED: State.FAILED,
    Event.STOPPED_BY_CANCEL: State.CANCELLED,
    Event.STOPPED_BY_DEADLINE: State.TIMEOUT,
    Event.STOPPED_BY_OUTPUT_LIMIT: State.FAILED,
    Event.LOST: State.FAILED,
}

TRANSITIONS: Final[dict[State, dict[Event, State]]] = {
    State.QUEUED: {Event.LAUNCHED: State.RUNNING, Event.LAUNCH_FAILED: State.FAILED, **_ENDS},
    State.RUNNING: dict(_ENDS),
    State.DONE: {},
    State.FAILED: {},
    State.CANCELLED: {},
    State.TIMEOUT: {},
}

TERMINAL: Final[frozenset[State]] = frozenset(state for state, ways in TRANSITIONS.items() if not ways)

REASONS: Final[dict[Event, frozenset[Reason]]] = {
    Event.LAUNCHED: frozenset(),
    Event.LAUNCH_FAILED: frozenset({Reason.LAUNCH_FAILED}),
    Event.SUCCEEDED: frozenset({Reason.EXITED}),
    Event.FAILED: frozenset(
        {Reason.NONZERO_EXIT, Reason.KILLED_BY_SIGNAL, Reason.INVALID_OUTPUT, Reason.REPORTED_ERROR},
    ),
    Event.STOPPED_BY_CANCEL: frozenset({Reason.CANCELLED}),
    Event.STOPPED_BY_DEADLINE: frozenset({Reason.DEADLINE}),
    Event.STOPPED_BY_OUTPUT_LIMIT: frozenset({Reason.OUTPUT_LIMIT}),
    Event.LOST: frozenset({Reason.LOST}),
}


def step(state: State, event: Event) -> State:
    """Return the state that ``event`` leads to from ``state``.

    Raises:
        IllegalTransition: there is no such way.
    """
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        message = f"{event.value!r} cannot happen to a job that is {state.value}"
        raise IllegalTransition(message) from None
