"""Pausing and resuming jobs, without an event loop. Any process may do this to any running job of the state root."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from supervisor.engines.interface import Client, JobPhase
from supervisor.errors import InvalidArguments, JobRunning, SupervisorError
from supervisor.jobs.bulk import elsewhere_error
from supervisor.jobs.interface import Jobs
from supervisor.model import Job
from supervisor.store import Row
from supervisor.store.state_errors import state_error

__all__ = ["SIGNALLED", "act", "pause", "prepare", "resume"]

SIGNALLED: Final = "signalled"


def pause(jobs: Jobs, job_id: str, *, hold_deadline: bool = False, by: str = "command line") -> Job:
    """Stop all processes of a running job until ``resume``; a paused one stays paused.

    Raises:
        JobNotFound: there is no job of this id.
        InvalidArguments: it waits, has ended or is being stopped, or it is this process's own job.
        JobRunning: it is about to be launched.
        JobElsewhere: it runs on another host or in another pid namespace.
        FeatureUnavailable: its engine or its keeper cannot do that.
        PermissionDenied: a process of it belongs to another user; the others were continued.
        StateBusy: its processes did not stop in time, and were continued, or they cannot be observed now.
        StateFull: that cannot be recorded; nothing was stopped.
    """
    return act(jobs, job_id, "paused", lambda client: partial(client.pause, hold_deadline=hold_deadline, by=by))


def resume(jobs: Jobs, job_id: str, *, by: str = "command line") -> Job:
    """Continue all processes of a paused job; one that is not paused is returned as it is. It raises as ``pause``."""
    return act(jobs, job_id, "resumed", lambda client: partial(client.resume, by=by))


def act(jobs: Jobs, job_id: str, what: str, action: Callable[[Client], Callable[[str], None]]) -> Job:
    """Act on a job that runs here, and return it; ``what`` the caller wants it to be, in a word."""
    row = prepare(jobs, job_id, what)
    try:
        action(jobs.client(row))(jobs.directory(row))
    except OSError as error:
        raise state_error(error, f"job {job_id} cannot be {what}") from error
    return jobs.status(job_id)


def prepare(jobs: Jobs, job_id: str, what: str) -> Row:
    """Return the row of a job that runs here; ``what`` the caller wants it to be, in a word.

    Raises:
        SupervisorError: it does not.
    """
    row, observation = jobs.refresh(jobs.row(job_id), drive=False)
    if row.finished:
        message = f"job {job_id} has ended: it is {row.state}"
        raise InvalidArguments(message, repair=f"Only a job that runs can be {what}.", details={"job_id": job_id})
    if observation is None or observation.phase is JobPhase.ELSEWHERE:
        raise elsewhere_error(row, observation)
    if isinstance(observation.problem, SupervisorError):
        raise observation.problem
    if observation.problem is not None:
        raise state_error(observation.problem, "cannot look at the job")
    if observation.phase is JobPhase.QUEUED:
        raise _waiting(job_id, what, waits=jobs.index.queue.waits(row.seq))
    return row


def _waiting(job_id: str, what: str, *, waits: bool) -> SupervisorError:
    details = {"job_id": job_id, "status": "queued"}
    if waits and what == SIGNALLED:
        message = f"job {job_id} waits, and has no process yet"
        return InvalidArguments(message, repair=f"`supervisor cancel {job_id}` ends it.", details=details)
    if waits:
        message = f"job {job_id} waits, and only a job that runs can be {what}"
        repair = f"`supervisor hold {job_id}` keeps it from being launched, and `supervisor release` ends that."
        return InvalidArguments(message, repair=repair, details=details)
    return JobRunning(f"job {job_id} is about to be launched", repair="Try again.", details=details)
