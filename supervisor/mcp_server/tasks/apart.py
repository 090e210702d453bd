"""A call that runs apart from its request, so that it can run on after the request has been answered.

The call belongs to its request until it becomes a task. If it ends before (it checks its arguments, or
asks in rounds), its result is the answer. If it becomes a task, the task is the answer.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import attrs
import trio
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR

from supervisor import log
from supervisor.errors import SupervisorError
from supervisor.mcp_server.tasks import calls
from supervisor.mcp_server.tasks.calls import TaskCall
from supervisor.mcp_server.tasks.functions import FunctionTask
from supervisor.mcp_server.tasks.runtime import Runtime
from supervisor.mcp_server.tasks.session import TaskSession

__all__ = ["run_apart"]


class _Apart:
    def __init__(self, runtime: Runtime, call: TaskCall, ctx: ServerRequestContext[Any, Any]) -> None:
        self.scope = trio.CancelScope()
        self.decided = trio.Event()
        self.outcome: HandlerResult | MCPError = None
        self.session = TaskSession(ctx.session)
        self._runtime = runtime
        self._call = attrs.evolve(call, begin=self._begin)
        self._ctx = replace(ctx, session=self.session)

    @property
    def task(self) -> FunctionTask | None:
        return self.session.task

    async def _begin(self) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.task is None:
            call = self._call
            self.session.task = await self._runtime.begin(call.tool, call.principal, call.ttl_ms, self.scope)
            self.decided.set()

    async def run(self, call_next: CallNext) -> None:
        ended = False
        try:
            with self.scope:
                self.outcome = await self._outcome(call_next)
            ended = True
        finally:  # also on cancellation, when the server closes
            if self.task is not None:
                cancelled = not ended or self.scope.cancelled_caught
                if await self.task.finish(self.outcome, cancelled=cancelled):
                    self._runtime.finished(self.task)
            self.decided.set()

    async def _outcome(self, call_next: CallNext) -> HandlerResult | MCPError:
        try:
            with calls.serving(self._call):
                return await call_next(self._ctx)
        except MCPError as error:
            return error
        except SupervisorError as error:
            return MCPError(INTERNAL_ERROR, error.message)
        except Exception as error:  # noqa: BLE001  # an error of the function; the client gets as little as from the SDK
            log.warning("mcp_function_failed", tool=self._call.tool, error=repr(error))
            return MCPError(INTERNAL_ERROR, "Internal server error")


async def run_apart(
    runtime: Runtime, call: TaskCall, ctx: ServerRequestContext[Any, Any], call_next: CallNext
) -> FunctionTask | HandlerResult:
    """Run a call apart from its request; return its task if it becomes one, otherwise its result.

    Cancellation ends the call, unless it has become a task.

    Raises:
        MCPError: the call raised it before it was a task.
    """
    apart = _Apart(runtime, call, ctx)
    runtime.nursery.start_soon(apart.run, call_next)
    try:
        await apart.decided.wait()
    except trio.Cancelled:
        if apart.task is None:
            apart.scope.cancel()
        raise
    if apart.task is not None:
        return apart.task
    if isinstance(apart.outcome, MCPError):
        raise apart.outcome
    return apart.outcome
