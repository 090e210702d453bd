"""Which file system holds a path: some cannot hold a state root, some can hang whoever touches them."""

from __future__ import annotations

import os
import time
from typing import Final

__all__ = ["file_system_of", "has_settled", "may_hang", "network_of", "on_network"]

NETWORK: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "9p", "fuse.sshfs"})
"""File systems whose locks and renames another host takes part in."""


_SETTLED_NS: Final = 100_000_000
"""Ten ticks of the slowest clock that kernels take the times of files from."""
_SETTLED_COARSELY_NS: Final = 2_000_000_000
"""For file systems that count whole seconds, or two."""


def has_settled(directory: os.stat_result) -> bool:
    """Whether a directory's next change will give it another time, however coarsely its file system counts.

    To be asked before anything is looked for in it: then what is found in it is there for as long as it bears the
    same time (``st_ctime_ns``, which nobody can set), since every name that comes or goes is a change.
    """
    changed_ns = directory.st_ctime_ns
    return time.time_ns() - changed_ns > (_SETTLED_NS if changed_ns % 1_000_000_000 else _SETTLED_COARSELY_NS)


def _table() -> str:
    """Return what is mounted where.

    Raises:
        OSError: there is no such table here.
    """
    descriptor = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts: list[bytes] = []
        while data := os.read(descriptor, 1 << 16):
            parts.append(data)
    finally:
        os.close(descriptor)
    return os.fsdecode(b"".join(parts))


def network_of(path: str, device: int) -> str:
    """Return the type of the network file system that holds a real path on ``device``; empty where none is known to."""
    if os.major(device):  # a disk: they have none
        return ""
    try:
        table = _table()
    except OSError:
        return ""
    if not any(f" - {kind} " in table for kind in NETWORK):
        return ""
    kind = _kind_in(table, path)
    return kind if kind in NETWORK else ""


def file_system_of(path: str) -> str:
    """Return the type of the file system that holds a real path; empty where that cannot be told."""
    try:
        return _kind_in(_table(), path)
    except OSError:
        return ""


def _kind_in(table: str, path: str) -> str:
    best, kind = "", ""
    try:
        for line in table.splitlines():
            left, _, right = line.partition(" - ")
            point = left.split(" ")[4].replace("\\040", " ")
            inside = path == point or path.startswith(point.rstrip("/") + "/")
            if inside and len(point) >= len(best):
                best, kind = point, right.split(" ")[0]
    except IndexError:
        return ""
    return kind


def may_hang() -> bool:
    """Whether anything mounted here may make a path wait for another host, or for a daemon that has died."""
    try:
        for line in _table().splitlines():
            left, _, right = line.partition(" - ")
            kernels_own = left.split(" ")[4].startswith(("/proc", "/sys", "/dev"))
            if _waits(right.split(" ")[0]) and not kernels_own:
                return True
    except (OSError, IndexError):
        return True
    return False


def _waits(kind: str) -> bool:
    return kind in NETWORK or kind.startswith(("fuse", "autofs"))


def on_network(path: str) -> bool:
    """Whether touching ``path`` may wait for another host, or for a daemon that has died."""
    kind = file_system_of(path)
    if not kind:  # no mount table here: believe nothing
        return not os.path.exists("/proc/self/mountinfo")
    return _waits(kind)
