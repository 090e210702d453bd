"""The methods of the events extension: the starts and ends of jobs, for clients that poll or hold a stream.

It is built from the text of SEP-3415 with the status Draft (extension ``io.modelcontextprotocol/events``), and from the
draft Task Event Sources; docs/mcp.md says what of them is here, and what they leave open. Events are those of the
journal, and a cursor is a position in it. So nothing is kept for a client that polls or streams between two of its
requests, and after any process was killed, a client goes on where it stopped. Webhooks are in ``subscribing``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import trio
from mcp.server.context import HandlerResult, ServerRequestContext
from mcp.server.extension import Extension, MethodBinding
from mcp.server.subscriptions import SUBSCRIPTION_ID_META_KEY
from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS, Notification, ServerNotification

from supervisor.errors import JobNotFound, SupervisorError
from supervisor.mcp_server.access.jobs import visible
from supervisor.mcp_server.access.principals import principal_of
from supervisor.mcp_server.changes import Changes
from supervisor.mcp_server.events.params import ListParams, PollParams, SubscribeParams, UnsubscribeParams
from supervisor.mcp_server.events.reading import (
    FORBIDDEN,
    INPUT,
    MAX_EVENTS,
    PAYLOAD,
    RESOURCE_EXHAUSTED,
    TYPES,
    Batch,
    Wanted,
    check_access,
    checked,
    position_of,
    read,
)
from supervisor.mcp_server.lazy import LazySupervisor
from supervisor.mcp_server.tasks.state import MODERN_VERSION
from supervisor.store.journal import ENDED, Position

if TYPE_CHECKING:
    from supervisor.mcp_server.events.subscribing import Webhooks

__all__ = ["EXTENSION_ID", "Events"]

EXTENSION_ID: Final = "io.modelcontextprotocol/events"

_Context = ServerRequestContext[Any, Any]

_MAX_STREAMS: Final = 128
"""Of one principal, at once."""
_POLL_MS: Final = 5000
_HEARTBEAT_SECONDS: Final = 20.0
_LOOK_SECONDS: Final = 0.002
"""What one more stream costs for each commit; so streams never take most of the time of the server."""


class _EventNotification(Notification[dict[str, Any], str]):
    method: str
    params: dict[str, Any]


class Events(Extension):
    """The extension, over the journal of a state root.

    Args:
        lazy: opens the supervisor.
        changes: wakes streams.
        webhooks: makes and ends subscriptions; ``None`` where callers have no tokens.
    """

    identifier = EXTENSION_ID

    def __init__(self, lazy: LazySupervisor, changes: Changes, webhooks: Webhooks | None = None) -> None:
        self._lazy = lazy
        self._changes = changes
        self._webhooks = webhooks
        self._streams: Counter[str | None] = Counter()

    def methods(self) -> Sequence[MethodBinding]:
        """Return the methods, of the protocol version for which the extension is defined."""
        version = frozenset({MODERN_VERSION})
        return (
            MethodBinding("events/list", ListParams, self._list, version),
            MethodBinding("events/poll", PollParams, self._poll, version),
            MethodBinding("events/stream", PollParams, self._stream, version),
            MethodBinding("events/subscribe", SubscribeParams, self._subscribe, version),
            MethodBinding("events/unsubscribe", UnsubscribeParams, self._unsubscribe, version),
        )

    # ------------------------------------------------------------ requests

    async def _list(self, ctx: _Context, params: ListParams) -> HandlerResult:
        if params.cursor is not None:
            raise MCPError(INVALID_PARAMS, "there is only one page of event types")
        has_webhooks = self._webhooks is not None and principal_of(ctx) is not None
        types = [
            {
                "name": name,
                "description": description,
                "delivery": ["poll", "push", *(["webhook"] if has_webhooks else [])],
                "inputSchema": dict(INPUT),
                "payloadSchema": dict(PAYLOAD),
            }
            for name, description in TYPES.items()
        ]
        return {"resultType": "complete", "events": types}

    async def _subscribe(self, ctx: _Context, params: SubscribeParams) -> HandlerResult:
        return await self._with_webhooks().subscribe(principal_of(ctx), params)

    async def _unsubscribe(self, ctx: _Context, params: UnsubscribeParams) -> HandlerResult:
        return await self._with_webhooks().unsubscribe(principal_of(ctx), params)

    def _with_webhooks(self) -> Webhooks:
        if self._webhooks is None:
            message = "only a principal with a token can subscribe; the events are there by poll and push"
            raise MCPError(FORBIDDEN, message)
        return self._webhooks

    async def _poll(self, ctx: _Context, params: PollParams) -> HandlerResult:
        if params.max_events is not None and params.max_events < 1:
            raise MCPError(INVALID_PARAMS, "maxEvents must be at least 1")
        wanted, position = await self._checked(ctx, params)
        batch = await read(self._lazy, wanted, position, min(params.max_events or MAX_EVENTS, MAX_EVENTS))
        return {
            "resultType": "complete",
            "events": [event for event, _ in batch.events],
            "cursor": str(batch.position),
            "truncated": batch.is_truncated,
            "hasMore": batch.has_more,
            "nextPollMs": _POLL_MS,
        }

    async def _stream(self, ctx: _Context, params: PollParams) -> HandlerResult:
        wanted, position = await self._checked(ctx, params)
        principal = wanted.principal
        if self._streams[principal] >= _MAX_STREAMS:
            details = {"limit": "subscriptions", "max": _MAX_STREAMS}
            raise MCPError(RESOURCE_EXHAUSTED, "there are too many streams of events", details)
        self._streams[principal] += 1
        try:
            await self._serve(ctx, wanted, position)
        finally:
            self._streams[principal] -= 1
            if not self._streams[principal]:
                del self._streams[principal]
        return {"resultType": "complete", "_meta": {SUBSCRIPTION_ID_META_KEY: ctx.request_id}}

    async def _serve(self, ctx: _Context, wanted: Wanted, position: Position | None) -> None:
        """Send events until the server or the only job of the stream ends, or the client goes."""
        with self._changes.watching() as watch:
            batch = await read(self._lazy, wanted, position)
            await _notify(ctx, "active", {"cursor": _first(batch, position), "truncated": batch.is_truncated})
            beat = trio.current_time() + _HEARTBEAT_SECONDS
            while True:
                for event, after in batch.events:
                    await _notify(ctx, "event", {**event, "cursor": str(after)})
                    beat = trio.current_time() + _HEARTBEAT_SECONDS
                if batch.has_more:
                    pass
                elif self._lazy.ending.is_set() or await self._is_over(wanted, batch.position):
                    return
                elif trio.current_time() >= beat:
                    await _notify(ctx, "heartbeat", {"cursor": str(batch.position)})
                    beat = trio.current_time() + _HEARTBEAT_SECONDS
                else:
                    await watch.next_or(self._lazy.ending, beat)
                    await trio.sleep(_LOOK_SECONDS * self._streams.total())
                batch = await read(self._lazy, wanted, batch.position)
                if batch.is_truncated:
                    await _notify(ctx, "active", {"cursor": str(batch.position), "truncated": True})

    # ------------------------------------------------------------ what requests share

    async def _checked(self, ctx: _Context, params: PollParams) -> tuple[Wanted, Position | None]:
        """Return what a request asks for, and from where on.

        Raises:
            MCPError: it is not valid, or its job is not one that the caller may see.
        """
        wanted = checked(params.name, params.arguments, principal_of(ctx))
        position = position_of(params.cursor)
        return await check_access(self._lazy, wanted, params.max_age_ms), position

    async def _is_over(self, wanted: Wanted, position: Position) -> bool:
        """Whether the only job of a stream has ended, or was forgotten, and no event of it can come any more."""
        if wanted.job_id is None:
            return False
        try:
            _, job = await visible(self._lazy, wanted.principal, wanted.job_id)
        except JobNotFound:
            return True
        except SupervisorError as error:
            raise MCPError(INTERNAL_ERROR, error.message, {"code": error.code}) from error
        # The end may have been recorded after the events were read.
        return job.status.terminal and not (await read(self._lazy, wanted, position)).events

    # ------------------------------------------------------------ tasks

    async def source(self, ctx: _Context, /) -> Callable[[str], Mapping[str, Any]] | None:
        """Return what makes ``eventSource`` of the job task that is about to be made; its events begin here.

        ``None`` if the client does not support events.
        """
        capabilities = ctx.session.client_capabilities
        if capabilities is None or EXTENSION_ID not in (capabilities.extensions or {}):
            return None
        supervisor = await self._lazy.supervisor()
        page = await supervisor.access.in_thread(lambda catalog: catalog.index.read_after(None))
        return lambda task_id: {"name": ENDED, "input": {"job_id": task_id}, "initialCursor": str(page.position)}


def _first(batch: Batch, position: Position | None) -> str:
    """Return the cursor with which a stream begins: no later than the events that it is about to send."""
    return str(batch.position if batch.is_truncated or position is None else position)


async def _notify(ctx: _Context, what: Literal["active", "event", "heartbeat"], params: Mapping[str, Any]) -> None:
    meta = {SUBSCRIPTION_ID_META_KEY: ctx.request_id}
    notification = _EventNotification(method=f"notifications/events/{what}", params={**params, "_meta": meta})
    await ctx.session.send_notification(cast("ServerNotification", notification), ctx.request_id)
