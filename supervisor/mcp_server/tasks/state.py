"""The state of a task, and its JSON in each protocol version. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

import attrs

from supervisor.model import from_ns
from supervisor.model.job_json import time_to_json

__all__ = [
    "EXTENSION_ID",
    "LEGACY_VERSION",
    "MODERN_VERSION",
    "RELATED_TASK",
    "Status",
    "Task",
    "created_shape",
    "legacy_shape",
    "shape",
]

EXTENSION_ID: Final = "io.modelcontextprotocol/tasks"
RELATED_TASK: Final = "io.modelcontextprotocol/related-task"
MODERN_VERSION: Final = "2026-07-28"
LEGACY_VERSION: Final = "2025-11-25"


class Status(StrEnum):
    """The status of a task, by its name in both protocol versions."""

    WORKING = "working"
    INPUT_REQUIRED = "input_required"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Whether the status is final."""
        return self in {Status.COMPLETED, Status.FAILED, Status.CANCELLED}


@attrs.frozen(slots=True, kw_only=True)
class Task:
    """The state of a task at one moment.

    Attributes:
        task_id: 32 lowercase hex digits; for a job task the id of its job.
        status: its status.
        message: a line of text, or ``None``.
        created_ns: the time of creation, in wall-clock nanoseconds since the epoch.
        updated_ns: the time of the last change, in the same unit.
        ttl_ms: the time to live from its creation in milliseconds; ``None`` if not known yet.
        poll_ms: the suggested interval between two requests.
        input_requests: its open questions by key, while it is ``input_required``.
        result: the result of the request as JSON, once it is ``completed``.
        error: the JSON-RPC error with which it ``failed``.
        is_error: whether the result is an error result.
    """

    task_id: str
    status: Status
    message: str | None = None
    created_ns: int
    updated_ns: int
    ttl_ms: int | None = None
    poll_ms: int | None = None
    input_requests: Mapping[str, Any] | None = None
    result: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None
    is_error: bool = False


def _common(task: Task, status: Status) -> dict[str, Any]:
    shape: dict[str, Any] = {"taskId": task.task_id, "status": status.value}
    if task.message:
        shape["statusMessage"] = task.message
    shape["createdAt"] = time_to_json(from_ns(task.created_ns))
    shape["lastUpdatedAt"] = time_to_json(from_ns(max(task.created_ns, task.updated_ns)))
    return shape


def created_shape(task: Task) -> dict[str, Any]:
    """Return a 2026-07-28 ``CreateTaskResult``: the task without its questions and its result."""
    shape = {"resultType": "task", **_common(task, task.status), "ttlMs": task.ttl_ms}
    if task.poll_ms is not None and not task.status.terminal:
        shape["pollIntervalMs"] = task.poll_ms
    return shape


def shape(task: Task) -> dict[str, Any]:
    """Return a 2026-07-28 ``DetailedTask``, for ``tasks/get`` and ``notifications/tasks``."""
    whole = created_shape(task)
    del whole["resultType"]
    match task.status:
        case Status.INPUT_REQUIRED:
            whole["inputRequests"] = dict(task.input_requests or {})
        case Status.COMPLETED:
            whole["result"] = dict(task.result or {})
        case Status.FAILED:
            whole["error"] = dict(task.error or {})
        case Status.WORKING | Status.CANCELLED:
            pass
    return whole


def legacy_shape(task: Task) -> dict[str, Any]:
    """Return a 2025-11-25 ``Task``, in which a tool result that is an error counts as ``failed``."""
    status = task.status
    if status is Status.COMPLETED and task.is_error:
        status = Status.FAILED
    shape = {**_common(task, status), "ttl": task.ttl_ms}
    if task.poll_ms is not None and not status.terminal:
        shape["pollInterval"] = task.poll_ms
    return shape
