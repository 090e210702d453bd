"""Pidfds: descriptors that are readable once a process has ended, and from which newer kernels give its exit status."""

from __future__ import annotations

import os
import sys
from typing import Final

from supervisor.system import processes
from supervisor.system.observing import NotKnown

__all__ = ["exit_status_of", "open_of"]


def open_of(pid: int, start: int) -> int | None:
    """Return a pidfd of exactly this process, or ``None``: it is gone, or the kernel gives none (now)."""
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        descriptor: int = os.pidfd_open(pid)
    except OSError:
        return None
    try:
        found = processes.read_process(pid)
    except NotKnown:
        found = None
    if found is None or found.start != start:
        os.close(descriptor)
        return None
    return descriptor


_PIDFD_GET_INFO: Final = 0xC040FF0B  # _IOWR(0xFF, 11, 64 bytes), include/uapi/linux/pidfd.h
_PIDFD_INFO_EXIT: Final = 1 << 3


def exit_status_of(descriptor: int) -> int | None:
    """Return the wait status behind a pidfd that was opened while the process lived, or ``None``.

    Linux 6.15 and newer give it once the process was reaped, by any process.
    """
    import fcntl  # not in every Python

    info = bytearray(64)
    info[0:8] = _PIDFD_INFO_EXIT.to_bytes(8, sys.byteorder)
    try:
        fcntl.ioctl(descriptor, _PIDFD_GET_INFO, info)
    except OSError:
        return None
    if not int.from_bytes(info[0:8], sys.byteorder) & _PIDFD_INFO_EXIT:
        return None
    return int.from_bytes(info[60:64], sys.byteorder, signed=True)
