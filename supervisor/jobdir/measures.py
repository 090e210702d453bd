"""How much a job has written by its end, and whether a process that it left behind may write on."""

from __future__ import annotations

import os
import signal
from stat import S_ISREG

try:
    import fcntl
except ImportError:  # a Python that was built without it
    fcntl = None  # type: ignore[assignment]

from supervisor.jobdir import records

TYPE_CHECKING = False

__all__ = ["sizes", "sizes_and_writers"]

_STREAMS = (("stdout_bytes", records.STDOUT), ("stderr_bytes", records.STDERR))
_CAN_LEASE = all(hasattr(fcntl, name) for name in ("F_SETSIG", "F_SETLEASE", "F_RDLCK"))


def sizes(directory: str) -> dict[str, object]:
    """Return ``stdout_bytes`` and ``stderr_bytes`` as they are now, each ``None`` where it cannot be read."""
    found: dict[str, object] = {}
    for member, name in _STREAMS:
        try:
            status = os.lstat(f"{directory}/{name}")
        except FileNotFoundError:
            found[member] = 0
        except OSError:
            found[member] = None
        else:
            found[member] = status.st_size if S_ISREG(status.st_mode) else 0
    return found


def sizes_and_writers(directory: str) -> tuple[dict[str, object], list[tuple[int, int] | None], bool | None]:
    """Return ``sizes``, the size and time of the last change of each stream, and whether a stream has a writer.

    The kernel gives a lease for reading only on a file that no process has open to write. ``None``: it gives none here.
    """
    found: dict[str, object] = {}
    changes: list[tuple[int, int] | None] = []
    writers: bool | None = False
    for member, name in _STREAMS:
        try:
            descriptor = os.open(f"{directory}/{name}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:  # no descriptor is free, or the command has put something else there
            return sizes(directory), [None, None], None
        try:
            if not writers and writers is not None:
                writers = _has_writer(descriptor)
            status = os.fstat(descriptor)  # after that, so that all that a writer wrote counts
        finally:
            os.close(descriptor)
        found[member] = status.st_size if S_ISREG(status.st_mode) else 0
        changes.append((status.st_size, status.st_mtime_ns))
    return found, changes, writers


def _has_writer(descriptor: int) -> bool | None:
    if fcntl is None or not _CAN_LEASE or not hasattr(fcntl, "F_SETSIG"):  # type: ignore[redundant-expr,unused-ignore]
        return None
    try:
        # If a process opens it for writing meanwhile, the kernel sends a signal: one that is ignored by default.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)  # closing ends it
    except BlockingIOError:
        return True
    except OSError:
        return None
    return False
