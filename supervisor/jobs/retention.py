"""Forgetting jobs: those that are asked for, those whose time is over or that are too many, and what crashes left.

A job is forgotten by moving its directory into the trash, which takes its name away at once; its row goes next,
and what it has written last. Whoever is interrupted leaves something that the next one finishes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol, TypeVar

from supervisor.engines.interface import Observation
from supervisor.errors import JobNotFound, StateFull
from supervisor.jobdir import records
from supervisor.settings import Settings
from supervisor.store import Index, Layout, Row

__all__ = ["Kept", "delete", "empty_trash", "prune", "remove"]

_T = TypeVar("_T")
_AT_ONCE: Final = 500
_TRASH_AT_ONCE: Final = 200


class Kept(Protocol):
    """What is needed of a ``Catalog``."""

    settings: Settings
    layout: Layout
    index: Index

    def settled(self, row: Row, *, drive: bool = True) -> tuple[Row, Observation | None]:
        """Bring a row up to date with the evidence."""
        ...

    def recover(self, job_id: str) -> Row | None:
        """Enter a job that only its directory tells of."""
        ...


def prune(jobs: Kept, key: str | None, *, spared: Iterable[str]) -> Sequence[str]:
    """Forget what has expired or is beyond the cap, in the workspace of ``key`` or in all; return the ids."""
    for row in jobs.index.unfinished():
        if key in {None, row.workspace_key}:
            with contextlib.suppress(JobNotFound):
                jobs.settled(row, drive=False)
    keep = set(spared)
    forgotten: list[str] = []
    now_ns = jobs.layout.clock.now_ns()
    while batch := [row for row in jobs.index.expired(now_ns, _AT_ONCE + len(keep), key) if row.job_id not in keep]:
        remove(jobs, batch)
        forgotten += [row.job_id for row in batch]
    for name in [key] if key is not None else jobs.layout.workspaces():
        forgotten += _write(
            jobs,
            lambda name=name: jobs.index.evict(name, jobs.settings.job_max_count, keep),  # type: ignore[misc]
        )
    _sweep_unannounced(jobs, key)
    with contextlib.suppress(StateFull):  # what could not be written is left for the next
        while empty_trash(jobs, _TRASH_AT_ONCE):
            pass
        jobs.index.checkpoint()
    jobs.layout.owners.sweep()
    if forgotten or jobs.layout.workspaces():  # where there never was a job, nothing is made
        with contextlib.suppress(OSError):
            records.make_spares(jobs.layout.root)
    return forgotten


def remove(jobs: Kept, rows: Iterable[Row]) -> None:
    """Forget these finished jobs."""
    gone = tuple(rows)
    for row in gone:
        jobs.layout.discard(row.workspace_key, row.job_id)
    delete(jobs, *(row.job_id for row in gone))


def delete(jobs: Kept, *job_ids: str) -> None:
    """Delete the rows of jobs whose directories are in the trash; without room for that, emptying the trash does it."""
    with contextlib.suppress(StateFull):
        _delete(jobs, job_ids)


def _delete(jobs: Kept, job_ids: Iterable[str]) -> None:
    _write(jobs, lambda: jobs.index.delete(*job_ids))


def empty_trash(jobs: Kept, most: int) -> bool:
    """Delete up to ``most`` discarded jobs, and the rows that they have left; ``True`` when more are there."""

    def forget(job_ids: list[str]) -> None:
        left = [job_id for job_id in job_ids if jobs.index.get(job_id) is not None]
        if left:
            _delete(jobs, left)

    return jobs.layout.empty_trash(most, forget)


def _write(jobs: Kept, action: Callable[[], _T]) -> _T:
    """Write to the registry; on a full disk, what the discarded jobs have written makes room for that first."""
    try:
        return jobs.index.write(action)
    except StateFull:
        jobs.layout.free_trash()
        return jobs.index.write(action)


def _sweep_unannounced(jobs: Kept, key: str | None) -> None:
    """Discard job directories of starts that died before anybody was told of a job.

    One that was claimed is a job whose row got lost: it is entered again instead.
    """
    for workspace, job_id in jobs.layout.jobs():
        if key in {None, workspace} and jobs.index.get(job_id) is None:
            if records.read_claim(jobs.layout.job(workspace, job_id)) is not None:
                if jobs.index.get(job_id) is None:  # it may have been entered and launched since
                    jobs.recover(job_id)
            elif _is_abandoned(jobs, workspace, job_id):
                jobs.layout.discard(workspace, job_id)


def _is_abandoned(jobs: Kept, workspace: str, job_id: str) -> bool:
    """Whether no supervisor lives any more that may be making a job in an unclaimed directory.

    A supervisor that makes one has announced itself before, and soon writes ``job.json`` with its name in it.
    As long as that cannot be read, everybody who is announced may be at it. Only what was so before the last of
    them was seen to be gone, and still is, stays so.
    """
    directory = jobs.layout.job(workspace, job_id)
    row = jobs.index.read_job(workspace, job_id)
    if row is None and (records.read(directory, records.JOB, newer=True) or {}).get("v", 0) > records.VERSION:
        return False  # of a newer version, which alone knows what it means
    if jobs.layout.owners.any_may_be_alive() if row is None else jobs.layout.owners.may_be_alive(row.owner):
        return False
    again = jobs.index.read_job(workspace, job_id)
    if (again is None) is not (row is None):
        return False
    return records.read_claim(directory) is None and jobs.index.get(job_id) is None
