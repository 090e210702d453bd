"""Follows a worktree whose state root, or whose repository, was moved: git knows both by absolute paths.

* The state root was moved: git's own directory of the worktree names the old place. It gets the new one, as by
  ``git worktree repair``, unless there is something at the old place: a copy of a state root has no worktrees.
* The repository was moved: only its user knows where to. ``git worktree repair``, run there, has the worktree name it.
  The record follows if repository and worktree name each other, and nothing is left at the old place.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from supervisor.system.git_view import NoRepository, find_repository
from supervisor.system.observing import is_there
from supervisor.worktrees.changes import own_repository
from supervisor.worktrees.record import Place

__all__ = ["followed"]


def followed(place: Place, record: dict[str, Any]) -> dict[str, Any]:
    """Return the record of a worktree, as its places are now. Only the holder of the lock may.

    Raises:
        NoRepository: the repository is gone from where it was.
        OSError: the places cannot be read or written now.
    """
    own = own_repository(place, record).own
    if is_there(str(own)):
        if not is_there(_named_by(own)):
            _name(own, place)
        return record
    if is_there(record["repository"]) or not is_there(f"{place.tree}/.git"):
        return record  # it is gone, and not moved
    try:
        found = find_repository(Path(place.tree))
        own, common = (Path(os.path.realpath(each)) for each in (found.own, found.common))
        if own == common / "worktrees" / place.id and _named_by(own) == f"{place.tree}/.git":
            top = common.parent if common.name == ".git" else common
            return place.write(record, repository=str(common), top=str(top))
    except (NoRepository, FileNotFoundError):
        pass
    message = (
        f"its repository is not there any more: {record['repository']}. If it was moved, run `git worktree repair "
    )
    message += f"{place.tree}` where it is now"
    raise NoRepository(message)


def _named_by(own: Path) -> str:
    """Return the place of a working tree's ``.git``, as git's own directory names it."""
    try:
        held = (own / "gitdir").read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return str(own / "gitdir")
    return os.path.normpath(own / held.strip())  # relative, if the repository wants that


def _name(own: Path, place: Place) -> None:
    new = own / "gitdir.supervisor"
    new.write_text(f"{place.tree}/.git\n", encoding="utf-8", errors="surrogateescape")
    new.replace(own / "gitdir")
