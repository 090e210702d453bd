"""Tasks of MCP 2025-11-25, where they belong to the core protocol; the SDK has only their types.

The differences to 2026-07-28: a client asks for a task with ``params.task``; ``tools/list`` says which tools
support tasks; there are ``tasks/list`` and ``tasks/result``, which waits for the end and passes the questions
of the task to the client; an error result counts as ``failed``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

import mcp_types as types
import trio
from mcp.server.context import HandlerResult, ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp.shared.message import ServerMessageMetadata
from pydantic import BaseModel

from supervisor.mcp_server.tasks.functions import FunctionTask, on_the_wire
from supervisor.mcp_server.tasks.runtime import Runtime
from supervisor.mcp_server.tasks.state import LEGACY_VERSION, RELATED_TASK, Status, Task, legacy_shape

__all__ = ["capable", "created", "listed", "payload", "requested_ttl", "with_support"]

_CAPABILITY: Final[Mapping[str, Any]] = {"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}}
_CANCELLED: Final = "The task was cancelled"

_QUESTIONS: Final[Mapping[str, tuple[type[BaseModel], type[BaseModel]]]] = {
    "elicitation/create": (types.ElicitRequest, types.ElicitResult),
    "sampling/createMessage": (types.CreateMessageRequest, types.CreateMessageResult),
    "roots/list": (types.ListRootsRequest, types.ListRootsResult),
}


def capable(result: HandlerResult) -> HandlerResult:
    """Return the result of ``initialize`` with the capability for tasks, if this version was negotiated."""
    shape = on_the_wire(result)
    if shape.get("protocolVersion") == LEGACY_VERSION:
        shape["capabilities"] = {**shape.get("capabilities", {}), "tasks": dict(_CAPABILITY)}
    return shape


def with_support(result: HandlerResult, support: Mapping[str, str]) -> HandlerResult:
    """Return the result of ``tools/list`` with each task tool's ``execution.taskSupport``."""
    shape = on_the_wire(result)
    shape["tools"] = [
        {**tool, "execution": {"taskSupport": support[tool["name"]]}} if tool.get("name") in support else tool
        for tool in shape.get("tools", [])
    ]
    return shape


def requested_ttl(params: Mapping[str, Any] | None) -> tuple[bool, int | None]:
    """Return whether a call asks for a task, and the requested time to live in milliseconds.

    Raises:
        MCPError: ``params.task`` is malformed.
    """
    asked: object = (params or {}).get("task")
    if asked is None:
        return False, None
    if not isinstance(asked, Mapping):
        raise MCPError(types.INVALID_PARAMS, "params.task must be an object")
    ttl: object = cast("Mapping[str, object]", asked).get("ttl")
    if ttl is not None and (isinstance(ttl, bool) or not isinstance(ttl, int | float) or not 0 <= ttl < 1 << 53):
        message = f"params.task.ttl is {ttl!r:.80}; it must be a number of milliseconds of at least 0"
        raise MCPError(types.INVALID_PARAMS, message)
    return True, None if ttl is None else int(ttl)


def created(task: Task) -> dict[str, Any]:
    """Return a ``CreateTaskResult``."""
    return {"task": legacy_shape(task), "_meta": {RELATED_TASK: {"taskId": task.task_id}}}


async def listed(runtime: Runtime, principal: str | None, cursor: str | None) -> dict[str, Any]:
    """Return the result of ``tasks/list``."""
    tasks, following = await runtime.page(principal, cursor)
    shape: dict[str, Any] = {"tasks": [legacy_shape(task) for task in tasks]}
    if following is not None:
        shape["nextCursor"] = following
    return shape


async def payload(
    ctx: ServerRequestContext[Any, Any], runtime: Runtime, principal: str | None, task_id: str
) -> dict[str, Any]:
    """Wait for the end of a task and return the result of its request.

    Raises:
        MCPError: there is no such task, it failed with this error, or it was cancelled.
    """
    task: Task | MCPError
    async with trio.open_nursery() as nursery:
        relayed: set[str] = set()

        async def relay_questions(function: FunctionTask) -> None:
            await trio.lowlevel.checkpoint()
            for key, request in function.questions().items():
                if key not in relayed:
                    relayed.add(key)
                    nursery.start_soon(_relay, ctx, function, key, request)

        try:
            task = await runtime.ended(task_id, principal, relay_questions)
        except MCPError as error:  # raised below, outside of an exception group
            task = error
        nursery.cancel_scope.cancel()
    if isinstance(task, MCPError):
        raise task
    if task.status is Status.CANCELLED:
        raise MCPError(types.INTERNAL_ERROR, _CANCELLED)
    if task.error is not None:
        raise MCPError.from_error_data(types.ErrorData.model_validate(task.error))
    shape = {name: value for name, value in (task.result or {}).items() if name != "resultType"}  # of 2026-07-28
    shape["_meta"] = {**shape.get("_meta", {}), RELATED_TASK: {"taskId": task_id}}
    return shape


async def _relay(
    ctx: ServerRequestContext[Any, Any], function: FunctionTask, key: str, request: Mapping[str, Any]
) -> None:
    question, answer = _QUESTIONS[request["method"]]
    params = dict(request.get("params") or {})
    params["_meta"] = {**params.get("_meta", {}), RELATED_TASK: {"taskId": function.made.task_id}}
    try:
        given = await ctx.session.send_request(
            cast("types.ServerRequest", question.model_validate({**request, "params": params}, by_name=False)),
            answer,
            metadata=ServerMessageMetadata(related_request_id=ctx.request_id),
        )
        function.answer({key: on_the_wire(given)})
    except MCPError as error:
        function.refuse(key, error)
