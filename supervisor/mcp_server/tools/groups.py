"""Groups for callers: how full those are in which their jobs are. Nothing here changes a group."""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import trio
from mcp_types import CallToolResult, ToolAnnotations

from supervisor.errors import GroupNotFound, SupervisorError
from supervisor.mcp_server.access.principals import PRINCIPAL_GROUP, own_labels
from supervisor.mcp_server.changes import Changes, Watch
from supervisor.mcp_server.config.kinds import Kind
from supervisor.mcp_server.lazy import LazySupervisor
from supervisor.mcp_server.tools.answers import answer
from supervisor.mcp_server.tools.brief import word
from supervisor.mcp_server.tools.tool import Call, Tool
from supervisor.model import GroupInfo, to_json
from supervisor.system.observing import NotKnown

__all__ = ["Groups", "brief", "group_tools"]

_MAX_TEXT: Final = 200
_MAX_LOOKED_AT: Final = 200
_MAX_SHOWN: Final = 10
_BETWEEN_READS_SECONDS: Final = 0.25
_LEAST_SECONDS: Final = 1.0


class Groups:
    """The groups that callers may see: those of the kinds, and of a principal its own. Read once for all watches.

    Args:
        lazy: the supervisor of the server.
        changes: tell when a group may have changed.
        kinds: of the server.

    Attributes:
        names: the groups of the kinds.
    """

    def __init__(self, lazy: LazySupervisor, changes: Changes, kinds: Iterable[Kind]) -> None:
        self.names = frozenset(name for kind in kinds for name in kind.groups)
        self._lazy = lazy
        self._changes = changes
        self._reading = trio.Lock()
        self._read: dict[str, GroupInfo] = {}
        self._read_at = -1.0

    def may_see(self, principal: str | None, name: str) -> bool:
        """Whether a caller may see a group."""
        return name in self.names or (principal is not None and name == f"{PRINCIPAL_GROUP}{principal}")

    async def seen_by(self, principal: str | None) -> Sequence[GroupInfo]:
        """Return the groups that a caller may see, as they are now."""
        supervisor = await self._lazy.supervisor()
        return [each for each in await supervisor.groups() if self.may_see(principal, each.name)]

    async def find(self, principal: str | None, name: str) -> GroupInfo:
        """Return a group that a caller may see.

        Raises:
            GroupNotFound: there is no such group for this caller.
        """
        for each in await self.seen_by(principal):
            if each.name == name:
                return each
        message = f"there is no group {name!r:.80}"
        raise GroupNotFound(message, repair="Call group_list for the groups that there are.", details={"group": name})

    async def news(self, name: str, before: GroupInfo) -> AsyncGenerator[None]:
        """Yield after each change of a group since ``before``, until it is removed; changes in between are merged.

        What passes alone, such as the age of the oldest waiting job, is no change.
        """
        shown: Mapping[str, Any] | None = _state(before)
        with self._changes.watching() as watch:
            group: GroupInfo | None = before
            while group is not None:  # the first look is for a change since ``before`` that the watch has not seen
                seconds = _LEAST_SECONDS
                with contextlib.suppress(SupervisorError, NotKnown):  # it cannot be read now
                    group = (await self._groups(watch)).get(name)
                    seconds = math.inf if group is None else _seconds_to_change(group)
                found = None if group is None else _state(group)
                if found != shown:
                    shown = found
                    yield
                if group is not None:
                    await watch.next(trio.current_time() + seconds)

    async def _groups(self, watch: Watch) -> Mapping[str, GroupInfo]:
        """Return the groups as they were at the last change that a watch has seen, or later."""
        async with self._reading:
            if self._read_at <= watch.changed_at:
                await trio.sleep_until(self._read_at + _BETWEEN_READS_SECONDS)
                supervisor = await self._lazy.supervisor()
                begun = trio.current_time()
                self._read = {each.name: each for each in await supervisor.groups()}
                self._read_at = begun
            return self._read


def _state(group: GroupInfo) -> Mapping[str, Any]:
    """Return what a change of a group changes."""
    found = brief(group)
    found.pop("oldest_wait_seconds", None)
    return found


def _seconds_to_change(group: GroupInfo) -> float:
    """Return the time until a pause or a window of a budget ends, which no process writes down."""
    ends = [*(each.until for each in group.paused), *(each["resets_at"] for each in group.budgets)]
    left = [(each - datetime.now(UTC)).total_seconds() for each in ends if each is not None]
    return max(_LEAST_SECONDS, min(left)) if left else math.inf


def group_tools(lazy: LazySupervisor, groups: Groups) -> Sequence[Tool]:
    """Return the tool, for a server with a kind that names a group; other servers have none."""
    if not groups.names:
        return ()

    async def run(call: Call) -> CallToolResult:
        principal = call.principal
        supervisor = await lazy.supervisor()
        shapes: list[dict[str, Any]] = []
        for group in await groups.seen_by(principal):
            shape = brief(group)
            if group.waiting:
                page = await supervisor.list(
                    state="queued", group=group.name, labels=own_labels(principal), limit=_MAX_LOOKED_AT
                )
                jobs = sorted(page.jobs, key=lambda job: job.queue_position or 0)
                shape["waiting_jobs"] = [
                    {"job_id": job.job_id, "queue_position": job.queue_position, "queue_reason": job.queue_reason}
                    for job in jobs[:_MAX_SHOWN]
                ]
                if len(jobs) > _MAX_SHOWN:
                    shape["waiting_jobs_truncated"] = True
            shapes.append(shape)
        return answer({"ok": True, "groups": shapes})

    return (
        Tool(
            name="group_list",
            description="Show the groups whose limits count for the jobs of these tools: room, pauses, budget left, "
            "and the places of waiting jobs.",
            parameters=(),
            annotations=ToolAnnotations(read_only_hint=True, open_world_hint=False),
            run=run,
        ),
    )


def brief(group: GroupInfo) -> dict[str, Any]:
    """Return a group as its limit, its counts, its pauses, and what is left of its budgets."""
    shape = to_json(group)
    found = {name: shape[name] for name in ("name", "limit", "running", "waiting")}
    if shape["oldest_wait_seconds"] is not None:
        found["oldest_wait_seconds"] = shape["oldest_wait_seconds"]
    if shape["paused"]:
        found["paused"] = [
            {**each, "detail": None if each["detail"] is None else word(each["detail"], _MAX_TEXT)}
            for each in shape["paused"]
        ]
    if shape["budgets"]:
        found["budget_left"] = [
            {
                "metric": each["metric"],
                "window": each["window"],
                "left": max(0, each["limit"] - each["used"] - each["reserved"]),
                "resets_at": each["resets_at"],
            }
            for each in shape["budgets"]
        ]
    return found
