"""A client of server-sent events, which reads no more than the test asks for."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping

import h11
import trio

from tests.web.conftest import PATIENCE


class Stream:
    """An open stream of events."""

    def __init__(self, connection: trio.SocketStream) -> None:
        self._connection = connection
        self._protocol = h11.Connection(h11.CLIENT)
        self._held = b""
        self.last = ""

    async def begin(self, target: str, headers: Mapping[str, str]) -> None:
        request = h11.Request(method="GET", target=target, headers=list({"Host": "localhost", **headers}.items()))
        await self._connection.send_all(self._protocol.send(request) or b"")
        answer = await self._receive()
        assert isinstance(answer, h11.Response)
        assert dict(answer.headers)[b"content-type"].startswith(b"text/event-stream")

    async def _receive(self) -> object:
        while (event := self._protocol.next_event()) is h11.NEED_DATA:
            self._protocol.receive_data(await self._connection.receive_some())
        return event

    async def block(self) -> dict[str, str]:
        """Return the fields of the next block; the last id is in ``last``. An empty one is the end."""
        with trio.fail_after(PATIENCE):
            while b"\n\n" not in self._held:
                event = await self._receive()
                if not isinstance(event, h11.Data):
                    return {}
                self._held += bytes(event.data)
        block, _, self._held = self._held.partition(b"\n\n")
        fields = {name: value for name, _, value in (line.partition(": ") for line in block.decode().split("\n"))}
        self.last = fields.get("id", self.last)
        return fields


@contextlib.asynccontextmanager
async def streaming(
    port: int, target: str, headers: Mapping[str, str], receive_bytes: int | None = None
) -> AsyncIterator[Stream]:
    """Open a stream; ``receive_bytes`` bounds what the kernel receives ahead of the reader."""
    connection = trio.socket.socket()
    with connection:
        if receive_bytes is not None:
            connection.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, receive_bytes)
        await connection.connect(("127.0.0.1", port))
        async with trio.SocketStream(connection) as opened:
            stream = Stream(opened)
            await stream.begin(target, headers)
            yield stream
