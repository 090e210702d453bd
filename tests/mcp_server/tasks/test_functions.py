"""Function tasks: a tool's function that runs on after its call was answered, and its questions."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import trio
from mcp.server.mcpserver import Context
from mcp_types import SamplingMessage, TextContent

from supervisor import Settings
from supervisor.testing import FakeEngine
from tests.mcp_server.tasks.in_memory import ALL, Refused, World, Yes, kept

YES = {"action": "accept", "content": {"yes": True}}


async def test_from_call_to_result(world: World) -> None:
    async with world.open(), world.peer() as peer:
        made = await peer.call("think", about=7)
        assert made["status"] == "working"
        await world.begun.wait()
        assert (await peer.get(made["taskId"]))["status"] == "working"
        world.gate.set()
        done = await peer.until(made["taskId"])
    assert done["status"] == "completed"
    assert done["result"]["content"] == [{"type": "text", "text": "thought about 7"}]
    assert done["result"]["structuredContent"] == {"result": "thought about 7"}
    assert done["ttlMs"] == 86400 * 1000
    assert done["createdAt"] == made["createdAt"] <= done["lastUpdatedAt"]


@pytest.mark.parametrize(
    ("how", "status", "said"),
    [
        ("tool", "completed", "as tools do"),
        ("protocol", "failed", {"code": -32042, "message": "as the protocol does", "data": {"why": "asked to"}}),
        ("crash", "completed", "Error executing tool fail"),
    ],
)
async def test_ends_that_are_bad(world: World, how: str, status: str, said: object) -> None:
    async with world.open(), world.peer() as peer:
        made = await peer.call("fail", how=how)
        done = await peer.until(made["taskId"])
    assert done["status"] == status
    if status == "failed":
        assert done["error"] == said
        assert "result" not in done
    else:
        assert done["result"]["isError"] is True
        assert str(said) in done["result"]["content"][0]["text"]
        assert "secret of the server" not in str(done)  # the message of a crash stays on the server
        assert "error" not in done


async def test_arguments_that_do_not_fit_make_no_task(world: World, state_dir: Path) -> None:
    async with world.open(), world.peer() as peer:
        answer = await peer("tools/call", name="think", arguments={"about": "nothing"})
        assert answer["isError"] is True
        assert answer["resultType"] == "complete"
    assert not kept(state_dir)


async def test_a_client_without_tasks_waits_for_the_function(world: World, state_dir: Path) -> None:
    world.gate.set()
    async with world.open(), world.peer(capabilities={}) as peer:
        answer = await peer("tools/call", name="think", arguments={})
        assert answer["content"][0]["text"] == "thought about 1"
    assert not kept(state_dir)


async def test_a_tool_that_needs_tasks_refuses_clients_without(world: World) -> None:
    async with world.open(), world.peer(capabilities={"elicitation": {}}) as peer:
        with pytest.raises(Refused) as caught:
            await peer("tools/call", name="only_as_a_task", arguments={})
        assert caught.value.code == -32021


async def test_it_is_on_disk_before_it_is_answered(world: World, state_dir: Path, engine: FakeEngine) -> None:
    other = World(state_dir, engine)
    async with world.open(), world.peer() as peer, other.open(), other.peer() as there:
        made = await peer.call("think")
        assert (await there.get(made["taskId"]))["status"] == "working"


async def test_progress_is_its_status_message(world: World) -> None:
    async def body(ctx: Context) -> str:
        await ctx.report_progress(1, 3)
        await ctx.report_progress(2, 3, "nearly")
        await world.gate.wait()
        return "done"

    world.body = body
    async with world.open(), world.peer() as peer:
        made = await peer.call("act")
        while (got := await peer.get(made["taskId"])).get("statusMessage") != "nearly (2/3)":
            await trio.lowlevel.checkpoint()
        assert got["status"] == "working"


# ------------------------------------------------------------ cancelling


async def test_cancelling_stops_the_function(world: World) -> None:
    async with world.open(), world.peer() as peer:
        made = await peer.call("think")
        await world.begun.wait()
        ack = await peer("tasks/cancel", taskId=made["taskId"])
        assert {"taskId", "status"}.isdisjoint(ack)
        assert world.left.is_set()
        assert (await peer.get(made["taskId"]))["status"] == "cancelled"
        await peer("tasks/cancel", taskId=made["taskId"])


async def test_a_function_may_end_naturally_all_the_same(world: World) -> None:
    async def body(ctx: Context) -> str:
        del ctx
        world.begun.set()
        with trio.CancelScope(shield=True):
            await world.gate.wait()
        return "too late"

    world.body = body
    async with world.open(), world.peer() as peer:
        made = await peer.call("act")
        await world.begun.wait()
        await peer("tasks/cancel", taskId=made["taskId"])
        assert (await peer.get(made["taskId"]))["status"] == "working"  # an acknowledgement is no promise
        world.gate.set()
        assert (await peer.until(made["taskId"]))["status"] == "completed"


async def test_a_client_that_takes_its_call_back_in_time_makes_no_task(world: World, state_dir: Path) -> None:
    asking = trio.Event()

    @world.server.tool()
    @world.tasks.function(asks_first=True)
    async def slow_to_begin() -> str:
        """Take its time before there is a task."""
        asking.set()
        try:
            await trio.sleep_forever()
        finally:
            world.left.set()

    async with world.open(), world.peer() as peer:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.call, "slow_to_begin")
            await asking.wait()
            nursery.cancel_scope.cancel()
        await world.left.wait()
    assert not kept(state_dir)


async def test_shutting_down_ends_it_as_failed(world: World, state_dir: Path, engine: FakeEngine) -> None:
    async with world.open(), world.peer() as peer:
        made = await peer.call("think")
        await world.begun.wait()
    assert world.left.is_set()
    again = World(state_dir, engine)
    async with again.open(), again.peer() as peer:
        got = await peer.get(made["taskId"])
        assert got["status"] == "failed"
        assert "shut down" in got["error"]["message"]


# ------------------------------------------------------------ asking


async def asks(world: World, *names: str) -> None:
    async def body(ctx: Context) -> str:
        said: dict[str, bool] = {}

        async def ask(name: str) -> None:
            answer = await ctx.elicit(f"{name}?", Yes)
            said[name] = answer.action == "accept" and answer.data.yes

        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(ask, name)
        return str(sorted(said.items()))

    world.body = body


def message_of(request: Any) -> str:
    message: str = request["params"]["message"]
    return message


async def test_questions_are_answered_one_by_one(world: World) -> None:
    await asks(world, "a", "b")
    async with world.open(), world.peer() as peer:
        made = await peer.call("act")
        while len((got := await peer.until(made["taskId"], "input_required"))["inputRequests"]) < 2:
            pass
        keys = {message_of(request): key for key, request in got["inputRequests"].items()}
        assert {request["method"] for request in got["inputRequests"].values()} == {"elicitation/create"}
        assert (await peer.get(made["taskId"]))["inputRequests"] == got["inputRequests"]

        ack = await peer("tasks/update", taskId=made["taskId"], inputResponses={keys["a?"]: YES})
        assert {"taskId", "status", "inputRequests"}.isdisjoint(ack)
        left = await peer.get(made["taskId"])
        assert left["status"] == "input_required"
        assert list(left["inputRequests"]) == [keys["b?"]]

        # The first again, one that was never asked, and the second: only that counts.
        no = {"action": "accept", "content": {"yes": False}}
        await peer("tasks/update", taskId=made["taskId"], inputResponses={keys["a?"]: no, "x": 1, keys["b?"]: no})
        done = await peer.until(made["taskId"])
    assert done["result"]["content"][0]["text"] == "[('a', True), ('b', False)]"


async def test_keys_are_never_used_again(world: World) -> None:
    seen: list[str] = []

    async def body(ctx: Context) -> str:
        for _ in range(5):
            await ctx.elicit("Again?", Yes)
        with trio.move_on_after(0):
            await ctx.elicit("Never mind", Yes)  # taken back: its key is used up as well
        await ctx.elicit("And again?", Yes)
        return "done"

    world.body = body
    async with world.open(), world.peer() as peer:
        made = await peer.call("act")
        while (got := await peer.until(made["taskId"]) if len(seen) == 6 else await peer.get(made["taskId"]))[
            "status"
        ] != "completed":
            for key in got.get("inputRequests", {}):
                if key not in seen and message_of(got["inputRequests"][key]) != "Never mind":
                    seen.append(key)
                    await peer("tasks/update", taskId=made["taskId"], inputResponses={key: YES})
            await trio.lowlevel.checkpoint()
    assert len(set(seen)) == 6
    assert got["result"]["content"][0]["text"] == "done"


async def test_an_answer_that_does_not_fit_is_refused_and_none_is_taken(world: World) -> None:
    await asks(world, "a", "b")
    async with world.open(), world.peer() as peer:
        made = await peer.call("act")
        while len((got := await peer.until(made["taskId"], "input_required"))["inputRequests"]) < 2:
            pass
        first, second = got["inputRequests"]
        with pytest.raises(Refused) as caught:
            await peer("tasks/update", taskId=made["taskId"], inputResponses={first: YES, second: {"action": "sing"}})
        assert caught.value.code == -32602
        assert second in caught.value.message
        assert set((await peer.get(made["taskId"]))["inputRequests"]) == {first, second}


async def test_declining_is_an_answer(world: World) -> None:
    await asks(world, "a")
    async with world.open(), world.peer() as peer:
        made = await peer.call("act")
        (key,) = (await peer.until(made["taskId"], "input_required"))["inputRequests"]
        await peer("tasks/update", taskId=made["taskId"], inputResponses={key: {"action": "decline"}})
        assert (await peer.until(made["taskId"]))["result"]["content"][0]["text"] == "[('a', False)]"


async def test_sampling_and_roots_are_questions_too(world: World) -> None:
    async def body(ctx: Context) -> str:
        text = SamplingMessage(role="user", content=TextContent(text="Paris?"))
        with warnings.catch_warnings(action="ignore"):  # asked for all the same
            said = await ctx.session.create_message(messages=[text], max_tokens=5)
            roots = await ctx.session.list_roots()
        return f"{said.content.text} {roots.roots[0].uri}"  # type: ignore[union-attr]

    world.body = body
    async with world.open(), world.peer() as peer:
        made = await peer.call("act")
        (key,) = (got := await peer.until(made["taskId"], "input_required"))["inputRequests"]
        assert got["inputRequests"][key]["method"] == "sampling/createMessage"
        answer = {"role": "assistant", "model": "m", "content": {"type": "text", "text": "Oui"}}
        await peer("tasks/update", taskId=made["taskId"], inputResponses={key: answer})
        (key,) = (got := await peer.until(made["taskId"], "input_required"))["inputRequests"]
        assert got["inputRequests"][key]["method"] == "roots/list"
        answer = {"roots": [{"uri": "file:///r"}]}
        await peer("tasks/update", taskId=made["taskId"], inputResponses={key: answer})
        assert (await peer.until(made["taskId"]))["result"]["content"][0]["text"] == "Oui file:///r"


async def test_a_client_is_not_asked_what_it_has_not_declared(world: World) -> None:
    await asks(world, "a")
    mute = {name: value for name, value in ALL.items() if name != "elicitation"}
    async with world.open(), world.peer(capabilities=mute) as peer:
        made = await peer.call("act")
        done = await peer.until(made["taskId"])
        assert done["status"] == "completed"  # the group that its nursery raises is a crash of the tool's
        assert done["result"]["isError"] is True

        async def body(ctx: Context) -> str:
            await ctx.elicit("a?", Yes)
            return "not reached"

        world.body = body
        done = await peer.until((await peer.call("act"))["taskId"])
        assert done["status"] == "failed"
        assert done["error"]["code"] == -32021
        assert done["error"]["data"] == {"requiredCapabilities": {"elicitation": {}}}


async def test_cancelling_while_it_asks(world: World) -> None:
    await asks(world, "a")
    async with world.open(), world.peer() as peer:
        made = await peer.call("act")
        (key,) = (await peer.until(made["taskId"], "input_required"))["inputRequests"]
        await peer("tasks/cancel", taskId=made["taskId"])
        got = await peer.get(made["taskId"])
        assert got["status"] == "cancelled"
        assert "inputRequests" not in got
        await peer("tasks/update", taskId=made["taskId"], inputResponses={key: YES})  # too late, and not wrong


# ------------------------------------------------------------ time to live


async def test_a_function_that_outlives_its_time_is_stopped_and_forgotten(
    world: World,
    state_dir: Path,
) -> None:
    world.settings = Settings(state_dir=state_dir, job_ttl=0.05)
    async with world.open(), world.peer() as peer:
        made = await peer.call("think")
        assert made["ttlMs"] == 50
        await world.left.wait()
        with pytest.raises(Refused, match="no task"):
            await peer.get(made["taskId"])
    assert not kept(state_dir)


async def test_a_full_disk_makes_no_task(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from supervisor.errors import StateFull
    from supervisor.mcp_server.tasks.records import TaskRecords

    def full(*_: object) -> None:
        message = "no space left"
        raise StateFull(message)

    monkeypatch.setattr(TaskRecords, "make", full)
    async with world.open(), world.peer() as peer:
        answer = await peer("tools/call", name="think", arguments={})
        assert answer["isError"] is True
        assert not world.begun.is_set()


async def test_an_end_that_cannot_be_written_down_is_told_while_the_server_lives(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from supervisor.errors import StateFull
    from supervisor.mcp_server.tasks.records import TaskRecords

    def full(*_: object, **__: object) -> None:
        message = "no space left"
        raise StateFull(message)

    monkeypatch.setattr(TaskRecords, "end", full)
    world.gate.set()
    async with world.open(), world.peer() as peer:
        made = await peer.call("think")
        done = await peer.until(made["taskId"])
        assert done["status"] == "completed"
        assert done["result"]["content"][0]["text"] == "thought about 1"
