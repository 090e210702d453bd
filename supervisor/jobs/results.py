"""The result of a finished job: its value, read from its output, or the error that it ended with."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Final

import attrs

from supervisor import interpret
from supervisor.errors import (
    InvalidArguments,
    JobRunning,
    OutputLost,
    PermissionDenied,
    StateBusy,
    StateCorrupt,
    StateFull,
    SupervisorError,
)
from supervisor.jobdir import records
from supervisor.jobdir.facts import Ended
from supervisor.jobdir.output import check_made
from supervisor.jobs import retention
from supervisor.jobs.interface import Jobs
from supervisor.jobs.outcome import view_of
from supervisor.model import Exit, Job, Result
from supervisor.store import Row
from supervisor.store.rows import error_of
from supervisor.store.state_errors import state_error
from supervisor.system.observing import SCARCE, NotKnown, not_known
from supervisor.worktrees.record import MEMBER as WORKTREE

__all__ = ["check_detail", "peek", "result", "result_at_a_glance", "running_error"]

_MAX_AT_A_GLANCE: Final = 1 << 16
"""The largest output, in bytes, that is read and rendered on an event loop: in a millisecond or two."""


def check_detail(detail: str | None) -> interpret.Detail | None:
    """Return ``detail`` if it is a level at which results are rendered."""
    match detail:
        case None | "summary" | "full":
            return detail
        case _:
            message = f"detail is {detail!r:.80}; it must be 'summary' or 'full', or None for the usual rendering"
            raise InvalidArguments(message)


def result(jobs: Jobs, job_id: str, *, consume: bool, detail: str | None) -> Result:
    """Return the result of a finished job, see ``Catalog.result``."""
    level = check_detail(detail)
    shown: list[interpret.Outcome] = []

    def look(row: Row, directory: str, ended: Ended) -> interpret.Outcome:
        shown.append(view_of(row, directory, ended))
        return shown[-1]

    row, observation = jobs.refresh(jobs.row(job_id), look=look)
    while row.retried_by is not None:
        shown.clear()
        job_id = row.retried_by
        row, observation = jobs.refresh(jobs.row(job_id), look=look)
    if not row.finished:
        raise running_error(jobs.job(row, observation))
    changes = None
    if WORKTREE in row.request:
        from supervisor.jobs.worktrees import changes_of  # few jobs need it

        changes = changes_of(jobs, row, short=level == "summary")
    if consume:
        retention.check_unawaited(jobs, row)
    try:
        found = _result_of(jobs, row, level, shown)
    except StateCorrupt:
        jobs.check_kept(row)
        raise
    if changes is not None:
        found = attrs.evolve(found, changes=changes)
    if not jobs.layout.is_sound(row.workspace_key, job_id):  # it may have been forgotten while it was read
        jobs.check_kept(row)
    if consume:
        if not jobs.layout.discard(row.workspace_key, job_id):
            jobs.check_kept(row)
        retention.delete(jobs, job_id)
    elif not row.fetched:
        with contextlib.suppress(StateBusy, StateFull, PermissionDenied):
            jobs.index.write(lambda: jobs.index.set_fetched(job_id))
    return found


def peek(jobs: Jobs, job_id: str) -> Result:
    """Return the result of a finished job, which does not count as fetched by that.

    Raises:
        JobNotFound, JobRunning, OutputLost, StateCorrupt, StateBusy: as ``Catalog.result`` raises them.
    """
    row = jobs.row(job_id)
    if not row.finished:
        raise running_error(jobs.job(row))
    return _result_of(jobs, row, None, ())


def result_at_a_glance(jobs: Jobs, job_id: str, detail: str | None) -> tuple[Result, bool] | None:
    """Return the result of an ended job with little output, see ``Catalog.result_at_a_glance``."""
    level = check_detail(detail)
    row = jobs.row(job_id)
    while row.retried_by is not None:
        row = jobs.row(row.retried_by)
    ended = row.ended
    if ended is None or max(ended["stdout_bytes"], ended["stderr_bytes"]) > _MAX_AT_A_GLANCE:
        return None
    if WORKTREE in row.request or not jobs.client(row).on_this_machine:  # reading it may block
        return None
    try:
        found = _result_of(jobs, row, level, ())
    except StateCorrupt:
        return None
    return (found, bool(row.fetched)) if jobs.layout.is_sound(row.workspace_key, row.job_id) else None


def _result_of(jobs: Jobs, row: Row, detail: interpret.Detail | None, shown: Sequence[interpret.Outcome]) -> Result:
    """Read the result of a finished row from its job directory, unless it was just read."""
    directory = jobs.directory(row)
    job = jobs.job(row)
    error = error_of(row)
    if error is not None:
        return Result(job_id=row.job_id, kind=row.kind, error=error, job=job)
    if not jobs.layout.is_sound(row.workspace_key, row.job_id):
        message = f"the output of job {row.job_id} is not there any more"
        raise StateCorrupt(message, details={"job_id": row.job_id})
    interpreter = interpret.get_interpreter(row.kind)
    outcome = shown[-1] if shown else view_of(row, directory, _ended_of(job))
    try:
        if row.has_files and not job.stdout_bytes:
            check_made(directory, "stdout")
        value = interpret.render(interpreter, outcome, detail)
    except OutputLost:
        raise
    except (NotKnown, MemoryError) as problem:
        raise _unreadable(row, problem) from problem
    except Exception as failure:
        if getattr(failure, "errno", None) in SCARCE:
            raise _unreadable(row, failure) from failure
        message = f"the output of job {row.job_id} cannot be read as {row.kind} any more: {failure}"
        raise StateCorrupt(message, details={"job_id": row.job_id}) from failure
    return Result(job_id=row.job_id, kind=row.kind, value=value.value, encoding=value.encoding, job=job)


def _unreadable(row: Row, problem: Exception) -> SupervisorError:
    return state_error(not_known(problem, records.STDOUT), f"cannot read the output of job {row.job_id} now")


def _ended_of(job: Job) -> Ended:
    return Ended(
        exit=Exit(
            exit_code=job.exit_code,
            signal=job.signal,
            stdout_bytes=job.stdout_bytes,
            stderr_bytes=job.stderr_bytes,
        )
    )


def running_error(job: Job) -> JobRunning:
    """Return the error for a job that has not ended."""
    message = f"job {job.job_id} is {job.status}"
    return JobRunning(message, retry_after_ms=job.poll_after_ms, details={"job_id": job.job_id, "status": job.status})
