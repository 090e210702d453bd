"""``Tasks`` on a server: failures to open, several servers on one root, tools of any kind."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import trio
from mcp.server.mcpserver import Context

from supervisor.errors import InvalidArguments, StateUnsafe
from supervisor.mcp_server.tasks import Tasks
from supervisor.testing import FakeEngine
from tests.mcp_server.tasks.in_memory import LEGACY, Refused, World, Yes, kept


async def test_a_state_root_that_cannot_be_used_is_told_to_the_client(world: World) -> None:
    async def opened() -> Any:
        message = "the state root is open to others"
        raise StateUnsafe(message)

    world.tasks._opened = opened
    async with world.peer() as peer:
        with pytest.raises(Refused) as caught:
            await peer.get("0" * 32)
        assert caught.value.code == -32603
        assert caught.value.data["code"] == "state_unsafe"
        assert caught.value.data["repair"]


async def test_serving_twice_in_a_row(world: World, engine: FakeEngine) -> None:
    async with world.peer() as peer:
        async with world.open():
            task_id = (await peer.call("build", target="all"))["taskId"]
        async with world.open():
            assert (await peer.get(task_id))["status"] == "working"
            engine.commands[0].finish()
            assert (await peer.until(task_id))["status"] == "completed"


async def test_a_function_of_another_process_is_seen_and_not_touched(
    world: World,
    state_dir: Path,
    engine: FakeEngine,
) -> None:
    async def body(ctx: Context) -> str:
        return (await ctx.elicit("Sure?", Yes)).action

    world.body = body
    other = World(state_dir, engine)
    async with world.open(), world.peer() as peer, other.open(), other.peer() as there:
        task_id = (await peer.call("act"))["taskId"]
        await peer.until(task_id, "input_required")
        assert (await there.get(task_id))["status"] == "working"
        for method in ("tasks/cancel", "tasks/update"):
            with pytest.raises(Refused, match="another server process") as caught:
                await there(method, taskId=task_id, inputResponses={})
            assert caught.value.code == -32603
        async with other.peer(era=LEGACY) as old:
            with pytest.raises(Refused, match="another server process"):
                await old("tasks/result", taskId=task_id)
        assert (await peer.get(task_id))["status"] == "input_required"


async def test_a_job_of_another_process_is_everybodys(world: World, state_dir: Path, engine: FakeEngine) -> None:
    other = World(state_dir, engine)
    async with world.open(), world.peer() as peer, other.open(), other.peer() as there:
        task_id = (await peer.call("build", target="all"))["taskId"]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(there.listen, [task_id])
            await there.told("working")
            engine.commands[0].finish()
            await there.told("completed")
            nursery.cancel_scope.cancel()
        assert (await there.get(task_id))["status"] == "completed"


async def test_a_tool_that_starts_its_job_itself(world: World, engine: FakeEngine) -> None:
    wanted: list[bool] = []

    @world.server.tool()
    async def own() -> str:
        """Start a job by hand."""
        assert world.sup is not None
        job = await world.sup.start(["make", "own"], workspace="/")
        wanted.append(world.tasks.wants_task())
        world.tasks.became(job)
        return f"job {job.job_id}"

    world.tasks.add_job_tool("own")
    async with world.open(), world.peer() as peer, world.peer(capabilities={}) as plain:
        made = await peer.call("own")
        assert made["taskId"] == engine.commands[0].job_id
        answer = await plain("tools/call", name="own", arguments={})
        assert answer["content"][0]["text"] == f"job {engine.commands[1].job_id}"
    assert wanted == [True, False]


async def test_tools_that_were_given_another_name(state_dir: Path) -> None:
    world = World(state_dir, FakeEngine())

    async def inner() -> str:
        return "named"

    world.server.add_tool(world.tasks.function(name="outer")(inner), name="outer")
    async with world.open(), world.peer() as peer:
        made = await peer.call("outer")
        assert (await peer.until(made["taskId"]))["result"]["content"][0]["text"] == "named"


async def test_outside_of_a_call_nothing_becomes_a_task(world: World) -> None:
    async with world.open() as sup:
        job = await sup.start(["true"], workspace="/")
        world.tasks.became(job)
        await world.tasks.begin()
        assert world.tasks.wants_task() is False
        started = await world.tasks.start(["make"], workspace="/", labels={"a": "b"})
        assert started.labels == {"a": "b"}
        with pytest.raises(InvalidArguments, match="there is no option 'cwd'"):
            await world.tasks.start(["make"], cwd="/")


async def test_a_function_that_begins_twice_is_one_task(world: World, state_dir: Path) -> None:
    async def body(ctx: Context) -> str:
        del ctx
        await world.tasks.begin()
        await world.tasks.begin()
        return "once"

    world.body = body
    async with world.open(), world.peer() as peer:
        await peer.until((await peer.call("act"))["taskId"])
    assert len(kept(state_dir)) == 1


async def test_unknown_tools_are_the_servers_matter(world: World) -> None:
    async with world.open(), world.peer() as peer, world.peer(capabilities={}) as other:
        for each in (peer, other):
            answer = await each("tools/call", name="no_such_tool", arguments={})
            assert answer["isError"] is True


async def test_a_state_root_that_cannot_be_served_from_is_said_bare(world: World, state_dir: Path) -> None:
    async with world.open() as sup:
        os.chmod(state_dir, 0o755)
        with pytest.raises(StateUnsafe):
            async with Tasks().serving(sup):
                pass
        os.chmod(state_dir, 0o700)
