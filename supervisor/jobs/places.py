"""Holding, releasing and moving jobs that wait, without an event loop.

Any process may do this to any waiting job. The transaction that records a change also admits the jobs that may run
then; the supervisor that is to launch them finds that out as it does after every other change.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from supervisor.errors import InvalidArguments, JobElsewhere, JobNotFound, JobRunning, SupervisorError
from supervisor.jobs.interface import Jobs
from supervisor.jobs.validation import check_priority
from supervisor.model import Job
from supervisor.store import Row

__all__ = ["hold", "move", "release"]


def hold(jobs: Jobs, job_id: str) -> Job:
    """Keep a waiting job from being launched until it is released; a held one stays held.

    Raises:
        JobNotFound: there is no job of this id.
        JobRunning: it runs, or has its slots and is about to.
        InvalidArguments: it has ended.
        JobElsewhere: a newer version has made it.
    """
    return _change(jobs, job_id, lambda _: {"hold": True})


def release(jobs: Jobs, job_id: str) -> Job:
    """End the hold of a waiting job; it may be launched at once. It raises as ``hold`` does."""
    return _change(jobs, job_id, lambda _: {"hold": False})


def move(jobs: Jobs, job_id: str, *, priority: int | None = None, first: bool = False) -> Job:
    """Change the order of a waiting job: as if it had been started with ``priority``, or before all in its groups.

    Raises:
        InvalidArguments: neither or both are given, the priority is out of range, or the job has ended.
        JobNotFound, JobRunning, JobElsewhere: as for ``hold``.
    """
    if (priority is None) is not first:
        message = "give either a priority, or first"
        raise InvalidArguments(message)
    if priority is not None:
        check_priority(priority)
        return _change(jobs, job_id, lambda _: {"priority": priority, "first_ns": None})

    def to_the_front(row: Row) -> dict[str, Any]:
        # Ranks are times, so that of a job that was moved later is lower, unless the clock was set back.
        return {"first_ns": max(jobs.layout.clock.wall_ns(), -jobs.index.queue.before_all(row.seq))}

    return _change(jobs, job_id, to_the_front)


def _change(jobs: Jobs, job_id: str, change: Callable[[Row], dict[str, Any]]) -> Job:
    """Make a change to a waiting job; a member that is ``None`` is removed."""
    row, _ = jobs.refresh(jobs.row(job_id), drive=False)
    if row.is_newer and not row.finished:
        message = f"job {job_id} was made by a newer version of this package"
        raise JobElsewhere(message, repair="Repeat the call with that version.", details={"job_id": job_id})

    def apply() -> Row:
        found = jobs.index.get(job_id)
        if found is None or found.finished or not jobs.index.queue.waits(found.seq):
            raise _not_waiting(job_id, found)
        members = {**jobs.index.changes(found.workspace_key, job_id), **change(found)}
        jobs.index.change_waiting(found, {name: value for name, value in members.items() if value is not None})
        jobs.index.take_turn()
        return found

    jobs.index.write(apply)
    return jobs.job(*jobs.refresh(jobs.row(job_id), drive=False))


def _not_waiting(job_id: str, row: Row | None) -> SupervisorError:
    details = {"job_id": job_id}
    if row is None:
        message = f"there is no job {job_id}"
        return JobNotFound(message, details=details)
    details["status"] = row.state
    if row.finished:
        message = f"job {job_id} has ended: it is {row.state}"
        return InvalidArguments(
            message, repair="Only a job that waits can be held, released or moved.", details=details
        )
    state = "runs" if row.started_ns is not None else "is about to be launched, or to end"
    repair = f"Only a job that waits can be held, released or moved; `supervisor cancel {job_id}` stops it."
    return JobRunning(f"job {job_id} does not wait: it {state}", repair=repair, retryable=False, details=details)
