"""The call that is being served, as the tool behind it sees it: may it become a task, and has it.

A context variable, so that it reaches a tool through whatever stands in between. What makes a call a
task (``became``, ``begin``) leaves by an exception that the interceptor turns into the answer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Generator
from contextvars import ContextVar
from typing import Final

import attrs
from mcp.shared.exceptions import MCPError

from supervisor.mcp_server.tasks.state import Task

__all__ = ["BecameTask", "Call", "current", "serving"]

_INTERNAL_ERROR: Final = -32603


class BecameTask(MCPError):
    """Not an error: this call is answered with a task. Tools let errors of this kind pass."""

    def __init__(self, task: Task) -> None:
        """Keep the task, as it is now."""
        super().__init__(_INTERNAL_ERROR, f"The call became task {task.task_id}, and nobody was there to say so")
        self.task = task


@attrs.define(kw_only=True)
class Call:
    """One ``tools/call``.

    Attributes:
        tool: the name it was called by.
        principal: who calls.
        as_task: whether the client can be answered with a task, and expects it.
        ttl_ms: for how long the client would like the task to be kept, if it said so.
        begin: makes a function's call a task, and returns when that is on record; ``None`` elsewhere.
    """

    tool: str
    principal: str | None
    as_task: bool
    ttl_ms: int | None = None
    begin: Callable[[], Awaitable[None]] | None = None


_current: ContextVar[Call | None] = ContextVar("supervisor_mcp_call", default=None)


def current() -> Call | None:
    """Return the call that is being served in this context."""
    return _current.get()


@contextlib.contextmanager
def serving(call: Call) -> Generator[None]:
    """Have tools in this context see ``call``."""
    token = _current.set(call)
    try:
        yield
    finally:
        _current.reset(token)
