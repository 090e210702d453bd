"""The errors for clients that several requests have, each with its JSON-RPC code."""

from __future__ import annotations

from typing import Any

from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS, MISSING_REQUIRED_CLIENT_CAPABILITY

__all__ = ["elsewhere", "missing_capability", "no_such_task"]


def no_such_task(task_id: object) -> MCPError:
    """There is no such task, it has expired, or it belongs to another principal; the error does not say which."""
    return MCPError(INVALID_PARAMS, f"There is no task {task_id!r:.80}; finished tasks are deleted after their TTL")


def elsewhere(task_id: str, request: str) -> MCPError:
    """Only the process that runs the task can serve this request."""
    return MCPError(INTERNAL_ERROR, f"Task {task_id} is run by another server process; {request} there")


def missing_capability(capabilities: dict[str, Any], name: str) -> MCPError:
    """The client has not declared a capability that the request needs."""
    message = f"Missing required client capability: {name}"
    return MCPError(MISSING_REQUIRED_CLIENT_CAPABILITY, message, {"requiredCapabilities": capabilities})
