"""Progress notifications of calls that wait for a job."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
import trio
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter

from supervisor import BlockingSupervisor, open_supervisor
from supervisor.mcp_server.config import kinds_file
from supervisor.mcp_server.lazy import LazySupervisor
from supervisor.mcp_server.options import Options
from supervisor.mcp_server.serving import assemble
from supervisor.mcp_server.tools import reporting
from supervisor.testing import Script

KINDS = """
[kind.mend]
description = "Mend an issue."
command = ["claude", "-p", "{issue}"]
interpret = "claude"
group = "agents"
parameters.issue = { type = "string", description = "Which." }
"""
ERAS = pytest.mark.parametrize("era", ["legacy", "auto"])


def turn(number: int) -> str:
    """Return the line of one turn, with a tool and some tokens."""
    content = [{"type": "tool_use", "id": f"t{number}", "name": "Bash", "input": {"command": "make"}}]
    usage = {"input_tokens": 1000, "output_tokens": 200}
    message = {"id": f"m{number}", "role": "assistant", "content": content, "usage": usage}
    return json.dumps({"type": "assistant", "message": message}) + "\n"


class Told:
    """Collects the notifications of one call, and waits for them."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.texts: list[str] = []
        self._more = trio.Event()

    async def __call__(self, progress: float, total: float | None, message: str | None) -> None:
        assert total is None
        assert message is not None
        self.values.append(progress)
        self.texts.append(message)
        self._more.set()

    async def until(self, word: str) -> str:
        """Return the first notification with a word."""
        with trio.fail_after(30):
            while True:
                for each in self.texts:
                    if word in each:
                        return each
                self._more = trio.Event()
                await self._more.wait()


@asynccontextmanager
async def waiting(caller: Any, told: Told, tool: str, **arguments: Any) -> AsyncIterator[list[Any]]:
    """Call a tool in the background; the list has its answer at the end."""
    answers: list[Any] = []
    async with trio.open_nursery() as nursery:

        async def ask() -> None:
            answers.append(await caller.client.call_tool(tool, arguments, progress_callback=told))

        nursery.start_soon(ask)
        yield answers


async def until_turn(call: Any, job_id: str, number: int) -> None:
    """Wait until the server knows that the agent is at a turn."""
    with trio.fail_after(30):
        while (await call("job_status", job_id=job_id)).get("progress", {}).get("turn") != number:
            await trio.testing.wait_all_tasks_blocked(0.01)


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "_BETWEEN_SECONDS", 0.0)


@pytest.fixture(autouse=True)
def _group(servers: Any) -> None:
    with BlockingSupervisor(servers.settings) as sup:
        sup.set_group("agents", limit=1)


@pytest.mark.parametrize("starts", [False, True])
async def test_a_caller_sees_turn_tool_and_tokens(servers: Any, *, starts: bool) -> None:
    servers.script = Script(seconds=None)
    told = Told()
    async with servers(KINDS) as call:
        if starts:
            waits = waiting(call, told, "mend", issue="1", wait_seconds=60)
        else:
            job = await call("mend", issue="1")
            waits = waiting(call, told, "job_wait", job_id=job["job_id"])
        async with waits as answers:
            command = await servers.engine.next()
            assert await told.until("running") == "running"
            for number in (1, 2):
                command.write(turn(number))
                seen = await told.until(f"turn {number}")
                assert seen == f"running: turn {number}, Bash, {number * 1.2:.1f}k tokens"
            command.finish()
    assert len(answers) == 1
    assert told.values == sorted(set(told.values))


async def test_a_caller_sees_its_place_move_up(servers: Any) -> None:
    """Also where the others are started and stopped by another process."""
    servers.script = Script(seconds=None)
    told = Told()
    async with servers(KINDS) as call, open_supervisor(servers.settings, engine=servers.engine) as other:
        jobs = [await other.start(["x"], groups=["agents"]) for _ in range(3)]
        last = await call("mend", issue="1")
        async with waiting(call, told, "job_wait", job_id=last["job_id"]):
            assert await told.until("ahead") == "waiting: for room in agents; 2 jobs ahead"
            await other.cancel(jobs[1].job_id)
            assert await told.until("1 job ahead") == "waiting: for room in agents; 1 job ahead"
            await other.pause_group("agents")
            assert "its group is paused" in await told.until("paused")
            await other.resume_group("agents")
            for each in (jobs[2], jobs[0]):
                await other.cancel(each.job_id)
            await told.until("running")
            servers.engine.command(last["job_id"]).finish()


@ERAS
async def test_a_caller_without_a_token_gets_none(servers: Any, era: str) -> None:
    servers.script = Script(seconds=None)
    got: list[Any] = []

    async def hear(message: Any) -> None:
        got.append(message)

    async with servers(KINDS, era=era, message_handler=hear) as call:
        job = await call("mend", issue="1")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: call("job_wait", job_id=job["job_id"]))
            command = await servers.engine.next()
            command.write(turn(1))
            await trio.testing.wait_all_tasks_blocked(0.05)
            command.finish()
    assert got == []


async def test_there_is_no_more_than_one_in_the_time_between(servers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "_BETWEEN_SECONDS", 3600.0)
    servers.script = Script(seconds=None)
    told = Told()
    async with servers(KINDS) as call:
        job = await call("mend", issue="1")
        async with waiting(call, told, "job_wait", job_id=job["job_id"]):
            command = await servers.engine.next()
            await told.until("running")
            for number in range(1, 4):
                command.write(turn(number))
                await until_turn(call, job["job_id"], number)
            command.finish()
    assert told.texts == ["running"]


async def test_a_wait_that_is_cancelled_ends_its_notifications(servers: Any) -> None:
    servers.script = Script(seconds=None)
    told = Told()
    async with servers(KINDS) as call:
        job = await call("mend", issue="1")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                lambda: call.client.call_tool("job_wait", {"job_id": job["job_id"]}, progress_callback=told)
            )
            command = await servers.engine.next()
            await told.until("running")
            nursery.cancel_scope.cancel()
        command.write(turn(1))
        await until_turn(call, job["job_id"], 1)
        assert told.texts == ["running"]


async def test_a_further_attempt_is_reported_too(servers: Any) -> None:
    kinds = """
        [kind.flaky]
        description = "Fails at first."
        command = ["flaky"]
        retry = { maximum_attempts = 2, initial_interval = 0, retry_on = [75] }
    """
    servers.script = Script(exit_code=75, seconds=None)
    told = Told()
    async with servers(kinds) as call:
        job = await call("flaky")
        async with waiting(call, told, "job_wait", job_id=job["job_id"]) as answers:
            first = await servers.engine.next()
            await told.until("running")
            first.finish(75)
            (await servers.engine.next()).finish()
    assert answers[0].structured_content["status"] == "done"
    assert told.values == sorted(set(told.values))


async def test_a_defect_of_the_reports_is_none_of_the_wait(servers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> str:
        raise ZeroDivisionError

    monkeypatch.setattr(reporting, "_activity", fail)
    servers.script = Script(seconds=0.01, stdout="{}")
    async with servers(KINDS) as call:
        answer = await call.client.call_tool("mend", {"issue": "1", "wait_seconds": 60}, progress_callback=Told())
        assert answer.structured_content["job"]["status"] in {"done", "failed"}


# ---------------------------------------------------------------- on the wire


class Wire:
    """A host that writes messages by itself."""

    def __init__(self, to_server: Any, from_server: Any, *, is_modern: bool) -> None:
        self._to_server = to_server
        self._from_server = from_server
        self._is_modern = is_modern

    async def send(self, method: str, number: int | None = None, *, token: Any = None, **params: Any) -> None:
        meta: dict[str, Any] = {} if token is None else {"progressToken": token}
        if self._is_modern:
            names = {"protocolVersion": "2026-07-28", "clientInfo": CLIENT, "clientCapabilities": {}}
            meta |= {f"io.modelcontextprotocol/{name}": value for name, value in names.items()}
        shape: dict[str, Any] = {
            "jsonrpc": "2.0",
            "method": method,
            "params": params | ({"_meta": meta} if meta else {}),
        }
        if number is not None:
            shape["id"] = number
        await self._to_server.send(SessionMessage(jsonrpc_message_adapter.validate_python(shape, by_name=False)))

    async def next(self) -> dict[str, Any]:
        with trio.fail_after(30):
            message = (await self._from_server.receive()).message
        shape: dict[str, Any] = message.model_dump(by_alias=True, exclude_unset=True)
        return shape


CLIENT = {"name": "test", "version": "1"}
MODERN = pytest.mark.parametrize("is_modern", [False, True])


@asynccontextmanager
async def wire(servers: Any, *, is_modern: bool) -> AsyncIterator[Wire]:
    options = Options(settings=servers.settings, kinds=kinds_file.parse(KINDS, "kinds.toml"))
    lazy = LazySupervisor(lambda: open_supervisor(servers.settings, engine=servers.engine))
    server = assemble(options, lazy, trust_roots=False)
    to_server, from_host = anyio.create_memory_object_stream[Any](0)
    to_host, from_server = anyio.create_memory_object_stream[Any](0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lazy.run)
        nursery.start_soon(server.run, from_host, to_host, server.create_initialization_options())
        async with to_server, from_server:
            host = Wire(to_server, from_server, is_modern=is_modern)
            if not is_modern:
                await host.send("initialize", 1, protocolVersion="2025-11-25", capabilities={}, clientInfo=CLIENT)
                await host.next()
                await host.send("notifications/initialized")
            yield host
            nursery.cancel_scope.cancel()


@MODERN
@pytest.mark.parametrize("token", ["t", 0, ""])
async def test_the_answer_is_the_last_message(servers: Any, token: Any, *, is_modern: bool) -> None:
    servers.script = Script(seconds=None)
    async with wire(servers, is_modern=is_modern) as host:
        call = {"name": "mend", "arguments": {"issue": "1", "wait_seconds": 60}}
        await host.send("tools/call", 2, token=token, **call)
        command = await servers.engine.next()
        values: list[float] = []
        command.write(turn(1))
        while (message := await host.next()).get("method") == "notifications/progress":
            assert message["params"]["progressToken"] == token
            values.append(message["params"]["progress"])
            if len(values) < 5:
                command.write(turn(len(values) + 1))
            elif len(values) == 5:
                command.finish()
        assert message["id"] == 2
        assert values == sorted(set(values))
        assert len(values) >= 5
        await host.send("tools/list", 3)
        assert (await host.next())["id"] == 3


@MODERN
@pytest.mark.parametrize("token", [True, 1.5, [], {}, None])
async def test_what_is_no_token_is_as_none(servers: Any, token: Any, *, is_modern: bool) -> None:
    servers.script = Script(seconds=0.05, stdout=turn(1))
    async with wire(servers, is_modern=is_modern) as host:
        await host.send("tools/call", 2, token=token, name="mend", arguments={"issue": "1", "wait_seconds": 60})
        message = await host.next()
        assert message["id"] == 2, message


@MODERN
async def test_a_host_that_does_not_read_gets_the_answer_next(servers: Any, *, is_modern: bool) -> None:
    """One notification is under way; those after it are left out."""
    servers.script = Script(seconds=None)
    async with wire(servers, is_modern=is_modern) as host:
        await host.send("tools/call", 2, token="t", name="mend", arguments={"issue": "1", "wait_seconds": 60})
        command = await servers.engine.next()
        async with open_supervisor(servers.settings, engine=servers.engine) as sup:
            for number in range(1, 6):
                command.write(turn(number))
            command.finish()
            await sup.wait(command.job_id)
        messages = [await host.next()]
        while "id" not in messages[-1]:
            messages.append(await host.next())
        assert len(messages) <= 3
