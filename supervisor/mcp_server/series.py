"""The attempts of a job that is tried again: for a client, they are one job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor.errors import JobNotFound
from supervisor.model import Job

if TYPE_CHECKING:
    from supervisor.runtime.supervisor import Supervisor

__all__ = ["last_attempt", "may_go_on"]


def may_go_on(job: Job) -> bool:
    """Whether a job has not ended, or was tried again, so that the last attempt may not have ended."""
    return not job.status.terminal or job.retried_by is not None


async def last_attempt(supervisor: Supervisor, job: Job) -> Job:
    """Return the last attempt of a job, so far."""
    while job.retried_by is not None:
        try:
            job = await supervisor.status(job.retried_by)
        except JobNotFound:  # it was forgotten
            break
    return job
