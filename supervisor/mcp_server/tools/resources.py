"""Jobs as resources: ``job://ID``, ``job://ID/stdout`` and ``job://ID/stderr``, with notifications of changes.

Clients of 2025-11-25 subscribe to a resource on their session; clients of 2026-07-28 listen on a stream of
their own. Each subscriber has one watch for each resource, which ends with the job. It notifies at most
twice a second.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import attrs
import trio
from mcp import MCPError
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ResourceUpdated
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    BlobResourceContents,
    EmptyResult,
    ListResourcesResult,
    ListResourceTemplatesResult,
    PaginatedRequestParams,
    ReadResourceRequestParams,
    ReadResourceResult,
    Resource,
    ResourceTemplate,
    SubscribeRequestParams,
    SubscriptionsListenRequestParams,
    SubscriptionsListenResult,
    TextResourceContents,
    UnsubscribeRequestParams,
)

from supervisor import log
from supervisor.errors import SupervisorError
from supervisor.mcp_server.access.principals import PRINCIPAL_LABEL, principal_of
from supervisor.mcp_server.lazy import LazySupervisor
from supervisor.mcp_server.tools.answers import dump
from supervisor.mcp_server.tools.jobs import JobTools, read_output
from supervisor.model import Job, to_json
from supervisor.settings import Settings

__all__ = ["Resources"]

_Context = ServerRequestContext[Any]

_URI: Final = re.compile(r"job://([0-9a-f]{32})(?:/(stdout|stderr))?")
_MAX_BYTES: Final = 1 << 22
_LISTED: Final = 20
_MAX_WATCHES: Final = 1024
_MAX_OF_A_PRINCIPAL: Final = 128
_QUIET_SECONDS: Final = 0.5


@attrs.frozen
class _Target:
    uri: str
    job_id: str
    stream: str | None


def _target(uri: str) -> _Target | None:
    found = _URI.fullmatch(uri)
    return None if found is None else _Target(uri, found[1], found[2])


class Resources:
    """The resources of a server."""

    def __init__(self, lazy: LazySupervisor, settings: Settings) -> None:
        self._lazy = lazy
        self._settings = settings
        self._tools = JobTools(lazy, settings)
        self._watches: dict[tuple[int, str], trio.CancelScope] = {}
        self._held: Counter[str | None] = Counter()  # the number of watches, by principal

    def offer(self, server: Server[Any]) -> None:
        """Add the request handlers to ``server``."""
        server.add_request_handler("resources/list", PaginatedRequestParams, self._list)
        server.add_request_handler("resources/templates/list", PaginatedRequestParams, self._templates)
        server.add_request_handler("resources/read", ReadResourceRequestParams, self._read)
        server.add_request_handler("resources/subscribe", SubscribeRequestParams, self._subscribe)
        server.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, self._unsubscribe)
        server.add_request_handler("subscriptions/listen", SubscriptionsListenRequestParams, self._listen)

    # ------------------------------------------------------------ reading

    async def _list(self, ctx: _Context, _: PaginatedRequestParams) -> ListResourcesResult:
        principal = principal_of(ctx)
        try:
            supervisor = await self._lazy.supervisor()
            page = await supervisor.list(
                limit=_LISTED, labels={} if principal is None else {PRINCIPAL_LABEL: principal}
            )
        except SupervisorError as error:
            raise MCPError(INTERNAL_ERROR, error.message, {"code": error.code}) from error
        resources = [
            Resource(
                uri=f"job://{job.job_id}",
                name=f"{job.labels.get('mcp.tool') or job.argv[0]} ({job.status.value})",
                mime_type="application/json",
            )
            for job in page.jobs
        ]
        return ListResourcesResult(resources=resources)

    async def _templates(self, _: _Context, __: PaginatedRequestParams) -> ListResourceTemplatesResult:
        templates = [
            ResourceTemplate(uri_template="job://{job_id}", name="job", mime_type="application/json"),
            ResourceTemplate(uri_template="job://{job_id}/stdout", name="stdout", mime_type="text/plain"),
            ResourceTemplate(uri_template="job://{job_id}/stderr", name="stderr", mime_type="text/plain"),
        ]
        return ListResourceTemplatesResult(resource_templates=templates)

    async def _read(self, ctx: _Context, params: ReadResourceRequestParams) -> ReadResourceResult:
        target, job = await self._resolve(ctx, str(params.uri))
        if target.stream is None:
            text = dump(to_json(job)).encode(errors="replace").decode()
            return ReadResourceResult(
                contents=[TextResourceContents(uri=target.uri, text=text, mime_type="application/json")]
            )
        try:
            piece = await read_output(self._settings, job, target.stream, offset=None, limit=_MAX_BYTES)
        except SupervisorError as error:
            raise _not_there(target.uri, error) from error
        meta = {"offset": piece["offset"], "size": piece["size"]} if piece["offset"] else None
        if "encoding" in piece:
            blob = BlobResourceContents(
                uri=target.uri, blob=piece["value"], mime_type="application/octet-stream", _meta=meta
            )
            return ReadResourceResult(contents=[blob])
        shown = TextResourceContents(uri=target.uri, text=piece["value"], mime_type="text/plain", _meta=meta)
        return ReadResourceResult(contents=[shown])

    async def _resolve(self, ctx: _Context, uri: str) -> tuple[_Target, Job]:
        target = _target(uri)
        if target is None:
            message = "there is no such resource; there are job://ID, job://ID/stdout and job://ID/stderr"
            raise MCPError(INVALID_PARAMS, message, {"uri": uri[:200]})
        try:
            _, job = await self._tools.visible(principal_of(ctx), target.job_id)
        except SupervisorError as error:
            raise _not_there(uri, error) from error
        return target, job

    # ------------------------------------------------------------ notifications

    async def _subscribe(self, ctx: _Context, params: SubscribeRequestParams) -> EmptyResult:
        target, job = await self._resolve(ctx, str(params.uri))
        key = (id(_session_of(ctx)), target.uri)
        if key not in self._watches:
            principal = principal_of(ctx)
            self._reserve(principal, 1)
            scope = self._watches[key] = trio.CancelScope()
            notify = partial(ctx.session.send_resource_updated, target.uri)

            async def watch() -> None:
                try:
                    with scope:
                        await self._watch(target, job, notify)
                finally:
                    self._watches.pop(key, None)
                    self._held[principal] -= 1

            self._lazy.run_in_background(watch)
        return EmptyResult()

    def _reserve(self, principal: str | None, wanted: int) -> None:
        """Count more watches of a principal; each principal has a limit, so that none uses all of them."""
        most = _MAX_WATCHES if principal is None else _MAX_OF_A_PRINCIPAL
        if self._held[principal] + wanted > most or self._held.total() + wanted > _MAX_WATCHES:
            raise MCPError(INTERNAL_ERROR, f"there are too many subscriptions; at most {most} are allowed at once")
        self._held[principal] += wanted

    async def _unsubscribe(self, ctx: _Context, params: UnsubscribeRequestParams) -> EmptyResult:
        scope = self._watches.get((id(_session_of(ctx)), str(params.uri)))
        if scope is not None:
            scope.cancel()
        return EmptyResult()

    async def _listen(self, ctx: _Context, params: SubscriptionsListenRequestParams) -> SubscriptionsListenResult:
        wanted = dict.fromkeys(map(str, params.notifications.resource_subscriptions or ()))
        watched = [await self._resolve(ctx, uri) for uri in wanted if uri.startswith("job:")]
        principal = principal_of(ctx)
        self._reserve(principal, len(watched))
        # A bus for each stream: on a shared bus, two streams with the same job would get each change twice.
        bus = InMemorySubscriptionBus()
        handler = ListenHandler(bus)

        async def end() -> None:
            await self._lazy.ending.wait()
            handler.close()

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(end)
                for target, job in watched:
                    nursery.start_soon(self._watch, target, job, partial(bus.publish, ResourceUpdated(uri=target.uri)))
                result = await handler(ctx, params)
                nursery.cancel_scope.cancel()
        finally:
            self._held[principal] -= len(watched)
        return result

    async def _watch(self, target: _Target, job: Job, notify: Callable[[], Awaitable[None]]) -> None:
        if job.status.terminal:
            return
        try:
            supervisor = await self._lazy.supervisor()
            if target.stream is None:
                async with supervisor.events(job.job_id) as events:
                    async for event in events:
                        await notify()
                        if event.status.terminal:
                            return
            else:
                known = job.stdout_bytes if target.stream == "stdout" else job.stderr_bytes
                async with supervisor.follow(job.job_id, target.stream) as chunks:
                    await _coalesced(chunks, known, notify)
        except SupervisorError as error:  # the job was deleted, or the state root cannot be used
            log.info("mcp_watch_ended", job_id=job.job_id, error=error.message)
        except (trio.BrokenResourceError, trio.ClosedResourceError):  # the subscriber has disconnected
            pass


async def _coalesced(chunks: Any, known: int, notify: Callable[[], Awaitable[None]]) -> None:
    """Notify of more than ``known`` bytes, first at once, then at most twice a second."""
    more, over = trio.Event(), trio.Event()

    async def read() -> None:
        size = 0
        async for chunk in chunks:
            size += len(chunk)
            if size > known:
                more.set()
        over.set()
        more.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        while True:
            await more.wait()
            more, last = trio.Event(), over.is_set()
            await notify()
            if last:
                return
            with trio.move_on_after(_QUIET_SECONDS):
                await over.wait()


def _session_of(ctx: _Context) -> object:
    """Return an object that all requests of a session share, in the protocol version that has sessions."""
    return ctx.session.client_params


def _not_there(uri: str, error: SupervisorError) -> MCPError:
    return MCPError(INVALID_PARAMS, error.message, {"uri": uri, "code": error.code})
