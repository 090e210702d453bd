"""The limits of each caller over HTTP, which leave room for the others.

A request must be complete in time, see ``accepting``. The numbers of concurrent requests and of sessions of a
principal are limited. A new session ends the least recently used one; its client then opens another, as the
protocol says.
"""

from __future__ import annotations

import json
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, Final

from supervisor import log
from supervisor.mcp_server.transports.accepting import Connection, max_connections

__all__ = ["SESSION_IDLE_SECONDS", "App", "Limited", "Message", "Receive", "Send", "Timely", "refuse"]

SESSION_IDLE_SECONDS: Final = 900.0
"""A session ends after this time without a request."""

_MAX_SESSIONS: Final = 100
_SESSION: Final = b"mcp-session-id"
_SOON: Final = (b"retry-after", b"1")

Message = dict[str, Any]
"""An ASGI message, or a scope."""
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Any, Any], Awaitable[None]]


class Limited:
    """An application that limits the requests and sessions of each principal of ``app``."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._requests: Counter[str | None] = Counter()
        self._sessions: dict[str | None, OrderedDict[bytes, int]] = {}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve a request whose principal is known."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        principal = None if scope.get("user") is None else scope["user"].username
        if self._requests[principal] >= max(1, max_connections() // 2):
            await refuse(send, 429, "too_many_requests", "too many concurrent requests of this principal", _SOON)
            return
        # Streams cannot be resumed, because events are not stored; with this header, the SDK would send none.
        scope = {**scope, "headers": [each for each in scope["headers"] if each[0] != b"last-event-id"]}
        self._requests[principal] += 1
        try:
            await self._in_its_session(principal, scope, receive, send)
        finally:
            self._requests[principal] -= 1
            if not self._requests[principal]:
                del self._requests[principal]

    async def _in_its_session(self, principal: str | None, scope: Message, receive: Receive, send: Send) -> None:
        held = self._sessions.setdefault(principal, OrderedDict())
        session: bytes = next((value for name, value in scope["headers"] if name == _SESSION), b"")
        status = 0

        async def watch(message: Message) -> None:
            nonlocal status, session
            if message["type"] == "http.response.start":
                status = message["status"]
                opened: bytes = next((value for name, value in message["headers"] if name.lower() == _SESSION), b"")
                if opened and not session and status < 400:
                    session = opened
                    held[opened] = 1
                    await self._make_room(principal, held, scope)
            await send(message)

        if session in held:
            held[session] += 1
            held.move_to_end(session)
        try:
            await self._app(scope, receive, watch)
        finally:
            if session in held:
                held[session] -= 1
                if status == 404 or (scope["method"] == "DELETE" and status < 400):
                    del held[session]
            if not held:
                self._sessions.pop(principal, None)

    async def _make_room(self, principal: str | None, held: OrderedDict[bytes, int], scope: Message) -> None:
        while len(held) > _MAX_SESSIONS:
            idle = [each for each, requests in held.items() if not requests]
            oldest = (idle or list(held))[0]
            del held[oldest]
            log.info("mcp_session_ended", principal=principal or "", most=_MAX_SESSIONS)
            headers = [each for each in scope["headers"] if each[0] in {b"host", b"authorization"}]
            await self._app({**scope, "method": "DELETE", "headers": [*headers, (_SESSION, oldest)]}, _nothing, _drop)


async def _nothing() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _drop(_: Message) -> None:
    pass


class Timely:
    """An application that reports the complete requests of ``app``, for the time limit in ``accepting``."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve a request; once the application has read all of it, the time limit ends."""
        connection: Connection | None = scope.get("state", {}).get("connection")
        if connection is None or scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with connection.request() as mark_complete:

            async def read() -> Message:
                message = await receive()
                if message["type"] == "http.request" and not message.get("more_body", False):
                    mark_complete()
                return message

            await self._app(scope, read, send)


async def refuse(send: Send, status: int, error: str, why: str, *more: tuple[bytes, bytes]) -> None:
    """Answer a request with an error, in the format of OAuth bearer tokens."""
    body = json.dumps({"error": error, "error_description": why}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
