"""stdio: JSON lines on descriptors 0 and 1, which nothing else in this process or below it gets to see.

The SDK's own transport reads stdin in a thread, and so cannot be cancelled before the end of file.
This one can, at once. At the end of file it lets everything that was read be answered, as long as
that takes no more than a few seconds: a host that was killed leaves no more behind than that.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import AsyncIterator, Callable, Generator
from typing import Any, Final

import anyio
import trio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.server.lowlevel import Server
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCError, JSONRPCNotification, JSONRPCRequest, JSONRPCResponse, jsonrpc_message_adapter

from supervisor import log

__all__ = ["diverted", "serve"]

_LONGEST_LINE: Final = 1 << 24
_CHUNK: Final = 1 << 16
_LAST_ANSWERS_SECONDS: Final = 5


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
    """Serve one host over these descriptors until the end of file.

    ``answered`` is called after each answer; ``ending`` is set at the end of file, so that those who
    wait for something tell what they know.
    """
    connection = _Connection(answered, ending)
    to_server, from_host = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    to_host, from_server = anyio.create_memory_object_stream[SessionMessage](0)
    # Duplicates, because a stream closes what it reads, and these are put back when all is over.
    async with (
        trio.lowlevel.FdStream(os.dup(ends[0])) as stdin,
        trio.lowlevel.FdStream(os.dup(ends[1])) as stdout,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(connection.read, stdin, to_server)
        nursery.start_soon(connection.write, stdout, from_server)
        await server.run(from_host, to_host, server.create_initialization_options())
        nursery.cancel_scope.cancel()


def _key(request_id: str | int) -> tuple[type, str | int]:
    return type(request_id), request_id


class _Connection:
    """Knows which requests have been read and not been answered."""

    def __init__(self, answered: Callable[[], None], ending: trio.Event) -> None:
        self._answered = answered
        self._ending = ending
        self._open: set[tuple[type, str | int]] = set()
        self._all_answered = trio.Event()
        self._at_end = False

    async def read(self, stdin: trio.abc.ReceiveStream, to_server: MemoryObjectSendStream[Any]) -> None:
        """Hand the host's messages to the server; then wait for the last answers, and end it."""
        async with to_server:
            async for line in _lines(stdin):
                try:
                    message = jsonrpc_message_adapter.validate_json(line, by_name=False)
                except ValueError as error:
                    log.warning("mcp_not_a_message", error=str(error)[:200])
                    await to_server.send(error)
                    continue
                self._note_read(message)
                await to_server.send(SessionMessage(message))
            self._at_end = True
            self._ending.set()
            self._check()
            with trio.move_on_after(_LAST_ANSWERS_SECONDS):
                await self._all_answered.wait()

    def _note_read(self, message: Any) -> None:
        match message:
            case JSONRPCRequest():
                self._open.add(_key(message.id))
            case JSONRPCNotification(method="notifications/cancelled"):
                cancelled = (message.params or {}).get("requestId")
                if isinstance(cancelled, str | int):  # it will not be answered any more
                    self._open.discard(_key(cancelled))
            case _:
                pass

    def _check(self) -> None:
        if self._at_end and not self._open:
            self._all_answered.set()

    async def write(self, stdout: trio.abc.SendStream, from_server: MemoryObjectReceiveStream[SessionMessage]) -> None:
        """Write the server's messages, one a line."""
        async with from_server:
            async for message in from_server:
                text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
                try:
                    await stdout.send_all(f"{text}\n".encode())
                except trio.BrokenResourceError:
                    log.info("mcp_host_gone")
                    self._open.clear()
                    self._all_answered.set()
                    return
                if isinstance(message.message, JSONRPCResponse | JSONRPCError):
                    if message.message.id is not None:
                        self._open.discard(_key(message.message.id))
                    self._answered()
                    self._check()


async def _lines(stdin: trio.abc.ReceiveStream) -> AsyncIterator[bytes]:
    """Yield lines that are not empty; one that is longer than any message is skipped."""
    held = bytearray()
    skipping = False
    while True:
        try:
            chunk = await stdin.receive_some(_CHUNK)
        except trio.BrokenResourceError:
            return
        *complete, rest = chunk.split(b"\n")
        for end in complete:
            held += end
            if not skipping and held.strip():
                yield bytes(held)
            held.clear()
            skipping = False
        if not skipping:
            held += rest
        if len(held) > _LONGEST_LINE:
            log.warning("mcp_line_too_long", most=_LONGEST_LINE)
            held.clear()
            skipping = True
        if not chunk:
            if held.strip():
                yield bytes(held)
            return
