"""Accepts connections, with a limit that leaves enough descriptors for the jobs.

Any user who reaches the port can connect before a token is checked. So connections get at most half of the
open files of this process; the index, records, output and keepers have the rest. At the limit, a new
connection replaces the oldest idle one of the peer that has the most idle connections. A connection is idle
until a request of it has been read completely and its principal is known; that must happen within a few
seconds. Hypercorn serves each connection, and an error in one ends only that one.
"""

from __future__ import annotations

import contextlib
import math
import resource
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Final

import trio
from hypercorn.config import Config
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState, LifespanState
from hypercorn.utils import wrap_app  # pyright: ignore[reportUnknownVariableType]

from supervisor import log
from supervisor.http.listening import peer_is_allowed

__all__ = ["Connection", "max_connections", "serve"]

_MIN_CONNECTIONS: Final = 8
_MAX_CONNECTIONS: Final = 4096
_FIRST_DELAY_SECONDS: Final = 0.05
_MAX_DELAY_SECONDS: Final = 1.0
_REQUEST_SECONDS: Final = 15.0
_SEND_SECONDS: Final = 30.0
_SENT_AT_ONCE: Final = 1 << 16
_HALF_CLOSED_SECONDS: Final = 2.0
"""A client that ends its side after a request looks like one that has gone: for so long it still gets its answer."""


async def serve(
    app: Any,
    config: Config,
    listener: socket.socket,
    *,
    shutdown: Callable[[], Awaitable[None]],
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an ASGI application to the clients of ``listener``, until ``shutdown`` returns."""
    wrapped = wrap_app(app, config.wsgi_max_body_size, "asgi")
    state: LifespanState = {}
    lifespan = Lifespan(wrapped, config, state)
    context = WorkerContext(None)

    async def converse(connection: Connection) -> None:
        await TCPServer(wrapped, config, context, ConnectionState({**state, "connection": connection}), connection)  # type: ignore[arg-type]

    async with trio.open_nursery() as around:
        await around.start(lifespan.handle_lifespan)
        await lifespan.wait_for_startup()
        async with trio.open_nursery() as connections:
            task_status.started()
            async with trio.open_nursery() as accepting:
                accepting.start_soon(_Acceptor(connections, converse).accept, listener)
                await shutdown()
                accepting.cancel_scope.cancel()
            await context.terminated.set()
            connections.cancel_scope.deadline = trio.current_time() + config.graceful_timeout
        await lifespan.wait_for_shutdown()
        around.cancel_scope.cancel()


class Connection:
    """A stream for Hypercorn, which ends unless a complete request arrives in time."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self.socket = stream.socket
        self.scope = trio.CancelScope()
        self.scope.deadline = trio.current_time() + _REQUEST_SECONDS
        self.peer = self._peer()
        self._served = 0
        self._begun = 0
        self._all_over = trio.Event()

    def _peer(self) -> object:
        name = self.socket.getpeername() if self.socket.family != socket.AF_UNIX else None
        return name[0] if isinstance(name, tuple) else name  # pyright: ignore[reportUnknownVariableType]

    @property
    def is_idle(self) -> bool:
        """Whether it serves no completely read request."""
        return not self._served

    @contextlib.contextmanager
    def request(self) -> Generator[Callable[[], None]]:
        """Enclose a request; the caller calls the yielded function once the request has been read completely."""
        complete = False

        def mark_complete() -> None:
            nonlocal complete
            if not complete:
                complete = True
                self._served += 1
                self.scope.deadline = math.inf

        self._begun += 1
        try:
            yield mark_complete
        finally:
            self._begun -= 1
            if not self._begun:
                over, self._all_over = self._all_over, trio.Event()
                over.set()
            if complete:
                self._served -= 1
                if not self._served:
                    self.scope.deadline = trio.current_time() + _REQUEST_SECONDS

    async def receive_some(self, most: int | None = None) -> bytes:
        """Receive bytes; the end of what the peer sends is reported once its requests are answered, or soon."""
        found = bytes(await self._stream.receive_some(most))
        if not found and self._begun:
            with trio.move_on_after(_HALF_CLOSED_SECONDS):
                await self._all_over.wait()
        return found

    async def send_all(self, data: bytes) -> None:
        """Send bytes; a peer that reads nothing for a long time counts as gone. Hypercorn shields this call."""
        for begin in range(0, len(data), _SENT_AT_ONCE):
            with trio.move_on_after(_SEND_SECONDS) as patience:
                await self._stream.send_all(data[begin : begin + _SENT_AT_ONCE])
            if patience.cancelled_caught:
                message = "the peer does not read"
                raise trio.BrokenResourceError(message)

    async def send_eof(self) -> None:
        """Close the sending side."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close the stream."""
        await self._stream.aclose()


def max_connections() -> int:
    """Return the maximum number of connections, by the current limit of open files."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (
        _MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else max(_MIN_CONNECTIONS, min(_MAX_CONNECTIONS, soft // 2))
    )


class _Acceptor:
    def __init__(self, nursery: trio.Nursery, converse: Callable[[Connection], Awaitable[None]]) -> None:
        self._nursery = nursery
        self._converse = converse
        self._open: dict[Connection, None] = {}
        self._closed = trio.Event()

    async def accept(self, listener: socket.socket) -> None:
        delay = 0.0
        async with trio.SocketListener(trio.socket.from_stdlib_socket(listener)) as accepting:
            while True:
                try:
                    stream = await accepting.accept()
                except OSError as error:  # no free descriptor or memory; new connections wait in the kernel's queue
                    if not delay:
                        log.warning("mcp_connection_not_accepted", error=str(error))
                    delay = min(_MAX_DELAY_SECONDS, delay * 2 or _FIRST_DELAY_SECONDS)
                    self._end_idle()
                    await trio.sleep(delay)
                    continue
                delay = 0.0
                try:
                    if stream.socket.family == socket.AF_UNIX and not peer_is_allowed(stream.socket):  # type: ignore[arg-type]
                        await trio.aclose_forcefully(stream)
                        continue
                    connection = Connection(stream)
                except OSError:  # disconnected already
                    await trio.aclose_forcefully(stream)
                    continue
                self._open[connection] = None
                self._nursery.start_soon(self._serve, connection)
                while len(self._open) > max_connections():
                    self._closed = trio.Event()
                    self._end_idle(but=connection)
                    await self._closed.wait()

    def _end_idle(self, but: Connection | None = None) -> None:
        """End the oldest idle connection of the peer that has the most."""
        idle = [each for each in self._open if each.is_idle and each is not but and not each.scope.cancel_called]
        if idle:
            ((peer, _),) = Counter(each.peer for each in idle).most_common(1)
            next(each for each in idle if each.peer == peer).scope.cancel()

    async def _serve(self, connection: Connection) -> None:
        try:
            with connection.scope:
                await self._converse(connection)
        except Exception as error:  # noqa: BLE001  # an error of one connection must not end the others
            log.warning("mcp_connection_failed", error=repr(error))
        finally:
            del self._open[connection]
            self._closed.set()
            await trio.aclose_forcefully(connection)  # type: ignore[arg-type]
