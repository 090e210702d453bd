"""The errors for clients, each with its JSON-RPC code."""

from __future__ import annotations

from typing import Any

from mcp.shared.exceptions import MCPError
from mcp_types import (
    HEADER_MISMATCH,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
)

__all__ = [
    "elsewhere",
    "header_mismatch",
    "internal",
    "invalid",
    "missing_capability",
    "no_such_method",
    "no_such_task",
]


def no_such_task(task_id: object) -> MCPError:
    """There is no such task, it has expired, or it belongs to another principal; the error does not say which."""
    return MCPError(INVALID_PARAMS, f"There is no task {task_id!r:.80}; finished tasks are deleted after their TTL")


def invalid(message: str) -> MCPError:
    """The request is not valid."""
    return MCPError(INVALID_PARAMS, message)


def internal(message: str) -> MCPError:
    """The server failed."""
    return MCPError(INTERNAL_ERROR, message)


def elsewhere(task_id: str, request: str) -> MCPError:
    """Only the process that runs the task can serve this request."""
    return MCPError(INTERNAL_ERROR, f"Task {task_id} is run by another server process; {request} there")


def no_such_method(method: str, why: str) -> MCPError:
    """The method does not exist in this protocol version, or for this tool."""
    return MCPError(METHOD_NOT_FOUND, why, method)


def header_mismatch(found: str | None, task_id: str) -> MCPError:
    """The header by which requests are routed contradicts the request."""
    value = "is missing" if found is None else f"is {found!r:.80}"
    return MCPError(HEADER_MISMATCH, f"The Mcp-Name header {value}; it must be the task id {task_id!r:.80}")


def missing_capability(capabilities: dict[str, Any], name: str) -> MCPError:
    """The client has not declared a capability that the request needs."""
    message = f"Missing required client capability: {name}"
    return MCPError(MISSING_REQUIRED_CLIENT_CAPABILITY, message, {"requiredCapabilities": capabilities})
