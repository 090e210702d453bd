"""Checks Host and Origin, against web pages in a browser on this machine.

A page of another site can make the browser send requests to loopback, and can give its own name the address of
loopback (DNS rebinding). The browser then names that site in Origin, and in Host.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from supervisor.errors import PermissionDenied
from supervisor.http.asgi import App, Message, Receive, Send
from supervisor.http.listening import Address
from supervisor.http.problems import refuse

__all__ = ["KnownHosts"]

_PORT: Final = re.compile(r":[0-9]{1,5}")


class KnownHosts:
    """Refuses requests whose Host or Origin is not a name of this server.

    Args:
        app: the application behind it.
        address: the address of the server.
        allowed_hosts: further names by which clients address it.
    """

    def __init__(self, app: App, address: Address, allowed_hosts: Sequence[str]) -> None:
        self._app = app
        names = set(allowed_hosts)
        host = f"[{address.host}]" if ":" in address.host else address.host
        if address.loopback:
            names |= {"127.0.0.1", "localhost", "[::1]"}
        if host not in {"0.0.0.0", "[::]"}:  # noqa: S104  # no client connects to these
            names.add(host)
        self._hosts = {name.lower().encode("latin-1", "replace") for name in names}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve a request from this server's own names. There are no WebSockets, which the other checks do not know."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
            return
        if scope["type"] == "http":
            given = {name: value for name, value in scope["headers"] if name in {b"host", b"origin"}}
            host, origin = given.get(b"host", b""), given.get(b"origin")
            if not self._is_known(host):
                message = "the Host header does not name this server"
                error = PermissionDenied(message, repair="Use its address, or start it with --allow-host NAME.")
                await refuse(send, error, status=421)
                return
            if origin is not None and not self._is_known(origin.partition(b"://")[2]):
                error = PermissionDenied("the request comes from a page of another site", repair="Send no Origin.")
                await refuse(send, error)
                return
        await self._app(scope, receive, send)

    def _is_known(self, given: bytes) -> bool:
        name = given.lower()
        if name in self._hosts:
            return True
        host, colon, port = name.rpartition(b":")
        return bool(colon) and host in self._hosts and _PORT.fullmatch((colon + port).decode("latin-1")) is not None
