"""The errors that a client meets, each with its JSON-RPC code."""

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
    """There is no such task, it has expired, or it belongs to somebody else: nobody is to know which."""
    return MCPError(INVALID_PARAMS, f"There is no task {task_id!r:.80}; finished tasks are forgotten after their TTL")


def invalid(message: str) -> MCPError:
    """Something in the request does not fit."""
    return MCPError(INVALID_PARAMS, message)


def internal(message: str) -> MCPError:
    """It could not be done, and that is not the client's fault."""
    return MCPError(INTERNAL_ERROR, message)


def elsewhere(task_id: str, what: str) -> MCPError:
    """The task is run by another process of this machine, which alone can do that."""
    return MCPError(INTERNAL_ERROR, f"Task {task_id} is run by another server process; {what} there")


def no_such_method(method: str, why: str) -> MCPError:
    """The method does not exist in this protocol version, or not for this tool."""
    return MCPError(METHOD_NOT_FOUND, why, method)


def header_mismatch(found: str | None, task_id: str) -> MCPError:
    """The header that routes a request does not say what the request says."""
    said = "is missing" if found is None else f"is {found!r:.80}"
    return MCPError(HEADER_MISMATCH, f"The Mcp-Name header {said}; it must be the task id {task_id!r:.80}")


def missing_capability(capabilities: dict[str, Any], what: str) -> MCPError:
    """The client has not declared what this takes."""
    message = f"Missing required client capability: {what}"
    return MCPError(MISSING_REQUIRED_CLIENT_CAPABILITY, message, {"requiredCapabilities": capabilities})
