"""Only the principal that created a task, and the owner of the state root, can access it."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from tests.mcp_server.tasks.in_memory import LEGACY, MODERN, Peer, Refused, World

TOOLS = pytest.mark.parametrize("tool", ["build", "think"])
ARGUMENTS: dict[str, dict[str, Any]] = {"build": {"target": "all"}, "think": {}}


async def refused(peer: Peer, method: str, **params: Any) -> str:
    with pytest.raises(Refused) as caught:
        await peer(method, **params)
    assert caught.value.code == -32602
    return caught.value.message


@TOOLS
@pytest.mark.parametrize("era", [MODERN, LEGACY])
async def test_others_are_told_what_they_would_be_told_of_no_task(world: World, tool: str, era: str) -> None:
    async with world.open(), world.peer("ann", era) as ann, world.peer("bob", era) as bob:
        task_id = (await ann.call(tool, **ARGUMENTS[tool]))["taskId"]
        methods = ["tasks/get", "tasks/cancel", "tasks/update" if era == MODERN else "tasks/result"]
        for method in methods:
            extra = {"inputResponses": {}} if method == "tasks/update" else {}
            said = await refused(bob, method, taskId=task_id, **extra)
            unknown = await refused(bob, method, taskId="0" * 32, **extra)
            assert said.replace(task_id, "") == unknown.replace("0" * 32, "")
        assert (await ann.get(task_id))["status"] == "working"


@TOOLS
async def test_a_principal_is_the_same_in_both_generations(world: World, tool: str) -> None:
    async with world.open(), world.peer("ann") as modern, world.peer("ann", LEGACY) as legacy:
        one = (await modern.call(tool, **ARGUMENTS[tool]))["taskId"]
        two = (await legacy.call(tool, **ARGUMENTS[tool]))["taskId"]
        assert (await legacy.get(one))["status"] == "working"
        assert (await modern.get(two))["status"] == "working"


@TOOLS
async def test_the_owner_of_the_state_root_sees_all(world: World, tool: str) -> None:
    async with world.open(), world.peer("ann") as ann, world.peer("owner") as owner:
        task_id = (await ann.call(tool, **ARGUMENTS[tool]))["taskId"]
        assert (await owner.get(task_id))["status"] == "working"
        his = (await owner.call(tool, **ARGUMENTS[tool]))["taskId"]
        await refused(ann, "tasks/get", taskId=his)


@TOOLS
async def test_principals_outlive_the_server(world: World, tool: str) -> None:
    async with world.open(), world.peer("ann") as ann:
        task_id = (await ann.call(tool, **ARGUMENTS[tool]))["taskId"]
    again = World(world.settings.state_dir, world.engine)
    async with again.open(), again.peer("ann") as ann, again.peer("bob") as bob:
        await ann.get(task_id)
        await refused(bob, "tasks/get", taskId=task_id)


async def test_lists_hold_ones_own(world: World) -> None:
    async with (
        world.open(),
        world.peer("ann", LEGACY) as ann,
        world.peer("bob", LEGACY) as bob,
        world.peer("owner", LEGACY) as owner,
    ):
        anns = {(await ann.call(tool, **ARGUMENTS[tool]))["taskId"] for tool in ARGUMENTS}
        bobs = {(await bob.call(tool, **ARGUMENTS[tool]))["taskId"] for tool in ARGUMENTS}

        async def listed(peer: Peer) -> set[str]:
            return {task["taskId"] for task in (await peer("tasks/list"))["tasks"]}

        assert await listed(ann) == anns
        assert await listed(bob) == bobs
        assert await listed(owner) == anns | bobs


async def test_no_client_listens_to_the_tasks_of_others(world: World) -> None:
    async with world.open(), world.peer("ann") as ann, world.peer("bob") as bob, trio.open_nursery() as nursery:
        theirs = (await ann.call("think"))["taskId"]
        own = (await bob.call("think"))["taskId"]
        nursery.start_soon(bob.listen, [theirs, own, "0" * 32, "x"])
        ack = await bob.notifications.receive()
        assert ack["method"] == "notifications/subscriptions/acknowledged"
        assert ack["notifications"]["taskIds"] == [own]
        world.gate.set()
        heard = [await bob.told("completed")]
        assert [note["taskId"] for note in heard] == [own]
        await ann.until(theirs)
        while True:
            try:
                assert bob.notifications.receive_nowait()["taskId"] == own
            except trio.WouldBlock:
                break
        nursery.cancel_scope.cancel()
