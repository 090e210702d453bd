"""The worktrees of the jobs of a state root: settled when their jobs have ended, listed, compared, removed.

A worktree outlives its job: the record beside it says what it is, so it is found when its job is forgotten.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Mapping
from typing import IO, Any, Final

import attrs

from supervisor import log
from supervisor.errors import InvalidArguments, JobNotFound, JobRunning, StateBusy, SupervisorError
from supervisor.jobs.interface import Jobs
from supervisor.keeper.job_processes import JobProcesses, JobTree
from supervisor.store import Row
from supervisor.store.state_errors import state_error
from supervisor.system import processes
from supervisor.system.git import Git, GitFailed
from supervisor.system.git_view import NoRepository
from supervisor.system.observing import is_there
from supervisor.worktrees import removing
from supervisor.worktrees.changes import changes_in, measure, write_diff
from supervisor.worktrees.moved import followed
from supervisor.worktrees.record import (
    CHANGED,
    IN_USE,
    MEMBER,
    MISSING,
    REFUSED,
    REMOVED,
    WAITING,
    Busy,
    Place,
    worktree_ids,
)

__all__ = [
    "changes_of",
    "described",
    "diff",
    "diff_from",
    "listing",
    "remove",
    "resolve",
    "settle",
    "sweep",
    "worktree_of",
]

_MAX_DIFF: Final = 50_000
"""Bytes of the diff in a result."""
_MAX_SHORT_DIFF: Final = 4_000
_AS_GIT_SAYS: Final = "Do what the message says, then try again."
_UNSETTLED: Final = frozenset({"making", IN_USE, "removing"})


def settle(jobs: Jobs, worktree_id: str, *, asked: bool = False, wait: bool = True, git: Git | None = None) -> bool:
    """Remove a worktree in which there is no work, or record what is in it, once nothing of its jobs is left.

    Return whether that is done; ``asked`` and ``wait`` as for ``removing.settle``.

    Raises:
        StateBusy: that is not known now.
    """

    def is_busy(job_ids: Iterable[str]) -> bool:
        return _is_needed(jobs, worktree_id) or _has_processes(job_ids, Place(jobs.layout.root, worktree_id).tree)

    try:
        record = removing.settle(jobs.layout.root, worktree_id, is_busy, git or Git(), asked=asked, wait=wait)
    except Busy:
        return False
    except OSError as error:
        raise state_error(error, f"cannot examine the worktree of job {worktree_id}") from error
    return not record or record["state"] not in _UNSETTLED


def _is_needed(jobs: Jobs, worktree_id: str) -> bool:
    """Whether a job that has not ended is to run in a worktree, or runs there."""
    return any(row.request.get(MEMBER, {}).get("id") == worktree_id for row in jobs.index.unfinished())


def _has_processes(job_ids: Iterable[str], tree: str) -> bool:
    """Whether a process of these jobs is left, or any process of this user has its working directory in the tree."""
    held = JobProcesses()
    trees = [JobTree(job_id, 0, 0) for job_id in job_ids]
    snapshot = held.snapshot({each.mark for each in trees})
    if any(snapshot.members(each) for each in trees) or held.incomplete is not None:
        return True
    return processes.HAVE_PROC and any(_is_in(pid, tree) for pid in held.list())


def _is_in(pid: int, tree: str) -> bool:
    try:
        place = os.readlink(f"/proc/{pid}/cwd")
    except OSError as error:  # it has ended, or belongs to another user, who has no way into the state root
        return not isinstance(error, PermissionError | ProcessLookupError | FileNotFoundError)
    return place == tree or place.startswith(f"{tree}/")


def sweep(jobs: Jobs) -> None:
    """Settle each worktree whose jobs have ended; forget the removed ones that no job refers to.

    One that cannot be settled now is left to a later call.
    """
    try:
        for worktree_id in worktree_ids(jobs.layout.root):
            with contextlib.suppress(Busy):  # whose process finishes it
                _sweep(jobs, Place(jobs.layout.root, worktree_id))
    except (OSError, SupervisorError) as error:
        log.warning("worktree_not_settled", worktree_id="", error=str(error))


def _sweep(jobs: Jobs, place: Place) -> None:
    record = place.read()
    if record is None:
        _forget_unused(place)
        return
    for job_id in record.get("jobs", ()):
        _refresh(jobs, job_id)
    if record.get("state") in _UNSETTLED:
        settle(jobs, place.id, wait=False)
    elif record.get("state") == REMOVED and not any(_is_known(jobs, job_id) for job_id in record["jobs"]):
        with place.locked(wait=False):
            if (place.read() or {}).get("state") == REMOVED:
                place.forget()


def _forget_unused(place: Place) -> None:
    """Delete the lock of a worktree without a record: its process was killed, or the worktree was forgotten."""
    with place.locked(wait=False):
        if place.read() is None:
            place.forget()


def _refresh(jobs: Jobs, job_id: str) -> None:
    row = jobs.index.get(job_id)
    if row is not None and not row.finished:
        jobs.refresh(row, drive=False)


def _is_known(jobs: Jobs, job_id: str) -> bool:
    return jobs.index.get(job_id) is not None or jobs.layout.find(job_id) is not None


def worktree_of(jobs: Jobs, job_id: str) -> Place:
    """Return the place of the worktree of a job, which may be forgotten.

    Raises:
        JobNotFound: there is no such job, and no worktree of this id.
        InvalidArguments: the job has no worktree.
    """
    row = jobs.index.get(job_id)
    place = Place(jobs.layout.root, job_id if row is None else row.request.get(MEMBER, {}).get("id", job_id))
    if row is not None and MEMBER in row.request:
        return place
    if place.read() is not None:
        return place
    if row is None:
        message = f"there is no job {job_id!r:.80}, and no worktree of one"
        raise JobNotFound(message, details={"job_id": job_id[:80]})
    message = f"job {job_id} has no worktree"
    raise InvalidArguments(message, repair="Start it with --worktree.", details={"job_id": job_id})


def resolve(jobs: Jobs, prefix: str) -> str:
    """Return the id of a job, or of a worktree whose job is forgotten, that begins with ``prefix``."""
    forgotten = [each for each in worktree_ids(jobs.layout.root) if each.startswith(prefix)]
    if len(prefix) >= 4 and len(forgotten) == 1 and not _is_known(jobs, forgotten[0]):
        return forgotten[0]
    return jobs.resolve_prefix(prefix)


def listing(jobs: Jobs) -> list[dict[str, Any]]:
    """Settle what can be settled, and return all worktrees that are there, with the jobs that they belong to."""
    sweep(jobs)
    found: list[dict[str, Any]] = []
    for worktree_id in worktree_ids(jobs.layout.root):
        place = Place(jobs.layout.root, worktree_id)
        record = place.read()
        if record is None or record.get("state") == REMOVED:
            continue
        found.append(_shown(jobs, place, record))
    return found


def _shown(jobs: Jobs, place: Place, record: Mapping[str, Any]) -> dict[str, Any]:
    changes = changes_in(record)
    job_ids: list[str] = record.get("jobs") or [place.id]
    return {
        "job_id": job_ids[-1],
        "job_known": _is_known(jobs, job_ids[-1]),
        "path": place.tree,
        "branch": place.branch,
        "base": record.get("base"),
        "state": record.get("state", REFUSED),
        "repository": record.get("top"),
        "detail": record.get("detail"),
        "changes": None if changes is None else attrs.asdict(changes),
    }


def changes_of(jobs: Jobs, row: Row, *, short: bool) -> dict[str, Any] | None:
    """Return what an ended job has changed in its worktree, with the beginning of the diff; ``None`` if not known.

    Of a series, and of a job that continues another one, those are the changes of all that have run in it.
    """
    place = Place(jobs.layout.root, row.request[MEMBER]["id"])
    settle(jobs, place.id)
    most = _MAX_SHORT_DIFF if short else _MAX_DIFF
    try:
        with place.locked() as lock:
            record = place.read()
            if not record:
                return None
            git, record = Git(inherits=(lock,)), followed(place, record)
            there = record["state"] != REMOVED and is_there(place.tree)
            changes = measure(git, place, record) if there else changes_in(record)
            diff = write_diff(git, place, record, None, most + 1)
    except (GitFailed, NoRepository, OSError) as error:
        log.warning("worktree_not_settled", worktree_id=place.id, error=str(error))
        return None
    if changes is None:
        return None
    text = diff[:most].decode(errors="replace")
    return {**attrs.asdict(changes), "diff": text, "diff_truncated": len(diff) > most}


def diff(jobs: Jobs, job_id: str, output: IO[bytes]) -> None:
    """Write the diff of the worktree of a job: from how it began to how it is now, with new files.

    Raises:
        JobNotFound, InvalidArguments: there is no such worktree, or it was not made yet.
        StateBusy: git cannot make it now.
    """
    place = worktree_of(jobs, job_id)
    try:
        with place.locked() as lock:
            record = place.read()
            if not record or record["state"] in {"making", MISSING}:
                state = WAITING if record is None else record.get("state", "unreadable")
                message = f"the worktree of job {job_id} is {state}"
                raise InvalidArguments(message, details={"job_id": job_id, "state": state})
            write_diff(Git(inherits=(lock,)), place, followed(place, record), output, 0)
    except (GitFailed, NoRepository) as error:
        raise StateBusy(str(error), repair=_AS_GIT_SAYS, details={"job_id": job_id}) from error
    except OSError as error:
        raise state_error(error, f"cannot compare the worktree of job {job_id}") from error


def diff_from(jobs: Jobs, job_id: str, offset: int, limit: int) -> tuple[bytes, int]:
    """Return ``limit`` bytes of the diff of a job from ``offset`` on, and its size; raises as ``diff`` does."""
    with tempfile.TemporaryFile(buffering=0) as file:  # git writes to its descriptor
        diff(jobs, job_id, file)
        size = file.seek(0, os.SEEK_END)
        file.seek(offset)
        return file.read(limit), size


def described(jobs: Jobs, job_id: str) -> dict[str, Any]:
    """Return the worktree of a job with the diff as text, for a program; raises as ``diff`` does."""
    with tempfile.TemporaryFile(buffering=0) as file:  # git writes to its descriptor
        diff(jobs, job_id, file)
        file.seek(0)
        content = file.read()
    place = worktree_of(jobs, job_id)
    return {"worktree": _shown(jobs, place, place.read() or {}), "diff": content.decode(errors="replace")}


def remove(jobs: Jobs, job_id: str) -> dict[str, Any]:
    """Remove the worktree of an ended job, unless git refuses that as there are changes or new files in it.

    Its commits stay on its branch; ignored files go.

    Raises:
        JobNotFound: there is no such job or worktree.
        JobRunning: a job, or a process of one, is in it.
        InvalidArguments: there is work in it.
    """
    place = worktree_of(jobs, job_id)
    record = place.read()
    for name in (record or {}).get("jobs", ()):
        _refresh(jobs, name)
    done = settle(jobs, place.id, asked=True)
    record = place.read()
    if record is None or record.get("state") == REMOVED:
        return _shown(jobs, place, record or {"state": REMOVED})
    details = {"job_id": job_id, "path": place.tree, "state": record.get("state")}
    if not done:
        message = f"the worktree of job {job_id} is in use: {place.tree}"
        raise JobRunning(message, repair="Wait until nothing runs in it, or cancel its job.", details=details)
    message = f"the worktree of job {job_id} was not removed: {record.get('detail') or 'its record cannot be read'}"
    commit = f"Commit what is to be kept, or discard it, in {place.tree}; then remove it again."
    repair = commit if details["state"] == CHANGED and is_there(record.get("repository", "")) else _AS_GIT_SAYS
    raise InvalidArguments(message, repair=repair, details=details)
