"""``notifications/tasks`` over ``subscriptions/listen``, alone and with other subscriptions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from mcp.server.mcpserver import Context

from supervisor.testing import FakeEngine
from tests.mcp_server.tasks.in_memory import ALL, LEGACY, Peer, Refused, World, Yes

ID = "io.modelcontextprotocol/subscriptionId"


@asynccontextmanager
async def listening(peer: Peer, **wanted: Any) -> AsyncIterator[dict[str, Any]]:
    """Listen, and give the acknowledged filter."""
    async with trio.open_nursery() as nursery:

        async def listen() -> None:
            await peer("subscriptions/listen", notifications=wanted)

        nursery.start_soon(listen)
        ack = await peer.notifications.receive()
        assert ack["method"] == "notifications/subscriptions/acknowledged"
        yield ack
        nursery.cancel_scope.cancel()


async def test_a_job_from_start_to_end(world: World, engine: FakeEngine) -> None:
    async with world.open(), world.peer() as peer:
        task_id = (await peer.call("build", target="all"))["taskId"]
        async with listening(peer, taskIds=[task_id]) as ack:
            assert ack["notifications"] == {"taskIds": [task_id]}
            assert (await peer.told())["status"] == "working"
            engine.commands[0].finish()
            note = await peer.told("completed")
        assert note.pop("method") == "notifications/tasks"
        assert note.pop("_meta")[ID] == ack["_meta"][ID]
        got = await peer.get(task_id)
        del got["resultType"], got["_meta"]
        assert note == got  # exactly the answer of tasks/get


async def test_a_function_with_a_question(world: World) -> None:
    async def body(ctx: Context) -> str:
        await world.gate.wait()
        await ctx.report_progress(1, 2)
        await ctx.elicit("Sure?", Yes)
        return "done"

    world.body = body
    async with world.open(), world.peer() as peer:
        task_id = (await peer.call("act"))["taskId"]
        async with listening(peer, taskIds=[task_id]):
            assert (await peer.told())["status"] == "working"
            world.gate.set()
            note = await peer.told("input_required")
            assert note["statusMessage"] == "1/2"
            (key,) = note["inputRequests"]
            await peer("tasks/update", taskId=task_id, inputResponses={key: {"action": "cancel"}})
            assert (await peer.told("completed"))["result"]["content"][0]["text"] == "done"


async def test_one_that_has_ended_is_told_once(world: World) -> None:
    world.gate.set()
    async with world.open(), world.peer() as peer:
        task_id = (await peer.call("think"))["taskId"]
        await peer.until(task_id)
        async with listening(peer, taskIds=[task_id]):
            assert (await peer.told())["status"] == "completed"
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.WouldBlock):
                peer.notifications.receive_nowait()


async def test_a_filter_may_ask_for_other_things_too(world: World, engine: FakeEngine) -> None:
    @world.server.tool()
    async def change(ctx: Context) -> str:
        """Change the tools."""
        await ctx.notify_tools_changed()
        await ctx.notify_prompts_changed()
        return "changed"

    async with world.open(), world.peer() as peer:
        task_id = (await peer.call("build", target="all"))["taskId"]
        uris = ["test://x"]
        async with listening(peer, taskIds=[task_id], toolsListChanged=True, resourceSubscriptions=uris) as ack:
            assert ack["notifications"] == {
                "taskIds": [task_id],
                "toolsListChanged": True,
                "resourceSubscriptions": uris,
            }
            assert (await peer.told())["status"] == "working"
            await peer("tools/call", name="change", arguments={})
            engine.commands[0].finish()
            heard = [await peer.notifications.receive() for _ in range(2)]
        assert {note["method"] for note in heard} == {"notifications/tools/list_changed", "notifications/tasks"}
        assert {note["_meta"][ID] for note in heard} == {ack["_meta"][ID]}


async def test_a_filter_without_tasks_is_the_sdks_alone(world: World) -> None:
    async with (
        world.open(),
        world.peer(capabilities={}) as peer,
        listening(peer, toolsListChanged=True) as ack,
    ):
        assert ack["notifications"] == {"toolsListChanged": True}


async def test_tasks_that_are_not_there_are_not_granted(world: World) -> None:
    async with world.open(), world.peer() as peer, listening(peer, taskIds=["0" * 32, "x", "../y"]) as ack:
        assert ack["notifications"]["taskIds"] == []


async def test_clients_have_to_declare_the_extension(world: World) -> None:
    plain = {name: value for name, value in ALL.items() if name != "extensions"}
    async with world.open(), world.peer(capabilities=plain) as peer:
        with pytest.raises(Refused) as caught:
            await peer("subscriptions/listen", notifications={"taskIds": []})
        assert caught.value.code == -32021


@pytest.mark.parametrize("wanted", ["x", {"a": 1}, [1], [None], ["x"] * 2 + [f"{n:032x}" for n in range(1001)]])
async def test_lists_that_are_none(world: World, wanted: Any) -> None:
    async with world.open(), world.peer() as peer:
        with pytest.raises(Refused) as caught:
            await peer("subscriptions/listen", notifications={"taskIds": wanted})
        assert caught.value.code == -32602


async def test_2025_11_25_has_no_such_request(world: World) -> None:
    async with world.open(), world.peer(era=LEGACY) as peer:
        with pytest.raises(Refused) as caught:
            await peer("subscriptions/listen", notifications={"taskIds": []})
        assert caught.value.code == -32601


async def test_a_server_that_closes_lets_go_of_its_listeners(world: World) -> None:
    async with world.peer() as peer:
        async with world.open():
            task_id = (await peer.call("build", target="all"))["taskId"]
            nursery_done = trio.Event()

            async def listen() -> None:
                try:
                    await peer("subscriptions/listen", notifications={"taskIds": [task_id]})
                finally:
                    nursery_done.set()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(listen)
                await peer.told("working")
                nursery.cancel_scope.cancel()
        assert nursery_done.is_set()


async def test_what_a_job_waits_for_is_notified(world: World) -> None:
    async with world.open() as sup, world.peer() as peer, trio.open_nursery() as nursery:
        await sup.set_group("agents")
        await sup.pause_group("agents")
        made = await peer.call("build", target="all", group="agents")
        nursery.start_soon(peer.listen, [made["taskId"]])
        assert (await peer.told())["statusMessage"] == "Waiting: its group is paused; next in line"
        await sup.hold(made["taskId"])
        assert (await peer.told())["statusMessage"] == "Waiting: on hold, until it is released"
        await sup.resume_group("agents")
        await sup.release(made["taskId"])
        while (note := await peer.told())["statusMessage"] != "The job is running":
            assert note["statusMessage"] == "Waiting: it is about to be launched"
        nursery.cancel_scope.cancel()
