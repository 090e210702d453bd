"""The clocks of a state root: for admission, and for the expiry of jobs the wall clock, bounded by the boot clock.

A wall clock that is set forward must not make a root forget its jobs. So each root records the wall-clock time of the
boot, the earliest that any process has observed in this boot, and the time is at most that plus what the boot clock
has counted since. A clock that is set back takes effect at once. If a clock is set forward for a good reason, jobs are
kept longer by that much, until the next boot. For the time while the machine is off there is only the wall clock.

The file ``.clock``, which is replaced as a whole, has ``<boot>.<wall-clock time of the boot, ns>``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from typing import Final, Protocol, runtime_checkable

from supervisor.store.tickets import Moment
from supervisor.system import processes

__all__ = ["Clock", "TimeSource"]

_NAME: Final = ".clock"
_MAX_DIGITS: Final = 19
"""With the sign; SQLite cannot compare a longer number with a column of the index."""
_JITTER_NS: Final = 1_000_000_000
"""Between two clocks that are read one after the other, or while one is being adjusted."""


@runtime_checkable
class TimeSource(Protocol):
    """Other clocks than those of this machine, for tests: an engine may be one."""

    def wall_ns(self) -> int:
        """Return the wall clock."""
        ...

    def boot_ns(self) -> int:
        """Return the time since boot."""
        ...


class Clock:
    """The clock of one state root.

    Attributes:
        source: the clocks by which waiting jobs are admitted; ``None`` for those of this machine. The expiry of jobs
            is always by those of this machine.

    Raises:
        OSError: its file, or the id of this boot, cannot be read now.
    """

    def __init__(self, root: str) -> None:
        """Read the file of this boot."""
        self.source: TimeSource | None = None
        self._path = f"{root}/{_NAME}"
        self._booted_ns = self._read()

    def mark(self) -> None:
        """Record the time of the boot, unless the file has an earlier one; on a full disk, do nothing."""
        with contextlib.suppress(OSError):
            seen = time.time_ns() - processes.boottime_ns()
            known = self._read()
            if known is not None and known <= seen + _JITTER_NS:
                self._booted_ns = known
                return
            self._booted_ns = seen
            self._write(f"{processes.boot_id()[:12]}.{seen}")

    def wall_ns(self) -> int:
        """Return the wall clock for admission: the time of a start, the end of a pause. Users set and read that."""
        return time.time_ns() if self.source is None else self.source.wall_ns()

    def boot_ns(self) -> int:
        """Return the time since boot, for delays."""
        return processes.boottime_ns() if self.source is None else self.source.boot_ns()

    def now_ns(self) -> int:
        """Return the time for expiry, in nanoseconds since the epoch."""
        now = time.time_ns()
        return now if self._booted_ns is None else min(now, self._booted_ns + processes.boottime_ns() + _JITTER_NS)

    def moment(self) -> Moment:
        """Return the time for admission, by the wall clock and by the boot clock.

        Raises:
            NotKnown: the id of this boot cannot be read now.
        """
        return Moment(self.wall_ns(), self.boot_ns(), processes.boot_id()[:12])

    def _write(self, text: str) -> None:
        aside = f"{self._path}.{os.urandom(4).hex()}"
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "w", encoding="ascii") as file:
                os.fchmod(descriptor, 0o600)  # the umask may have removed the owner's own permissions
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
        is_mark = text.removeprefix("-").isdigit() and len(text) <= _MAX_DIGITS and boot == processes.boot_id()[:12]
        return int(text) if is_mark else None
