"""Changes git's list of the worktrees of a repository: one process at a time, and past what a killed git has left.

Git reads the list without a lock, and fails if it meets an entry that another git is just making, or was killed while
it made. So each command that reads or changes the list holds a lock on the directory of the repository, which the git
inherits. An entry without its content is then of a git that is gone: if it belongs to a worktree in state ``making``,
whose job was not launched, it is deleted.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, Final

from supervisor.system.git import Git
from supervisor.worktrees.record import MAKING, Place, is_id

__all__ = ["registering"]

_CONTENT: Final = ("gitdir", "commondir", "HEAD")
_WITHOUT_LOCKS: Final = frozenset({errno.EBADF, errno.ENOLCK, errno.ENOTSUP, errno.EINVAL})
"""Of file systems that lock no directories."""


@contextlib.contextmanager
def registering(git: Git, place: Place, record: Mapping[str, Any]) -> Generator[None]:
    """Hold the lock of the repository of a worktree for the block, in which ``git`` may change the list.

    Raises:
        OSError: the repository cannot be read now.
    """
    descriptor = os.open(record["repository"], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    before = git.inherits
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            git.inherits = (*before, descriptor)
            _clear(place, Path(record["repository"], "worktrees"))
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                raise
        yield
    finally:
        git.inherits = before
        os.close(descriptor)


def _clear(place: Place, entries: Path) -> None:
    try:
        names = os.listdir(entries)
    except FileNotFoundError:
        return
    for name in names:
        if name != place.id and is_id(name) and not _is_whole(entries / name):
            other = Place(os.path.dirname(place.directory), name)
            if (other.read() or {}).get("state") == MAKING:
                shutil.rmtree(entries / name, ignore_errors=True)


def _is_whole(own: Path) -> bool:
    try:
        return all((own / name).stat().st_size for name in _CONTENT)
    except FileNotFoundError:
        return False
