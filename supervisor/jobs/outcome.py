"""Deciding the terminal state of a job from the end of its command: the one place where a verdict becomes an outcome.

The decision is deterministic: the same records and output give the same outcome in every process, so any process may
finish a job first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs

from supervisor import interpret
from supervisor.errors import InvalidArguments, OutputLost
from supervisor.interpret import Verdict
from supervisor.jobdir.durability import sync_job
from supervisor.jobdir.facts import Ended
from supervisor.jobdir.output import read_output, size_of, written_ns
from supervisor.jobs.unlaunched import detail_of, details_of
from supervisor.model import ErrorInfo
from supervisor.states import Event, Reason, State, reason_of, step
from supervisor.store.rows import JobOutcome, Row
from supervisor.system.observing import SCARCE, NotKnown, not_known

__all__ = ["CODES", "STOPS", "TEXTS", "outcome_of", "view_of"]

_TAIL: Final = 65536

STOPS: Final = {
    "cancelled": (Event.STOPPED_BY_CANCEL, Reason.CANCELLED),
    "deadline": (Event.STOPPED_BY_DEADLINE, Reason.DEADLINE),
    "output_limit": (Event.STOPPED_BY_OUTPUT_LIMIT, Reason.OUTPUT_LIMIT),
    "memory_limit": (Event.STOPPED_BY_MEMORY_LIMIT, Reason.MEMORY_LIMIT),
    "dependency_failed": (Event.STOPPED_BY_CANCEL, Reason.DEPENDENCY_FAILED),
    "start_expired": (Event.STOPPED_BY_CANCEL, Reason.START_EXPIRED),
    "budget": (Event.STOPPED_BY_CANCEL, Reason.BUDGET),
}
"""The event and the reason of each stop, by its name in ``stop.json``."""

CODES: Final[Mapping[Reason, str]] = {
    Reason.NONZERO_EXIT: "job_failed",
    Reason.KILLED_BY_SIGNAL: "job_failed",
    Reason.REPORTED_ERROR: "job_failed",
    Reason.INVALID_OUTPUT: "invalid_output",
    Reason.LAUNCH_FAILED: "launch_failed",
    Reason.OUTPUT_LIMIT: "output_limit",
    Reason.MEMORY_LIMIT: "memory_limit",
    Reason.CANCELLED: "job_cancelled",
    Reason.DEADLINE: "job_timeout",
    Reason.LOST: "job_lost",
    Reason.DEPENDENCY_FAILED: "dependency_failed",
    Reason.START_EXPIRED: "start_expired",
    Reason.BUDGET: "budget",
}

_SHELL: Final = frozenset(" \t\n;&|<>()$`*?'\"=")
"""Characters of a shell command line that the name of a program rarely has."""

TEXTS: Final = {
    Reason.NONZERO_EXIT: ("The command failed.", "Look at its output (`supervisor logs JOB --stderr`)."),
    Reason.KILLED_BY_SIGNAL: (
        "A signal ended the command.",
        "Find the sender: the kernel (out of memory), a person, or the command itself.",
    ),
    Reason.REPORTED_ERROR: ("The command's output reports an error.", "Read the detail, and start it again."),
    Reason.INVALID_OUTPUT: (
        "The command's output is not what its kind expects.",
        "Look at its output (`supervisor logs JOB`).",
    ),
    Reason.LAUNCH_FAILED: (
        "The command could not be started.",
        "Correct the command or the workspace; start it again.",
    ),
    Reason.OUTPUT_LIMIT: (
        "The command wrote more than its output limit.",
        "Make it write less, or raise its limit (--max-output, SUPERVISOR_JOB_MAX_OUTPUT_BYTES).",
    ),
    Reason.MEMORY_LIMIT: (
        "The job needed more memory than its limit, and the kernel ended it.",
        "Start it with a higher limit (--memory), or have it use less.",
    ),
    Reason.CANCELLED: ("The job was cancelled.", "Start it again under a new key if it is still wanted."),
    Reason.DEADLINE: ("The job reached its deadline and was stopped.", "Start it again with a longer deadline."),
    Reason.DEPENDENCY_FAILED: (
        "A job that it had to wait for ended otherwise than required; it never ran.",
        "Look at that job (`supervisor status JOB`), then start both again.",
    ),
    Reason.START_EXPIRED: (
        "It could not be launched in the time that it had for that; it never ran.",
        "Start it again with a longer --start-within, or raise the limits of its groups.",
    ),
    Reason.BUDGET: (
        "The jobs of its group have spent more than a budget allows, and the group stops its jobs then.",
        "Look at the budget (`supervisor group show`). Start it again in the next window, or with a higher budget.",
    ),
    Reason.LOST: (
        "The command has ended, and its exit status is lost.",
        "Check its output (`supervisor logs JOB`) and what it changed before starting it again.",
    ),
}
"""The message and the repair of a job that is not done, where its kind has no better ones."""


def view_of(row: Row, directory: str, ended: Ended) -> interpret.Outcome:
    """Return what an interpreter gets of a job: its output up to its size at the end of the command, and its limit."""
    exit_, limit = ended.exit, row.output_limit

    def read(stream: str, size: int | None, last: int | None = None) -> bytes:
        if size is None:
            size = size_of(directory, stream)
        return read_output(directory, stream, size=size if limit is None else min(size, limit), last=last)

    return interpret.Outcome(
        exit_code=exit_.exit_code,
        signal=exit_.signal,
        read_stdout=lambda: read("stdout", exit_.stdout_bytes),
        read_stderr=lambda: read("stderr", exit_.stderr_bytes, _TAIL),
        read_stdout_tail=lambda: read("stdout", exit_.stdout_bytes, _TAIL),
        interrupted=ended.stopped,
        ended_ns=exit_.ended_ns,
        # A command can set the times of its files, but it writes nothing before its launch.
        read_written_ns=lambda: max(written_ns(directory), row.started_ns or row.created_ns),
        launch_error=exit_.launch_error,
        launch_status=exit_.launch_status,
    )


def _judge(kind: str, seen: interpret.Outcome) -> Verdict:
    try:
        return interpret.get_interpreter(kind).verdict(seen)
    except (InvalidArguments, NotKnown, ImportError):
        raise
    except OutputLost as error:
        return Verdict(reason=Reason.LOST, code=error.code, message=error.message, repair=error.repair)
    except Exception as error:  # a defect in a kind of another package must not lose the job
        # The built-in kinds open no files but their own modules, on first use.
        ours = kind in interpret.BUILT_IN and isinstance(error, OSError)
        if ours or isinstance(error, MemoryError) or getattr(error, "errno", None) in SCARCE:
            raise not_known(error, f"the output, as {kind}") from error
        return Verdict(
            reason=Reason.INVALID_OUTPUT,
            message=f"The interpreter of kind {kind!r} failed: {error!r}",
            detail=repr(error)[:200],
        )


def outcome_of(
    row: Row,
    directory: str,
    ended: Ended,
    look: Callable[[Row, str, Ended], interpret.Outcome] = view_of,
) -> JobOutcome:
    """Decide the terminal state of a job whose command has ended.

    ``look`` returns what the interpreter gets. A caller that also needs the value keeps it, so that the output is
    parsed once. What it decides from is on the disk by then if the job survives the loss of power, or the outcome says
    that this is not known.

    Raises:
        InvalidArguments: the kind is not installed here, so this process cannot decide.
        NotKnown: the output cannot be read now, or a module cannot be loaded, which says nothing about the job.
    """
    try:
        return _outcome_of(row, directory, _synced(row, directory, ended), look)
    except ImportError as error:
        raise not_known(error, error.name or "a module") from error


def _synced(row: Row, directory: str, ended: Ended) -> Ended:
    if not row.is_durable:
        return ended
    try:
        sync_job(directory)
    except OSError as error:
        if error.errno in SCARCE:
            raise not_known(error, directory) from error
        why = ended.exit.unsynced or f"{error.filename}: {error.strerror}"
        return attrs.evolve(ended, exit=attrs.evolve(ended.exit, unsynced=why))
    return ended


def _outcome_of(
    row: Row, directory: str, ended: Ended, look: Callable[[Row, str, Ended], interpret.Outcome]
) -> JobOutcome:
    state = State(row.state)
    stdout_bytes, stderr_bytes = (
        size_of(directory, stream) if size is None else size
        for stream, size in (("stdout", ended.exit.stdout_bytes), ("stderr", ended.exit.stderr_bytes))
    )
    limit = row.output_limit
    stopped = ended.stopped
    if stopped is None and limit is not None and max(stdout_bytes, stderr_bytes) > limit:
        stopped = "output_limit"  # the command ended before the keeper measured its output
    if stopped is not None:
        # A newer version has more reasons to stop a job; with each of them the job has failed.
        event, reason = STOPS.get(stopped) or (Event.STOPPED_BY_OUTPUT_LIMIT, reason_of(stopped))
        if row.kind in {"raw", "json"} or ended.exit.launch_error is not None:  # no cost in the output
            cause = ended.cause or {}
            verdict = Verdict(reason=reason, detail=detail_of(reason, cause), details=details_of(reason, cause))
        else:
            verdict = _judge(row.kind, look(row, directory, ended))
            if reason is Reason.BUDGET and (why := detail_of(reason, ended.cause or {})) is not None:
                details = {**verdict.details, **details_of(reason, ended.cause or {})}
                verdict = attrs.evolve(verdict, detail=why, details=details)
    elif ended.exit.launch_error is not None:
        event, reason = Event.LAUNCH_FAILED, Reason.LAUNCH_FAILED
        verdict = _unlaunched(row, look(row, directory, ended), ended)
        if state is not State.QUEUED:  # its launch is on record: what says that there was none was not written by us
            event, reason = Event.LOST, Reason.LOST
            verdict = Verdict(reason=reason, detail=verdict.detail)
    else:
        verdict = _judge(row.kind, look(row, directory, ended))
        reason = verdict.reason
        event = {Reason.EXITED: Event.SUCCEEDED, Reason.LOST: Event.LOST}.get(reason, Event.FAILED)
    detail = verdict.detail
    if ended.remark is not None:
        detail = ended.remark if detail is None else f"{ended.remark}; {detail}"
    if ended.survivors:
        left = f"processes of other users are left: {' '.join(map(str, ended.survivors))}"
        detail = left if detail is None else f"{left}; {detail}"
    return JobOutcome(
        state=step(state, event),
        reason=reason,
        exit=ended.exit,
        detail=detail,
        cost_usd=verdict.cost_usd,
        tokens=verdict.tokens,
        own_tokens=verdict.own_tokens,
        session_id=_text(verdict.session_id or verdict.details.get("session_id")),
        error=None if reason is Reason.EXITED else _error(reason, verdict, own_words=stopped is None),
        stdout_bytes=stdout_bytes,
        stderr_bytes=stderr_bytes,
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _unlaunched(row: Row, seen: interpret.Outcome, ended: Ended) -> Verdict:
    """Return the verdict for a command that was never started; its kind may know more about the cause."""
    from supervisor.text.redact import excerpt  # imported for failures only

    why = excerpt(ended.exit.launch_error or "")  # it has the command, which may contain a secret
    details: dict[str, Any] = {"exit_status": ended.exit.launch_status}
    repair = ended.exit.launch_repair
    if ended.exit.never_launched:
        details["never_launched"] = True
        repair = "Start it again; the same idempotency key may be used."
    elif ended.exit.launch_status == 127 and not _SHELL.isdisjoint(row.request["argv"][0]):
        repair = "No shell interprets the command. To run a shell command line, start the three words: sh -c 'LINE'."
    verdict = Verdict(
        reason=Reason.LAUNCH_FAILED,
        message=f"The command could not be started: {why}.",
        repair=repair,
        retryable=ended.exit.launch_status == 125 and not ended.exit.launch_final,  # a limit or a crash
        detail=why,
        details=details,
    )
    if row.kind in {"raw", "json"}:
        return verdict
    known = _judge(row.kind, seen)
    if known.code is None or repair is not None:
        return verdict
    return attrs.evolve(known, detail=known.detail or verdict.detail, details={**details, **known.details})


def _error(reason: Reason, verdict: Verdict, *, own_words: bool) -> ErrorInfo:
    """Return the error of a job that is not done; ``own_words``: with the message and repair of its kind."""
    message, repair = TEXTS.get(reason) or (f"The command was stopped: {reason}.", "Look at its output.")
    code = CODES.get(reason, "job_failed")
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
