"""Which file system holds a path: some cannot hold a state root, some can hang whoever touches them."""

from __future__ import annotations

import os
from typing import Final

__all__ = ["NETWORK", "file_system_of", "may_hang", "on_network"]

NETWORK: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "9p", "fuse.sshfs"})
"""File systems whose locks and renames another host takes part in."""


def file_system_of(path: str) -> str:
    """Return the type of the file system that holds a real path; empty where that cannot be told."""
    best, kind = "", ""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
            for line in mounts:
                left, _, right = line.partition(" - ")
                point = left.split(" ")[4].replace("\\040", " ")
                inside = path == point or path.startswith(point.rstrip("/") + "/")
                if inside and len(point) >= len(best):
                    best, kind = point, right.split(" ")[0]
    except (OSError, IndexError):
        return ""
    return kind


def may_hang() -> bool:
    """Whether anything mounted here may make a path wait for another host, or for a daemon that has died."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
            for line in mounts:
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
