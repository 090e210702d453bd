"""Serves an ASGI application at an address, until it is asked to end."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import trio
from hypercorn.config import Config

from supervisor.http import accepting, listening
from supervisor.http.asgi import App, Message, Receive, Send
from supervisor.http.listening import Address

__all__ = ["serve"]

_LAST_ANSWERS_SECONDS: Final = 1.0
_MAX_UNREAD_BYTES: Final = 16 << 20
_UNREAD_SECONDS: Final = 2.0
_NO_BODY: Final = frozenset({"GET", "HEAD"})


async def serve(
    app: App,
    address: Address,
    *,
    shutdown: Callable[[], Awaitable[None]],
    started: Callable[[Address], None],
) -> None:
    """Serve until ``shutdown`` returns; clients then have a second for their last answers.

    ``started`` gets the bound address.

    Raises:
        PermissionDenied: the address cannot be bound.
    """
    listener = listening.listen(address)
    config = Config()
    config.graceful_timeout = _LAST_ANSWERS_SECONDS
    config.include_server_header = False
    config.accesslog = None
    config.errorlog = logging.getLogger("supervisor.mcp.http")
    bound = address if address.path else Address(address.host, listener.getsockname()[1])
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(accepting.serve, _Timely(app), config, listener, shutdown=shutdown))
            started(bound)
    finally:
        listening.remove_socket(address)


class _Timely:
    """Reports the complete requests of ``app``, for the time limit in ``accepting``, and reads what the app leaves."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve a request; once all of it has been read, the time limit ends.

        What the application has not read when it answers, as the body of a request that it refuses, is read and
        dropped: if a connection is closed with unread bytes, its client gets a reset in the place of the answer.
        """
        connection: accepting.Connection | None = scope.get("state", {}).get("connection")
        if connection is None or scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with connection.request() as mark_complete:
            is_complete = False

            async def read() -> Message:
                nonlocal is_complete
                message = await receive()
                if message["type"] != "http.request":
                    is_complete = True
                elif not message.get("more_body", False):
                    is_complete = True
                    mark_complete()
                return message

            async def answer(message: Message) -> None:
                if message["type"] == "http.response.start" and not is_complete and scope["method"] not in _NO_BODY:
                    left = _MAX_UNREAD_BYTES
                    with trio.move_on_after(_UNREAD_SECONDS):
                        while left > 0:
                            left -= len((await read()).get("body", b""))
                            if is_complete:
                                break
                await send(message)

            await self._app(scope, read, answer)
