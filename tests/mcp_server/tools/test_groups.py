"""The tool about groups."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
import trio
from mcp import MCPError

from supervisor import BlockingSupervisor, open_supervisor
from supervisor.mcp_server import changes
from supervisor.mcp_server.access import principals
from supervisor.mcp_server.changes import Changes, Watch
from supervisor.mcp_server.tools import groups, resources
from supervisor.testing import Script

KINDS = """
[kind.slow]
description = "One after the other."
command = ["sleep", "1"]
group = "agents"
"""


async def test_the_groups_of_the_kinds_are_shown(servers: Any) -> None:
    servers.script = Script(seconds=None)
    async with open_supervisor(servers.settings, engine=servers.engine) as sup:
        await sup.set_group("agents", limit=1, budgets=["starts=5/day"])
        await sup.set_group("others")
        async with servers(KINDS) as call:
            for _ in range(3):
                await call("slow")
            await sup.pause_group("agents", reason="r" * 500)
            (shown,) = (await call("group_list"))["groups"]
    assert (shown["name"], shown["limit"], shown["running"], shown["waiting"]) == ("agents", 1, 1, 2)
    assert shown["oldest_wait_seconds"] >= 0
    assert (shown["paused"][0]["by"], len(shown["paused"][0]["detail"])) == ("user", 201)
    (left,) = shown["budget_left"]
    assert (left["metric"], left["window"], left["left"]) == ("starts", "day", 4)
    assert left["resets_at"] is not None


async def test_an_idle_group_without_budgets_is_short(servers: Any) -> None:
    async with open_supervisor(servers.settings, engine=servers.engine) as sup:
        await sup.set_group("agents")
    async with servers(KINDS) as call:
        assert (await call("group_list"))["groups"] == [{"name": "agents", "limit": None, "running": 0, "waiting": 0}]


async def test_without_a_kind_in_a_group_there_is_no_such_tool(servers: Any) -> None:
    async with servers() as call:
        assert "group_list" not in {each.name for each in (await call.client.list_tools()).tools}


async def test_the_jobs_that_wait_are_shown_in_their_order(servers: Any) -> None:
    servers.script = Script(seconds=None)
    async with open_supervisor(servers.settings, engine=servers.engine) as sup:
        await sup.set_group("agents", limit=1)
        async with servers(KINDS) as call:
            jobs = [await call("slow") for _ in range(13)]
            await sup.move(jobs[-1]["job_id"], first=True)
            (shown,) = (await call("group_list"))["groups"]
    ids = [jobs[-1]["job_id"], *(each["job_id"] for each in jobs[1:10])]
    places = [(each["job_id"], each["queue_position"], each["queue_reason"]) for each in shown["waiting_jobs"]]
    assert places == [(job_id, position, "limit") for position, job_id in enumerate(ids, 1)]
    assert shown["waiting_jobs_truncated"] is True


@pytest.fixture
def alice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every caller in memory be a principal."""
    from supervisor.mcp_server.tools import tool

    for module in (tool, resources):
        monkeypatch.setattr(module, "principal_of", lambda _: "alice")


@pytest.mark.usefixtures("alice")
@pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")
async def test_a_principal_sees_its_own_group_and_its_own_jobs(servers: Any) -> None:
    servers.script = Script(seconds=None)
    async with open_supervisor(servers.settings, engine=servers.engine) as sup:
        for name in ("agents", "principal.alice", "principal.bob"):
            await sup.set_group(name, limit=1)
        await sup.start(["x"], groups=["agents"])
        await sup.start(["x"], groups=["agents"], labels={principals.PRINCIPAL_LABEL: "bob"})
        async with servers(KINDS) as call:
            job = await call("slow")
            shown = {each["name"]: each for each in (await call("group_list"))["groups"]}
            assert set(shown) == {"agents", "principal.alice"}
            assert shown["agents"]["waiting"] == 2
            assert [each["job_id"] for each in shown["agents"]["waiting_jobs"]] == [job["job_id"]]
            await call.client.read_resource("group://principal.alice")
            for name in ("principal.bob", "none"):
                with pytest.raises(MCPError, match="there is no group"):
                    await call.client.read_resource(f"group://{name}")
                with pytest.raises(MCPError, match="there is no group"):
                    await call.client.subscribe_resource(f"group://{name}")


# ---------------------------------------------------------------- as a resource


class Told:
    """Collects the updates for a client, and waits for them."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[str](100)

    async def __call__(self, message: Any) -> None:
        if getattr(message, "method", None) == "notifications/resources/updated":
            await self._send.send(str(message.params.uri))

    async def next(self) -> None:
        with trio.fail_after(30):
            assert await self._receive.receive() == "group://agents"

    def drain(self) -> None:
        """Take what is there: a change may be seen in two steps."""
        while not self.nothing():
            self._receive.receive_nowait()

    def nothing(self) -> bool:
        return self._receive.statistics().current_buffer_used == 0


@pytest.fixture
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "_QUIET_SECONDS", 0.0)
    monkeypatch.setattr(groups, "_BETWEEN_READS_SECONDS", 0.0)


async def _group(call: Any) -> dict[str, Any]:
    (shown,) = (await call.client.read_resource("group://agents")).contents
    found: dict[str, Any] = json.loads(shown.text)
    return found


@pytest.mark.usefixtures("_quickly")
@pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")
async def test_a_subscriber_hears_of_counts_pauses_and_limits(servers: Any) -> None:
    """Whichever process changes them."""
    servers.script = Script(seconds=None)
    told = Told()
    async with open_supervisor(servers.settings, engine=servers.engine) as sup:
        await sup.set_group("agents", limit=1)
        async with servers(KINDS, message_handler=told) as call:
            templates = (await call.client.list_resource_templates()).resource_templates
            assert "group://{name}" in {each.uri_template for each in templates}
            assert "group://agents" in {str(each.uri) for each in (await call.client.list_resources()).resources}
            for _ in range(2):
                await call.client.subscribe_resource("group://agents")
            assert await _group(call) == {"name": "agents", "limit": 1, "running": 0, "waiting": 0}
            await sup.start(["x"], groups=["agents"])
            await told.next()
            assert (await _group(call))["running"] == 1
            await sup.set_group("agents", limit=2)
            await told.next()
            assert (await _group(call))["limit"] == 2
            await sup.pause_group("agents")
            await told.next()
            assert (await _group(call))["paused"][0]["by"] == "user"
            await sup.set_group("others")
            await call.client.unsubscribe_resource("group://agents")
            told.drain()
            await sup.resume_group("agents")
            await call("group_list")
            assert told.nothing()


@pytest.mark.usefixtures("_quickly")
async def test_a_stream_hears_of_a_group_until_it_is_removed(servers: Any) -> None:
    async with open_supervisor(servers.settings, engine=servers.engine) as sup:
        await sup.set_group("agents")
        async with (
            servers(KINDS, era="auto") as call,
            call.client.listen(resource_subscriptions=["group://agents"]) as stream,
        ):
            for change in (sup.set_group("agents", limit=3), sup.remove_group("agents")):
                await change
                with trio.fail_after(30):
                    assert (await anext(stream)).uri == "group://agents"


async def test_a_group_is_read_once_for_all_who_watch(servers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "_BETWEEN_READS_SECONDS", 0.0)
    reads = 0

    class Lazy:
        async def supervisor(self) -> Any:
            return self

        async def groups(self) -> Any:
            nonlocal reads
            reads += 1
            return await sup.groups()

    async with open_supervisor(servers.settings, engine=servers.engine) as sup:
        await sup.set_group("agents")
        lazy: Any = Lazy()
        read = groups.Groups(lazy, Changes(servers.settings), ())._groups
        watches = [Watch() for _ in range(20)]
        async with trio.open_nursery() as nursery:
            for each in watches:
                nursery.start_soon(read, each)
        assert reads == 1
        watches[0].wake()
        assert set(await read(watches[0])) == {"agents"}
        assert reads == 2


async def test_a_change_before_the_watch_has_begun_is_not_lost(servers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "_AGAIN_SECONDS", 3600.0)
    async with open_supervisor(servers.settings, engine=servers.engine) as sup:
        before = await sup.set_group("agents", limit=1)
        await sup.set_group("agents", limit=2)

        class Lazy:
            async def supervisor(self) -> Any:
                return sup

        lazy: Any = Lazy()
        watched = groups.Groups(lazy, Changes(servers.settings), ())
        async with contextlib.aclosing(watched.news("agents", before)) as news:
            with trio.fail_after(30):
                await anext(news)


@pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")
async def test_the_watches_of_a_session_end_with_it(servers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the sessions of a principal would use up its subscriptions, one after the other."""
    held: list[Any] = []
    original = resources.Resources.__init__

    def init(self: Any, *words: Any) -> None:
        original(self, *words)
        held.append(self)

    monkeypatch.setattr(resources.Resources, "__init__", init)
    with BlockingSupervisor(servers.settings) as sup:
        sup.set_group("agents")
    async with servers(KINDS) as call:
        await call.client.subscribe_resource("group://agents")
        assert held[0]._held.total() == 1
        await call.client.__aexit__(None, None, None)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert (held[0]._held.total(), held[0]._watches) == (0, {})
