"""The events extension: the starts and ends of jobs, for clients that poll or hold a stream. Off by default.

It is built from the text of SEP-3415 with the status Draft (extension ``io.modelcontextprotocol/events``), and from the
draft Task Event Sources; docs/mcp.md says what of them is here, and what they leave open. Events are those of the
journal, and a cursor is a position in it. So nothing is kept for a client between two of its requests, and after any
process was killed, a client goes on where it stopped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Literal, cast

import attrs
import trio
from mcp.server.context import HandlerResult, ServerRequestContext
from mcp.server.extension import Extension, MethodBinding
from mcp.server.subscriptions import SUBSCRIPTION_ID_META_KEY
from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS, Notification, RequestParams, ServerNotification

from supervisor.errors import JobNotFound, SupervisorError
from supervisor.jobs.catalog import Catalog
from supervisor.mcp_server.access.jobs import visible
from supervisor.mcp_server.access.principals import may_see, principal_of
from supervisor.mcp_server.changes import Changes
from supervisor.mcp_server.lazy import LazySupervisor
from supervisor.mcp_server.tasks.state import MODERN_VERSION
from supervisor.mcp_server.tools.brief import brief
from supervisor.model import from_ns
from supervisor.store.journal import ENDED, STARTED, JournalEvent, Position

__all__ = ["EXTENSION_ID", "Events"]

EXTENSION_ID: Final = "io.modelcontextprotocol/events"

NOT_FOUND: Final = -32023
FORBIDDEN: Final = -32024
RESOURCE_EXHAUSTED: Final = -32025
UNSUPPORTED: Final = -32026

_Context = ServerRequestContext[Any, Any]

_MAX_STREAMS: Final = 128
"""Of one principal, at once."""
_MAX_EVENTS: Final = 100
_PAGE: Final = 1000
"""How many events of the journal one request reads, before it answers with those that match."""
_POLL_MS: Final = 5000
_HEARTBEAT_SECONDS: Final = 20.0
_LOOK_SECONDS: Final = 0.002
"""What one more stream costs for each commit; so streams never take most of the time of the server."""
_MAX_AGE_MS: Final = 1 << 53

_INPUT: Final[Mapping[str, Any]] = {
    "type": "object",
    "properties": {
        "job_id": {"type": "string", "pattern": "^[0-9a-f]{32}$", "description": "Only of this job."},
        "kind": {"type": "string", "description": "Only of jobs of this kind."},
    },
    "additionalProperties": False,
}
_PAYLOAD: Final[Mapping[str, Any]] = {
    "type": "object",
    "properties": {
        "job_id": {"type": "string"},
        "kind": {"type": "string"},
        "status": {"type": "string", "description": "That of the job now; job_status returns the whole job."},
        "reason": {"type": ["string", "null"]},
        "elapsed_ms": {"type": ["integer", "null"]},
    },
    "required": ["job_id", "status"],
}
_TYPES: Final = {
    STARTED: "The command of a job was launched.",
    ENDED: "A job has ended, well or badly. job_result returns its result.",
}


class _ListParams(RequestParams):
    cursor: str | None = None


class _PollParams(RequestParams):
    name: str
    arguments: dict[str, Any] | None = None
    cursor: str | None = None
    max_age_ms: int | None = None
    max_events: int | None = None


class _OtherParams(RequestParams):
    """Those of the methods of webhooks."""


class _EventNotification(Notification[dict[str, Any], str]):
    method: str
    params: dict[str, Any]


@attrs.frozen(slots=True, kw_only=True)
class _Subscription:
    """What one request asks for."""

    name: str
    job_id: str | None
    kind: str | None
    principal: str | None
    since_ns: int


@attrs.frozen(slots=True)
class _Batch:
    """Events from the journal, as JSON with the position after each, and the position after all that was read."""

    events: Sequence[tuple[dict[str, Any], Position]]
    position: Position
    is_truncated: bool
    has_more: bool


class Events(Extension):
    """The extension, over the journal of a state root.

    Args:
        lazy: opens the supervisor.
        changes: wakes streams.
    """

    identifier = EXTENSION_ID

    def __init__(self, lazy: LazySupervisor, changes: Changes) -> None:
        self._lazy = lazy
        self._changes = changes
        self._streams: Counter[str | None] = Counter()

    def methods(self) -> Sequence[MethodBinding]:
        """Return the methods, of the protocol version for which the extension is defined."""
        version = frozenset({MODERN_VERSION})
        return (
            MethodBinding("events/list", _ListParams, self._list, version),
            MethodBinding("events/poll", _PollParams, self._poll, version),
            MethodBinding("events/stream", _PollParams, self._stream, version),
            MethodBinding("events/subscribe", _OtherParams, self._no_webhooks, version),
            MethodBinding("events/unsubscribe", _OtherParams, self._no_webhooks, version),
        )

    # ------------------------------------------------------------ requests

    async def _list(self, _: _Context, params: _ListParams) -> HandlerResult:
        if params.cursor is not None:
            raise MCPError(INVALID_PARAMS, "there is only one page of event types")
        types = [
            {
                "name": name,
                "description": description,
                "delivery": ["poll", "push"],
                "inputSchema": dict(_INPUT),
                "payloadSchema": dict(_PAYLOAD),
            }
            for name, description in _TYPES.items()
        ]
        return {"resultType": "complete", "events": types}

    async def _no_webhooks(self, _: _Context, __: _OtherParams) -> HandlerResult:
        message = "events are delivered by poll and push; a kind, a group or the start of a job can name a webhook"
        raise MCPError(UNSUPPORTED, message, {"feature": "deliveryMode", "value": "webhook"})

    async def _poll(self, ctx: _Context, params: _PollParams) -> HandlerResult:
        if params.max_events is not None and params.max_events < 1:
            raise MCPError(INVALID_PARAMS, "maxEvents must be at least 1")
        wanted, position = await self._checked(ctx, params)
        batch = await self._read(wanted, position, min(params.max_events or _MAX_EVENTS, _MAX_EVENTS))
        return {
            "resultType": "complete",
            "events": [event for event, _ in batch.events],
            "cursor": str(batch.position),
            "truncated": batch.is_truncated,
            "hasMore": batch.has_more,
            "nextPollMs": _POLL_MS,
        }

    async def _stream(self, ctx: _Context, params: _PollParams) -> HandlerResult:
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

    async def _serve(self, ctx: _Context, wanted: _Subscription, position: Position | None) -> None:
        """Send events until the server or the only job of the stream ends, or the client goes."""
        with self._changes.watching() as watch:
            batch = await self._read(wanted, position)
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
                    await self._wait(watch.next, beat)
                    await trio.sleep(_LOOK_SECONDS * self._streams.total())
                batch = await self._read(wanted, batch.position)
                if batch.is_truncated:
                    await _notify(ctx, "active", {"cursor": str(batch.position), "truncated": True})

    async def _wait(self, following: Callable[[float], Awaitable[None]], until: float) -> None:
        """Wait for news, the time, or the end of the server."""
        async with trio.open_nursery() as nursery:

            async def end() -> None:
                await self._lazy.ending.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(end)
            await following(until)
            nursery.cancel_scope.cancel()

    # ------------------------------------------------------------ what requests share

    async def _checked(self, ctx: _Context, params: _PollParams) -> tuple[_Subscription, Position | None]:
        """Return what a request asks for, and from where on.

        Raises:
            MCPError: it is not valid, or its job is not one that the caller may see.
        """
        if params.name not in _TYPES:
            message = f"there is no event {params.name!r:.80}; there are {', '.join(_TYPES)}"
            raise MCPError(NOT_FOUND, message, {"kind": "event"})
        arguments = params.arguments or {}
        for name, value in arguments.items():
            if name not in _INPUT["properties"] or not isinstance(value, str):
                message = f"the argument {name!r:.80} is unknown, or not a string; there are job_id and kind"
                raise MCPError(INVALID_PARAMS, message)
        if params.max_age_ms is not None and not 0 <= params.max_age_ms <= _MAX_AGE_MS:
            raise MCPError(INVALID_PARAMS, "maxAgeMs must not be negative")
        position = None if params.cursor is None else Position.parse(params.cursor)
        if params.cursor is not None and position is None:
            raise MCPError(INVALID_PARAMS, "the cursor is not one of this server")
        principal = principal_of(ctx)
        try:
            supervisor = await self._lazy.supervisor()
            now_ns = await supervisor.access.in_thread(lambda catalog: catalog.layout.clock.now_ns())
            if "job_id" in arguments:
                await visible(self._lazy, principal, arguments["job_id"])
        except JobNotFound as error:
            raise MCPError(FORBIDDEN, error.message) from error
        except SupervisorError as error:
            raise MCPError(INTERNAL_ERROR, error.message, {"code": error.code}) from error
        wanted = _Subscription(
            name=params.name,
            job_id=arguments.get("job_id"),
            kind=arguments.get("kind"),
            principal=principal,
            since_ns=0 if params.max_age_ms is None else now_ns - params.max_age_ms * 10**6,
        )
        return wanted, position

    async def _read(self, wanted: _Subscription, position: Position | None, most: int = _MAX_EVENTS) -> _Batch:
        try:
            supervisor = await self._lazy.supervisor()
            return await supervisor.access.in_thread(lambda catalog: _batch(catalog, wanted, position, most))
        except SupervisorError as error:
            raise MCPError(INTERNAL_ERROR, error.message, {"code": error.code}) from error

    async def _is_over(self, wanted: _Subscription, position: Position) -> bool:
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
        return job.status.terminal and not (await self._read(wanted, position)).events

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


def _first(batch: _Batch, position: Position | None) -> str:
    """Return the cursor with which a stream begins: no later than the events that it is about to send."""
    return str(batch.position if batch.is_truncated or position is None else position)


async def _notify(ctx: _Context, what: Literal["active", "event", "heartbeat"], params: Mapping[str, Any]) -> None:
    meta = {SUBSCRIPTION_ID_META_KEY: ctx.request_id}
    notification = _EventNotification(method=f"notifications/events/{what}", params={**params, "_meta": meta})
    await ctx.session.send_notification(cast("ServerNotification", notification), ctx.request_id)


def _batch(catalog: Catalog, wanted: _Subscription, position: Position | None, most: int) -> _Batch:
    page = catalog.index.read_after(position, _PAGE)
    found: list[tuple[dict[str, Any], Position]] = []
    is_truncated = page.is_reset and position is not None
    for event in page.events:
        if len(found) == most:
            return _Batch(found, found[-1][1], is_truncated, has_more=True)
        if event.type != wanted.name or (wanted.job_id is not None and event.job_id != wanted.job_id):
            continue
        if event.at_ns < wanted.since_ns:
            is_truncated = True
            continue
        shape = _shape(catalog, wanted, event)
        if shape is not None:
            found.append((shape, Position(page.position.epoch, event.number)))
    return _Batch(found, page.position, is_truncated, has_more=len(page.events) == _PAGE)


def _shape(catalog: Catalog, wanted: _Subscription, event: JournalEvent) -> dict[str, Any] | None:
    """Return an event as JSON; ``None`` if the subscriber does not want it, or may not see it."""
    try:
        job = catalog.status(event.job_id, progress=False)
    except SupervisorError:  # it was forgotten: whose it was is not known any more
        if wanted.principal is not None or wanted.kind is not None:
            return None
        data: dict[str, Any] = {"job_id": event.job_id, "status": event.state}
    else:
        if not may_see(wanted.principal, job) or wanted.kind not in {None, job.kind, job.labels.get("mcp.tool")}:
            return None
        data = brief(job)
        del data["ok"]
    at = from_ns(event.at_ns).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    # The end of a job has the id that its webhook has, too.
    event_id = f"evt_{event.job_id}" if event.type == ENDED else f"evt_{event.job_id}_started"
    return {"eventId": event_id, "name": event.type, "timestamp": at, "data": data}
