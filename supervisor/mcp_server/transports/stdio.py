"""stdio: JSON lines on descriptors 0 and 1, which nothing else in this process or below it gets to see.

The SDK's own transport reads stdin in a thread, and so cannot be cancelled before the end of file.
This one can, at once. At the end of file it lets everything that was read be answered, as long as
that takes no more than a few seconds: a host that was killed leaves no more behind than that.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator
from typing import Any, Final

import anyio
import trio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.server.lowlevel import Server
from mcp.shared.dispatcher import coerce_request_id
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCError, JSONRPCNotification, JSONRPCRequest, JSONRPCResponse

from supervisor import log
from supervisor.mcp_server.transports import messages

__all__ = ["diverted", "serve"]

_LONGEST_LINE: Final = 1 << 24
_CHUNK: Final = 1 << 16
_ENDS: Final = 1 << 16
_LAST_ANSWERS_SECONDS: Final = 5

# A host that takes no answers is read from no further: what waits for it stays small, however much it asks.
_MOST_NOT_TAKEN: Final = 16
_MOST_OPEN: Final = 1024
_PATIENCE_SECONDS: Final = 5
_LOOK_AGAIN_SECONDS: Final = 1
_BUSY: Final = -32000


@contextlib.contextmanager
def diverted() -> Generator[tuple[int, int]]:
    """Take descriptors 0 and 1 out of everybody's reach and give private ones, until left.

    Children, and whoever prints, find an empty stdin, and stderr in the place of stdout.
    """
    kept = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, 3) for each in (0, 1)]
    nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.dup2(nothing, 0)
        os.dup2(2, 1)
        yield kept[0], kept[1]
    finally:
        os.close(nothing)
        for number, each in enumerate(kept):
            os.dup2(each, number)
            os.close(each)


async def serve(
    server: Server[Any], ends: tuple[int, int], *, answered: Callable[[], None], ending: trio.Event
) -> None:
    """Serve one host over these descriptors until the end of file, or until it no longer reads answers.

    ``answered`` is called after each answer; ``ending`` is set at the end of file, so that those who
    wait for something tell what they know.
    """
    to_server, from_host = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    to_host, from_server = anyio.create_memory_object_stream[SessionMessage](0)
    # Duplicates, because a stream closes what it reads, and these are put back when all is over.
    async with (
        trio.lowlevel.FdStream(os.dup(ends[0])) as stdin,
        trio.lowlevel.FdStream(os.dup(ends[1])) as stdout,
        trio.open_nursery() as nursery,
    ):
        connection = _Connection(ends, stdout, from_server, answered, ending)
        nursery.start_soon(connection.read, stdin, to_server)
        nursery.start_soon(connection.write)

        async def watch() -> None:
            await _hung_up(ends[1])
            log.info("mcp_host_gone")
            nursery.cancel_scope.cancel()

        nursery.start_soon(watch)
        await server.run(from_host, to_host, server.create_initialization_options())
        nursery.cancel_scope.cancel()


async def _hung_up(descriptor: int) -> None:
    """Return when the other end of a descriptor that is only written to has been closed."""
    try:
        while not _is_hung_up(descriptor):
            await trio.lowlevel.wait_readable(descriptor)  # an error wakes it, and there is nothing to read
            if not _is_hung_up(descriptor):  # a terminal, or a socket that stdin shares
                await trio.sleep(_LOOK_AGAIN_SECONDS)
    except OSError:  # a file, which has no other end
        await trio.sleep_forever()


def _is_hung_up(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, 0)
    return bool(poll.poll(0))


def _key(request_id: str | int) -> tuple[type, str | int]:
    return type(request_id), request_id


class _Connection:
    """Knows which requests have been read and not been answered."""

    def __init__(
        self,
        ends: tuple[int, int],
        stdout: trio.abc.SendStream,
        from_server: MemoryObjectReceiveStream[SessionMessage],
        answered: Callable[[], None],
        ending: trio.Event,
    ) -> None:
        self._ends = ends
        self._stdout = stdout
        self._from_server = from_server
        self._answered = answered
        self._ending = ending
        self._open: set[tuple[type, str | int]] = set()
        self._all_answered = trio.Event()
        self._progress = trio.Event()
        self._writing = trio.Lock()
        self._at_end = False

    async def read(self, stdin: trio.abc.ReceiveStream, to_server: MemoryObjectSendStream[Any]) -> None:
        """Hand the host's messages to the server; then wait for the last answers, and end it."""
        async with to_server, contextlib.aclosing(_lines(stdin)) as lines:
            async for line in lines:
                found = messages.parse(line) if isinstance(line, bytes) else line
                if isinstance(found, Iterator):
                    await self._refuse(found)
                    continue
                if isinstance(found, JSONRPCRequest):
                    if not await self._read_on() or _is_hung_up(self._ends[1]):
                        break
                    if len(self._open) >= _MOST_OPEN:
                        why = f"{_MOST_OPEN} requests wait for their answers: ask again when one has been answered"
                        await self._refuse([messages.Refusal(json.dumps(found.id).encode(), _BUSY, why)])
                        continue
                self._note_read(found)
                await to_server.send(SessionMessage(found))
            self._at_end = True
            self._ending.set()
            self._check()
            with trio.move_on_after(_LAST_ANSWERS_SECONDS):
                await self._all_answered.wait()

    async def _read_on(self) -> bool:
        """Wait until the host has taken most of its answers; whether there is still one that may take them."""
        patience = trio.current_time() + _PATIENCE_SECONDS
        while True:
            not_taken = self._from_server.statistics().tasks_waiting_send
            if not_taken < _MOST_NOT_TAKEN and (
                len(self._open) < _MOST_OPEN or trio.current_time() >= patience  # they may all be long ones
            ):
                return True
            with trio.move_on_after(_PATIENCE_SECONDS) as scope:
                await self._progress.wait()
            if not_taken and scope.cancelled_caught and _is_hung_up(self._ends[0]):
                return False

    def _note_read(self, message: Any) -> None:
        match message:
            case JSONRPCRequest():
                self._open.add(_key(message.id))
            case JSONRPCNotification(method="notifications/cancelled"):
                cancelled = (message.params or {}).get("requestId")
                if isinstance(cancelled, str | int):  # it will not be answered any more
                    # The SDK holds "7" and 7 for one id, as hosts do that keep ids as text.
                    same = [key for key in self._open if coerce_request_id(key[1]) == coerce_request_id(cancelled)]
                    exact = _key(cancelled)
                    self._open.difference_update([exact] if exact in same else same)
                    self._proceed()
            case _:
                pass

    def _proceed(self) -> None:
        progress, self._progress = self._progress, trio.Event()
        progress.set()
        self._check()

    def _check(self) -> None:
        if self._at_end and not self._open:
            self._all_answered.set()

    async def _refuse(self, refusals: Iterable[messages.Refusal]) -> None:
        for refusal in refusals:
            log.warning("mcp_not_a_message", error=refusal.message)
            if not await self._send(refusal.line()):
                return

    async def _send(self, line: bytes) -> bool:
        """Write a line; whether there was a reader to take it."""
        async with self._writing:
            try:
                await self._stdout.send_all(line)
            except trio.BrokenResourceError:
                return False
        return True

    async def write(self) -> None:
        """Write the server's messages, one a line."""
        async with self._from_server:
            async for message in self._from_server:
                if not await self._send(messages.dumped(message.message)):
                    log.info("mcp_host_gone")
                    self._open.clear()
                    self._all_answered.set()
                    return
                if isinstance(message.message, JSONRPCResponse | JSONRPCError):
                    if message.message.id is not None:
                        self._open.discard(_key(message.message.id))
                    self._answered()
                self._proceed()


async def _lines(stdin: trio.abc.ReceiveStream) -> AsyncGenerator[bytes | Iterator[messages.Refusal]]:
    """Yield lines that are not empty; of one that is longer than any message, what is said to its sender."""
    held = bytearray()
    head: bytes | None = None  # of a line that is too long: how it begins
    while True:
        try:
            chunk = bytes(await stdin.receive_some(_CHUNK))
        except trio.BrokenResourceError:
            return
        *complete, rest = chunk.split(b"\n")
        if not chunk and (held or head):
            complete = [rest]  # a last line without a newline
        for end in complete:
            held += end
            if head is not None or len(held) > _LONGEST_LINE:
                log.warning("mcp_line_too_long", most=_LONGEST_LINE)
                yield messages.too_long(head or bytes(held[:_ENDS]), bytes(held[-_ENDS:]), _LONGEST_LINE)
            elif held.strip():
                yield bytes(held)
            held.clear()
            head = None
        if not chunk:
            return
        held += rest
        if head is not None:
            del held[:-_ENDS]
        elif len(held) > _LONGEST_LINE:
            head = bytes(held[:_ENDS])
            del held[:-_ENDS]
