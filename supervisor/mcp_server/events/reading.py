"""What poll, push and webhooks share: the types of events, what a caller asks for, and reading the journal for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs
from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS

from supervisor.errors import JobNotFound, SupervisorError
from supervisor.jobs.catalog import Catalog
from supervisor.mcp_server.access.jobs import visible
from supervisor.mcp_server.access.principals import may_see
from supervisor.mcp_server.lazy import LazySupervisor
from supervisor.mcp_server.tools.brief import brief
from supervisor.model import from_ns
from supervisor.model.job_json import time_to_json
from supervisor.store.journal import ENDED, STARTED, JournalEvent, Position

__all__ = [
    "FORBIDDEN",
    "INPUT",
    "MAX_EVENTS",
    "NOT_FOUND",
    "PAYLOAD",
    "RESOURCE_EXHAUSTED",
    "TYPES",
    "UNSUPPORTED",
    "Batch",
    "Wanted",
    "check_access",
    "checked",
    "position_of",
    "read",
]

NOT_FOUND: Final = -32023
FORBIDDEN: Final = -32024
RESOURCE_EXHAUSTED: Final = -32025
UNSUPPORTED: Final = -32026

MAX_EVENTS: Final = 100
_PAGE: Final = 1000
"""How many events of the journal one request reads, before it answers with those that match."""
_MAX_AGE_MS: Final = 1 << 53

INPUT: Final[Mapping[str, Any]] = {
    "type": "object",
    "properties": {
        "job_id": {"type": "string", "pattern": "^[0-9a-f]{32}$", "description": "Only of this job."},
        "kind": {"type": "string", "description": "Only of jobs of this kind."},
    },
    "additionalProperties": False,
}
PAYLOAD: Final[Mapping[str, Any]] = {
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
TYPES: Final = {
    STARTED: "The command of a job was launched.",
    ENDED: "A job has ended, well or badly. job_result returns its result.",
}


@attrs.frozen(slots=True, kw_only=True)
class Wanted:
    """What a caller asks for.

    Attributes:
        name: the type of the events.
        arguments: which of these events.
        principal: the caller.
        since_ns: events that happened before are not wanted.
    """

    name: str
    arguments: Mapping[str, str]
    principal: str | None
    since_ns: int = 0

    @property
    def job_id(self) -> str | None:
        """The only job whose events are wanted, if there is only one."""
        return self.arguments.get("job_id")

    @property
    def kind(self) -> str | None:
        """The only kind of jobs whose events are wanted, if there is only one."""
        return self.arguments.get("kind")


@attrs.frozen(slots=True)
class Batch:
    """Events from the journal.

    Attributes:
        events: as JSON, each with the position after it.
        position: after all that was read.
        is_truncated: there were events that are missing here: they were too old, or the journal does not have them.
        has_more: the journal has more, which may be wanted.
        is_reset: the journal does not have all events since the position that was given.
    """

    events: Sequence[tuple[dict[str, Any], Position]]
    position: Position
    is_truncated: bool
    has_more: bool
    is_reset: bool = False


# ------------------------------------------------------------ what a caller asks for


def checked(name: str, arguments: Mapping[str, Any] | None, principal: str | None) -> Wanted:
    """Return what a caller asks for.

    Raises:
        MCPError: there is no such event, or it has no such arguments.
    """
    if name not in TYPES:
        message = f"there is no event {name!r:.80}; there are {', '.join(TYPES)}"
        raise MCPError(NOT_FOUND, message, {"kind": "event"})
    for argument, value in (arguments or {}).items():
        if argument not in INPUT["properties"] or not isinstance(value, str):
            message = f"the argument {argument!r:.80} is unknown, or not a string; there are job_id and kind"
            raise MCPError(INVALID_PARAMS, message)
    return Wanted(name=name, arguments=dict(arguments or {}), principal=principal)


def position_of(cursor: str | None) -> Position | None:
    """Return the position of a cursor; ``None`` for now.

    Raises:
        MCPError: it is no cursor of this server.
    """
    position = None if cursor is None else Position.parse(cursor)
    if cursor is not None and position is None:
        raise MCPError(INVALID_PARAMS, "the cursor is not one of this server")
    return position


async def check_access(lazy: LazySupervisor, wanted: Wanted, max_age_ms: int | None) -> Wanted:
    """Return what a caller asks for, with the time since which it is wanted.

    Raises:
        MCPError: its job is not one that the caller may see, or the age is none.
    """
    if max_age_ms is not None and not 0 <= max_age_ms <= _MAX_AGE_MS:
        raise MCPError(INVALID_PARAMS, "maxAgeMs must not be negative")
    try:
        supervisor = await lazy.supervisor()
        now_ns = await supervisor.access.in_thread(lambda catalog: catalog.layout.clock.now_ns())
        if wanted.job_id is not None:
            await visible(lazy, wanted.principal, wanted.job_id)
    except JobNotFound as error:
        raise MCPError(FORBIDDEN, error.message) from error
    except SupervisorError as error:
        raise MCPError(INTERNAL_ERROR, error.message, {"code": error.code}) from error
    return wanted if max_age_ms is None else attrs.evolve(wanted, since_ns=now_ns - max_age_ms * 10**6)


# ------------------------------------------------------------ the journal


async def read(lazy: LazySupervisor, wanted: Wanted, position: Position | None, most: int = MAX_EVENTS) -> Batch:
    """Return the events after a position; ``None`` is now.

    Raises:
        MCPError: they cannot be read now.
    """
    try:
        supervisor = await lazy.supervisor()
        return await supervisor.access.in_thread(lambda catalog: _batch(catalog, wanted, position, most))
    except SupervisorError as error:
        raise MCPError(INTERNAL_ERROR, error.message, {"code": error.code}) from error


def _batch(catalog: Catalog, wanted: Wanted, position: Position | None, most: int) -> Batch:
    page = catalog.index.read_after(position, _PAGE)
    found: list[tuple[dict[str, Any], Position]] = []
    is_reset = is_truncated = page.is_reset and position is not None
    for event in page.events:
        if len(found) == most:
            return Batch(found, found[-1][1], is_truncated, has_more=True)
        if event.type != wanted.name or (wanted.job_id is not None and event.job_id != wanted.job_id):
            continue
        if event.at_ns < wanted.since_ns:
            is_truncated = True
            continue
        shape = _shape(catalog, wanted, event)
        if shape is not None:
            found.append((shape, Position(page.position.epoch, event.number)))
    return Batch(found, page.position, is_truncated, len(page.events) == _PAGE, is_reset)


def _shape(catalog: Catalog, wanted: Wanted, event: JournalEvent) -> dict[str, Any] | None:
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
    # The end of a job has the id that its webhook has, too.
    event_id = f"evt_{event.job_id}" if event.type == ENDED else f"evt_{event.job_id}_started"
    return {"eventId": event_id, "name": event.type, "timestamp": time_to_json(from_ns(event.at_ns)), "data": data}
