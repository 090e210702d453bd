"""Whether a process is there that launches waiting jobs, and whether one is late."""

from __future__ import annotations

from typing import Final

from supervisor.admission.launch_helper import can_go_on
from supervisor.errors import SupervisorError
from supervisor.keeper.helper_starts import find_owners, is_locked, lock_name
from supervisor.store import Index, Row
from supervisor.store.grants import granted_ns
from supervisor.system import processes

__all__ = ["CLAIM_SECONDS", "are_there", "late_launch", "may_launch", "unattended", "unfired"]

CLAIM_SECONDS: Final = 30.0
"""A supervisor that has not launched an admitted job after this time is said to be late."""


def are_there(root: str) -> bool:
    """Whether a process of this pid namespace launches waiting jobs, or is just being started for that.

    ``True`` also where that is not known now.
    """
    try:
        return find_owners(root)[0] or is_locked(f"{root}/{lock_name()}")
    except OSError:
        return True


def may_launch(index: Index, row: Row) -> bool:
    """Whether a process may be there that launches this job: jobs of another pid namespace are launched in that."""
    try:
        here = row.request.get("ns") == processes.pid_namespace()
        return are_there(index.layout.root) if here else index.layout.owners.any_may_be_alive()
    except (OSError, SupervisorError):
        return True


def unattended(index: Index) -> int:
    """Return how many jobs wait although no process is there to launch them.

    It is 0 while every waiting job needs another command before it can be launched: its group is paused, for one.

    Raises:
        SupervisorError: the index cannot be read now.
    """
    if are_there(index.layout.root) or not can_go_on(index):  # the quick question first
        return 0
    return index.read_queue(lambda queue: queue.count_unlaunched())


def unfired(index: Index) -> int:
    """Return how many schedules are to start jobs although no process is there to do that.

    Raises:
        SupervisorError: the index cannot be read now.
    """
    index.follow_files()
    count = index.read_schedules(lambda schedules: schedules.count())
    return 0 if not count or are_there(index.layout.root) else count


def late_launch(index: Index, row: Row) -> float | None:
    """Return for how many seconds a job has its slots, if its supervisor lives and ought to have launched it by now."""
    if row.finished or row.started_ns is not None:
        return None
    try:
        since_ns = granted_ns(index.layout.job(row.workspace_key, row.job_id))
        if since_ns is None or not index.layout.owners.is_alive(row.owner):
            return None
    except SupervisorError:
        return None
    seconds = (index.layout.clock.wall_ns() - since_ns) / 1e9
    return seconds if seconds > CLAIM_SECONDS else None
