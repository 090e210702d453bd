"""Streamable HTTP at ``/mcp``: the SDK's application, behind the checks that all HTTP of this package has.

Other users of a machine reach its loopback, and so do web pages in a browser on it. So every request needs
a bearer token, unless ``--no-token`` was given for loopback, and Host and Origin are checked. A client that
disconnects cancels only its own requests: jobs are in processes of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from mcp.server import ServerRequestContext
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.context import CallNext, HandlerResult
from mcp.server.lowlevel import Server
from mcp.server.transport_security import TransportSecuritySettings

from supervisor.http.asgi import App, Message, Receive, Send
from supervisor.http.guard import Caller
from supervisor.http.shares import Room
from supervisor.mcp_server.tools.answers import MAX_CHARACTERS
from supervisor.mcp_server.transports.sessions import SESSION_IDLE_SECONDS, Sessions

__all__ = ["Endpoint"]

_MAX_BODY_BYTES: Final = 4 << 20
_RESOURCE_BYTES: Final = 4 << 20
_CHARACTER_BYTES: Final = 4
"""A tool answers twice, as text and as structured content, and may escape characters."""


class Endpoint:
    """The application at ``/mcp``, for requests whose caller is known and whose Host and Origin are checked."""

    def __init__(self, server: Server[Any]) -> None:
        self._sdk = server.streamable_http_app(
            max_request_body_size=_MAX_BODY_BYTES,
            session_idle_timeout=SESSION_IDLE_SECONDS,
            transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
        )
        self._app: App = Sessions(self._sdk)
        server.middleware.append(_with_room)

    def running(self) -> AbstractAsyncContextManager[Any]:
        """Return the context in which it serves its requests."""
        return self._sdk.router.lifespan_context(self._sdk)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve a request, or the lifespan of a server that has no other endpoint."""
        if scope["type"] == "http":
            caller: Caller = scope["caller"]
            if caller.principal is not None:
                # The SDK's own class: a session then accepts only requests of the principal that opened it.
                user = AuthenticatedUser(AccessToken(token=caller.token, client_id=caller.principal, scopes=[]))
                scope = {**scope, "user": user}
        await self._app(scope, receive, send)


async def _with_room(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    """Serve a request whose answer may be large once the unread answers of its caller leave room for it."""
    scope = getattr(ctx.request, "scope", None)
    room: Room | None = None if scope is None else scope.get("room")
    size = _answer_bytes(ctx.method, ctx.params or {})
    if room is not None and size:
        await room.reserve(size)
    return await call_next(ctx)


def _answer_bytes(method: str, params: Mapping[str, Any]) -> int:
    """Return how large the answer of a request may be; 0 for a small one."""
    if method == "resources/read":
        return _RESOURCE_BYTES
    arguments = params.get("arguments") if method == "tools/call" else None
    most = arguments.get("max_characters") if isinstance(arguments, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    if not isinstance(most, int) or most <= MAX_CHARACTERS:
        return 0
    return min(most * _CHARACTER_BYTES, _RESOURCE_BYTES)
