"""The states of a job and every way out of each of them.

Two rules:

1. This file has all facts about states, and nothing else.
2. A state changes only by ``step()``, which is pure.

Theory of operation. A job is ``queued`` from the moment it exists until its command has
been launched, ``running`` until its command *and every process that a requested stop has to
reach* have ended, then in one of four terminal states for good. A requested stop is not a
state: it is a fact recorded beside it, and decides only which event the end of the process
becomes. The end of the process is observed first (``Event``), then interpreted (``Reason``).
An end may be observed before the launch is recorded, so every way out of ``running``
leads out of ``queued`` as well.
"""

from __future__ import annotations

import re
from enum import StrEnum, unique
from typing import Final, TypeVar

__all__ = [
    "REASONS",
    "TERMINAL",
    "TRANSITIONS",
    "Event",
    "IllegalTransition",
    "Reason",
    "State",
    "is_word",
    "reason_of",
    "state_of",
    "step",
]


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
        return self in TERMINAL or "ended" in vars(self)


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
    STOPPED_BY_MEMORY_LIMIT = "stopped at memory limit"
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
    MEMORY_LIMIT = "memory_limit"
    CANCELLED = "cancelled"
    DEADLINE = "deadline"
    LOST = "lost"
    DEPENDENCY_FAILED = "dependency_failed"
    START_EXPIRED = "start_expired"
    BUDGET = "budget"


_WORD: Final = re.compile(r"[a-z][a-z0-9_]{0,39}", re.ASCII)
_Member = TypeVar("_Member", State, Reason)


def is_word(held: object) -> bool:
    """Whether ``held`` may be the name of a state or a reason of a newer version."""
    return isinstance(held, str) and _WORD.fullmatch(held) is not None


def _opaque(kind: type[_Member], text: str) -> _Member:
    """Return a value of ``kind`` that is none of its members: ``kind(text)`` still refuses it."""
    made = str.__new__(kind, text)
    made._name_, made._value_ = text.upper(), text
    return made


def state_of(text: str, *, ended: bool) -> State:
    """Return the state of this name; ``ended`` says whether a state that only a newer version knows is terminal."""
    try:
        return State(text)
    except ValueError:
        state = _opaque(State, text)
        if ended:
            vars(state)["ended"] = True
        return state


def reason_of(text: str) -> Reason:
    """Return the reason of this name, also of one that only a newer version knows."""
    try:
        return Reason(text)
    except ValueError:
        return _opaque(Reason, text)


class IllegalTransition(Exception):
    """An event was applied to a state that has no such transition: a defect in the caller."""


_ENDS: Final[dict[Event, State]] = {
    Event.SUCCEEDED: State.DONE,
    Event.FAILED: State.FAILED,
    Event.STOPPED_BY_CANCEL: State.CANCELLED,
    Event.STOPPED_BY_DEADLINE: State.TIMEOUT,
    Event.STOPPED_BY_OUTPUT_LIMIT: State.FAILED,
    Event.STOPPED_BY_MEMORY_LIMIT: State.FAILED,
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
    Event.STOPPED_BY_CANCEL: frozenset(
        {Reason.CANCELLED, Reason.DEPENDENCY_FAILED, Reason.START_EXPIRED, Reason.BUDGET},
    ),
    Event.STOPPED_BY_DEADLINE: frozenset({Reason.DEADLINE}),
    Event.STOPPED_BY_OUTPUT_LIMIT: frozenset({Reason.OUTPUT_LIMIT}),
    Event.STOPPED_BY_MEMORY_LIMIT: frozenset({Reason.MEMORY_LIMIT}),
    Event.LOST: frozenset({Reason.LOST}),
}


def step(state: State, event: Event) -> State:
    """Return the state that ``event`` leads to from ``state``.

    Raises:
        IllegalTransition: there is no such transition.
    """
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        message = f"{event.value!r} cannot happen to a job that is {state.value}"
        raise IllegalTransition(message) from None
