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
from typing import Any, Final, cast

import anyio
import trio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.server.lowlevel import Server
from mcp.shared.dispatcher import coerce_request_id
from mcp.shared.message import SessionMessage
from mcp_types import (
    INVALID_REQUEST,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
)

from supervisor import log
from supervisor.mcp_server.transports import messages
from supervisor.mcp_server.transports.opening import NOT_OPENED, Opened

__all__ = ["diverted", "serve"]

_MAX_LINE_BYTES: Final = 1 << 24
_CHUNK: Final = 1 << 16
_MAX_END_BYTES: Final = 1 << 16
_LAST_ANSWERS_SECONDS: Final = 5

# While a host does not read its answers, its requests are not read, so that the waiting answers stay few.
_MAX_UNSENT: Final = 16
_MAX_OPEN: Final = 1024
_MAX_OPEN_BYTES: Final = 1 << 25
"""What all unanswered requests hold together: two of the longest."""
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
    server: Server[Any],
    ends: tuple[int, int],
    *,
    answered: Callable[[], None],
    ending: trio.Event,
    opened: Opened = NOT_OPENED,
    differs: Callable[[], None] = lambda: None,
) -> None:
    """Serve one host over these descriptors until the end of file, or until it no longer reads answers.

    Args:
        server: the server.
        ends: the descriptors of the host's requests and of the answers.
        answered: called after each answer.
        ending: set at the end of file, so that calls that wait answer with the current state.
        opened: what was read and answered before.
        differs: called if the server answers the opening request in another way than it was answered.
    """
    to_server, from_host = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    to_host, from_server = anyio.create_memory_object_stream[SessionMessage](0)
    # Duplicates, because a stream closes its descriptor, and ``diverted`` restores the originals.
    async with (
        trio.lowlevel.FdStream(os.dup(ends[0])) as stdin,
        trio.lowlevel.FdStream(os.dup(ends[1])) as stdout,
        trio.open_nursery() as nursery,
    ):
        connection = _Connection(ends, stdout, from_server, answered, ending, opened, differs)
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
        opened: Opened,
        differs: Callable[[], None],
    ) -> None:
        self._opened = opened
        self._differs = differs
        self._sent: dict[tuple[type, str | int], bytes] = {}
        self._ends = ends
        self._stdout = stdout
        self._from_server = from_server
        self._answered = answered
        self._ending = ending
        self._open: dict[tuple[type, str | int], int] = {}  # the sizes of unanswered requests
        self._all_answered = trio.Event()
        self._progress = trio.Event()
        self._writing = trio.Lock()
        self._at_end = False
        self._is_sending = False

    async def read(self, stdin: trio.abc.ReceiveStream, to_server: MemoryObjectSendStream[Any]) -> None:
        """Pass the host's messages to the server; at the end of file, wait for the last answers."""
        lines = _lines(stdin, self._opened.unread, ended=self._opened.ended)
        async with to_server, contextlib.aclosing(lines) as lines:
            for replayed in map(messages.parse, self._opened.replayed):
                if isinstance(replayed, JSONRPCRequest):
                    self._sent[_key(replayed.id)] = self._opened.answer
                self._track(replayed, 0)
                await to_server.send(SessionMessage(cast("JSONRPCMessage", replayed)))
            async for line in lines:
                found, size = (messages.parse(line), len(line)) if isinstance(line, bytes) else (line, 0)
                if isinstance(found, Iterator):
                    await self._refuse(found)
                    continue
                if isinstance(found, JSONRPCRequest):
                    if not await self._may_read(size) or _is_hung_up(self._ends[1]):
                        break
                    if (refusal := self._why_not(found, size)) is not None:
                        await self._refuse([refusal])
                        continue
                self._track(found, size)
                await to_server.send(SessionMessage(found))
            self._at_end = True
            self._ending.set()
            self._check_end()
            with trio.move_on_after(_LAST_ANSWERS_SECONDS):
                await self._all_answered.wait()

    def _is_full(self, size: int) -> bool:
        """Whether a request of so many bytes more is too much."""
        return len(self._open) >= _MAX_OPEN or (bool(self._open) and sum(self._open.values()) + size > _MAX_OPEN_BYTES)

    def _why_not(self, request: JSONRPCRequest, size: int) -> messages.Refusal | None:
        """Return the refusal of a request that cannot be served now."""
        text = json.dumps(request.id).encode()
        if _key(request.id) in self._open:  # the server would forget the first one, which then counts no more
            return messages.Refusal(text, INVALID_REQUEST, "Invalid request: one with the same id is unanswered")
        if self._is_full(size):
            why = "too many requests are unanswered, or too large ones; send this one again after an answer"
            return messages.Refusal(text, _BUSY, why)
        return None

    async def _may_read(self, size: int) -> bool:
        """Wait until the host has read most of its answers; return false if it has closed stdin instead."""
        patience = trio.current_time() + _PATIENCE_SECONDS
        while True:
            unsent = self._from_server.statistics().tasks_waiting_send
            if unsent < _MAX_UNSENT and (
                not self._is_full(size) or trio.current_time() >= patience  # all of them may take long
            ):
                return True
            with trio.move_on_after(_PATIENCE_SECONDS) as scope:
                await self._progress.wait()
            if unsent and scope.cancelled_caught and _is_hung_up(self._ends[0]):
                return False

    def _track(self, message: Any, size: int) -> None:
        match message:
            case JSONRPCRequest():
                self._open[_key(message.id)] = size
            case JSONRPCNotification(method="notifications/cancelled"):
                cancelled = (message.params or {}).get("requestId")
                if isinstance(cancelled, str | int):  # there will be no answer
                    # The SDK treats "7" and 7 as one id, like hosts that store ids as text.
                    same = [key for key in self._open if coerce_request_id(key[1]) == coerce_request_id(cancelled)]
                    exact = _key(cancelled)
                    for key in [exact] if exact in same else same:
                        del self._open[key]
                    self._mark_progress()
            case _:
                pass

    def _mark_progress(self) -> None:
        progress, self._progress = self._progress, trio.Event()
        progress.set()
        self._check_end()

    def _check_end(self) -> None:
        if self._at_end and not self._open and not self._is_sending:
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

    def _unsent(self, message: JSONRPCMessage) -> bytes:
        """Return a message as a line; an empty one if the host has got this answer already."""
        line = messages.dumped(message)
        if self._sent and isinstance(message, JSONRPCResponse | JSONRPCError) and message.id is not None:
            sent = self._sent.pop(_key(message.id), None)
            if sent is not None:
                if sent != line:
                    log.warning("mcp_first_answer_differs", sent=sent[:1000].decode(), now=line[:1000].decode())
                    self._differs()
                return b""
        return line

    async def write(self) -> None:
        async with self._from_server:
            async for message in self._from_server:
                self._is_sending = True
                answer = message.message if isinstance(message.message, JSONRPCResponse | JSONRPCError) else None
                if answer is not None and answer.id is not None:
                    self._open.pop(_key(answer.id), None)  # first: the host may use the id again at once
                if not await self._send(self._unsent(message.message)):
                    log.info("mcp_host_gone")
                    self._open.clear()
                    self._all_answered.set()
                    return
                self._is_sending = False
                if answer is not None:
                    self._answered()
                self._mark_progress()


async def _lines(
    stdin: trio.abc.ReceiveStream, before: bytes, *, ended: bool
) -> AsyncGenerator[bytes | Iterator[messages.Refusal]]:
    """Yield lines that are not empty, and the refusals for a line that is too long.

    ``before`` was read from stdin before; ``ended``: until the end of file.
    """
    held = bytearray()
    head: bytes | None = None  # the begin of a line that is too long
    while True:
        try:
            chunk = before or (b"" if ended else bytes(await stdin.receive_some(_CHUNK)))
            before = b""
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
