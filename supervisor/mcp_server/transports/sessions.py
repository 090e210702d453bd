"""The limit of sessions of each principal over HTTP.

A new session ends the least recently used one; its client then opens another, as the protocol says.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from supervisor import log
from supervisor.http.asgi import App, Message, Receive, Send
from supervisor.http.guard import Caller

__all__ = ["SESSION_IDLE_SECONDS", "Sessions"]

SESSION_IDLE_SECONDS: Final = 900.0
"""A session ends after this time without a request."""

_MAX_SESSIONS: Final = 100
_SESSION: Final = b"mcp-session-id"


class Sessions:
    """An application that limits the sessions of each principal of ``app``."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._sessions: dict[str | None, OrderedDict[bytes, int]] = {}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve a request whose principal is known."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        caller: Caller = scope["caller"]
        # Streams cannot be resumed, because events are not stored; with this header, the SDK would send none.
        scope = {**scope, "headers": [each for each in scope["headers"] if each[0] != b"last-event-id"]}
        await self._in_its_session(caller.principal, scope, receive, send)

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
