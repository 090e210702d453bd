"""The current call, for the tool that serves it: whether it may become a task, and how.

It is a context variable, which reaches a tool through any layers in between. A call that becomes a task
ends with an exception (``BecameTask``), which the interceptor turns into the answer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Generator
from contextvars import ContextVar

import attrs
from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR

from supervisor.mcp_server.tasks.state import Task

__all__ = ["BecameTask", "TaskCall", "current", "serving"]


class BecameTask(MCPError):
    """No error: the answer of this call is a task. Tools must not catch it."""

    def __init__(self, task: Task) -> None:
        super().__init__(INTERNAL_ERROR, f"The call became task {task.task_id}, but no extension answered with it")
        self.task = task


@attrs.define(kw_only=True)
class TaskCall:
    """One ``tools/call``, as far as tasks are concerned.

    Attributes:
        tool: the name of the tool.
        principal: the principal of the request.
        as_task: whether the client accepts and expects a task as the answer.
        ttl_ms: the time to live that the client asked for, if any.
        begin: makes a function's call a task, and returns once that is recorded; ``None`` for other calls.
    """

    tool: str
    principal: str | None
    as_task: bool
    ttl_ms: int | None = None
    begin: Callable[[], Awaitable[None]] | None = None


_current: ContextVar[TaskCall | None] = ContextVar("supervisor_mcp_call", default=None)


def current() -> TaskCall | None:
    """Return the current call of this context."""
    return _current.get()


@contextlib.contextmanager
def serving(call: TaskCall) -> Generator[None]:
    """Make ``call`` the current call of this context."""
    token = _current.set(call)
    try:
        yield
    finally:
        _current.reset(token)
