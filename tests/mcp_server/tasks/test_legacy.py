"""Tasks of 2025-11-25."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from mcp.server.mcpserver import Context
from mcp_types import ServerCapabilities, Tool

from supervisor.testing import FakeEngine
from tests.mcp_server.tasks.in_memory import LEGACY, Refused, World, Yes

RELATED = "io.modelcontextprotocol/related-task"
YES = {"action": "accept", "content": {"yes": True}}


async def test_the_greeting_says_what_can_be_done(world: World) -> None:
    async with world.open(), world.peer(era=LEGACY) as peer:
        assert peer.greeting["protocolVersion"] == LEGACY
        declared = ServerCapabilities.model_validate(peer.greeting["capabilities"], by_name=False).tasks
        assert declared is not None
        assert declared.list is not None
        assert declared.cancel is not None
        assert declared.requests is not None
        assert declared.requests.tools is not None
        assert declared.requests.tools.call is not None


async def test_an_older_client_is_told_nothing_of_tasks(world: World) -> None:
    async with world.open(), world.peer(era=LEGACY) as peer:
        hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
        assert "tasks" not in (await peer("initialize", **hello))["capabilities"]
        await peer.notify("notifications/initialized")
        tools = (await peer("tools/list"))["tools"]
        assert not any("execution" in tool for tool in tools)
        for method in ("tasks/get", "tasks/list", "tasks/result"):
            with pytest.raises(Refused) as caught:
                await peer(method, taskId="0" * 32)
            assert caught.value.code == -32601


async def test_the_list_of_tools_says_which_can_be_tasks(world: World) -> None:
    async with world.open(), world.peer(era=LEGACY) as peer:
        tools = [Tool.model_validate(tool, by_name=False) for tool in (await peer("tools/list"))["tools"]]
    support = {tool.name: tool.execution and tool.execution.task_support for tool in tools}
    assert support["build"] == support["think"] == "optional"
    assert support["only_as_a_task"] == "required"
    assert support["plain"] is None


async def test_a_job_from_call_to_result(world: World, engine: FakeEngine) -> None:
    async with world.open(), world.peer(era=LEGACY) as peer:
        answer = await peer("tools/call", name="build", arguments={"target": "all"}, task={"ttl": 60_000})
        made = answer["task"]
        assert answer["_meta"][RELATED] == {"taskId": made["taskId"]}
        assert made["status"] == "working"
        assert {"ttl", "pollInterval", "createdAt", "lastUpdatedAt"} <= set(made)
        got = await peer.get(made["taskId"])
        assert (got["taskId"], got["status"]) == (made["taskId"], "working")
        async with trio.open_nursery() as nursery:
            results: list[Any] = []

            async def wait() -> None:
                results.append(await peer("tasks/result", taskId=made["taskId"]))

            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            assert not results
            engine.commands[0].write("built\n")
            engine.commands[0].finish()
        (result,) = results
        assert result["_meta"][RELATED] == {"taskId": made["taskId"]}
        assert result["structuredContent"]["value"] == "built\n"
        assert "resultType" not in result
        assert await peer("tasks/result", taskId=made["taskId"]) == result
        assert (await peer.get(made["taskId"]))["status"] == "completed"


async def test_an_error_result_counts_as_failed_and_is_the_result(world: World, engine: FakeEngine) -> None:
    async with world.open() as sup, world.peer(era=LEGACY) as peer:
        job = await peer.call("build", target="all")
        engine.commands[0].finish(3)
        await sup.wait(job["taskId"])
        function = await peer.call("fail", how="tool")
        for made in (job, function):
            assert (await peer("tasks/result", taskId=made["taskId"]))["isError"] is True
            assert (await peer.get(made["taskId"]))["status"] == "failed"
        listed = (await peer("tasks/list"))["tasks"]
        assert {task["status"] for task in listed} == {"failed"}


async def test_a_protocol_error_is_raised_by_the_result(world: World) -> None:
    async with world.open(), world.peer(era=LEGACY) as peer:
        made = await peer.call("fail", how="protocol")
        with pytest.raises(Refused) as caught:
            await peer("tasks/result", taskId=made["taskId"])
        assert (caught.value.code, caught.value.data) == (-32042, {"why": "asked to"})
        assert (await peer.get(made["taskId"]))["status"] == "failed"


async def test_a_call_that_asks_for_no_task_is_none(world: World) -> None:
    world.gate.set()
    async with world.open(), world.peer(era=LEGACY) as peer:
        answer = await peer("tools/call", name="think", arguments={})
        assert answer["content"][0]["text"] == "thought about 1"
        assert "task" not in answer
        assert (await peer("tasks/list"))["tasks"] == []


@pytest.mark.parametrize(
    ("tool", "task"),
    [("plain", {}), ("only_as_a_task", None)],
)
async def test_tools_that_do_not_support_what_is_asked(world: World, tool: str, task: dict[str, Any] | None) -> None:
    async with world.open(), world.peer(era=LEGACY) as peer:
        asked = {} if task is None else {"task": task}
        with pytest.raises(Refused) as caught:
            await peer("tools/call", name=tool, arguments={"number": 1}, **asked)
        assert caught.value.code == -32601


async def test_arguments_that_do_not_fit_make_no_task(world: World) -> None:
    async with world.open(), world.peer(era=LEGACY) as peer:
        answer = await peer("tools/call", name="think", arguments={"about": "nothing"}, task={})
        assert answer["isError"] is True
        assert (await peer("tasks/list"))["tasks"] == []


@pytest.mark.parametrize(("asked", "given"), [({"ttl": 5000}, 5000), ({}, 86_400_000), ({"ttl": 10**12}, 86_400_000)])
async def test_a_function_is_kept_for_as_long_as_was_asked(world: World, asked: dict[str, Any], given: int) -> None:
    async with world.open(), world.peer(era=LEGACY) as peer:
        made = (await peer("tools/call", name="think", arguments={}, task=asked))["task"]
        assert made["ttl"] == given


async def test_cancelling(world: World) -> None:
    async with world.open(), world.peer(era=LEGACY) as peer:
        for tool, arguments in (("build", {"target": "all"}), ("think", {})):
            made = await peer.call(tool, **arguments)
            assert (await peer("tasks/cancel", taskId=made["taskId"]))["status"] == "cancelled"
            with pytest.raises(Refused) as caught:
                await peer("tasks/cancel", taskId=made["taskId"])
            assert caught.value.code == -32602
            with pytest.raises(Refused, match="cancelled"):
                await peer("tasks/result", taskId=made["taskId"])


async def test_the_result_of_a_task_that_is_cancelled_while_it_is_waited_for(world: World) -> None:
    async with world.open(), world.peer(era=LEGACY) as peer:
        made = await peer.call("think")
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                with pytest.raises(Refused, match="cancelled"):
                    await peer("tasks/result", taskId=made["taskId"])

            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await peer("tasks/cancel", taskId=made["taskId"])


async def test_waiting_for_the_result_asks_the_client_what_the_task_wants_to_know(world: World) -> None:
    async def body(ctx: Context) -> str:
        first = await ctx.elicit("One?", Yes)
        second = await ctx.elicit("Two?", Yes)
        return f"{first.action} {second.action}"

    world.body = body
    async with world.open(), world.peer(era=LEGACY) as peer:
        made = await peer.call("act")
        assert (await peer.get(made["taskId"]))["status"] == "input_required"
        async with trio.open_nursery() as nursery:
            results: list[Any] = []

            async def wait() -> None:
                results.append(await peer("tasks/result", taskId=made["taskId"]))

            nursery.start_soon(wait)
            for message, answer in (("One?", YES), ("Two?", {"action": "decline"})):
                asked = await peer.asked.receive()
                assert asked["method"] == "elicitation/create"
                assert asked["message"] == message
                assert asked["_meta"][RELATED] == {"taskId": made["taskId"]}
                await peer.reply(asked, answer)
        assert results[0]["content"][0]["text"] == "accept decline"


async def test_a_client_that_stops_waiting_is_asked_again_when_it_comes_back(world: World) -> None:
    async def body(ctx: Context) -> str:
        return (await ctx.elicit("One?", Yes)).action

    world.body = body
    async with world.open(), world.peer(era=LEGACY) as peer:
        made = await peer.call("act")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: peer("tasks/result", taskId=made["taskId"]))
            await peer.asked.receive()
            nursery.cancel_scope.cancel()
        async with trio.open_nursery() as nursery:
            results: list[Any] = []

            async def wait() -> None:
                results.append(await peer("tasks/result", taskId=made["taskId"]))

            nursery.start_soon(wait)
            await peer.reply(await peer.asked.receive(), YES)
        assert results[0]["content"][0]["text"] == "accept"


async def test_lists_come_in_pages_newest_first(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.mcp_server.tasks.runtime._PAGE", 2)
    async with world.open(), world.peer(era=LEGACY) as peer:
        functions = [(await peer.call("think"))["taskId"] for _ in range(5)]
        jobs = [(await peer.call("build", target=str(n)))["taskId"] for n in range(3)]
        seen: list[str] = []
        page: dict[str, Any] = await peer("tasks/list")
        seen += [task["taskId"] for task in page["tasks"]]
        while "nextCursor" in page:
            page = await peer("tasks/list", cursor=page["nextCursor"])
            seen += [task["taskId"] for task in page["tasks"]]
        assert seen == functions[::-1] + jobs[::-1]
        for cursor in ("", "x", "f:x", "j:x", "j:-1", "9" * 99):
            with pytest.raises(Refused) as caught:
                await peer("tasks/list", cursor=cursor)
            assert caught.value.code == -32602


@pytest.mark.parametrize("task", [[], "x", 1, {"ttl": "x"}, {"ttl": -1}, {"ttl": True}])
async def test_requests_for_tasks_that_are_malformed(world: World, task: Any) -> None:
    async with world.open(), world.peer(era=LEGACY) as peer:
        with pytest.raises(Refused) as caught:
            await peer("tools/call", name="think", arguments={}, task=task)
        assert caught.value.code == -32602
        assert (await peer("tasks/list"))["tasks"] == []


async def test_a_task_survives_its_server(world: World, engine: FakeEngine) -> None:
    async with world.open(), world.peer(era=LEGACY) as peer:
        job = (await peer.call("build", target="all"))["taskId"]
        function = (await peer.call("think"))["taskId"]
    again = World(world.settings.state_dir, engine)
    async with again.open(), again.peer(era=LEGACY) as peer:
        engine.commands[0].finish()
        assert (await peer("tasks/result", taskId=job))["isError"] is False
        assert (await peer.get(function))["status"] == "failed"
        assert {task["taskId"] for task in (await peer("tasks/list"))["tasks"]} == {job, function}
