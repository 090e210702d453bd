"""A stream of server-sent events for one open page; it ends with its reader, with its session, and with the server."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import trio
from starlette.responses import Response

from supervisor.http.asgi import Message, Receive, Send

__all__ = ["Emit", "EventStream", "Json"]

_SILENCE_SECONDS: Final = 15.0
"""After so long without an event, a comment says that the stream is there: proxies end silent ones."""


class Json(str):
    """The data of an event as JSON already, made once for several readers."""

    __slots__ = ()


Emit = Callable[..., Awaitable[None]]
"""``await emit(name, data, event_id=None)`` sends one event; it waits while the reader is slow."""


class EventStream(Response):
    """Answers with the events that ``produce`` emits until it returns.

    Args:
        produce: emits the events.
        ending: set when the server is about to end.
        allowed: whether the session of the reader is still valid; asked before each event.
        headers: of the answer.
    """

    def __init__(
        self,
        produce: Callable[[Emit], Awaitable[None]],
        *,
        ending: trio.Event,
        allowed: Callable[[], bool],
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(None, 200, {**headers, "x-accel-buffering": "no"}, "text/event-stream")
        del self.headers["content-length"]
        self._produce = produce
        self._ending = ending
        self._allowed = allowed

    async def __call__(self, _: Message, receive: Receive, send: Send) -> None:
        """Send the events."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        writing = trio.Lock()
        last = trio.current_time()

        async def write(text: str) -> None:
            nonlocal last
            async with writing:
                if not self._allowed():
                    nursery.cancel_scope.cancel()
                await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
                last = trio.current_time()

        async def emit(name: str, data: Any, event_id: str | None = None) -> None:
            number = "" if event_id is None else f"id: {event_id}\n"
            text = data if isinstance(data, Json) else json.dumps(data)
            await write(f"event: {name}\n{number}data: {text}\n\n")

        async def show_life() -> None:
            while True:
                await trio.sleep_until(last + _SILENCE_SECONDS)
                if trio.current_time() >= last + _SILENCE_SECONDS:
                    await write(": still here\n\n")

        async def until_gone() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            nursery.cancel_scope.cancel()

        async def until_ending() -> None:
            await self._ending.wait()
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for task in (show_life, until_gone, until_ending):
                nursery.start_soon(task)
            await self._produce(emit)
            nursery.cancel_scope.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})
