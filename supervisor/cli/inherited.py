"""What this process inherits from its caller: standard descriptors, which may be closed, and the environment."""

from __future__ import annotations

import fcntl
import io
import os
import stat
import sys
from typing import Final

from supervisor.cli import streams

__all__ = ["is_closed", "is_writable", "restore_environment", "take_descriptors", "warn_of_unread_input"]

_STREAMS: Final = ("stdin", "stdout", "stderr")
_COERCED: Final = frozenset({"C.UTF-8", "C.utf8", "UTF-8"})
"""The values to which Python sets LC_CTYPE in a C locale (PEP 538)."""

_closed: Final[set[int]] = set()


def take_descriptors() -> None:
    """Open ``/dev/null`` on each standard descriptor that the caller has closed.

    Otherwise the next file or socket of this process gets that number, and messages for stderr and the output
    of children are written into it.
    """
    for number, name in enumerate(_STREAMS):
        try:
            os.fstat(number)
            continue
        except OSError:
            _closed.add(number)
        try:
            opened = os.open(os.devnull, os.O_RDWR)
        except OSError:  # a root without devices: writes fail, and are handled as other failures of writing
            opened = os.open("/", os.O_RDONLY)
        os.dup2(opened, number)
        if opened == number:
            os.set_inheritable(number, True)
        else:
            os.close(opened)
        if getattr(sys, name) is None:
            setattr(sys, name, io.TextIOWrapper(io.FileIO(number, "w" if number else "r", closefd=False)))


def is_closed(number: int) -> bool:
    """Whether the caller has closed this standard descriptor."""
    return number in _closed


def is_writable(number: int) -> bool:
    """Whether this standard descriptor is open for writing."""
    return number not in _closed and fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY


def _has_unread_input() -> bool:
    """Whether stdin is a file, pipe or socket with data to read now. Reads nothing, never waits."""
    try:
        found = os.fstat(0)
        if stat.S_ISREG(found.st_mode):
            return os.lseek(0, 0, os.SEEK_CUR) < found.st_size
        if stat.S_ISFIFO(found.st_mode) or stat.S_ISSOCK(found.st_mode):
            import termios

            return int.from_bytes(fcntl.ioctl(0, termios.FIONREAD, bytes(4)), sys.byteorder) > 0
    except OSError:  # write-only, or a socket that listens
        pass
    return False


def warn_of_unread_input(given: bytes | None) -> bool:
    """Warn if stdin has input that the job does not get; ``given`` is the job's own input. Return whether it warned."""
    if given is not None or not _has_unread_input():
        return False
    streams.write_stderr(
        "supervisor: stdin has input that the job does not get; "
        "--stdin - passes it on, --stdin /dev/null drops it without this warning"
    )
    return True


def restore_environment() -> None:
    """Restore LC_CTYPE, so that jobs get the environment of the caller.

    In a C locale, Python sets LC_CTYPE before it runs the first line. ``/proc/self/environ`` still has the caller's
    value. Where that file does not exist, LC_CTYPE stays unchanged.
    """
    if os.environ.get("LC_CTYPE") not in _COERCED:
        return
    try:
        with open("/proc/self/environ", "rb") as file:
            entries = file.read().split(b"\0")
    except OSError:
        return
    before = next((entry for entry in entries if entry.startswith(b"LC_CTYPE=")), None)
    if before is None:
        del os.environ["LC_CTYPE"]
    else:
        os.environb[b"LC_CTYPE"] = before.removeprefix(b"LC_CTYPE=")
