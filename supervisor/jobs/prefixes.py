"""Finding a job by the beginning of its id."""

from __future__ import annotations

import contextlib
from typing import Any, Final

from supervisor.errors import InvalidArguments, JobNotFound, SupervisorError
from supervisor.jobs.interface import Jobs
from supervisor.store import Row, is_job_id

__all__ = ["resolve"]

_MAX_NAMED: Final = 10


def resolve(jobs: Jobs, prefix: str) -> str:
    """Return the only job id that begins with ``prefix``, of 4 characters or more.

    Raises:
        JobNotFound: there is none.
        InvalidArguments: it is too short, or there are several.
    """
    if is_job_id(prefix):
        return prefix
    if len(prefix) < 4:
        message = f"{prefix!r} is too short for a job id: give at least 4 characters of it"
        raise InvalidArguments(message)
    rows = jobs.index.with_prefix(prefix, _MAX_NAMED + 1) if set(prefix) <= set("0123456789abcdef") else []
    if len(rows) > 1:
        named = [(row.job_id, _state_now(jobs, row)) for row in rows[:_MAX_NAMED]]
        more = " and others" if len(rows) > _MAX_NAMED else ""
        listed = ", ".join(f"{job_id} ({state})" for job_id, state in named)
        details: dict[str, Any] = {
            "job_ids": [job_id for job_id, _ in named],
            "candidates": [{"job_id": job_id, "status": state} for job_id, state in named],
            "more": bool(more),
        }
        message = f"{prefix!r} begins the ids of several jobs: {listed}{more}"
        raise InvalidArguments(message, details=details, repair="Give more characters of the id.")
    if not rows:
        message = f"there is no job {prefix!r:.80}"
        raise JobNotFound(message, details={"job_id": prefix[:80]})
    return rows[0].job_id


def _state_now(jobs: Jobs, row: Row) -> str:
    """Return the state of a job for a list of names: the recorded one if it cannot be observed now."""
    with contextlib.suppress(SupervisorError):
        return jobs.refresh(row, drive=False)[0].state
    return row.state
