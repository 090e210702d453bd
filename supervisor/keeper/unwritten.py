"""What the keeper falls back on when the machine runs short: records that it still owes, and a reserve.

Standard library only: the keeper runs this file, outside the package.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
import time

from supervisor.system import processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

__all__ = ["Journal", "Reserve", "Unwritten", "is_shortage", "leads_nowhere"]

_SECOND: Final = 1_000_000_000
_LONGEST_PAUSE_NS: Final = 10 * _SECOND
_MAX_TRIES: Final = 30
_SHORTAGES: Final = frozenset(
    {
        errno.EAGAIN,
        errno.EBUSY,
        errno.EDQUOT,
        errno.EFBIG,  # the caller's RLIMIT_FSIZE
        errno.EINTR,
        errno.EIO,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOBUFS,
        errno.ENOLCK,
        errno.ENOMEM,
        errno.ENOSPC,
        errno.EROFS,
        errno.ESTALE,
    }
)
"""What passes by itself or is seen to by an administrator; anything else was done to the job directory."""
_NOWHERE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


class Unwritten:
    """Records that could not be written, each tried again after a pause that doubles up to ten seconds.

    A job directory that was deleted, or replaced by something else, is owed nothing: it is out of reach. What cannot be
    written for a reason that does not pass by itself is given up after some minutes.

    Args:
        write: writes a record, or raises ``OSError``.
        give_up: is told of one that is given up.
    """

    def __init__(
        self,
        write: Callable[[str, str, dict[str, object]], None],
        give_up: Callable[[str], None],
    ) -> None:
        """Owe nothing."""
        self._write = write
        self._give_up = give_up
        self._records: list[tuple[int, int, str, str, dict[str, object]]] = []

    def __len__(self) -> int:
        """Return how many records are owed."""
        return len(self._records)

    @property
    def next_ns(self) -> int | None:
        """When to call ``retry`` again, on the boot clock."""
        return min((owed[0] for owed in self._records), default=None) if self._records else None

    def add(self, directory: str, name: str, record: dict[str, object], tries: int = 0) -> None:
        """Write a record with a later ``retry``, as it is then."""
        if any(owed[4] is record for owed in self._records):
            return
        pause = min(_SECOND << min(tries, 8), _LONGEST_PAUSE_NS)
        self._records.append((processes.boottime_ns() + pause, tries + 1, directory, name, record))

    def write(self, directory: str, name: str, record: dict[str, object], tries: int = 0) -> None:
        """Write a record now, or owe it."""
        try:
            self._write(directory, name, record)
        except OSError as error:
            if leads_nowhere(directory, error):
                return
            if not is_shortage(error) and tries >= _MAX_TRIES:
                self._give_up(f"{directory}/{name} is given up: {error.strerror}")
                return
            self.add(directory, name, record, tries)
        except MemoryError:
            self.add(directory, name, record, tries)

    def flush(self) -> None:
        """Write what is due."""
        now = processes.boottime_ns()
        for owed in [owed for owed in self._records if owed[0] <= now]:
            self._records.remove(owed)
            _, tries, directory, name, record = owed
            self.write(directory, name, record, tries)


def is_shortage(error: Exception) -> bool:
    """Whether an error may pass by itself, and says nothing about what was looked for."""
    return isinstance(error, OSError) and error.errno in _SHORTAGES


def leads_nowhere(directory: str, error: OSError) -> bool:
    """Whether a record cannot be written because its job directory is none (any more)."""
    if error.errno not in _NOWHERE:
        return False
    try:
        return not stat.S_ISDIR(os.lstat(directory).st_mode)
    except OSError as another:
        return another.errno in _NOWHERE


class Reserve:
    """Descriptors and memory that are held in order to be given up when there are no others.

    The descriptors have the lowest numbers that were free, so that they are of use even after the limit was lowered.
    """

    _DESCRIPTORS: Final = 8
    _BYTES: Final = 4 << 20  # addresses only, which is what limits count

    def __init__(self, spare: int) -> None:
        """Hold copies of ``spare``, an open descriptor."""
        self._spare = spare
        self._held: list[int] = []
        self._memory: mmap.mmap | None = None
        self.refill()

    def refill(self) -> None:
        """Hold as much as can be had."""
        try:
            while len(self._held) < self._DESCRIPTORS:
                self._held.append(os.dup(self._spare))
            if self._memory is None:
                self._memory = mmap.mmap(-1, self._BYTES)
        except (OSError, MemoryError):
            pass

    def give_up(self) -> None:
        """Let go of everything."""
        if self._memory is not None:
            self._memory.close()
            self._memory = None
        while self._held:
            try:
                os.close(self._held.pop())
            except OSError:  # it is closed all the same
                continue

    def use(self, step: Callable[..., Any], *args: Any) -> Any:
        """Do a step; if it fails for want of descriptors or memory, do it again with what was held in reserve."""
        try:
            return step(*args)
        except OSError as error:
            if error.errno not in {errno.EMFILE, errno.ENFILE, errno.ENOMEM}:
                raise
        except MemoryError:
            pass
        self.give_up()
        try:
            return step(*args)
        finally:
            self.refill()

    def open(self) -> bool:
        """Give the reserve up if no descriptor is free, for steps that do not say so; ``refill`` ends it."""
        try:
            os.close(os.dup(self._spare))
        except OSError:
            self.give_up()
            return True
        return False


class Journal:
    """Writes down what went wrong, for people; the same at most once a minute, and never more than a MiB."""

    _MAX_BYTES: Final = 1 << 20
    _AGAIN_NS: Final = 60 * _SECOND
    _MAX_KNOWN: Final = 100

    def __init__(self, path: str, pid: int) -> None:
        """Write to the end of ``path``."""
        self._path = path
        self._pid = pid
        self._written: dict[str, int] = {}

    def failure(self, error: BaseException) -> None:
        """Note an exception, and where it came from."""
        try:
            lines: list[str] = []
            step = error.__traceback__
            while step is not None:
                code = step.tb_frame.f_code
                lines.append(f"  {code.co_filename}:{step.tb_lineno} {code.co_name}")
                step = step.tb_next
            self.note("\n".join([f"{type(error).__name__}: {error}", *lines]))
        except Exception:  # noqa: BLE001  # a journal is never worth a job
            return

    def note(self, text: str) -> None:
        """Note a text."""
        now = processes.boottime_ns()
        last = self._written.get(text)
        if last is not None and now - last < self._AGAIN_NS:
            return
        try:
            if len(self._written) >= self._MAX_KNOWN:
                self._written.clear()
            self._written[text] = now
            stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            descriptor = os.open(self._path, flags, 0o600)
            try:
                if os.fstat(descriptor).st_size < self._MAX_BYTES:
                    os.write(descriptor, f"{stamp} keeper {self._pid}\n{text}\n".encode("utf-8", "backslashreplace"))
            finally:
                os.close(descriptor)
        except (OSError, MemoryError):
            return
