"""Removes worktrees in which there is no work, and what a killed process has left of a making or a removal.

A removal is never forced. Step by step, the lock of the worktree is held throughout:

1. nothing of the job runs, and nothing is in the worktree (see ``changes``): state ``removing``;
2. tracked changes with which it began are taken back, which git refuses if a file differs from them;
3. ``git worktree unlock``, ``git worktree remove``, which git refuses if there is anything in it;
4. the branch is deleted if it is where it began: git compares and deletes in one step;
5. state ``removed``.

After a kill, what git had deleted already is restored, and the worktree is examined again: a file that has come since
keeps it. If git refuses, the worktree is locked again, and its state is ``refused``.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from supervisor import log
from supervisor.system.git import NO_PROGRAMS, Git, GitFailed, GitStopped, plain_environment
from supervisor.system.git_view import NoRepository, View
from supervisor.system.observing import SCARCE, NotKnown, is_there
from supervisor.worktrees.changes import Changes, measure, own_repository, view_of, work_in
from supervisor.worktrees.moved import followed
from supervisor.worktrees.record import (
    CHANGED,
    IN_USE,
    MAKING,
    MISSING,
    REFUSED,
    REMOVED,
    REMOVING,
    Place,
    lock_reason,
)
from supervisor.worktrees.registering import registering

__all__ = ["discard_half_made", "restore", "settle"]


_FORCE: Final = ", use --force to delete it"


def settle(
    root: str, worktree_id: str, is_busy: Callable[[Iterable[str]], bool], git: Git, *, asked: bool = False, wait: bool
) -> dict[str, Any] | None:
    """Remove a worktree without work, or record how much work is in it; return its record, ``None`` without one.

    ``is_busy`` returns whether a job uses it, or a process of these jobs is left; then nothing is done. ``asked``: a
    user wants it removed: then ignored files, and commits, which stay on the branch, do not keep it; and it is looked
    at again if it was not removed before. ``wait``: for another process that works on it.

    Raises:
        Busy: another process works on it, and ``wait`` is not given.
        OSError: its record cannot be read or written now.
    """
    place = Place(root, worktree_id)
    with place.locked(wait=wait) as lock:
        git.inherits = (lock,)
        record = place.read()
        if (
            not record
            or record["state"] == REMOVED
            or (record["state"] not in {IN_USE, MAKING, REMOVING} and not asked)
        ):
            return record
        if is_busy(record["jobs"]):
            return record
        if record["state"] == MAKING:
            discard_half_made(git, place, record)
            return place.read()
        try:
            return _settle(git, place, followed(place, record), asked=asked)
        except (GitFailed, NoRepository, OSError) as error:
            if isinstance(error, GitStopped | NotKnown) or getattr(error, "errno", None) in SCARCE:
                return place.read()  # that says nothing of the worktree: the next sweep examines it
            detail = str(error).removesuffix(_FORCE)
            log.warning("worktree_not_settled", worktree_id=worktree_id, error=detail)
            with contextlib.suppress(GitFailed, OSError):
                _lock(git, place, record)
            return place.write(record, state=CHANGED if record["state"] == CHANGED else REFUSED, detail=detail)


def _settle(git: Git, place: Place, record: dict[str, Any], *, asked: bool) -> dict[str, Any]:
    if record["state"] == REMOVING:
        record = restore(git, place, record)
        if record["state"] == REMOVED:
            return record
    if not is_there(place.tree):
        if not asked:
            return place.write(record, state=MISSING, detail="another program has removed it")
        shutil.rmtree(own_repository(place, record).own, ignore_errors=True)
        _delete_branch(git, place, record)
        return place.write(record, state=REMOVED, detail=None)
    starts = [record["start"], *([record["base"]] if record["state"] == REMOVING else [])]
    work = work_in(git, place, record, starts, asked=asked)
    changes = Changes() if work is None and not asked else measure(git, place, record)
    record = place.write(record, changes=attrs.asdict(changes))
    return _remove(git, place, record) if work is None else place.write(record, state=CHANGED, detail=work)


def _remove(git: Git, place: Place, record: Mapping[str, Any]) -> dict[str, Any]:
    record = place.write(record, state=REMOVING, detail=None)
    with view_of(place, record, own_index=True) as view:
        if record["start"] != record["base"] and not _has_commits(git, view, record):
            # Else git refuses a file that was written again with the same content.
            git.run(view.environment, "update-index", "-q", "--refresh", statuses=(0, 1), directory=place.tree)
            # From one to the other, unless the index or a file is at neither. After a kill it may be done already.
            words = ("read-tree", "-m", "-u", record["start"], "HEAD")
            git.run(view.environment, *words, statuses=(0, 128), directory=place.tree)
        with registering(git, place, record):
            git.run(plain_environment(), *NO_PROGRAMS, "worktree", "unlock", place.tree, directory=record["top"])
            git.run(view.environment, "worktree", "remove", place.tree, directory=place.directory)
    return _removed(git, place, record)


def _has_commits(git: Git, view: View, record: Mapping[str, Any]) -> bool:
    head: bytes = git.run(view.environment, "rev-parse", "HEAD").strip()
    return head.decode() != str(record["base"])


def _removed(git: Git, place: Place, record: Mapping[str, Any]) -> dict[str, Any]:
    _delete_branch(git, place, record)
    return place.write(record, state=REMOVED, detail=None)


def restore(git: Git, place: Place, record: dict[str, Any]) -> dict[str, Any]:
    """Undo the beginning of a removal, or end it if the working tree is gone; return the record.

    Files that are there stay as they are. Only the holder of the lock may.

    Raises:
        GitFailed, NoRepository, OSError: that is not possible.
    """
    own = own_repository(place, record).own
    if not is_there(place.tree):  # git deletes it first
        shutil.rmtree(own, ignore_errors=True)
        return _removed(git, place, record)
    link = Path(place.tree, ".git")
    if not is_there(str(link)):
        if not is_there(str(own)):
            message = f"git has not deleted all of {place.tree}"
            raise GitFailed(message)
        link.write_text(f"gitdir: {own}\n", encoding="utf-8")
    with view_of(place, record, own_index=True) as view:
        git.run(view.environment, "checkout-index", "--all", "--quiet", statuses=(0, 1, 128), directory=place.tree)
    with contextlib.suppress(GitFailed):  # it may be locked still
        _lock(git, place, record)
    return record


def _lock(git: Git, place: Place, record: Mapping[str, Any]) -> None:
    lock = ("worktree", "lock", "--reason", lock_reason(place.id), place.tree)
    with registering(git, place, record):
        git.run(plain_environment(), *NO_PROGRAMS, *lock, directory=record["top"])


def discard_half_made(git: Git, place: Place, record: Mapping[str, Any], *, goes_on: bool = False) -> None:
    """Delete what a making that did not come to its end has left: the job was not launched, so there is no work in it.

    Only the holder of the lock may; ``goes_on``: it makes the worktree anew.
    """
    shutil.rmtree(place.tree, ignore_errors=True)
    shutil.rmtree(own_repository(place, record).own, ignore_errors=True)
    _delete_branch(git, place, record)
    if record["jobs"]:  # it was there before, and was removed
        place.write(record, state=REMOVED)
    else:
        place.forget(goes_on=goes_on)


def _delete_branch(git: Git, place: Place, record: Mapping[str, Any]) -> None:
    """Delete the branch of a worktree if it is where it began; git compares and deletes in one step."""
    words = ("update-ref", "-d", f"refs/heads/{place.branch}", record["base"])
    environment = {**plain_environment(), "GIT_DIR": record["repository"]}
    git.run(environment, *NO_PROGRAMS, *words, statuses=(0, 1, 128))
