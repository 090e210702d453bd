"""Reports changes in directories, and of single files, on Linux; elsewhere callers poll.

``os`` has no inotify(7), and the three calls that are needed are not worth a dependency.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing costs the keeper 5 ms
    from collections.abc import Callable
    from typing import Final

__all__ = ["ATTRIBUTES", "CHANGED", "MODIFIED", "OVERFLOWN", "Inotify"]

_MODIFY: Final = 0x2
_ATTRIB: Final = 0x4
_CLOSE_WRITE: Final = 0x8  # a further line in stop.json; not the output of a job, which keeps its files open
_CREATE: Final = 0x100
_MOVED_TO: Final = 0x80
_DELETE_SELF: Final = 0x400
_MOVE_SELF: Final = 0x800
_ONLYDIR: Final = 0x0100_0000
_MASK_ADD: Final = 0x2000_0000
_IGNORED: Final = 0x8000

CHANGED: Final = _CLOSE_WRITE | _CREATE | _MOVED_TO | _DELETE_SELF | _MOVE_SELF
"""A file was made, written whole or renamed into the directory, or the directory itself went away."""

MODIFIED: Final = _MODIFY | CHANGED
"""The same, or a file in it was written to."""

ATTRIBUTES: Final = _ATTRIB
"""The times of a single file, or other attributes, were set."""

OVERFLOWN: Final = -1
"""In place of a watch's number: the kernel has dropped events of any of the watches."""

_HEAD: Final = struct.Struct("iIII")


_found: list[tuple[Callable[..., int], Callable[..., int], Callable[..., int]] | None] = []


def _calls() -> tuple[Callable[..., int], Callable[..., int], Callable[..., int]] | None:
    if not _found:
        _found.append(_find_calls())
    return _found[0]


def _find_calls() -> tuple[Callable[..., int], Callable[..., int], Callable[..., int]] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        calls = libc.inotify_init1, libc.inotify_add_watch, libc.inotify_rm_watch
    except (OSError, AttributeError):
        return None
    return calls


class Inotify:
    """One inotify instance. ``Inotify.open()`` returns ``None`` where there can be none."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._watches: dict[str, tuple[int, int]] = {}

    @classmethod
    def open(cls) -> Inotify | None:
        """Return a new instance, or ``None``: not Linux, or none are left for this user."""
        calls = _calls()
        if calls is None:
            return None
        descriptor = calls[0](os.O_CLOEXEC | os.O_NONBLOCK)
        return None if descriptor < 0 else cls(descriptor)

    def close(self) -> None:
        """Forget all watches."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def watch(self, directory: str, mask: int) -> int | None:
        """Watch a directory, and return the number of the watch or ``None``; each call needs an ``unwatch``.

        With ``ATTRIBUTES``, ``directory`` is the path of a file.
        """
        calls = _calls()
        if calls is None or self.descriptor < 0:
            return None
        only = 0 if mask == ATTRIBUTES else _ONLYDIR
        number = calls[1](self.descriptor, os.fsencode(directory), mask | _MASK_ADD | only)
        if number < 0:
            return None
        self._watches[directory] = (number, self._watches.get(directory, (0, 0))[1] + 1)
        return number

    def unwatch(self, directory: str) -> None:
        """End one ``watch``."""
        calls = _calls()
        number, times = self._watches.get(directory, (0, 0))
        if times > 1:
            self._watches[directory] = (number, times - 1)
        elif times == 1:
            del self._watches[directory]
            if calls is not None and self.descriptor >= 0:
                calls[2](self.descriptor, number)

    def read(self) -> set[int]:
        """Return the numbers of the watches that have events; never waits.

        ``OVERFLOWN`` is also among them where they cannot be read now.
        """
        changed: set[int] = set()
        while True:
            try:
                data = os.read(self.descriptor, 65536)
            except BlockingIOError:
                return changed
            except OSError:  # no memory: it stays readable, and is read again
                return {*changed, OVERFLOWN}
            position = 0
            while position < len(data):
                number, mask, _, length = _HEAD.unpack_from(data, position)
                position += _HEAD.size + length
                if not mask & _IGNORED:
                    changed.add(number)
