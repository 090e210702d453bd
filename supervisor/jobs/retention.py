"""Forgetting jobs: on request, when they expire or are too many, and after crashes.

A job is forgotten when its directory moves into the trash. Then its row is deleted, and its output last. The next
cleaning finishes one that was interrupted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar

from supervisor.errors import InvalidArguments, JobNotFound, PermissionDenied, StateBusy, StateFull
from supervisor.jobdir import records
from supervisor.jobs.interface import Jobs
from supervisor.store import Layout, Row
from supervisor.store.eviction import READING_NS
from supervisor.system.observing import is_there
from supervisor.worktrees.record import DIRECTORY as WORKTREES
from supervisor.worktrees.record import MEMBER

__all__ = ["check_unawaited", "delete", "empty_trash", "prune", "remove", "settle_worktrees", "without_unread"]

_T = TypeVar("_T")
_AT_ONCE: Final = 500
_TRASH_AT_ONCE: Final = 200
_MAX_NAMED: Final = 10


def prune(jobs: Jobs, key: str | None, *, spared: Iterable[str]) -> Sequence[str]:
    """Forget the jobs that have expired or exceed the cap, in the workspace of ``key`` or in all; return their ids."""
    for row in jobs.index.unfinished():
        if key in {None, row.workspace_key}:
            with contextlib.suppress(JobNotFound):
                jobs.refresh(row, drive=False)
    keep = set(spared)
    forgotten: list[str] = []
    now_ns = jobs.layout.clock.now_ns()
    passed = set(keep)
    while batch := [row for row in jobs.index.expired(now_ns, _AT_ONCE + len(passed), key) if row.job_id not in passed]:
        passed.update(row.job_id for row in batch)  # a row that cannot be deleted now is not to come up again
        gone = without_unread(jobs.layout, batch, now_ns)
        remove(jobs, gone)
        forgotten += [row.job_id for row in gone]
    for name in [key] if key is not None else jobs.layout.workspaces():
        forgotten += _write(
            jobs,
            lambda name=name: jobs.index.evict(name, jobs.settings.job_max_count, keep),  # type: ignore[misc]
        )
    _sweep_unannounced(jobs, key)
    if is_there(f"{jobs.layout.root}/{WORKTREES}"):
        from supervisor.jobs.worktrees import sweep  # few state roots need it

        sweep(jobs)
    with contextlib.suppress(StateFull):  # the next call deletes the rest
        while empty_trash(jobs, _TRASH_AT_ONCE):
            pass
        jobs.index.checkpoint()
    jobs.layout.owners.sweep()
    if forgotten or jobs.layout.workspaces():  # a root without jobs gets no files
        with contextlib.suppress(OSError):
            records.make_spares(jobs.layout.root)
    return forgotten


def without_unread(layout: Layout, expired: Sequence[Row], now_ns: int) -> Sequence[Row]:
    """Return the jobs out of expired ones that can be forgotten now.

    A caller of another supervisor may be about to fetch the result of a job that has just expired, such as the command
    ``run --ttl 0``. For a minute such a job is hidden only, which that supervisor knows to look through.
    """
    if not expired or not layout.owners.others_may_be_alive():
        return expired
    return [row for row in expired if row.expires_ns is not None and row.expires_ns <= now_ns - READING_NS]


def check_unawaited(jobs: Jobs, row: Row) -> None:
    """Raise ``InvalidArguments`` if a waiting job depends on a finished one."""
    waiting = jobs.index.read_queue(lambda queue: queue.awaiting(row.seq, _MAX_NAMED))
    if waiting:
        message = f"job {row.job_id} cannot be forgotten: {_named(waiting)} waits for it"
        repair = "Wait until that job is launched, or cancel it."
        raise InvalidArguments(message, repair=repair, details={"job_id": row.job_id, "awaited_by": waiting})


def _named(job_ids: Sequence[str]) -> str:
    return f"job {job_ids[0]}" if len(job_ids) == 1 else f"job {job_ids[0]}, and {len(job_ids) - 1} or more others,"


def remove(jobs: Jobs, rows: Iterable[Row]) -> None:
    """Forget these finished jobs."""
    gone = tuple(rows)
    for row in gone:
        jobs.layout.discard(row.workspace_key, row.job_id)
    delete(jobs, *(row.job_id for row in gone))


def settle_worktrees(jobs: Jobs, rows: Iterable[Row]) -> None:
    """Remove the worktrees of finished jobs in which there is no work. One that is left outlives its job."""
    for row in rows:
        if MEMBER in row.request:
            from supervisor.jobs.worktrees import settle  # few jobs need it

            with contextlib.suppress(StateBusy, StateFull, PermissionDenied):
                settle(jobs, row.request[MEMBER]["id"])


def delete(jobs: Jobs, *job_ids: str) -> None:
    """Delete the rows of jobs whose directories are in the trash; if that fails, emptying the trash does it.

    The jobs are forgotten already, so an error here would deny what was done.
    """
    with contextlib.suppress(StateBusy, StateFull, PermissionDenied):
        _delete(jobs, job_ids)


def _delete(jobs: Jobs, job_ids: Iterable[str]) -> None:
    _write(jobs, lambda: jobs.index.delete(*job_ids))


def empty_trash(jobs: Jobs, most: int) -> bool:
    """Delete up to ``most`` discarded jobs, and their remaining rows; ``True`` when more are left."""

    def forget(job_ids: list[str]) -> None:
        left = [job_id for job_id in job_ids if jobs.index.get(job_id) is not None]
        if left:
            _delete(jobs, left)

    return jobs.layout.empty_trash(most, forget)


def _write(jobs: Jobs, action: Callable[[], _T]) -> _T:
    """Write to the index; on a full disk, first delete the output of discarded jobs."""
    try:
        return jobs.index.write(action)
    except StateFull:
        jobs.layout.free_trash()
        return jobs.index.write(action)


def _sweep_unannounced(jobs: Jobs, key: str | None) -> None:
    """Discard the job directories of starts that died before their rows were committed.

    A claimed directory is a job whose row was lost: its row is inserted again.
    """
    for workspace, job_id in jobs.layout.jobs():
        if key in {None, workspace} and jobs.index.get(job_id) is None:
            if records.read_claim(jobs.layout.job(workspace, job_id)) is not None:
                if jobs.index.get(job_id) is None:  # it may have been inserted and launched since
                    jobs.recover(job_id)
            elif _is_abandoned(jobs, workspace, job_id):
                jobs.layout.discard(workspace, job_id)


def _is_abandoned(jobs: Jobs, workspace: str, job_id: str) -> bool:
    """Whether no live supervisor may be making a job in an unclaimed directory.

    A supervisor registers before it makes a directory, and then writes ``job.json`` with its name. Until that file can
    be read, any registered supervisor may be its maker. So the directory is read before the supervisors are observed,
    and again after that.
    """
    directory = jobs.layout.job(workspace, job_id)
    row = jobs.index.read_job(workspace, job_id)
    if row is not None and jobs.index.is_unconfirmed(row):
        return False
    if row is None and (records.read(directory, records.JOB, newer=True) or {}).get("v", 0) > records.VERSION:
        return False  # only the newer version that wrote it can read it
    if jobs.layout.owners.any_may_be_alive() if row is None else jobs.layout.owners.may_be_alive(row.owner):
        return False
    again = jobs.index.read_job(workspace, job_id)
    if (again is None) is not (row is None):
        return False
    return records.read_claim(directory) is None and jobs.index.get(job_id) is None
