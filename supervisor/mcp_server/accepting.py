"""Taking connections, and never so many that nothing is left for the jobs.

Whoever reaches the port may connect before a token is asked for. So connections get at most half of what
this process may open; registry, records, output and keepers have the rest. When they are used up, the
oldest connection that has said nothing yet makes room for a new one. Each connection is served by Hypercorn,
and what goes wrong with one ends that one.
"""

from __future__ import annotations

import resource
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio
from hypercorn.config import Config
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState, LifespanState
from hypercorn.utils import wrap_app

from supervisor import log

__all__ = ["serve"]

_FEWEST: Final = 8
_MOST: Final = 4096
_FIRST_DELAY_SECONDS: Final = 0.05
_LONGEST_DELAY_SECONDS: Final = 1.0


async def serve(
    app: Any,
    config: Config,
    listener: socket.socket,
    *,
    shutdown: Callable[[], Awaitable[None]],
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an ASGI application to whoever connects to ``listener``, until ``shutdown`` returns."""
    wrapped = wrap_app(app, config.wsgi_max_body_size, "asgi")
    state: LifespanState = {}
    lifespan = Lifespan(wrapped, config, state)
    context = WorkerContext(None)

    async def converse(connection: _Connection) -> None:
        await TCPServer(wrapped, config, context, ConnectionState(state.copy()), connection)  # type: ignore[arg-type]

    async with trio.open_nursery() as around:
        await around.start(lifespan.handle_lifespan)
        await lifespan.wait_for_startup()
        async with trio.open_nursery() as connections:
            task_status.started()
            async with trio.open_nursery() as accepting:
                accepting.start_soon(_Door(connections, converse).accept, listener)
                await shutdown()
                accepting.cancel_scope.cancel()
            await context.terminated.set()
            connections.cancel_scope.deadline = trio.current_time() + config.graceful_timeout
        await lifespan.wait_for_shutdown()
        around.cancel_scope.cancel()


class _Connection:
    """A stream, as Hypercorn uses it, that knows whether anything has come through it."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self.socket = stream.socket
        self.scope = trio.CancelScope()
        self.is_silent = True

    async def receive_some(self, most: int | None = None) -> bytes:
        data = await self._stream.receive_some(most)
        self.is_silent = False
        return bytes(data)

    async def send_all(self, data: bytes) -> None:
        await self._stream.send_all(data)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()


def _most_connections() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST if soft == resource.RLIM_INFINITY else max(_FEWEST, min(_MOST, soft // 2))


class _Door:
    """Lets connections in, each of which is served in a nursery."""

    def __init__(self, nursery: trio.Nursery, converse: Callable[[_Connection], Awaitable[None]]) -> None:
        self._nursery = nursery
        self._converse = converse
        self._held: dict[_Connection, None] = {}
        self._left = trio.Event()

    async def accept(self, listener: socket.socket) -> None:
        """Accept until cancelled."""
        delay = 0.0
        async with trio.SocketListener(trio.socket.from_stdlib_socket(listener)) as door:
            while True:
                try:
                    stream = await door.accept()
                except OSError as error:  # no descriptor is free, no memory: the queue of the kernel keeps who waits
                    if not delay:
                        log.warning("mcp_connection_not_accepted", error=str(error))
                    delay = min(_LONGEST_DELAY_SECONDS, delay * 2 or _FIRST_DELAY_SECONDS)
                    self._end_a_silent_one()
                    await trio.sleep(delay)
                    continue
                delay = 0.0
                connection = _Connection(stream)
                self._held[connection] = None
                self._nursery.start_soon(self._serve, connection)
                while len(self._held) > _most_connections():
                    self._left = trio.Event()
                    self._end_a_silent_one(but=connection)
                    await self._left.wait()

    def _end_a_silent_one(self, but: _Connection | None = None) -> None:
        for connection in self._held:
            if connection.is_silent and connection is not but and not connection.scope.cancel_called:
                connection.scope.cancel()
                return

    async def _serve(self, connection: _Connection) -> None:
        try:
            with connection.scope:
                await self._converse(connection)
        except Exception as error:  # noqa: BLE001  # one client's trouble is not that of all others
            log.warning("mcp_connection_failed", error=repr(error))
        finally:
            del self._held[connection]
            self._left.set()
            await trio.aclose_forcefully(connection)  # type: ignore[arg-type]
