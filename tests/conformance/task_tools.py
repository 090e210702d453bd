"""The tools that the suite's scenarios on tasks call, each made a task by ``Tasks``."""

from __future__ import annotations

from typing import Any

import trio
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.shared.exceptions import MCPError
from mcp_types import ElicitRequest, ElicitRequestFormParams, ElicitResult, InputRequiredResult
from pydantic import BaseModel

from supervisor.mcp_server.tasks import Tasks
from supervisor.model import Job

__all__ = ["add_task_tools"]


class Confirmation(BaseModel):
    confirm: bool


class Name(BaseModel):
    name: str


def add_task_tools(server: MCPServer[Any], tasks: Tasks) -> None:
    """Give ``server`` the task tools."""

    @server.tool()
    def greet(name: str) -> str:
        """Greet somebody, at once: never a task."""
        return f"Hello, {name}!"

    @server.tool()
    @tasks.function
    async def slow_compute(seconds: float, label: str) -> str:
        """Compute for some seconds."""
        await trio.sleep(seconds)
        return f"Computed {label} for {seconds:g} s"

    @server.tool()
    @tasks.function(required=True)
    async def failing_job() -> str:
        """Fail after a second, as a tool does."""
        await trio.sleep(1)
        message = "This job always fails"
        raise ToolError(message)

    @server.tool()
    @tasks.function(required=True)
    async def protocol_error_job() -> str:
        """Fail with an error of the protocol."""
        await trio.sleep(0.1)
        raise MCPError(-32603, "The protocol itself failed")

    @server.tool()
    @tasks.function(required=True)
    async def confirm_delete(filename: str, ctx: Context) -> str:
        """Delete a file, once somebody has said yes."""
        answer = await ctx.elicit(f"Delete {filename}?", Confirmation)
        said_yes = answer.action == "accept" and answer.data.confirm
        return f"Deleted {filename}" if said_yes else f"Kept {filename}"

    @server.tool()
    @tasks.function(required=True)
    async def multi_input(ctx: Context) -> str:
        """Ask two questions at once."""
        names: dict[str, str] = {}

        async def ask(what: str) -> None:
            answer = await ctx.elicit(f"What is your {what} name?", Name)
            if answer.action == "accept":
                names[what] = answer.data.name

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "first")
            nursery.start_soon(ask, "last")
        return f"Hello, {names.get('first')} {names.get('last')}!"

    @server.tool()
    @tasks.function(required=True, asks_first=True)
    async def test_tool_with_task(ctx: Context) -> str | InputRequiredResult:
        """Ask for a name before there is a task, and greet it in one."""
        answer = (ctx.input_responses or {}).get("user_name")
        if not isinstance(answer, ElicitResult) or answer.content is None:
            schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
            form = ElicitRequestFormParams(message="What is your name?", requested_schema=schema)
            return InputRequiredResult(input_requests={"user_name": ElicitRequest(params=form)})
        await tasks.begin()
        await trio.sleep(0.1)
        return f"Hello, {answer.content['name']}!"

    @server.tool()
    @tasks.job
    async def run_command(argv: list[str]) -> Job:
        """Run a command as a job: for the tests of durability and of other clients, not for the suite."""
        return await tasks.start(argv)
