"""What helps the keeper through a shortage: records to write later, a reserve of descriptors and memory, and a log."""

from __future__ import annotations

import errno
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
    {errno.EAGAIN, errno.EBUSY, errno.EDQUOT, errno.EINTR, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOBUFS}
    | {errno.ENOLCK, errno.ENOMEM, errno.ENOSPC, errno.EROFS, errno.ESTALE}
    | {errno.EFBIG}  # the caller's RLIMIT_FSIZE
)
"""Errors that pass by themselves or by an administrator's work; all others mean that the job directory was changed."""
_NOWHERE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


class Unwritten:
    """Records that could not be written, each tried again after a pause that doubles up to ten seconds.

    The records of a job directory that was deleted or replaced are dropped. A record that cannot be written for
    another reason than a shortage is given up after some minutes.

    Args:
        write: writes a record, or raises ``OSError``.
        give_up: called with a sentence about each record that is given up.
    """

    def __init__(
        self,
        write: Callable[[str, str, dict[str, object]], None],
        give_up: Callable[[str], None],
    ) -> None:
        self._write = write
        self._give_up = give_up
        self._records: list[tuple[int, int, str, str, dict[str, object]]] = []

    def __len__(self) -> int:
        """Return how many records are unwritten."""
        return len(self._records)

    @property
    def next_ns(self) -> int | None:
        """When to call ``flush`` again, on the boot clock."""
        return min((entry[0] for entry in self._records), default=None)

    def add(self, directory: str, name: str, record: dict[str, object], tries: int = 0) -> None:
        """Write a record with a later ``flush``, with the members that it has then."""
        if any(entry[4] is record for entry in self._records):
            return
        pause = min(_SECOND << min(tries, 8), _LONGEST_PAUSE_NS)
        self._records.append((processes.boottime_ns() + pause, tries + 1, directory, name, record))

    def write(self, directory: str, name: str, record: dict[str, object], tries: int = 0) -> None:
        """Write a record now, or add it."""
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
        """Write the records that are due."""
        now = processes.boottime_ns()
        for entry in [entry for entry in self._records if entry[0] <= now]:
            self._records.remove(entry)
            _, tries, directory, name, record = entry
            self.write(directory, name, record, tries)


def is_shortage(error: Exception) -> bool:
    """Whether an error may pass by itself, and says nothing about its path."""
    return isinstance(error, OSError) and error.errno in _SHORTAGES


def leads_nowhere(directory: str, error: OSError) -> bool:
    """Whether a record cannot be written because its job directory is gone or is no directory."""
    if error.errno not in _NOWHERE:
        return False
    try:
        return not stat.S_ISDIR(os.lstat(directory).st_mode)
    except OSError as another:
        return another.errno in _NOWHERE


class Reserve:
    """Descriptors and memory that are released when the process can get no others.

    The descriptors have the lowest numbers that were free, so that they are of use even after the limit was lowered.
    """

    _DESCRIPTORS: Final = 8
    _BYTES: Final = 4 << 20  # addresses, which limits count: no byte of it is ever touched

    def __init__(self, spare: int) -> None:
        """Hold copies of ``spare``, an open descriptor."""
        self._spare = spare
        self._held: list[int] = []
        self._memory = b""
        self.refill()

    def refill(self) -> None:
        """Hold as much as the process can get."""
        try:
            while len(self._held) < self._DESCRIPTORS:
                self._held.append(os.dup(self._spare))
            self._memory = self._memory or bytes(self._BYTES)
        except (OSError, MemoryError):
            pass

    def give_up(self) -> None:
        """Release everything."""
        self._memory = b""
        while self._held:
            try:
                os.close(self._held.pop())
            except OSError:  # it is closed all the same
                continue

    def use(self, step: Callable[..., Any], *args: Any) -> Any:
        """Do a step; if it fails for want of descriptors or memory, do it again without the reserve."""
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
        """Release the reserve if no descriptor is free, for steps that hide such an error; ``refill`` ends it."""
        try:
            os.close(os.dup(self._spare))
        except OSError:
            self.give_up()
            return True
        return False


class Journal:
    """Logs errors for people; the same text at most once a minute, and never more than a MiB."""

    _MAX_BYTES: Final = 1 << 20
    _AGAIN_NS: Final = 60 * _SECOND
    _MAX_KNOWN: Final = 100

    def __init__(self, path: str, pid: int) -> None:
        self._path = path
        self._pid = pid
        self._written: dict[str, int] = {}

    def failure(self, error: BaseException) -> None:
        """Log an exception, and where it came from."""
        try:
            lines: list[str] = []
            step = error.__traceback__
            while step is not None:
                code = step.tb_frame.f_code
                lines.append(f"  {code.co_filename}:{step.tb_lineno} {code.co_name}")
                step = step.tb_next
            self.note("\n".join([f"{type(error).__name__}: {error}", *lines]))
        except Exception:  # noqa: BLE001  # a log is never worth a job
            return

    def note(self, text: str) -> None:
        """Log a text."""
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
