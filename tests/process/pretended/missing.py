"""Takes from a process on Linux what macOS has not: ``/proc`` and the calls and constants that only Linux has.

Run first in each process of the package that pretends; see ``tests/process/pretended``. The children that a keeper
starts are programs of the machine, and keep everything.
"""

from __future__ import annotations

import _socket
import builtins
import errno
import fcntl
import io
import os
import resource
import select
import signal
import socket  # noqa: F401  # before names are missing
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

LINUX_ONLY = {
    os: (
        *(
            "copy_file_range",
            "eventfd",
            "fdatasync",
            "getresuid",
            "getxattr",
            "listxattr",
            "memfd_create",
            "pidfd_open",
        ),
        *("pipe2", "posix_fadvise", "posix_fallocate", "sched_getaffinity", "sched_setaffinity", "setxattr"),
        *("splice", "waitid", "O_PATH", "O_TMPFILE", "P_PIDFD"),
    ),
    signal: ("pidfd_send_signal", "SIGRTMIN", "SIGRTMAX", "sigtimedwait", "sigwaitinfo"),
    time: ("CLOCK_BOOTTIME",),
    select: ("POLLRDHUP",),
    _socket: ("MSG_CMSG_CLOEXEC", "SO_PASSCRED"),  # the package uses this one; Trio takes its names from the other
    fcntl: ("F_SETSIG", "F_SETLEASE", "F_SETPIPE_SZ", "F_GETPIPE_SZ", "F_OFD_SETLK"),
    resource: ("prlimit", "RLIMIT_RTTIME", "RLIMIT_NICE"),
}


def without_proc(call: Callable[..., Any]) -> Callable[..., Any]:
    """Return a call for which there are no files below ``/proc``."""

    def wrapper(path: Any = ".", *args: Any, **named: Any) -> Any:
        text = os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else ""
        if text == "/proc" or text.startswith("/proc/"):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), text)
        return call(path, *args, **named)

    return wrapper


def take_away() -> None:
    """Take it all away from this process."""
    for module, names in LINUX_ONLY.items():
        for name in names:
            module.__dict__.pop(name, None)
    for name in ("open", "stat", "lstat", "listdir", "scandir", "readlink", "access"):
        setattr(os, name, without_proc(getattr(os, name)))
    builtins.open = io.open = without_proc(builtins.open)


take_away()
