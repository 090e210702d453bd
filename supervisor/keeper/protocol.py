"""The keeper's end of the line to its supervisor: frames in, frames out, descriptors beside them.

Standard library only. The line is a socket pair. A frame is four bytes of length, then a ``marshal``-ed list of
messages (both ends are the same interpreter, and versions are compared in the greeting). Descriptors travel with
the frame that needs them.

From the supervisor::

    ("env", token, {bytes: bytes})               an environment to refer to
    ("drop_env", token)
    ("launch", token, job directory, argv, env token, env changes, deadline seconds or None,
        grace seconds, output limit, whether to end what it leaves behind,
        number of descriptors)                   workspace[, stdin]
    ("stop", token, why, by)

A job directory is named from the state root, which is the keeper's working directory.

To the supervisor::

    ("hello", PROTOCOL, pid, start)
    ("launched", token, pid, start, started wall ns, started boot ns, deadline boot ns or None)
    ("failed", token, status, message, claimed by somebody else)
    ("exit", token, exit code, signal, ended wall ns, ended boot ns, cpu seconds, max rss,
        {"stdout_bytes": ..., "stderr_bytes": ..., "may_grow": ..., "truncated": ...},
        why stopped or None, survivors)
"""

from __future__ import annotations

import _socket
import errno
import marshal
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

__all__ = ["PROTOCOL", "Line"]

PROTOCOL: Final = 3
_MOST_DESCRIPTORS: Final = 250
_SHORTAGES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EIO})
"""Errors that say nothing about the other end."""


class Line:
    """One end of it; ``socket`` is ``None`` once the other is gone.

    Args:
        descriptor: of the socket, which this takes over.
    """

    def __init__(self, descriptor: int) -> None:
        """Have nothing to say yet."""
        self.socket: _socket.socket | None = _socket.socket(fileno=descriptor)
        self.socket.setblocking(False)
        self.unsent = b""
        self._outbox: list[tuple[object, ...]] = []
        self._inbox = bytearray()
        self._buffer = bytearray(1 << 18)  # made now: what was read must have a place
        self._read = 0  # bytes of it that are not in the inbox yet
        self._passed: list[int] = []
        self._some_lost = False

    def say(self, *message: object) -> None:
        """Have a message sent with the next ``send``."""
        self._outbox.append(message)

    def send(self) -> None:
        """Send what is to be said, as far as it is taken now."""
        if self.socket is None:
            self._outbox.clear()
            return
        if self._outbox:
            data = marshal.dumps(self._outbox)
            self.unsent += len(data).to_bytes(4, "little") + data
            self._outbox = []
        if self.unsent:
            try:
                self.unsent = self.unsent[self.socket.send(self.unsent) :]
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as error:
                if error.errno in _SHORTAGES:
                    raise
                self.close()

    def receive(self) -> list[tuple[Any, ...]] | None:
        """Return the messages that came whole, ``None`` when there is nothing to read.

        Raises:
            OSError: the machine runs short just now; the line is as it was.
        """
        connection = self.socket
        if connection is None:
            return None
        self._take_in()
        space = _socket.CMSG_SPACE(_MOST_DESCRIPTORS * 4)
        flags = getattr(_socket, "MSG_CMSG_CLOEXEC", 0)
        try:
            self._read, ancillary, flags, _ = connection.recvmsg_into([self._buffer], space, flags)
        except (BlockingIOError, InterruptedError):
            return self._whole() or None
        except OSError as error:
            if error.errno in _SHORTAGES:
                raise
            ancillary, flags = [], 0
        ended = not self._read
        for level, kind, payload in ancillary:
            if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
                whole = len(payload) - len(payload) % 4
                self._passed += memoryview(payload[:whole]).cast("i").tolist()
        if not hasattr(_socket, "MSG_CMSG_CLOEXEC"):
            for descriptor in self._passed:
                os.set_inheritable(descriptor, False)
        self._some_lost = bool(flags & _socket.MSG_CTRUNC)
        if ended:
            self.close()
            return None
        self._take_in()
        return self._whole()

    def _take_in(self) -> None:
        if self._read:
            self._inbox += memoryview(self._buffer)[: self._read]
            self._read = 0

    @property
    def has_more(self) -> bool:
        """Whether there is a frame that could not be read when it came, for want of memory."""
        return self._read > 0 or self._has_frame

    @property
    def _has_frame(self) -> bool:
        return len(self._inbox) >= 4 and len(self._inbox) >= 4 + int.from_bytes(self._inbox[:4], "little")

    def _whole(self) -> list[tuple[Any, ...]]:
        """Return the messages of the frames that came whole."""
        messages: list[tuple[Any, ...]] = []
        while self._has_frame:
            end = 4 + int.from_bytes(self._inbox[:4], "little")
            try:
                messages += marshal.loads(bytes(self._inbox[4:end]))  # noqa: S302  # from our own supervisor only
            except MemoryError:
                if messages:
                    break
                raise
            del self._inbox[:end]
        return messages

    def take(self, count: int) -> list[int]:
        """Return the next descriptors that came; fewer if we had too few left to receive them all."""
        taken, self._passed = self._passed[:count], self._passed[count:]
        return taken

    def give(self, descriptors: list[int]) -> None:
        """Have ``take`` return these, as if they had come over the line."""
        self._passed += descriptors

    def forget_lost(self) -> None:
        """Close what is left of descriptors that did not all come: they may be those of another message."""
        if self._some_lost:
            self._some_lost = False
            self._close_passed()

    def close(self) -> None:
        """Close our end, and what came over it and was not taken."""
        if self.socket is not None:
            self.socket.close()
            self.socket = None
        self._close_passed()
        self.unsent = b""

    def _close_passed(self) -> None:
        for descriptor in self._passed:
            os.close(descriptor)
        self._passed = []
