"""A call that is run apart from its request, so that it can go on when the request has been answered.

What it does first (checking its arguments, asking in rounds) belongs to the request still: if it ends
there, its result is the answer. When it begins to be a task, the task is the answer.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import attrs
import trio
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.shared.exceptions import MCPError

from supervisor import log
from supervisor.errors import SupervisorError
from supervisor.mcp_server.tasks import calls, refusals
from supervisor.mcp_server.tasks.calls import Call
from supervisor.mcp_server.tasks.functions import FunctionTask
from supervisor.mcp_server.tasks.runtime import Runtime
from supervisor.mcp_server.tasks.session import TaskSession

__all__ = ["run_apart"]


class _Apart:
    def __init__(self, runtime: Runtime, call: Call, ctx: ServerRequestContext[Any, Any]) -> None:
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
            self.session.task = self._runtime.begin(call.tool, call.principal, call.ttl_ms, self.scope)
            self.decided.set()

    async def run(self, call_next: CallNext) -> None:
        """See the function through, and its task to its recorded end."""
        ended = False
        try:
            with self.scope:
                self.outcome = await self._outcome(call_next)
            ended = True
        finally:  # reached by a cancellation as well: the server is closing
            if self.task is not None:
                cancelled = not ended or self.scope.cancelled_caught
                if self.task.finish(self.outcome, cancelled=cancelled):
                    self._runtime.finished(self.task)
            self.decided.set()

    async def _outcome(self, call_next: CallNext) -> HandlerResult | MCPError:
        try:
            with calls.serving(self._call):
                return await call_next(self._ctx)
        except MCPError as error:
            return error
        except SupervisorError as error:
            return refusals.internal(error.message)
        except Exception as error:  # noqa: BLE001  # the function's own; without a task the SDK says as little of it
            log.warning("mcp_function_failed", tool=self._call.tool, error=repr(error))
            return refusals.internal("Internal server error")


async def run_apart(
    runtime: Runtime,
    call: Call,
    ctx: ServerRequestContext[Any, Any],
    call_next: CallNext,
) -> FunctionTask | HandlerResult:
    """Run a call apart from its request; return the task when it becomes one, else what it gives.

    Cancelling it ends the call, unless that has become a task by then.

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
