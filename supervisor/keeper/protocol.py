"""The protocol between a supervisor and its keeper: messages and frames for both ends, and the keeper's end.

The supervisor's end is ``engines/local/keeper_client.py``.

The two ends share a socket pair. A frame is four bytes of length and a list of messages in the encoding of ``marshal``.
A message is a tuple there: its kind, then its fields in the order of the class. Descriptors travel with the frame
that needs them. A supervisor compares ``PROTOCOL`` with the greeting and leaves a keeper of another version.

A job directory is named from the state root, which is the keeper's working directory.
"""

from __future__ import annotations

import _socket
import errno
import marshal
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, ClassVar, Final, TypeVar, dataclass_transform

    T = TypeVar("T")
else:

    def dataclass_transform(**_: object) -> Callable[[T], T]:
        """Stand in for what only type checkers need: importing ``typing`` costs the keeper 5 ms."""
        return lambda decorated: decorated


__all__ = [
    "PROTOCOL",
    "Connection",
    "DropEnvironment",
    "Exited",
    "Failed",
    "Fields",
    "FindLimits",
    "Frames",
    "Held",
    "Hello",
    "Hold",
    "Launch",
    "Launched",
    "Message",
    "MissingLimits",
    "SetEnvironment",
    "Stop",
    "encode",
]

PROTOCOL: Final = 3

_KINDS: dict[str, type[Message]] = {}


@dataclass_transform(kw_only_default=True)
class Fields:
    """A value with named fields: those that its class annotates."""

    def __init__(self, **fields: object) -> None:
        self.__dict__ = fields


class Message(Fields):
    """A message; its fields are in the order of the wire.

    A new field comes last and has a default: the other end may be of a version that does not send it.
    """

    kind = ""
    names: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:  # noqa: D105  # nothing to say
        cls.names = tuple(cls.__annotations__)
        _KINDS[cls.kind] = cls

    def encode(self) -> tuple[object, ...]:
        """Return the message as it stands in a frame."""
        held = self.__dict__
        if len(held) < len(self.names):
            held = {name: getattr(self, name) for name in self.names}
        return (self.kind, *map(held.__getitem__, self.names))

    @staticmethod
    def decode(held: tuple[Any, ...]) -> Message:
        """Return the message that ``encode`` has encoded; fields that only a newer version knows are left out.

        Those that an older version does not know have their defaults.
        """
        message = Message.__new__(_KINDS[held[0]])
        message.__dict__ = dict(zip(message.names, held[1:], strict=False))
        return message


# ---------------------------------------------------------------- to the keeper


class SetEnvironment(Message):
    """An environment to which launches refer by ``token``.

    ``helper``: the command that launches waiting jobs, in this environment.
    """

    kind = "env"
    token: int
    variables: dict[bytes, bytes]
    helper: list[bytes] | None = None


class DropEnvironment(Message):
    """No further launch refers to this environment."""

    kind = "drop_env"
    token: int


class Launch(Message):
    """Launch a job. Beside it travel a descriptor of the workspace, and one of stdin if the command has input.

    ``queued``: its end may let a waiting job begin. ``merge_stderr``: its stderr goes where its stdout goes.
    ``no_new_privs``: no exec gives its processes more rights.
    """

    kind = "launch"
    token: int
    directory: str
    argv: list[bytes]
    environment: int
    changes: dict[bytes, bytes]
    deadline_seconds: float | None
    grace_seconds: float
    output_limit: int
    stop_leftovers: bool
    descriptors: int
    settings: tuple[int, int, dict[int, tuple[int, int]]] | None = None  # a supervisor of an older version sends none
    """The umask, the niceness and the resource limits of the command; without them it has those of the keeper."""
    queued: bool = False
    merge_stderr: bool = False
    no_new_privs: bool = False
    stdin_open: bool = False
    pty: tuple[int, int] | None = None
    """The rows and columns of its terminal."""
    limits: tuple[int | None, float | None, int | None, bool] | None = None
    """Bytes of memory, processors, processes, and whether the command must not run without them."""
    durable: bool = False
    """Whether its records and its output are synced before they are reported."""


class FindLimits(Message):
    """Say which limits a job cannot have here. Only to a keeper whose greeting has ``limits``."""

    kind = "find_limits"
    token: int


class Hold(Message):
    """Hold the orders of a waiting job, which are in the descriptor beside it, until their name is deleted."""

    kind = "hold"
    token: int
    directory: str


class Stop(Message):
    """End the tree of a job."""

    kind = "stop"
    token: int
    why: str
    by: str


# ---------------------------------------------------------------- to the supervisor


class Hello(Message):
    """The greeting, which begins alike in all versions."""

    kind = "hello"
    protocol: int
    pid: int
    start: int
    limits: bool = False
    """Whether the keeper limits jobs: one of an older version does not."""


class MissingLimits(Message):
    """The answer to ``FindLimits``: why jobs cannot be limited here, by the name of the controller."""

    kind = "missing_limits"
    token: int
    missing: dict[str, str]
    lasts: bool = True
    """Whether a later question has the same answer."""


class Launched(Message):
    """The command of a job was spawned."""

    kind = "launched"
    token: int
    pid: int
    start: int
    started_ns: int
    started_boot_ns: int
    deadline_boot_ns: int | None


class Held(Message):
    """The orders of a job are held, or why they are not."""

    kind = "held"
    token: int
    error: str


class Failed(Message):
    """The command of a job was not spawned. ``claimed``: another process has claimed the job."""

    kind = "failed"
    token: int
    status: int
    reason: str
    claimed: bool


class Exited(Message):
    """A job has ended, and its tree if that was stopped; ``output`` are the members of its exit record about output."""

    kind = "exit"
    token: int
    exit_code: int | None
    signal: int | None
    ended_ns: int
    ended_boot_ns: int
    cpu_seconds: float
    max_rss_bytes: int
    output: dict[str, Any]
    stopped: str | None
    survivors: list[int]
    memory_peak_bytes: int | None = None


# ---------------------------------------------------------------- frames


def encode(messages: Iterable[Message]) -> bytes:
    """Return messages as one frame."""
    data = marshal.dumps([message.encode() for message in messages])
    return len(data).to_bytes(4, "little") + data


class Frames:
    """Decodes a stream of frames."""

    def __init__(self) -> None:
        self._held = bytearray()

    def add(self, data: bytes | memoryview) -> None:
        """Take the next bytes of the stream."""
        self._held += data

    @property
    def is_complete(self) -> bool:
        """Whether there is a whole frame."""
        return len(self._held) >= 4 and len(self._held) >= 4 + int.from_bytes(self._held[:4], "little")

    def take(self) -> list[Message]:
        """Return the messages of all whole frames; those that memory does not suffice for are left for another call.

        Raises:
            MemoryError: memory suffices for none.
        """
        messages: list[Message] = []
        while len(self._held) >= 4 and len(self._held) >= (end := 4 + int.from_bytes(self._held[:4], "little")):
            try:
                messages += [Message.decode(each) for each in marshal.loads(self._held[4:end])]  # noqa: S302  # our peer's
            except MemoryError:
                if messages:
                    break
                raise
            del self._held[:end]
        return messages


# ---------------------------------------------------------------- the keeper's end

_MAX_DESCRIPTORS: Final = 250
_SHORTAGES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EIO})
"""Errors that say nothing about the other end."""


class Connection:
    """The keeper's end of the socket.

    Args:
        descriptor: of the socket, which this takes over.
    """

    def __init__(self, descriptor: int) -> None:
        self._socket: _socket.socket | None = _socket.socket(fileno=descriptor)
        self._socket.setblocking(False)
        self.unsent = b""
        self._outbox: list[Message] = []
        self._frames = Frames()
        self._buffer = bytearray(1 << 18)  # made now: received bytes must have a place when memory is short
        self._received = 0  # bytes of it that are not in the frames yet
        self._descriptors: list[int] = []
        self._some_lost = False

    @property
    def is_open(self) -> bool:
        """Whether the supervisor is there, as far as is known."""
        return self._socket is not None

    @property
    def descriptor(self) -> int:
        """The descriptor of the socket, below 0 once the supervisor is gone."""
        return -1 if self._socket is None else self._socket.fileno()

    def queue(self, message: Message) -> None:
        """Have a message sent with the next ``send``."""
        self._outbox.append(message)

    def send(self) -> None:
        """Send the queued messages, as far as the socket takes them now."""
        if self._socket is None:
            self._outbox.clear()
            return
        if self._outbox:
            self.unsent += encode(self._outbox)
            self._outbox = []
        if self.unsent:
            try:
                self.unsent = self.unsent[self._socket.send(self.unsent) :]
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as error:
                if error.errno in _SHORTAGES:
                    raise
                self.close()

    def receive(self) -> list[Message] | None:
        """Return the messages that came whole, ``None`` when there is nothing to read.

        Raises:
            OSError: the machine runs short just now; the connection is as it was.
        """
        connection = self._socket
        if connection is None:
            return None
        self._take_in()
        space = _socket.CMSG_SPACE(_MAX_DESCRIPTORS * 4)
        flags = getattr(_socket, "MSG_CMSG_CLOEXEC", 0)
        try:
            self._received, ancillary, flags, _ = connection.recvmsg_into([self._buffer], space, flags)
        except (BlockingIOError, InterruptedError):
            return self._frames.take() or None
        except OSError as error:
            if error.errno in _SHORTAGES:
                raise
            ancillary, flags = [], 0
        for level, kind, payload in ancillary:
            if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
                whole = len(payload) - len(payload) % 4
                self._descriptors += memoryview(payload[:whole]).cast("i").tolist()
        if not hasattr(_socket, "MSG_CMSG_CLOEXEC"):
            for descriptor in self._descriptors:
                os.set_inheritable(descriptor, False)
        self._some_lost = bool(flags & _socket.MSG_CTRUNC)
        if not self._received:
            self.close()
            return None
        self._take_in()
        return self._frames.take()

    def _take_in(self) -> None:
        if self._received:
            self._frames.add(memoryview(self._buffer)[: self._received])
            self._received = 0

    @property
    def has_more(self) -> bool:
        """Whether there is a frame that could not be decoded when it came, for want of memory."""
        return self._received > 0 or self._frames.is_complete

    def take_descriptors(self, count: int) -> list[int]:
        """Return the next descriptors that came; fewer if this process had too few left to receive them all."""
        taken, self._descriptors = self._descriptors[:count], self._descriptors[count:]
        return taken

    def add_descriptors(self, descriptors: list[int]) -> None:
        """Have ``take_descriptors`` return these, as if they had come over the socket."""
        self._descriptors += descriptors

    def close_stray_descriptors(self) -> None:
        """Close the descriptors that are left if some did not come: they may be those of another message."""
        if self._some_lost:
            self._some_lost = False
            self._close_descriptors()

    def close(self) -> None:
        """Close the socket, and the descriptors that came over it and were not taken."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._close_descriptors()
        self.unsent = b""

    def _close_descriptors(self) -> None:
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = []
