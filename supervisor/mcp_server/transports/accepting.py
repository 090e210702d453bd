"""Taking connections, and never so many that nothing is left for the jobs.

Any user that reaches the port may connect before a token is asked for. So connections get at most half of what
this process may open; registry, records, output and keepers have the rest. When they are used up, the
oldest connection that serves no request makes room for a new one: of the peer that has the most of them.
A connection serves a request when all of it has been read, and its principal is known. Until then it
has a few seconds, whatever it says or leaves unsaid. Each connection is served by Hypercorn, and what goes
wrong with one ends that one.
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
from supervisor.mcp_server.transports.listening import peer_may

__all__ = ["Connection", "most_connections", "serve"]

_FEWEST: Final = 8
_MOST: Final = 4096
_FIRST_DELAY_SECONDS: Final = 0.05
_LONGEST_DELAY_SECONDS: Final = 1.0
_REQUEST_SECONDS: Final = 15.0
_SEND_SECONDS: Final = 30.0
_SENT_AT_ONCE: Final = 1 << 16


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
                accepting.start_soon(_Door(connections, converse).accept, listener)
                await shutdown()
                accepting.cancel_scope.cancel()
            await context.terminated.set()
            connections.cancel_scope.deadline = trio.current_time() + config.graceful_timeout
        await lifespan.wait_for_shutdown()
        around.cancel_scope.cancel()


class Connection:
    """A stream, as Hypercorn uses it, that knows whether it serves a request, and ends when none comes in time."""

    def __init__(self, stream: trio.SocketStream) -> None:
        """Give the peer as long as a request may take."""
        self._stream = stream
        self.socket = stream.socket
        self.scope = trio.CancelScope()
        self.scope.deadline = trio.current_time() + _REQUEST_SECONDS
        self.peer = self._peer()
        self._served = 0

    def _peer(self) -> object:
        name = self.socket.getpeername() if self.socket.family != socket.AF_UNIX else None
        return name[0] if isinstance(name, tuple) else name  # pyright: ignore[reportUnknownVariableType]

    @property
    def is_idle(self) -> bool:
        """Whether it serves no request that was read whole."""
        return not self._served

    @contextlib.contextmanager
    def request(self) -> Generator[Callable[[], None]]:
        """Note a request from its first line to its last answer; call what is given when it has been read whole."""
        whole = False

        def is_whole() -> None:
            nonlocal whole
            if not whole:
                whole = True
                self._served += 1
                self.scope.deadline = math.inf

        try:
            yield is_whole
        finally:
            if whole:
                self._served -= 1
                if not self._served:
                    self.scope.deadline = trio.current_time() + _REQUEST_SECONDS

    async def receive_some(self, most: int | None = None) -> bytes:
        """Receive."""
        return bytes(await self._stream.receive_some(most))

    async def send_all(self, data: bytes) -> None:
        """Send; a peer that takes nothing for long is taken to be gone. Hypercorn does not let this be cancelled."""
        for begin in range(0, len(data), _SENT_AT_ONCE):
            with trio.move_on_after(_SEND_SECONDS) as patience:
                await self._stream.send_all(data[begin : begin + _SENT_AT_ONCE])
            if patience.cancelled_caught:
                message = "the peer takes nothing"
                raise trio.BrokenResourceError(message)

    async def send_eof(self) -> None:
        """Send no more."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close the stream."""
        await self._stream.aclose()


def most_connections() -> int:
    """Return how many connections are held at once, by the limit of open files as it is now."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST if soft == resource.RLIM_INFINITY else max(_FEWEST, min(_MOST, soft // 2))


class _Door:
    """Lets connections in, each of which is served in a nursery."""

    def __init__(self, nursery: trio.Nursery, converse: Callable[[Connection], Awaitable[None]]) -> None:
        self._nursery = nursery
        self._converse = converse
        self._held: dict[Connection, None] = {}
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
                    self._end_an_idle_one()
                    await trio.sleep(delay)
                    continue
                delay = 0.0
                try:
                    if stream.socket.family == socket.AF_UNIX and not peer_may(stream.socket):  # type: ignore[arg-type]
                        await trio.aclose_forcefully(stream)
                        continue
                    connection = Connection(stream)
                except OSError:  # gone already
                    await trio.aclose_forcefully(stream)
                    continue
                self._held[connection] = None
                self._nursery.start_soon(self._serve, connection)
                while len(self._held) > most_connections():
                    self._left = trio.Event()
                    self._end_an_idle_one(but=connection)
                    await self._left.wait()

    def _end_an_idle_one(self, but: Connection | None = None) -> None:
        idle = [each for each in self._held if each.is_idle and each is not but and not each.scope.cancel_called]
        if idle:
            ((peer, _),) = Counter(each.peer for each in idle).most_common(1)
            next(each for each in idle if each.peer == peer).scope.cancel()

    async def _serve(self, connection: Connection) -> None:
        try:
            with connection.scope:
                await self._converse(connection)
        except Exception as error:  # noqa: BLE001  # one client's trouble is not that of all others
            log.warning("mcp_connection_failed", error=repr(error))
        finally:
            del self._held[connection]
            self._left.set()
            await trio.aclose_forcefully(connection)  # type: ignore[arg-type]
