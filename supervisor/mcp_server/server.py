"""The SDK's server with tools by name, and errors in the shape of the public JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from mcp import MCPError
from mcp.server.context import HandlerResult, ServerMiddleware, ServerRequestContext
from mcp.server.extension import Extension, MethodBinding, RequestHandler, compose_tool_call_handler
from mcp.server.lowlevel import Server
from mcp_types import (
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    CallToolRequestParams,
    CallToolResult,
    InputRequiredResult,
    ListToolsResult,
    PaginatedRequestParams,
)

from supervisor import log
from supervisor._version import __version__
from supervisor.errors import InternalError, SupervisorError
from supervisor.mcp_server.config.arguments import checked, schema_of
from supervisor.mcp_server.tools.answers import error_answer
from supervisor.mcp_server.tools.tool import Call, Tool
from supervisor.store.state_errors import state_error
from supervisor.system.observing import NotKnown

__all__ = ["extend", "make_server"]

_INSTRUCTIONS: Final = (
    "Long commands as background jobs that outlive this session. A tool that starts a job answers with its job_id: "
    "call job_wait until it has ended, then job_result. Each of them takes: workspace, the directory the job runs in; "
    "wait_seconds, to wait that long for the result (stay below your tool time-out); deadline_seconds, to stop the job "
    "after that time; idempotency_key, with which a repeated request returns the first job and starts nothing; and "
    "labels, names and values by which job_list finds the job."
)


def make_server(tools: Sequence[Tool]) -> Server[Any]:
    """Return a server with these tools."""
    by_name = {tool.name: tool for tool in tools}
    listed = ListToolsResult(tools=[tool.describe() for tool in tools])

    async def list_tools(_: ServerRequestContext[Any], __: PaginatedRequestParams | None) -> ListToolsResult:
        return listed

    async def call_tool(
        ctx: ServerRequestContext[Any], params: CallToolRequestParams
    ) -> CallToolResult | InputRequiredResult:
        tool = by_name.get(params.name)
        if tool is None:
            raise MCPError(INVALID_PARAMS, f"there is no tool {params.name!r:.80}; there are {', '.join(by_name)}")
        try:
            return await tool.run(Call(ctx, params, checked(tool.parameters, params.arguments or {})))
        except SupervisorError as error:
            return error_answer(error)
        except NotKnown as error:
            return error_answer(state_error(error, f"{tool.name} cannot read the state of the job now"))
        except MCPError:
            raise
        except Exception as error:  # noqa: BLE001  # a defect in one tool must not end the server
            log.warning("mcp_tool_failed", tool=tool.name, error=repr(error))
            return error_answer(InternalError(f"{tool.name} failed: {error!r}", repair="Report this as a defect."))

    schemas = {tool.name: schema_of(tool.parameters) for tool in tools}
    return Server(
        "trio-supervisor",
        version=__version__,
        instructions=_INSTRUCTIONS,
        get_tool_input_schema=schemas.get,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


def extend(server: Server[Any], extension: Extension, *middleware: ServerMiddleware[Any]) -> None:
    """Add an extension to a server, as the SDK's ``MCPServer`` does."""
    for method in extension.methods():
        server.add_request_handler(method.method, method.params_type, _gated(method))
    call_tool = server.get_request_handler("tools/call")
    if call_tool is not None:
        handler = compose_tool_call_handler([extension], call_tool.handler)
        server.add_request_handler("tools/call", CallToolRequestParams, handler)
    server.extensions[extension.identifier] = extension.settings()
    server.middleware.extend(middleware)


def _gated(method: MethodBinding) -> RequestHandler:
    versions = method.protocol_versions
    if versions is None:
        return method.handler

    async def handle(ctx: ServerRequestContext[Any, Any], params: Any) -> HandlerResult:
        if ctx.protocol_version not in versions:
            raise MCPError(METHOD_NOT_FOUND, "Method not found", method.method)
        return await method.handler(ctx, params)

    return handle
