"""Jobs and groups as resources: ``job://ID``, its ``/stdout`` and ``/stderr``, ``group://NAME``, with updates.

Clients of 2025-11-25 subscribe to a resource on their session; clients of 2026-07-28 listen on a stream of
their own. Each subscriber has one watch for each resource, which ends with the job or the group, and with the session.
It notifies at most twice a second.
"""

from __future__ import annotations

import contextlib
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
from supervisor.mcp_server.access.jobs import visible
from supervisor.mcp_server.access.principals import own_labels, principal_of
from supervisor.mcp_server.lazy import LazySupervisor
from supervisor.mcp_server.tools.answers import dump
from supervisor.mcp_server.tools.groups import Groups, brief
from supervisor.mcp_server.tools.jobs import read_output
from supervisor.model import GroupInfo, Job, to_json
from supervisor.settings import Settings

__all__ = ["Resources"]

_Context = ServerRequestContext[Any]

_URI: Final = re.compile(r"job://([0-9a-f]{32})(?:/(stdout|stderr))?")
_GROUP_URI: Final = re.compile(r"group://([A-Za-z0-9._-]{1,64})")
_SCHEMES: Final = ("job:", "group:")
_MAX_BYTES: Final = 1 << 22
_LISTED: Final = 20
_MAX_WATCHES: Final = 1024
_MAX_OF_A_PRINCIPAL: Final = 128
_QUIET_SECONDS: Final = 0.5
_ENDS: Final = "supervisor: watches end with this"


@attrs.frozen
class _Target:
    uri: str
    job_id: str
    stream: str | None


Watch = Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]
"""Notifies by its argument after each change, until there are no more."""


def _target(uri: str) -> _Target | None:
    found = _URI.fullmatch(uri)
    return None if found is None else _Target(uri, found[1], found[2])


class Resources:
    """The resources of a server."""

    def __init__(self, lazy: LazySupervisor, settings: Settings, groups: Groups) -> None:
        self._lazy = lazy
        self._settings = settings
        self._groups = groups
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
            page = await supervisor.list(limit=_LISTED, labels=own_labels(principal))
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
        if self._groups.names:
            resources += [
                Resource(uri=f"group://{group.name}", name=f"group {group.name}", mime_type="application/json")
                for group in await self._groups.seen_by(principal)
            ]
        return ListResourcesResult(resources=resources)

    async def _templates(self, _: _Context, __: PaginatedRequestParams) -> ListResourceTemplatesResult:
        templates = [
            ResourceTemplate(uri_template="job://{job_id}", name="job", mime_type="application/json"),
            ResourceTemplate(uri_template="job://{job_id}/stdout", name="stdout", mime_type="text/plain"),
            ResourceTemplate(uri_template="job://{job_id}/stderr", name="stderr", mime_type="text/plain"),
        ]
        if self._groups.names:
            group = ResourceTemplate(uri_template="group://{name}", name="group", mime_type="application/json")
            templates.append(group)
        return ListResourceTemplatesResult(resource_templates=templates)

    async def _read(self, ctx: _Context, params: ReadResourceRequestParams) -> ReadResourceResult:
        uri = str(params.uri)
        if (name := _GROUP_URI.fullmatch(uri)) is not None:
            text = dump(brief(await self._group(ctx, uri, name[1])))
            return ReadResourceResult(contents=[TextResourceContents(uri=uri, text=text, mime_type="application/json")])
        target, job = await self._resolve(ctx, uri)
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

    async def _group(self, ctx: _Context, uri: str, name: str) -> GroupInfo:
        try:
            return await self._groups.find(principal_of(ctx), name)
        except SupervisorError as error:
            raise _not_there(uri, error) from error

    async def _watch_of(self, ctx: _Context, uri: str) -> Watch:
        """Return the watch of a resource that the caller may see."""
        if (name := _GROUP_URI.fullmatch(uri)) is not None:
            return partial(self._watch_group, await self._group(ctx, uri, name[1]))
        target, job = await self._resolve(ctx, uri)
        return partial(self._watch, target, job)

    async def _resolve(self, ctx: _Context, uri: str) -> tuple[_Target, Job]:
        target = _target(uri)
        if target is None:
            message = "there is no such resource; there are job://ID, job://ID/stdout, job://ID/stderr and group://NAME"
            raise MCPError(INVALID_PARAMS, message, {"uri": uri[:200]})
        try:
            _, job = await visible(self._lazy, principal_of(ctx), target.job_id)
        except SupervisorError as error:
            raise _not_there(uri, error) from error
        return target, job

    # ------------------------------------------------------------ notifications

    async def _subscribe(self, ctx: _Context, params: SubscribeRequestParams) -> EmptyResult:
        uri = str(params.uri)
        follow = await self._watch_of(ctx, uri)
        key = (id(_session_of(ctx)), uri)
        if key not in self._watches:
            principal = principal_of(ctx)
            self._reserve(principal, 1)
            scope = self._watches[key] = trio.CancelScope()
            notify = partial(ctx.session.send_resource_updated, uri)
            self._end_with_session(ctx, key[0])

            async def watch() -> None:
                try:
                    with scope:
                        await follow(notify)
                finally:
                    self._watches.pop(key, None)
                    self._held[principal] -= 1

            self._lazy.run_in_background(watch)
        return EmptyResult()

    def _end_with_session(self, ctx: _Context, session: int) -> None:
        """Have the watches of a session end with it: a notification that it cannot get any more is no error."""

        def end() -> None:
            for (owner, _), scope in list(self._watches.items()):
                if owner == session:
                    scope.cancel()

        connection = ctx.session._connection  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # no other way
        if _ENDS not in connection.state:
            connection.state[_ENDS] = True
            connection.exit_stack.callback(end)

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
        watched = [(uri, await self._watch_of(ctx, uri)) for uri in wanted if uri.startswith(_SCHEMES)]
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
                for uri, follow in watched:
                    nursery.start_soon(follow, partial(bus.publish, ResourceUpdated(uri=uri)))
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

    async def _watch_group(self, group: GroupInfo, notify: Callable[[], Awaitable[None]]) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # the subscriber has disconnected
            async with contextlib.aclosing(self._groups.news(group.name, group)) as news:
                async for _ in news:
                    await notify()
                    await trio.sleep(_QUIET_SECONDS)


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
