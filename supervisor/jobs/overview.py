"""The state of a whole state root at one moment, for a live view: what needs attention, groups, and jobs.

The rows of each kind are bounded, so that it takes as long with ten thousand jobs as with a hundred.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import attrs

from supervisor import log
from supervisor.admission.groups import group_infos
from supervisor.admission.launchers import unattended
from supervisor.errors import JobNotFound, SupervisorError
from supervisor.jobs.deliveries import count_dead
from supervisor.jobs.interface import Jobs
from supervisor.model import GroupInfo, Job, to_json
from supervisor.store import Row
from supervisor.store.jobs_of_rows import job_of
from supervisor.system.memory import resident_bytes

__all__ = ["Overview", "overview_of"]

_MAX_GROUPS: Final = 100
_MINUTES: Final = 60
_MINUTE_NS: Final = 60 * 10**9
_DAY_NS: Final = 24 * 60 * _MINUTE_NS
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
        failures: jobs that ended badly in the last day and whose results were not fetched, the last one first, but for
            those that are tried again.
        unattended: how many jobs wait although no process is there to launch them.
        dead_deliveries: how many deliveries were given up; with ``label``, 0, as they are the owner's.
        memory: the bytes that the processes of the ``running`` jobs on this machine occupy now, by the ids of the jobs;
            only if that was asked for.
        ends: how many jobs have ended in each of the last 60 minutes, the oldest first: (well, badly).
        counts: how many jobs are ``running``, ``waiting`` and ``ended``, and how many ``failed`` as in ``failures``,
            shown or not.
        directories: those of the unfinished jobs on this machine: after a change in one, the overview is out of date.
    """

    at: datetime
    groups: tuple[GroupInfo, ...] = ()
    running: tuple[Job, ...] = ()
    waiting: tuple[Job, ...] = ()
    ended: tuple[Job, ...] = ()
    failures: tuple[Job, ...] = ()
    unattended: int = 0
    dead_deliveries: int = 0
    memory: dict[str, int] = attrs.field(factory=dict[str, int])
    ends: tuple[tuple[int, int], ...] = ()
    counts: dict[str, int] = attrs.field(factory=dict[str, int])
    directories: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        shape: dict[str, Any] = {"ok": True, "counts": self.counts}
        shape["groups"] = [_plain(group) for group in self.groups]
        for name in ("running", "waiting", "ended", "failures"):
            shape[name] = [_plain(job) for job in getattr(self, name)]
        shape["unattended"] = self.unattended
        shape["dead_deliveries"] = self.dead_deliveries
        shape["ends"] = [{"done": well, "other": badly} for well, badly in self.ends]
        return shape


def _plain(value: Job | GroupInfo) -> dict[str, Any]:
    return {name: held for name, held in to_json(value).items() if name != "ok"}


def overview_of(
    jobs: Jobs,
    *,
    running: int,
    waiting: int,
    ended: int,
    failures: int = 20,
    label: tuple[str, str] | None = None,
    memory: bool = False,
) -> Overview:
    """Return an overview with up to so many jobs of each kind; with ``label``, only of the jobs that have it.

    ``memory``: measure the memory of the running jobs, which takes 100 us a job.

    Raises:
        SupervisorError: the state root cannot be read now.
    """
    index = jobs.index
    now_ns = jobs.layout.clock.now_ns()
    since_ns = now_ns - _DAY_NS
    begun = index.begun(running, label=label)
    orders = index.waiting(waiting, label=label)
    ends = index.last_ended(ended, label=label)
    failed = index.unread_failures(failures, since_ns, label=label)
    finished: list[Row] = []
    found: dict[str, list[Job]] = {"running": [], "waiting": []}
    directories: list[str] = []
    occupied: dict[str, int] = {}
    with index.standings_of([*begun, *orders]):
        for row in (*begun, *orders):
            row_now, job = _now(jobs, row)
            if row_now.finished:
                finished.append(row_now)
            elif job is not None:
                found["waiting" if job.queue_reason and row in orders else "running"].append(job)
                if jobs.client(row).on_this_machine:
                    directories.append(jobs.directory(row))
                    if memory and job.pid is not None and (used := resident_bytes(job.pid)):
                        occupied[job.job_id] = used
    last = sorted((*finished, *ends), key=lambda row: row.completed_ns or 0, reverse=True)[:ended]
    counts = index.counts(since_ns, label=label)
    for row in finished:
        kind = "running" if row in begun else "waiting"
        counts[kind] = max(0, counts[kind] - 1)
    return Overview(
        at=datetime.now(UTC),
        groups=tuple(group_infos(index, most=_MAX_GROUPS)),
        running=tuple(found["running"]),
        waiting=tuple(found["waiting"]),
        ended=tuple(job_of(row, jobs.directory(row)) for row in last),
        failures=tuple(job_of(row, jobs.directory(row)) for row in failed),
        unattended=unattended(index),
        dead_deliveries=count_dead(jobs.layout.root) if label is None else 0,
        memory=occupied,
        ends=_by_minute(index.ends(now_ns - _MINUTES * _MINUTE_NS, _MINUTE_NS, label=label), now_ns // _MINUTE_NS),
        counts=counts,
        directories=tuple(directories),
    )


def _by_minute(found: list[tuple[int, bool, int]], last: int) -> tuple[tuple[int, int], ...]:
    counts = {(minute, well): count for minute, well, count in found}
    minutes = range(last - _MINUTES + 1, last + 1)
    return tuple((counts.get((each, True), 0), counts.get((each, False), 0)) for each in minutes)


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
