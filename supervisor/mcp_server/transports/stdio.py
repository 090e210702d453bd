"""stdio: JSON lines on descriptors 0 and 1, which are hidden from the rest of this process and its children.

The SDK's own transport reads stdin in a thread, and cannot be cancelled before the end of file. This one can
be cancelled at once. At the end of file, it waits a few seconds for the answers to all requests. So the server
ends soon after its host was killed.
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

_MAX_LINE_BYTES: Final = 1 << 24
_CHUNK: Final = 1 << 16
_MAX_END_BYTES: Final = 1 << 16
_LAST_ANSWERS_SECONDS: Final = 5

# While a host does not read its answers, its requests are not read, so that the waiting answers stay few.
_MAX_UNSENT: Final = 16
_MAX_OPEN: Final = 1024
_PATIENCE_SECONDS: Final = 5
_POLL_SECONDS: Final = 1
_BUSY: Final = -32000


@contextlib.contextmanager
def diverted() -> Generator[tuple[int, int]]:
    """Replace descriptors 0 and 1 by an empty stdin and by stderr, and yield private copies of the originals.

    So the output of children, and of ``print``, does not mix with the protocol.
    """
    originals = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, 3) for each in (0, 1)]
    nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.dup2(nothing, 0)
        os.dup2(2, 1)
        yield originals[0], originals[1]
    finally:
        os.close(nothing)
        for number, each in enumerate(originals):
            os.dup2(each, number)
            os.close(each)


async def serve(
    server: Server[Any], ends: tuple[int, int], *, answered: Callable[[], None], ending: trio.Event
) -> None:
    """Serve one host over these descriptors until the end of file, or until it no longer reads answers.

    ``answered`` is called after each answer. ``ending`` is set at the end of file, so that calls that wait
    answer with the current state.
    """
    to_server, from_host = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    to_host, from_server = anyio.create_memory_object_stream[SessionMessage](0)
    # Duplicates, because a stream closes its descriptor, and ``diverted`` restores the originals.
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
    """Return once the reader of a descriptor has closed it."""
    try:
        while not _is_hung_up(descriptor):
            await trio.lowlevel.wait_readable(descriptor)  # a closed reader wakes it
            if not _is_hung_up(descriptor):  # a terminal, or a socket that stdin shares, has data to read
                await trio.sleep(_POLL_SECONDS)
    except OSError:  # a file, which has no reader
        await trio.sleep_forever()


def _is_hung_up(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, 0)
    return bool(poll.poll(0))


def _key(request_id: str | int) -> tuple[type, str | int]:
    return type(request_id), request_id


class _Connection:
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
        """Pass the host's messages to the server; at the end of file, wait for the last answers."""
        async with to_server, contextlib.aclosing(_lines(stdin)) as lines:
            async for line in lines:
                found = messages.parse(line) if isinstance(line, bytes) else line
                if isinstance(found, Iterator):
                    await self._refuse(found)
                    continue
                if isinstance(found, JSONRPCRequest):
                    if not await self._may_read() or _is_hung_up(self._ends[1]):
                        break
                    if len(self._open) >= _MAX_OPEN:
                        why = f"{_MAX_OPEN} requests are unanswered; send this one again after an answer"
                        await self._refuse([messages.Refusal(json.dumps(found.id).encode(), _BUSY, why)])
                        continue
                self._track(found)
                await to_server.send(SessionMessage(found))
            self._at_end = True
            self._ending.set()
            self._check_end()
            with trio.move_on_after(_LAST_ANSWERS_SECONDS):
                await self._all_answered.wait()

    async def _may_read(self) -> bool:
        """Wait until the host has read most of its answers; return false if it has closed stdin instead."""
        patience = trio.current_time() + _PATIENCE_SECONDS
        while True:
            unsent = self._from_server.statistics().tasks_waiting_send
            if unsent < _MAX_UNSENT and (
                len(self._open) < _MAX_OPEN or trio.current_time() >= patience  # all of them may take long
            ):
                return True
            with trio.move_on_after(_PATIENCE_SECONDS) as scope:
                await self._progress.wait()
            if unsent and scope.cancelled_caught and _is_hung_up(self._ends[0]):
                return False

    def _track(self, message: Any) -> None:
        match message:
            case JSONRPCRequest():
                self._open.add(_key(message.id))
            case JSONRPCNotification(method="notifications/cancelled"):
                cancelled = (message.params or {}).get("requestId")
                if isinstance(cancelled, str | int):  # there will be no answer
                    # The SDK treats "7" and 7 as one id, like hosts that store ids as text.
                    same = [key for key in self._open if coerce_request_id(key[1]) == coerce_request_id(cancelled)]
                    exact = _key(cancelled)
                    self._open.difference_update([exact] if exact in same else same)
                    self._mark_progress()
            case _:
                pass

    def _mark_progress(self) -> None:
        progress, self._progress = self._progress, trio.Event()
        progress.set()
        self._check_end()

    def _check_end(self) -> None:
        if self._at_end and not self._open:
            self._all_answered.set()

    async def _refuse(self, refusals: Iterable[messages.Refusal]) -> None:
        for refusal in refusals:
            log.warning("mcp_not_a_message", error=refusal.message)
            if not await self._send(refusal.line()):
                return

    async def _send(self, line: bytes) -> bool:
        """Write a line; return false if the host has closed stdout."""
        async with self._writing:
            try:
                await self._stdout.send_all(line)
            except trio.BrokenResourceError:
                return False
        return True

    async def write(self) -> None:
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
                self._mark_progress()


async def _lines(stdin: trio.abc.ReceiveStream) -> AsyncGenerator[bytes | Iterator[messages.Refusal]]:
    """Yield lines that are not empty, and the refusals for a line that is too long."""
    held = bytearray()
    head: bytes | None = None  # the begin of a line that is too long
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
            if head is not None or len(held) > _MAX_LINE_BYTES:
                log.warning("mcp_line_too_long", most=_MAX_LINE_BYTES)
                yield messages.too_long(
                    head or bytes(held[:_MAX_END_BYTES]), bytes(held[-_MAX_END_BYTES:]), _MAX_LINE_BYTES
                )
            elif held.strip():
                yield bytes(held)
            held.clear()
            head = None
        if not chunk:
            return
        held += rest
        if head is not None:
            del held[:-_MAX_END_BYTES]
        elif len(held) > _MAX_LINE_BYTES:
            head = bytes(held[:_MAX_END_BYTES])
            del held[:-_MAX_END_BYTES]
