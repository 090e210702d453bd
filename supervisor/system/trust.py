"""Which users could replace a file: all that may write to a directory above it.

The state root and the kinds file decide which processes are signalled and which commands run.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final, NamedTuple

__all__ = ["Exposure", "exposure_of", "user_name"]

_MAX_LINKS: Final = 40
_OTHERS_WRITE: Final = 0o022


class Exposure(NamedTuple):
    """A place above a path at which other users can replace it.

    ``place`` is a directory or a symbolic link, ``why`` completes a sentence that begins with it, and ``owner`` is
    the other user that it belongs to, or ``None`` where its mode lets others write.
    """

    place: str
    why: str
    owner: int | None

    @property
    def repair(self) -> str:
        """The repair for people."""
        if self.owner is None:
            return f"If no other user tampered with it: chmod go-w {self.place}"
        return f"Run it as user {user_name(self.owner)}, or choose a directory of your own (after `sudo -E`: set HOME)."


def exposure_of(path: str) -> Exposure | None:
    """Return the first place above a path at which others can replace it; ``None`` if there is none.

    Above means every directory and symbolic link that the path leads through. Each has to belong to this user or
    to root, and no other user may write to it, unless it is sticky. The path itself is not checked, and neither are
    parts that do not exist.

    Raises:
        OSError: a part of the path cannot be read.
    """
    if not path.startswith("/"):
        path = f"{os.getcwd()}/{path}"
    here, links = "/", 0
    pending = [part for part in reversed(path.split("/")) if part]
    if pending and (exposure := _judge("/", os.lstat("/"))) is not None:
        return exposure
    while pending:
        name = pending.pop()
        if name == "..":
            here = os.path.dirname(here)
            continue
        there = os.path.join(here, name)
        try:
            found = os.lstat(there)
        except FileNotFoundError:
            return None
        if stat.S_ISLNK(found.st_mode):
            links += 1
            if links > _MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            if not _is_trusted(found.st_uid):
                return _of_another(there, found.st_uid)
            target = os.readlink(there)
            here = "/" if target.startswith("/") else here
            pending += [part for part in reversed(target.split("/")) if part not in {"", "."}]
            continue
        if pending and (exposure := _judge(there, found)) is not None:
            return exposure
        here = there
    return None


def _judge(directory: str, found: os.stat_result) -> Exposure | None:
    if not _is_trusted(found.st_uid):
        return _of_another(directory, found.st_uid)
    if found.st_mode & _OTHERS_WRITE and not found.st_mode & stat.S_ISVTX:
        return Exposure(directory, f"can be written by other users (mode {stat.S_IMODE(found.st_mode):04o})", None)
    return None


def _of_another(place: str, owner: int) -> Exposure:
    return Exposure(place, f"belongs to user {owner} ({user_name(owner)}), who could replace it", owner)


def _is_trusted(owner: int) -> bool:
    return owner == 0 or owner == os.geteuid() or _is_outside(owner)


def _is_outside(owner: int) -> bool:
    """Whether an owner stands for users without a number in this user namespace.

    In a sandbox that maps a single user all files of the host's root have this owner.
    """
    try:
        with open("/proc/sys/kernel/overflowuid", encoding="ascii") as file:
            if owner != int(file.read()):
                return False
        with open("/proc/self/uid_map", encoding="ascii") as file:
            mapped = [tuple(map(int, line.split())) for line in file]
    except (OSError, ValueError):
        return False
    return not any(inside <= owner < inside + count for inside, _, count in mapped)


def user_name(uid: int) -> str:
    """Return a user's name, or the number where it has none."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OSError):
        return str(uid)
