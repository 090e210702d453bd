"""The state of a whole state root at one moment, for a live view: groups, and the jobs that matter most now.

The rows of each kind are bounded, so that it takes as long with ten thousand jobs as with a hundred.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import attrs

from supervisor import log
from supervisor.admission.groups import group_infos
from supervisor.errors import JobNotFound, SupervisorError
from supervisor.jobs.interface import Jobs
from supervisor.model import GroupInfo, Job, to_json
from supervisor.store import Row
from supervisor.store.rows import job_of

__all__ = ["Overview", "overview_of"]

_MAX_GROUPS: Final = 100
_MAX_TO_READ: Final = 1 << 16
"""Bytes of the output of each running job that are read for its progress."""


@attrs.frozen(slots=True, kw_only=True)
class Overview:
    """A state root at one moment.

    Attributes:
        at: when it was taken.
        groups: its groups by their names, the first hundred.
        running: the newest running jobs, and those that are about to be launched.
        waiting: the jobs that have waited longest.
        ended: the jobs that have ended last, the last one first.
        counts: how many jobs are ``running``, ``waiting`` and ``ended``, shown or not.
        directories: those of the unfinished jobs on this machine: after a change in one, the overview is out of date.
    """

    at: datetime
    groups: tuple[GroupInfo, ...] = ()
    running: tuple[Job, ...] = ()
    waiting: tuple[Job, ...] = ()
    ended: tuple[Job, ...] = ()
    counts: dict[str, int] = attrs.field(factory=dict[str, int])
    directories: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        shape: dict[str, Any] = {"ok": True, "counts": self.counts}
        shape["groups"] = [_plain(group) for group in self.groups]
        for name in ("running", "waiting", "ended"):
            shape[name] = [_plain(job) for job in getattr(self, name)]
        return shape


def _plain(value: Job | GroupInfo) -> dict[str, Any]:
    return {name: held for name, held in to_json(value).items() if name != "ok"}


def overview_of(jobs: Jobs, *, running: int, waiting: int, ended: int) -> Overview:
    """Return an overview with up to so many jobs of each kind.

    Raises:
        SupervisorError: the state root cannot be read now.
    """
    index = jobs.index
    begun = index.begun(running)
    orders = index.waiting(waiting)
    ends = index.last_ended(ended)
    finished: list[Row] = []
    found: dict[str, list[Job]] = {"running": [], "waiting": []}
    directories: list[str] = []
    with index.standings_of([*begun, *orders]):
        for row in (*begun, *orders):
            row_now, job = _now(jobs, row)
            if row_now.finished:
                finished.append(row_now)
            elif job is not None:
                found["waiting" if job.queue_reason and row in orders else "running"].append(job)
                if jobs.client(row).on_this_machine:
                    directories.append(jobs.directory(row))
    last = sorted((*finished, *ends), key=lambda row: row.completed_ns or 0, reverse=True)[:ended]
    counts = index.counts()
    for row in finished:
        kind = "running" if row in begun else "waiting"
        counts[kind] = max(0, counts[kind] - 1)
    return Overview(
        at=datetime.now(UTC),
        groups=tuple(group_infos(index, most=_MAX_GROUPS)),
        running=tuple(found["running"]),
        waiting=tuple(found["waiting"]),
        ended=tuple(job_of(row, "") for row in last),
        counts=counts,
        directories=tuple(directories),
    )


def _now(jobs: Jobs, row: Row) -> tuple[Row, Job | None]:
    """Return an unfinished job as it is now; ``None`` for one that was forgotten meanwhile."""
    try:
        row, observation = jobs.refresh(row, drive=False)
        return row, None if row.finished else jobs.job(row, observation, read=_MAX_TO_READ)
    except JobNotFound:
        return row, None
    except SupervisorError as problem:  # a job that cannot be observed must not hide all others
        log.warning("job_not_looked_at", job_id=row.job_id, error=problem.message)
        return row, job_of(row, jobs.directory(row), damage=problem.message)
