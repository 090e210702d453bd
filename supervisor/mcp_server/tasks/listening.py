"""``notifications/tasks`` over ``subscriptions/listen``, in addition to the rest of its filter.

The SDK's handler does not support task ids, and serves the rest. It gets the filter without them, and a
session that adds them to the acknowledgement.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, cast

import trio
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.session import ServerSession
from mcp.server.subscriptions import SUBSCRIPTION_ID_META_KEY
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, Notification, RequestId, ServerNotification, SubscriptionsAcknowledgedNotification

from supervisor.mcp_server.tasks.runtime import Runtime
from supervisor.mcp_server.tasks.state import Task, shape

__all__ = ["listen", "task_ids"]

_MAX_IDS = 1000


class _TaskNotification(Notification[dict[str, Any], Literal["notifications/tasks"]]):
    method: Literal["notifications/tasks"] = "notifications/tasks"
    params: dict[str, Any]


class _Session:
    """A session that adds the task ids to the acknowledgement, and sets an event once that is sent."""

    def __init__(self, session: ServerSession, granted: Sequence[str]) -> None:
        self._session = session
        self._granted = list(granted)
        self.acknowledged = trio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    async def send_notification(
        self, notification: ServerNotification, related_request_id: RequestId | None = None
    ) -> None:
        if not isinstance(notification, SubscriptionsAcknowledgedNotification):
            await self._session.send_notification(notification, related_request_id)
            return
        merged = notification.model_copy(deep=True)
        if merged.params.notifications.model_extra is not None:
            merged.params.notifications.model_extra["taskIds"] = self._granted
        await self._session.send_notification(merged, related_request_id)
        self.acknowledged.set()


def task_ids(params: Mapping[str, Any] | None) -> list[str] | None:
    """Return the task ids of a listen request; ``None`` if it has none.

    Raises:
        MCPError: the value is not a list of strings, or too long.
    """
    wanted: object = (params or {}).get("notifications")
    ids: object = cast("Mapping[str, object]", wanted).get("taskIds") if isinstance(wanted, Mapping) else None
    if ids is None:
        return None
    if not isinstance(ids, list) or not all(isinstance(each, str) for each in cast("list[object]", ids)):
        raise MCPError(INVALID_PARAMS, "notifications.taskIds must be a list of strings")
    held = list(dict.fromkeys(cast("list[str]", ids)))
    if len(held) > _MAX_IDS:
        raise MCPError(INVALID_PARAMS, f"notifications.taskIds names {len(held)} tasks; at most {_MAX_IDS} are allowed")
    return held


async def listen(
    ctx: ServerRequestContext[Any, Any],
    call_next: CallNext,
    runtime: Runtime,
    principal: str | None,
    wanted: Sequence[str],
) -> HandlerResult:
    """Serve a listen request that names tasks, until its client disconnects.

    The first notification of each task that ``principal`` may access has its current state, so that no
    change before the subscription is lost.
    """
    granted: list[str] = []
    for task_id in wanted:
        with contextlib.suppress(MCPError):
            await runtime.get(task_id, principal)
            granted.append(task_id)
    session = _Session(ctx.session, granted)
    meta = {SUBSCRIPTION_ID_META_KEY: ctx.request_id}

    async def notify(task: Task) -> None:
        notification = _TaskNotification(params={**shape(task), "_meta": meta})
        await ctx.session.send_notification(cast("ServerNotification", notification), ctx.request_id)

    async def follow(task_id: str) -> None:
        await session.acknowledged.wait()
        with contextlib.suppress(MCPError):  # the task was deleted
            await runtime.follow(task_id, principal, notify)

    notifications = {name: value for name, value in (ctx.params or {})["notifications"].items() if name != "taskIds"}
    below = replace(
        ctx, params={**(ctx.params or {}), "notifications": notifications}, session=cast("ServerSession", session)
    )
    async with trio.open_nursery() as nursery:
        for task_id in granted:
            nursery.start_soon(follow, task_id)
        try:
            return await call_next(below)
        finally:
            nursery.cancel_scope.cancel()
