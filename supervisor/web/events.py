"""The operation ``GET /v1/events``: starts and ends of jobs as server-sent events, as they happen.

The id of an event is its position in the journal. A client that sends the last one as ``Last-Event-ID`` goes on after
it, also after a kill of the server, or with another server on the state root.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Mapping
from typing import Final

import trio
from starlette.responses import Response

from supervisor.errors import InvalidArguments, SupervisorError
from supervisor.http.asgi import Message, Receive, Send
from supervisor.http.guard import Caller
from supervisor.mcp_server.config.arguments import Parameter
from supervisor.store.journal import Position
from supervisor.web.feed import Feed
from supervisor.web.operations import Call, Operation

__all__ = ["OPERATIONS"]

_MEDIA_TYPE: Final = "text/event-stream"
_HEADERS: Final = {"cache-control": "no-store", "x-accel-buffering": "no"}
_QUIET_SECONDS: Final = 15.0
"""A stream without events says that it lives, for proxies, and how far its client is."""
_RETRY_SECONDS: Final = 1.0
_RESET: Final = 'event: reset\ndata: {"repair": "Some events are gone. Read GET /v1/jobs, then go on."}\n'
_LAST: Final = Parameter(name="Last-Event-ID", max_length=40, description="The id of the last event that was read.")
_JOB_ID: Final = Parameter(name="job_id", max_length=64, description="Only the events of this job.")


async def _events(call: Call) -> Response:
    feed, job_id = call.service.feed, call.query["job_id"]
    if job_id is not None:
        await call.service.job(call.caller, job_id)
    last = call.request.headers.get(_LAST.name)
    position = await feed.end() if last is None else Position.parse(last)
    if position is None:
        message = f"Last-Event-ID is {last!r:.80}, which is no id of an event"
        raise InvalidArguments(message, repair="Send the id of an event, or none to begin now.")
    return _Streaming(_stream(feed, position, call.caller, job_id), headers=_HEADERS, media_type=_MEDIA_TYPE)


class _Streaming(Response):
    """A response with parts that come over time; it ends with them, or with its client."""

    def __init__(self, parts: AsyncGenerator[bytes], headers: Mapping[str, str], media_type: str) -> None:
        super().__init__(headers=headers, media_type=media_type)
        del self.headers["content-length"]
        self._parts = parts

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        del scope

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            nursery.cancel_scope.cancel()

        async with contextlib.aclosing(self._parts) as parts, trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for part in parts:
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
            nursery.cancel_scope.cancel()


async def _stream(feed: Feed, position: Position, caller: Caller, job_id: str | None) -> AsyncGenerator[bytes]:
    feed.listening += 1
    try:
        yield f"retry: {round(_RETRY_SECONDS * 1000)}\nid: {position}\n\n".encode()
        while not feed.closed:
            try:
                part = await feed.after(position, caller, job_id)
            except SupervisorError:  # the state root cannot be read now
                await trio.sleep(_RETRY_SECONDS)
                continue
            moved, position = part.position != position, part.position
            if part.is_reset:
                yield f"id: {position}\n{_RESET}\n".encode()
            elif part.text:
                yield part.text
            elif not moved:
                with trio.move_on_after(_QUIET_SECONDS) as patience:
                    await feed.wait(position)
                if patience.cancelled_caught:
                    yield f": nothing new\nid: {position}\n\n".encode()
    finally:
        feed.listening -= 1


OPERATIONS: Final = (
    Operation(
        method="GET",
        path="/v1/events",
        summary="Listen to the starts and ends of jobs, as server-sent events.",
        query=(_JOB_ID,),
        headers=(_LAST,),
        run=_events,
        answer="Text",
        media=_MEDIA_TYPE,
    ),
)
