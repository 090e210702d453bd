"""What is wrong with a job: what was asked for, held against what was said of it and what has happened. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Final

import attrs

from supervisor.load.plan import Order
from supervisor.load.program import Marks, expected_output
from supervisor.model import Job
from supervisor.states import Reason, State

__all__ = ["MEANINGS", "Fault", "Found", "Record", "faults_of", "faults_of_marks", "weigh"]

_CLOCK_TICK: Final = timedelta(milliseconds=20)
"""How far two readings of the clock may lie apart that mean the same moment; times over MCP are in milliseconds."""

MEANINGS: Final = {
    "lost": "acknowledged, and then not known any more",
    "never_ended": "did not end long after it should have",
    "changed": "the list says something else than its caller was told",
    "same_id": "the id of another job was given for it",
    "twice": "was run more than once",
    "never_ran": "is said to have run, and has not",
    "unasked": "was run although its start was refused",
    "unknown": "is listed, and nobody has asked for it",
    "state": "ended in another state than it had to",
    "exit": "has another exit status than it had",
    "early": "ended before its time",
    "cut_short": "is said to have come to its end, and did not",
    "ran_on": "came to its end although it was stopped",
    "output": "its output is not what it wrote",
    "alive": "processes of it are left",
    "call": "a call about it was refused",
}
"""Every fault there is, by its code."""


@attrs.frozen(slots=True)
class Found:
    """The output of a job, as far as it matters: how it compares.

    Attributes:
        size: in bytes.
        digest: SHA-256 in hex; ``None`` where it is what it should be.
        fits: whether it is what it should be.
    """

    size: int
    digest: str | None
    fits: bool


@attrs.define(slots=True, eq=False)
class Record:
    """A job of the load, and what has become of it so far.

    Attributes:
        order: what was asked for.
        tag: what it is called in its output and its marks.
        due: when it was due, by the clock of the event loop.
        job: as it was last heard of; ``None`` before its start was acknowledged.
        refused: whether its start was refused, for certain.
        uncertain: whether its start was answered by nothing, so that nobody knows.
        interrupted: whether it was cancelled because the load was interrupted.
        gave_up: whether its end was waited for in vain.
        abandoned: whether its end was not seen: a call failed, or the user did not want to wait.
        found: its output, once that was fetched.
        done: whether everything that was to be done about it has been done.
    """

    order: Order
    tag: str
    due: float
    job: Job | None = None
    refused: bool = False
    uncertain: bool = False
    interrupted: bool = False
    gave_up: bool = False
    abandoned: bool = False
    found: Found | None = None
    done: bool = False


@attrs.frozen(slots=True)
class Fault:
    """Something that is wrong.

    Attributes:
        code: one of ``MEANINGS``.
        detail: what was demanded and what was found, in words.
        job_id: of which job, where there is one.
        tag: what the job is called in its output and its marks.
        sort: what sort of job it is.
    """

    code: str
    detail: str
    job_id: str | None = None
    tag: str | None = None
    sort: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return everything, JSON-ready."""
        return {**attrs.asdict(self), "meaning": MEANINGS[self.code]}


def weigh(record: Record, output: bytes) -> Found:
    """Compare the output of an ended job with what it had to write: all of it, or as much as it came to."""
    order = record.order
    wanted = expected_output(record.tag, order.before, order.after)
    # One that was stopped was so at any moment, also while it wrote the first half; it never came to the second.
    fits = output == wanted if _ended_by_itself(record) else wanted[: order.before].startswith(output)
    return Found(len(output), None if fits else hashlib.sha256(output).hexdigest(), fits)


def _ended_by_itself(record: Record) -> bool:
    return record.job is not None and record.job.status in {State.DONE, State.FAILED}


def faults_of(record: Record) -> Iterator[Fault]:
    """Yield what is wrong with an acknowledged job by what was said of it and what it wrote."""
    job, order = record.job, record.order
    if job is None:
        return

    def fault(code: str, detail: str) -> Fault:
        return Fault(code, detail, job.job_id, record.tag, order.sort.name)

    if not job.status.terminal:
        if not record.abandoned:
            yield fault("never_ended", f"it is {job.status.value}")
        return
    if record.gave_up:
        yield fault("never_ended", f"it was {job.status.value} only after it was stopped")
        return
    if job.reason is Reason.LOST:
        yield fault("lost", "its exit status is not known")
        return
    wanted = _wanted_states(record)
    if (job.status, job.reason) not in wanted:
        said = f"{job.status.value} ({'no reason' if job.reason is None else job.reason.value})"
        detail = f"it is {said} and not {' or '.join(state.value for state, _ in wanted)}"
        yield fault("state", detail if job.detail is None else f"{detail}: {job.detail}")
        return
    if _ended_by_itself(record) and (job.exit_code, job.signal) != (order.sort.exit_code, None):
        said = f"exit code {job.exit_code}, signal {job.signal}"
        yield fault("exit", f"it has {said} and not exit code {order.sort.exit_code}")
    yield from _times(record, job, fault)
    if record.found is not None and not record.found.fits:
        size = order.before + order.after
        asked = f"{size} bytes" if _ended_by_itself(record) else f"at most the first {order.before} of {size} bytes"
        found = f"{record.found.size} bytes with the SHA-256 {record.found.digest}"
        yield fault("output", f"it wrote {asked}, and there are {found}")
    if _ended_by_itself(record) and job.stderr_bytes != order.stderr:
        yield fault("output", f"it wrote {order.stderr} bytes to stderr, and there are {job.stderr_bytes}")


def _wanted_states(record: Record) -> tuple[tuple[State, Reason], ...]:
    sort = record.order.sort
    if sort.cancel_after_seconds is not None:
        wanted = (State.CANCELLED, Reason.CANCELLED)
    elif sort.deadline_seconds is not None:
        wanted = (State.TIMEOUT, Reason.DEADLINE)
    elif sort.exit_code:
        wanted = (State.FAILED, Reason.NONZERO_EXIT)
    else:
        wanted = (State.DONE, Reason.EXITED)
    return (wanted, (State.CANCELLED, Reason.CANCELLED)) if record.interrupted else (wanted,)


def _times(record: Record, job: Job, fault: Any) -> Iterator[Fault]:
    """Yield whether it ended before it had slept for as long as it had to, or before its deadline."""
    if job.completed_at is None or job.started_at is None or job.status is State.CANCELLED:
        return
    if job.status is State.TIMEOUT:
        if job.deadline_at is not None and job.completed_at < job.deadline_at - _CLOCK_TICK:
            yield fault("early", f"it was stopped {job.deadline_at - job.completed_at} before its deadline")
        return
    slept = timedelta(seconds=record.order.seconds)
    if job.completed_at - job.started_at < slept - _CLOCK_TICK:
        yield fault("early", f"it slept for {slept} and was over after {job.completed_at - job.started_at}")


def faults_of_marks(record: Record, marks: Marks) -> Iterator[Fault]:
    """Yield what is wrong with a job by what it has left behind when it ran."""
    job, tag = record.job, record.tag
    begun, ended = marks.begun[tag], marks.ended[tag]

    def fault(code: str, detail: str) -> Fault:
        return Fault(code, detail, None if job is None else job.job_id, tag, record.order.sort.name)

    if begun > 1:
        yield fault("twice", f"it was begun {begun} times")
    if record.refused and begun:
        yield fault("unasked", f"it was begun {begun} times")
    if job is None or not job.status.terminal or job.reason is Reason.LOST:
        return
    if _ended_by_itself(record) and job.reason is not Reason.LAUNCH_FAILED:
        if not begun:
            yield fault("never_ran", f"it is {job.status.value} and has left no mark")
        elif not ended:
            yield fault("cut_short", f"it is {job.status.value} and has left no mark at its end")
    elif ended and not record.interrupted:
        yield fault("ran_on", f"it is {job.status.value} and has left its mark at its end")
