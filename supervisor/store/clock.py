"""What time it is for the time to live of jobs: the wall clock, as far as the boot clock bears it out.

A wall clock that is set forward must not make a root forget what it has kept. So a root keeps in mind at which
wall-clock time the machine was booted, the earliest that was seen in this boot, and no more time has passed than the
boot clock counts from there. A clock that is set back counts at once. Where a clock is set forward for a good
reason, jobs are kept longer by as much, until the next boot. Of the time that a machine is off only the wall clock
tells.

It stands in the file ``.clock``, which is replaced as a whole: ``<boot>.<wall-clock time of the boot, ns>``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from typing import Final

from supervisor.system import processes

__all__ = ["Clock"]

_NAME: Final = ".clock"
_MOST_DIGITS: Final = 19
"""With its sign; a longer number is no time that a column of the registry can be compared with."""
_JITTER_NS: Final = 1_000_000_000
"""Of the difference between two clocks that are read one after the other, and of one that is being adjusted."""


class Clock:
    """The clock of one state root.

    Raises:
        OSError: its file, or which boot this is, cannot be read now.
    """

    def __init__(self, root: str) -> None:
        """Read what stands there, which holds for this boot."""
        self._path = f"{root}/{_NAME}"
        self._booted_ns = self._read()

    def mark(self) -> None:
        """Put on record when the machine was booted, unless an earlier time stands there; on a full disk, later."""
        with contextlib.suppress(OSError):
            seen = time.time_ns() - processes.boottime_ns()
            known = self._read()
            if known is not None and known <= seen + _JITTER_NS:
                self._booted_ns = known
                return
            self._booted_ns = seen
            self._write(f"{processes.boot_id()[:12]}.{seen}")

    def now_ns(self) -> int:
        """Return the time, in nanoseconds since the epoch."""
        now = time.time_ns()
        return now if self._booted_ns is None else min(now, self._booted_ns + processes.boottime_ns() + _JITTER_NS)

    def _write(self, text: str) -> None:
        aside = f"{self._path}.{os.urandom(4).hex()}"
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "w", encoding="ascii") as file:
                os.fchmod(descriptor, 0o600)  # whatever the umask
                file.write(text)
            os.rename(aside, self._path)
        except OSError:
            os.unlink(aside)
            raise

    def _read(self) -> int | None:
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                boot, _, text = os.read(descriptor, 100).decode("ascii", "replace").partition(".")
            finally:
                os.close(descriptor)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in {errno.ELOOP, errno.EISDIR, errno.ENXIO}:  # a link, directory, socket: none of ours
                return None
            raise
        is_mark = text.removeprefix("-").isdigit() and len(text) <= _MOST_DIGITS and boot == processes.boot_id()[:12]
        return int(text) if is_mark else None
