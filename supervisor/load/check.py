"""Compares a job with its description: its state, its times, its output and its marks. Pure."""

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

__all__ = ["MEANINGS", "Fault", "OutputCheck", "Tracked", "check_output", "faults_of", "faults_of_marks"]

_CLOCK_TOLERANCE: Final = timedelta(milliseconds=20)
"""By how much two readings of the clock at the same moment may differ; times over MCP are in milliseconds."""

MEANINGS: Final = {
    "lost": "its start was acknowledged, but it does not exist any more",
    "never_ended": "it did not end long after it should have",
    "changed": "the list of jobs contradicts the answer to its caller",
    "same_id": "it got the id of another job",
    "twice": "it ran more than once",
    "never_ran": "its record says that it ran, but it did not",
    "unasked": "it ran although its start was refused",
    "unknown": "it is listed, but no such job was requested",
    "state": "it ended in another state than expected",
    "exit": "its record has another exit status than expected",
    "early": "it ended too early",
    "cut_short": "its record says that it ended by itself, but it was interrupted",
    "ran_on": "it ran to its end although it was stopped",
    "output": "its output differs from what it wrote",
    "over_limit": "more jobs of its group ran at once than the limit allows",
    "alive": "some of its processes are left",
    "call": "a call about it was refused",
}
"""All faults by their codes."""


@attrs.frozen(slots=True)
class OutputCheck:
    """The comparison of a job's output with the expected output.

    Attributes:
        size: the number of bytes.
        digest: SHA-256 in hex; ``None`` if the output is as expected.
        fits: whether the output is as expected.
    """

    size: int
    digest: str | None
    fits: bool


@attrs.define(slots=True, eq=False)
class Tracked:
    """A job of the load and its current state.

    Attributes:
        order: the requested job.
        tag: its name in its output and its marks.
        due: its due time by the clock of the event loop.
        job: its last known state; ``None`` before its start was acknowledged.
        refused: whether its start was certainly refused.
        uncertain: whether its start had no answer, so that the job may exist.
        interrupted: whether it was cancelled because the load was interrupted.
        gave_up: whether it did not end in time and was cancelled.
        abandoned: whether its end was not observed: a call failed, or the user did not wait.
        output: the check of its output, once fetched.
        done: whether the generator has finished with it.
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
    output: OutputCheck | None = None
    done: bool = False

    def fault(self, code: str, detail: str) -> Fault:
        """Return a fault of it."""
        job_id = None if self.job is None else self.job.job_id
        return Fault(code, detail, job_id, self.tag, self.order.sort.name)


@attrs.frozen(slots=True)
class Fault:
    """A difference between a job and its description.

    Attributes:
        code: one of ``MEANINGS``.
        detail: the expected and the found value, as text.
        job_id: the job, if it has an id.
        tag: the name of the job in its output and its marks.
        sort: the name of its sort.
    """

    code: str
    detail: str
    job_id: str | None = None
    tag: str | None = None
    sort: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fault with its meaning, JSON-ready."""
        return {**attrs.asdict(self), "meaning": MEANINGS[self.code]}


def check_output(record: Tracked, output: bytes) -> OutputCheck:
    """Compare the output of an ended job with the expected output, of which a stopped job wrote a part."""
    order = record.order
    wanted = expected_output(record.tag, order.before, order.after)
    # A job may be stopped while it writes the first half. It is always stopped before the second half.
    fits = output == wanted if _ended_by_itself(record) else wanted[: order.before].startswith(output)
    return OutputCheck(len(output), None if fits else hashlib.sha256(output).hexdigest(), fits)


def _ended_by_itself(record: Tracked) -> bool:
    return record.job is not None and record.job.status in {State.DONE, State.FAILED}


def faults_of(record: Tracked) -> Iterator[Fault]:
    """Yield the faults of an acknowledged job in its last known state and its output."""
    job, order = record.job, record.order
    if job is None:
        return
    if not job.status.terminal:
        if not record.abandoned:
            yield record.fault("never_ended", f"its state is {job.status.value}")
        return
    if record.gave_up:
        yield record.fault("never_ended", f"it ended ({job.status.value}) only after it was stopped")
        return
    if job.reason is Reason.LOST:
        yield record.fault("lost", "its exit status is not known")
        return
    wanted = _wanted_states(record)
    if (job.status, job.reason) not in wanted:
        state = f"{job.status.value} ({'no reason' if job.reason is None else job.reason.value})"
        detail = f"its state is {state} instead of {' or '.join(each.value for each, _ in wanted)}"
        yield record.fault("state", detail if job.detail is None else f"{detail}: {job.detail}")
        return
    if _ended_by_itself(record) and (job.exit_code, job.signal) != (order.sort.exit_code, None):
        found = f"exit code {job.exit_code}, signal {job.signal}"
        yield record.fault("exit", f"it has {found} instead of exit code {order.sort.exit_code}")
    yield from _time_faults(record, job)
    if record.output is not None and not record.output.fits:
        size = order.before + order.after
        written = f"{size} bytes" if _ended_by_itself(record) else f"at most the first {order.before} of {size} bytes"
        kept = f"{record.output.size} bytes with the SHA-256 {record.output.digest}"
        yield record.fault("output", f"it wrote {written}, but its output has {kept}")
    if _ended_by_itself(record) and job.stderr_bytes != order.stderr:
        yield record.fault("output", f"it wrote {order.stderr} bytes to stderr, but its record has {job.stderr_bytes}")


def _wanted_states(record: Tracked) -> tuple[tuple[State, Reason], ...]:
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


def _time_faults(record: Tracked, job: Job) -> Iterator[Fault]:
    """Yield a fault if the job ended before the end of its sleep, or before its deadline."""
    if job.completed_at is None or job.started_at is None or job.status is State.CANCELLED:
        return
    if job.status is State.TIMEOUT:
        if job.deadline_at is not None and job.completed_at < job.deadline_at - _CLOCK_TOLERANCE:
            yield record.fault("early", f"it was stopped {job.deadline_at - job.completed_at} before its deadline")
        return
    slept = timedelta(seconds=record.order.seconds)
    if job.completed_at - job.started_at < slept - _CLOCK_TOLERANCE:
        yield record.fault("early", f"it slept for {slept}, but ended after {job.completed_at - job.started_at}")


def faults_of_marks(record: Tracked, marks: Marks) -> Iterator[Fault]:
    """Yield the faults of a job in the marks that it left."""
    job, tag = record.job, record.tag
    begun, ended = marks.begun[tag], marks.ended[tag]

    if begun > 1:
        yield record.fault("twice", f"it began {begun} times")
    if record.refused and begun:
        yield record.fault("unasked", f"it began {begun} times")
    if job is None or not job.status.terminal or job.reason is Reason.LOST:
        return
    if _ended_by_itself(record) and job.reason is not Reason.LAUNCH_FAILED:
        if not begun:
            yield record.fault("never_ran", f"its state is {job.status.value}, but it left no mark")
        elif not ended:
            yield record.fault("cut_short", f"its state is {job.status.value}, but it left no mark at its end")
    elif ended and not record.interrupted:
        yield record.fault("ran_on", f"its state is {job.status.value}, but it left its mark at its end")
