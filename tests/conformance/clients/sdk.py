"""Drive one job with the official Python SDK's client, on Trio: ``python sdk.py URL modern|legacy``."""

from __future__ import annotations

import json
import sys
from typing import Any

import mcp_types
import trio
from mcp import Client
from mcp.client.extension import ClaimContext, ClientExtension, ResultClaim
from pydantic import ConfigDict

TASKS = "io.modelcontextprotocol/tasks"


class Created(mcp_types.Result):
    """A task, as the answer to a call."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)
    result_type: Any = "task"
    task_id: str


class GetTask(mcp_types.Request[dict[str, Any], str]):
    """The request that is repeated until the task has ended; the header is the SDK's to set."""

    name_param = "taskId"
    method: str = "tasks/get"


class Anything(mcp_types.Result):
    model_config = ConfigDict(extra="allow")


async def _finish(created: Any, ctx: ClaimContext) -> mcp_types.CallToolResult:
    while True:
        got = await ctx.session.send_request(GetTask(params={"taskId": created.task_id}), Anything)
        task = got.model_dump(by_alias=True)
        if task["status"] != "working":
            return mcp_types.CallToolResult.model_validate(task["result"], by_name=False)
        await trio.sleep(0.1)


class TasksOfAClient(ClientExtension):
    """What makes ``call_tool`` wait for a task, as if there was none."""

    identifier = TASKS

    def claims(self) -> list[ResultClaim[Any]]:
        from typing import Literal

        class Task(Created):
            result_type: Literal["task"] = "task"

        return [ResultClaim(result_type="task", model=Task, resolve=_finish)]


async def _modern(url: str, arguments: dict[str, Any]) -> Any:
    async with Client(url, mode="2026-07-28", extensions=[TasksOfAClient()]) as client:
        return (await client.call_tool("run_command", arguments)).structured_content


async def _legacy(url: str, arguments: dict[str, Any]) -> Any:
    async with Client(url, mode="legacy") as client:
        tools = (await client.list_tools()).tools
        support = {tool.name: tool.execution and tool.execution.task_support for tool in tools}
        assert support["run_command"] == "optional"
        # The SDK's session knows no answer to a call but a result, so the request goes out below it.
        send = client.session._dispatcher.send_raw_request
        params = {"name": "run_command", "arguments": arguments, "task": {}}
        task_id = (await send("tools/call", params))["task"]["taskId"]
        assert task_id in {task["taskId"] for task in (await send("tasks/list", {}))["tasks"]}
        return (await send("tasks/result", {"taskId": task_id}))["structuredContent"]


async def main(url: str, era: str) -> None:
    """Print what the job gave."""
    arguments = {"argv": ["sh", "-c", f"sleep 0.2; echo from the SDK, {era}"]}
    drive = _modern if era == "modern" else _legacy
    print(json.dumps(await drive(url, arguments)))


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
