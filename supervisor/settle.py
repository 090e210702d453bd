"""From how a command ended to what its job is: the one place where a verdict becomes an outcome.

Deterministic: the same records and output give the same outcome in every process, so that it
does not matter who settles a job first.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import Any, Final

import attrs

from supervisor import interpret
from supervisor.engines import Ended, records
from supervisor.errors import InvalidArguments
from supervisor.interpret import Verdict
from supervisor.model import ErrorInfo
from supervisor.states import Event, Reason, State, reason_of, step
from supervisor.store.rows import Outcome, Row, size_of

__all__ = ["how_it_ended", "outcome_of", "read_output"]

_STDERR_TAIL: Final = 65536

_STOPS: Final = {
    "cancelled": (Event.STOPPED_BY_CANCEL, Reason.CANCELLED),
    "deadline": (Event.STOPPED_BY_DEADLINE, Reason.DEADLINE),
    "output_limit": (Event.STOPPED_BY_OUTPUT_LIMIT, Reason.OUTPUT_LIMIT),
}

_CODES: Final = {
    Reason.NONZERO_EXIT: "job_failed",
    Reason.KILLED_BY_SIGNAL: "job_failed",
    Reason.REPORTED_ERROR: "job_failed",
    Reason.INVALID_OUTPUT: "invalid_output",
    Reason.LAUNCH_FAILED: "launch_failed",
    Reason.OUTPUT_LIMIT: "output_limit",
    Reason.CANCELLED: "job_cancelled",
    Reason.DEADLINE: "job_timeout",
    Reason.LOST: "job_lost",
}

_TEXTS: Final = {
    Reason.NONZERO_EXIT: ("The command failed.", "Look at its output (`supervisor logs JOB --stderr`)."),
    Reason.KILLED_BY_SIGNAL: (
        "A signal ended the command.",
        "Find out who sent it: the kernel (out of memory), a person, or the command itself.",
    ),
    Reason.REPORTED_ERROR: ("The command's output reports an error.", "Read the detail, and start it again."),
    Reason.INVALID_OUTPUT: (
        "The command's output is not what its kind expects.",
        "Look at its output (`supervisor logs JOB`).",
    ),
    Reason.LAUNCH_FAILED: ("The command could not be started.", "Correct the command or the workspace, start again."),
    Reason.OUTPUT_LIMIT: (
        "The command wrote more than its output limit and was stopped.",
        "Make it write less, or raise SUPERVISOR_JOB_MAX_OUTPUT_BYTES.",
    ),
    Reason.CANCELLED: ("The job was cancelled.", "Start it again under a new key if it is still wanted."),
    Reason.DEADLINE: ("The job reached its deadline and was stopped.", "Start it again with a longer deadline."),
    Reason.LOST: (
        "The command has ended, and how cannot be known any more.",
        "Check its output (`supervisor logs JOB`) and what it changed before starting it again.",
    ),
}


def read_output(directory: str, name: str, *, last: int | None = None) -> bytes:
    """Return what a job wrote to a stream, or its last bytes; nothing when there is no such file."""
    try:
        descriptor = os.open(f"{directory}/{name}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return b""
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            return b""
        if last is not None and found.st_size > last:
            os.lseek(descriptor, -last, os.SEEK_END)
        with open(descriptor, "rb", closefd=False) as file:
            return file.read()
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def how_it_ended(directory: str, ended: Ended) -> interpret.Outcome:
    """Return what an interpreter is given about a job."""
    return interpret.Outcome(
        exit_code=ended.exit.exit_code,
        signal=ended.exit.signal,
        read_stdout=lambda: read_output(directory, records.STDOUT),
        read_stderr=lambda: read_output(directory, records.STDERR, last=_STDERR_TAIL),
        interrupted=ended.stopped,
        ended_ns=ended.exit.ended_ns,
        launch_error=ended.exit.launch_error,
        launch_status=ended.exit.launch_status,
    )


def _judge(kind: str, seen: interpret.Outcome) -> Verdict:
    try:
        return interpret.get_interpreter(kind).verdict(seen)
    except InvalidArguments:
        raise
    except Exception as error:  # noqa: BLE001  # a kind of somebody else must not cost us the job
        return Verdict(
            reason=Reason.INVALID_OUTPUT,
            message=f"The interpreter of kind {kind!r} failed: {error!r}",
            detail=repr(error)[:200],
        )


def outcome_of(
    row: Row,
    directory: str,
    ended: Ended,
    look: Callable[[str, Ended], interpret.Outcome] = how_it_ended,
) -> Outcome:
    """Decide the terminal state of a job whose command has ended.

    ``look`` gives the interpreter's view of it; whoever wants the value as well keeps that, so that
    the output is parsed once.

    Raises:
        InvalidArguments: its kind is not installed here, so it is not for this process to decide.
    """
    state = State(row.state)
    if ended.stopped is not None:
        # A newer version stops jobs for more than this one knows; whatever it is, the job did not do its work.
        event, reason = _STOPS.get(ended.stopped) or (Event.STOPPED_BY_OUTPUT_LIMIT, reason_of(ended.stopped))
        if row.kind in {"raw", "json"} or ended.exit.launch_error is not None:  # no spend to look for
            verdict = Verdict(reason=reason)
        else:
            verdict = _judge(row.kind, look(directory, ended))
    elif ended.exit.launch_error is not None:
        event, reason = Event.LAUNCH_FAILED, Reason.LAUNCH_FAILED
        verdict = _unlaunched(row.kind, look(directory, ended), ended)
        if state is not State.QUEUED:  # its launch was recorded by somebody who was wrong
            event, reason = Event.LOST, Reason.LOST
    else:
        verdict = _judge(row.kind, look(directory, ended))
        reason = verdict.reason
        event = {Reason.EXITED: Event.SUCCEEDED, Reason.LOST: Event.LOST}.get(reason, Event.FAILED)
    detail = verdict.detail
    if ended.remark is not None:
        detail = ended.remark if detail is None else f"{ended.remark}; {detail}"
    if ended.survivors:
        left = f"processes not ours to stop are left: {' '.join(map(str, ended.survivors))}"
        detail = left if detail is None else f"{left}; {detail}"
    return Outcome(
        state=step(state, event),
        reason=reason,
        exit=ended.exit,
        detail=detail,
        cost_usd=verdict.cost_usd,
        error=None if reason is Reason.EXITED else _error(reason, verdict, own_words=ended.stopped is None),
        stdout_bytes=size_of(directory, records.STDOUT),
        stderr_bytes=size_of(directory, records.STDERR),
    )


def _unlaunched(kind: str, seen: interpret.Outcome, ended: Ended) -> Verdict:
    """Say what it means that a command was never started; its kind may know better why."""
    details: dict[str, Any] = {"exit_status": ended.exit.launch_status}
    repair = None
    if ended.exit.never_launched:
        details["never_launched"] = True
        repair = "Start it again; the same idempotency key may be used."
    verdict = Verdict(
        reason=Reason.LAUNCH_FAILED,
        message=f"The command could not be started: {ended.exit.launch_error}.",
        repair=repair,
        retryable=ended.exit.launch_status == 125 and not ended.exit.launch_final,  # a limit or a crash
        detail=ended.exit.launch_error,
        details=details,
    )
    if kind in {"raw", "json"}:
        return verdict
    known = _judge(kind, seen)
    if known.code is None:
        return verdict
    return attrs.evolve(known, detail=known.detail or verdict.detail, details={**details, **known.details})


def _error(reason: Reason, verdict: Verdict, *, own_words: bool) -> ErrorInfo:
    """Return the error of a job that is not done; a job that was stopped gets our words, not its kind's."""
    message, repair = _TEXTS.get(reason) or (f"The command was stopped: {reason}.", "Look at its output.")
    code = _CODES.get(reason, "job_failed")
    details = dict(verdict.details)
    if not own_words:
        return ErrorInfo(code=code, message=message, repair=repair, details=details)
    return ErrorInfo(
        code=verdict.code or code,
        message=verdict.message or message,
        repair=verdict.repair or repair,
        retryable=verdict.retryable,
        retry_after_ms=verdict.retry_after_ms,
        details=details,
    )
