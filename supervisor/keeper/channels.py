"""The input of running jobs: pipes that stay open, and terminals. Other processes reach them by a socket.

Of a job with ``stdin_open`` or ``pty`` the keeper holds one end of the stdin, or of the terminal, and listens on
``input`` in the job directory. A frame is a byte for its kind, four bytes of length, and the payload:

* ``s``: a byte of flags (1: end of file after it), then a message for the job. The answer is ``a`` with a word of
  ``ANSWERS``, or with an empty payload once the message is in the pipe.
* ``w``: rows and columns, two bytes each. The window of the terminal has the size of the client that sent one last.
* ``t``: what is typed into the terminal. There is no answer; what finds no room is read later.

A client gets no output here: it reads the file into which the terminal is recorded, at its own pace.

Numbers are little-endian. A client that sends anything else is dropped.
"""

from __future__ import annotations

import _socket
import errno
import os
import select
import sys

from supervisor.jobdir import records
from supervisor.system import processes

try:
    import fcntl
except ImportError:  # a Python that was built without it
    fcntl = None  # type: ignore[assignment]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

    from supervisor.keeper import protocol

__all__ = [
    "AGAIN_NS",
    "ANSWERS",
    "HAS_IOCTL",
    "LINUX",
    "MAX_MESSAGE",
    "PIECE",
    "Channel",
    "Channels",
    "Client",
    "Pipe",
    "ioctl",
]

MAX_MESSAGE: Final = 1 << 16
"""Bytes of a message: as many as a pipe of Linux holds."""
ANSWERS: Final = ("full", "early", "closed", "large", "part", "line")
"""Why a message was not delivered. The job does not read; it has not read all of its first input; it has closed its
stdin; the pipe holds fewer bytes, as the number after the word says; only so many bytes were written; a line is too
long for the terminal."""

_HEAD: Final = 5
_MAX_CLIENTS: Final = 64
PIECE: Final = 1 << 16
AGAIN_NS: Final = 500_000_000
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_IN, _OUT = select.POLLIN, select.POLLOUT
LINUX: Final = sys.platform.startswith("linux")
ioctl: Any = getattr(fcntl, "ioctl", None)
_fcntl: Any = getattr(fcntl, "fcntl", None)
HAS_IOCTL: Final = ioctl is not None
_HAS_ROOM_OF_PIPES: Final = LINUX and HAS_IOCTL
_FIONREAD, _F_GETPIPE_SZ = 0x541B, 1032


class Client:
    """A process that is connected to the socket of a job."""

    def __init__(self, connection: _socket.socket) -> None:
        self.connection = connection
        self.received = bytearray()
        self.window: bytes | None = None


class Channel:
    """What the keeper holds for the input of one job.

    Args:
        channels: those of the keeper.
        asked: the launch.
    """

    def __init__(self, channels: Channels, asked: protocol.Launch) -> None:
        self._all = channels
        self._path = f"{asked.directory}/{records.INPUT}"
        self._clients: dict[int, Client] = {}
        self._listener: _socket.socket | None = None
        self.token = asked.token
        self.path = b""
        """Of the terminal, if the job has one."""
        self.reading = -1
        """The stdin of the job, if that is a pipe."""
        self.retry_ns: int | None = None
        self.is_ending = False
        self.is_drained = True
        self.lost = False

    def listen(self) -> None:
        """Begin to listen.

        Raises:
            OSError: the socket cannot be made.
        """
        listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        try:
            listener.setblocking(False)
            listener.bind(self._path)  # short: it is relative to the state root
            os.chmod(self._path, 0o600)
            listener.listen(_MAX_CLIENTS)
        except BaseException:
            listener.close()
            raise
        self._listener = listener
        self._all.watch(listener.fileno(), _IN, self._accept)

    def _accept(self) -> None:
        assert self._listener is not None  # noqa: S101  # it is watched
        listener: Any = self._listener
        try:
            descriptor: int = listener._accept()[0]  # noqa: SLF001  # as `socket` does
        except (BlockingIOError, InterruptedError, ConnectionError):
            return
        except OSError:  # no descriptor is free: wait until one may be
            self._all.unwatch(self._listener.fileno())
            self.retry_ns = processes.boottime_ns() + AGAIN_NS
            return
        connection = _socket.socket(fileno=descriptor)
        connection.setblocking(False)
        if _uid_of(connection) not in {os.getuid(), 0, None}:
            connection.close()
            return
        if len(self._clients) >= _MAX_CLIENTS:  # the oldest that has no terminal, or the oldest
            oldest = next((each for each, client in self._clients.items() if client.window is None), None)
            self._drop(next(iter(self._clients)) if oldest is None else oldest)
        client = self._clients[descriptor] = Client(connection)
        self.hear(client)

    def hear(self, client: Client) -> None:
        """Read what a client sends."""
        self._all.watch(client.connection.fileno(), _IN, lambda: self._receive(client))

    def _receive(self, client: Client) -> None:
        try:
            data = client.connection.recv(PIECE)
        except (BlockingIOError, InterruptedError):
            return
        except (OSError, MemoryError):
            data = b""
        client.received += data
        stays = False
        try:
            stays = self._handle_frames(client) and bool(data)
        finally:  # a failure in here must not come again and again
            if not stays:
                self._drop(client.connection.fileno())

    def _handle_frames(self, client: Client) -> bool:
        """Handle the whole frames of a client; ``False`` if it has sent anything else."""
        held = client.received
        while len(held) >= _HEAD:
            end = _HEAD + int.from_bytes(held[1:_HEAD], "little")
            if end > _HEAD + 1 + MAX_MESSAGE or bytes(held[:1]) not in {b"s", b"w", b"t"}:
                return False
            if len(held) < end:
                break
            kind, payload = bytes(held[:1]), bytes(held[_HEAD:end])
            del held[:end]
            if kind == b"s":
                if not payload:
                    return False
                answer = self.send(payload[1:], eof=bool(payload[0] & 1))
                try:  # the only answer to this client, whose socket has room for it
                    client.connection.send(b"a" + len(answer).to_bytes(4, "little") + answer)
                except OSError:
                    return False
            elif not self.typed(client, kind, payload):
                return False
        return True

    def _drop(self, descriptor: int) -> None:
        client = self._clients.pop(descriptor, None)
        if client is not None:
            self._all.unwatch(descriptor)
            client.connection.close()
            self.left(client)

    def send(self, data: bytes, *, eof: bool) -> bytes:
        """Deliver a message whole, or return why it is not delivered."""
        raise NotImplementedError

    def typed(self, client: Client, kind: bytes, payload: bytes) -> bool:
        """Handle a frame for a terminal; ``False`` if it makes no sense."""
        del client, kind, payload
        return False

    def left(self, client: Client) -> None:
        """Note that a client has left."""

    def retry(self) -> None:
        """Do again what has failed some time ago."""
        self.retry_ns = None
        if self._listener is not None:
            self._all.watch(self._listener.fileno(), _IN, self._accept)

    def recorded(self) -> None:
        """Go on after a write of output, which may have taken long."""

    def drain(self) -> None:
        """Note that the command has ended; ``is_drained`` says when all of its output is recorded."""

    def close(self) -> None:
        """Close everything."""
        self._all.forget(self)
        for descriptor in list(self._clients):
            self._drop(descriptor)
        if self._listener is not None:
            self._all.unwatch(self._listener.fileno())
            self._listener.close()
            self._listener = None
            try:
                os.unlink(self._path)
            except OSError:  # the job directory is gone, or cannot be written now: the socket is dead all the same
                return


class Pipe(Channel):
    """A stdin that stays open.

    Args:
        channels: those of the keeper.
        asked: the launch.
        first: a descriptor of what the job reads first, which is taken over.
    """

    def __init__(self, channels: Channels, asked: protocol.Launch, first: int | None) -> None:
        super().__init__(channels, asked)
        self._first = first
        self._rest = b""
        self.reading, self._writing = os.pipe()
        self._written = 0
        self._pages: list[tuple[int, int]] = []  # of each message that may be unread: where it ends, and its pages
        os.set_blocking(self._writing, False)
        if first is not None:
            channels.watch(self._writing, _OUT, self._pump)

    def _pump(self) -> None:
        """Write what the job reads first, as far as it reads."""
        try:
            while self._first is not None:
                self._rest = self._rest or os.read(self._first, PIECE)
                if not self._rest:
                    self._pumped()
                    return
                written = os.write(self._writing, self._rest)
                self._note(written)
                self._rest = self._rest[written:]
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno == errno.EPIPE:
                self._shut()

    def _pumped(self) -> None:
        if self._first is not None:
            self._all.unwatch(self._writing)
            os.close(self._first)
            self._first = None

    def send(self, data: bytes, *, eof: bool) -> bytes:
        """Write a message if the pipe has room for all of it."""
        if self._writing < 0:
            return b"closed"
        if self._first is not None:
            return b"early"
        capacity = self._capacity()
        if len(data) > capacity:
            return b"large %d" % capacity
        try:
            if len(data) > select.PIPE_BUF and -(-len(data) // _PAGE) > capacity // _PAGE - self._pages_in_use():
                return b"full"
            written = os.write(self._writing, data) if data else 0
        except BlockingIOError:
            return b"full"
        except OSError:
            self._shut()
            return b"closed"
        self._note(written)
        if written < len(data):
            return b"part %d" % written
        if eof:
            self._shut()
        return b""

    def _capacity(self) -> int:
        if not _HAS_ROOM_OF_PIPES:  # up to that, a write is whole or fails
            return select.PIPE_BUF
        capacity: int = _fcntl(self._writing, _F_GETPIPE_SZ)
        return min(capacity, MAX_MESSAGE)

    def _note(self, written: int) -> None:
        if not _HAS_ROOM_OF_PIPES:
            return
        self._written += written
        self._pages.append((self._written, -(-written // _PAGE)))
        if len(self._pages) > _MAX_CLIENTS:
            self._pages = [(self._written, self._pages_in_use())]

    def _pages_in_use(self) -> int:
        """Return how many pages of the pipe are in use at most: a message shares none with the next one."""
        unread = int.from_bytes(ioctl(self._writing, _FIONREAD, b"\0\0\0\0"), sys.byteorder)
        self._pages = [each for each in self._pages if each[0] > self._written - unread]
        return sum(pages for _, pages in self._pages)

    def _shut(self) -> None:
        self._pumped()
        if self._writing >= 0:
            os.close(self._writing)
            self._writing = -1

    def close(self) -> None:
        """Close everything; the reading end belongs to the launch."""
        self._shut()
        super().close()


def _uid_of(connection: _socket.socket) -> int | None:
    """Return the user of the other end, ``None`` where the kernel does not tell."""
    if hasattr(_socket, "SO_PEERCRED"):
        credentials = connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
        return int.from_bytes(credentials[4:8], sys.byteorder)
    if sys.platform == "darwin":
        credentials = connection.getsockopt(0, 1, 76)  # LOCAL_PEERCRED
        return int.from_bytes(credentials[4:8], sys.byteorder)
    return None


class Channels:
    """The channels of all jobs of a keeper.

    Args:
        guard: does a step that may block, see ``relay``.
        may_block: whether one may block now.
    """

    def __init__(self, guard: Callable[[Callable[[], None]], None], may_block: Callable[[], bool]) -> None:
        self.guard = guard
        self.may_block = may_block
        self.wanted: dict[int, int] = {}
        """The descriptors to poll, with their events."""
        self.writing: set[Channel] = set()
        """The terminals whose output is being written."""
        self._handlers: dict[int, Callable[[], Any]] = {}
        self._channels: dict[int, Channel] = {}

    def add(self, channel: Channel) -> None:
        """Take the channel of a job that is about to be launched, and have it listen.

        Raises:
            OSError: its socket cannot be made.
        """
        self._channels[channel.token] = channel
        channel.listen()

    def watch(self, descriptor: int, events: int, handler: Callable[[], Any]) -> None:
        """Have ``handler`` called when a descriptor is ready."""
        self.wanted[descriptor] = events
        self._handlers[descriptor] = handler

    def unwatch(self, descriptor: int) -> None:
        """Watch a descriptor no more."""
        self.wanted.pop(descriptor, None)
        self._handlers.pop(descriptor, None)

    def handle(self, ready: set[int]) -> None:
        """Call the handlers of the descriptors that are ready."""
        for descriptor in ready & self._handlers.keys():
            handler = self._handlers.get(descriptor)
            if handler is not None:
                handler()

    @property
    def next_ns(self) -> int | None:
        """When to call ``on_time``, on the boot clock."""
        if not self._channels:
            return None
        return min((each.retry_ns for each in self._channels.values() if each.retry_ns is not None), default=None)

    def on_time(self) -> list[int]:
        """Do what is due; return the tokens of ended jobs whose output is recorded now."""
        if not self._channels:
            return []
        ended: list[int] = []
        now = processes.boottime_ns()
        for terminal in list(self.writing):
            terminal.recorded()
        for token, channel in list(self._channels.items()):
            if channel.retry_ns is not None and channel.retry_ns <= now:
                channel.retry()
            if channel.is_ending:
                channel.drain()
                if channel.is_drained:
                    ended.append(token)
        return ended

    def end(self, token: int) -> bool | None:
        """Close the channel of a job that has ended, and return whether output of it was lost.

        ``None``: its output is not recorded yet, and ``on_time`` says when it is.
        """
        channel = self._channels.get(token)
        if channel is None:
            return False
        channel.drain()
        if not channel.is_drained:
            return None
        channel.close()
        return channel.lost

    def drop(self, token: int) -> None:
        """Close the channel of a job that is not launched."""
        channel = self._channels.get(token)
        if channel is not None:
            channel.close()

    def forget(self, channel: Channel) -> None:
        """Forget a channel that is being closed."""
        self._channels.pop(channel.token, None)
