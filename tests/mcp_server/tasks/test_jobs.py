"""Job tasks: a job of the supervisor as a task."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio
import trio.testing
from mcp import Client
from mcp.client.extension import advertise
from mcp_types import CallToolResult
from trio.testing import MockClock

from supervisor import Retry, Settings
from supervisor.jobs.catalog import Catalog
from supervisor.mcp_server.access.principals import PRINCIPAL_LABEL
from supervisor.mcp_server.tasks import EXTENSION_ID
from supervisor.testing import FakeEngine, Script
from tests.mcp_server.tasks.in_memory import ALL, LEGACY, MODERN, Refused, World

HOSTILE = ["", "nope", "../../etc/passwd", "0" * 31, "0" * 32, "A" * 32, "0" * 33, "\0", "x" * 100_000, "a/" + "0" * 30]


async def test_from_start_to_result(world: World, engine: FakeEngine) -> None:
    async with world.open() as sup, world.peer() as peer:
        made = await peer.call("build", target="all")
        assert made["status"] == "working"
        assert made["taskId"] == engine.commands[0].job_id
        assert {"result", "error", "inputRequests"}.isdisjoint(made)
        got = await peer.get(made["taskId"])
        assert (got["resultType"], got["status"], got["pollIntervalMs"]) == ("complete", "working", 1000)
        assert got["ttlMs"] == (1800 + 86400) * 1000  # for as long as it may run, and then as long as it is kept
        engine.commands[0].write("built\n")
        engine.commands[0].finish()
        done = await peer.until(made["taskId"])
        job = await sup.status(made["taskId"])
    assert job.expires_at is not None
    assert done["status"] == "completed"
    assert done["createdAt"] == made["createdAt"]
    assert done["ttlMs"] == round((job.expires_at - job.created_at).total_seconds() * 1000)
    assert "pollIntervalMs" not in done
    result = CallToolResult.model_validate(done["result"], by_name=False)
    assert result.is_error is False
    assert result.structured_content is not None
    assert result.structured_content["value"] == "built\n"
    assert json.loads(result.content[0].text) == result.structured_content  # type: ignore[union-attr]


async def test_it_is_on_disk_before_it_is_answered(world: World, state_dir: Path) -> None:
    async with world.open(), world.peer() as peer:
        made = await peer.call("build", target="all")
        with Catalog(Settings(state_dir=state_dir)) as somebody_else:
            assert somebody_else.row(made["taskId"]).request["argv"] == ["make", "all"]


@pytest.mark.parametrize(
    ("script", "code"),
    [
        (Script(exit_code=3, stderr="no rule\n"), "job_failed"),
        (Script(launch_error="no such command"), "launch_failed"),
        (Script(exit_code=None), "job_lost"),
    ],
)
async def test_a_job_that_ended_badly_is_completed_with_an_error(state_dir: Path, script: Script, code: str) -> None:
    world = World(state_dir, FakeEngine(script))
    async with world.open(), world.peer() as peer:
        made = await peer.call("build", target="all")
        done = await peer.until(made["taskId"])
        assert done["status"] == "completed"
        assert done["result"]["isError"] is True
        assert done["result"]["structuredContent"]["error"]["code"] == code
        assert "error" not in done


async def test_arguments_that_do_not_fit_make_no_job(world: World, engine: FakeEngine) -> None:
    async with world.open() as sup, world.peer() as peer:
        answer = await peer("tools/call", name="build", arguments={"target": "all", "bad": "not a number"})
        assert answer["isError"] is True
        assert answer["resultType"] == "complete"
        assert (await sup.list()).jobs == ()
        assert not engine.commands


async def test_a_client_without_tasks_is_given_the_job(world: World, engine: FakeEngine) -> None:
    async with world.open(), world.peer(capabilities={}) as peer:
        answer = await peer("tools/call", name="build", arguments={"target": "all"})
        assert answer["resultType"] == "complete"
        assert answer["structuredContent"]["job_id"] == engine.commands[0].job_id
        assert answer["structuredContent"]["status"] == "running"


async def test_cancelling(world: World, engine: FakeEngine) -> None:
    async with world.open(), world.peer() as peer:
        made = await peer.call("build", target="all")
        ack = await peer("tasks/cancel", taskId=made["taskId"])
        assert ack["resultType"] == "complete"
        assert {"taskId", "status"}.isdisjoint(ack)
        assert (await peer.get(made["taskId"]))["status"] == "cancelled"
        assert engine.commands[0].stop_reason == "cancelled"
        await peer("tasks/cancel", taskId=made["taskId"])  # once more changes nothing
        assert (await peer.get(made["taskId"]))["status"] == "cancelled"


async def test_cancelling_answers_before_a_stubborn_job_has_stopped(state_dir: Path) -> None:
    stubborn = FakeEngine(Script(seconds=None, stop_seconds=3))
    world = World(state_dir, stubborn)
    async with world.open(), world.peer() as peer:
        made = await peer.call("build", target="all")
        begun = trio.current_time()
        await peer("tasks/cancel", taskId=made["taskId"])
        assert trio.current_time() - begun < 2
        got = await peer.get(made["taskId"])
        assert got["status"] == "working"
        assert "stopped" in got["statusMessage"]
        stubborn.commands[0].finish(0)
        assert (await peer.until(made["taskId"]))["status"] == "cancelled"


@pytest.mark.parametrize("task_id", HOSTILE)
@pytest.mark.parametrize("method", ["tasks/get", "tasks/update", "tasks/cancel"])
async def test_ids_that_are_none(world: World, method: str, task_id: str) -> None:
    async with world.open(), world.peer() as peer:
        with pytest.raises(Refused) as caught:
            await peer(method, taskId=task_id, inputResponses={})
        assert caught.value.code == -32602
        assert len(caught.value.message) < 300


async def test_a_job_that_was_forgotten(world: World, engine: FakeEngine) -> None:
    async with world.open() as sup, world.peer() as peer:
        made = await peer.call("build", target="all")
        engine.commands[0].finish()
        await sup.wait(made["taskId"])
        await sup.result(made["taskId"], consume=True)
        with pytest.raises(Refused, match="no task"):
            await peer.get(made["taskId"])


async def test_its_time_to_live_runs_out(world: World, engine: FakeEngine, state_dir: Path) -> None:
    world.settings = Settings(state_dir=state_dir, job_ttl=0)
    async with world.open() as sup, world.peer() as peer:
        made = await peer.call("build", target="all")
        await peer.get(made["taskId"])
        engine.commands[0].finish()
        await sup.wait(made["taskId"])
        with pytest.raises(Refused, match="no task"):
            await peer.get(made["taskId"])


async def test_a_job_that_has_ended_by_the_time_of_the_answer(state_dir: Path) -> None:
    world = World(state_dir, FakeEngine(Script(stdout="quick\n")))
    async with world.open(), world.peer() as peer:
        made = await peer("tools/call", name="build", arguments={"target": "all"})
        assert made["resultType"] == "task"
        assert "result" not in made
        assert (await peer.until(made["taskId"]))["result"]["structuredContent"]["value"] == "quick\n"


async def test_an_update_means_nothing_to_a_job(world: World) -> None:
    async with world.open(), world.peer() as peer:
        made = await peer.call("build", target="all")
        ack = await peer("tasks/update", taskId=made["taskId"], inputResponses={"never-asked": {"action": "accept"}})
        assert ack["resultType"] == "complete"
        assert (await peer.get(made["taskId"]))["status"] == "working"


def lose_output(state_dir: Path, job_id: str) -> None:
    (output,) = state_dir.glob(f"*/{job_id}/result.json")
    output.unlink()


async def test_output_that_is_gone_is_an_error_result(world: World, engine: FakeEngine, state_dir: Path) -> None:
    async with world.open() as sup, world.peer() as peer:
        made = await peer.call("build", target="all")
        engine.commands[0].write("built\n")
        engine.commands[0].finish()
        await sup.wait(made["taskId"])
        lose_output(state_dir, made["taskId"])
        got = await peer.get(made["taskId"])
        assert got["status"] == "completed"
        assert got["result"]["isError"] is True
        assert got["result"]["structuredContent"]["error"]["code"] == "output_lost"


async def test_a_key_is_each_principals_own(world: World, engine: FakeEngine) -> None:
    async with world.open(), world.peer("ann") as ann, world.peer("bob") as bob:
        first = await ann.call("build", target="all", key="k")
        assert (await ann.call("build", target="all", key="k"))["taskId"] == first["taskId"]
        assert (await bob.call("build", target="all", key="k"))["taskId"] != first["taskId"]
        assert len(engine.commands) == 2


async def test_a_new_server_answers_for_the_jobs_of_the_last(world: World, engine: FakeEngine, state_dir: Path) -> None:
    async with world.open(), world.peer() as peer:
        made = await peer.call("build", target="all")
    again = World(state_dir, engine)
    async with again.open(), again.peer() as peer:
        assert (await peer.get(made["taskId"]))["status"] == "working"
        engine.commands[0].finish()
        assert (await peer.until(made["taskId"]))["status"] == "completed"


async def test_requests_wait_until_tasks_are_served(world: World) -> None:
    answers: list[int] = []
    async with world.peer() as peer, trio.open_nursery() as nursery:

        async def ask() -> None:
            with pytest.raises(Refused) as caught:
                await peer.get("0" * 32)
            answers.append(caught.value.code)
            nursery.cancel_scope.cancel()

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        assert not answers
        async with world.open():
            await trio.sleep_forever()
    assert answers == [-32602]


async def test_an_error_of_the_callers_block_comes_out_bare(world: World) -> None:
    with pytest.raises(ZeroDivisionError):
        async with world.open():
            _ = 1 / 0


@pytest.mark.parametrize("method", ["tasks/get", "tasks/update", "tasks/cancel"])
async def test_clients_have_to_declare_the_extension(world: World, method: str) -> None:
    plain = {name: value for name, value in ALL.items() if name != "extensions"}
    async with world.open(), world.peer() as peer, world.peer(capabilities=plain) as other:
        made = await peer.call("build", target="all")
        with pytest.raises(Refused) as caught:
            await other(method, taskId=made["taskId"], inputResponses={})
        assert caught.value.code == -32021
        assert caught.value.data == {"requiredCapabilities": {"extensions": {EXTENSION_ID: {}}}}


async def test_methods_of_the_other_generation_are_unknown(world: World) -> None:
    async with world.open(), world.peer() as modern, world.peer(era=LEGACY) as legacy:
        for peer, methods in ((modern, ["tasks/list", "tasks/result"]), (legacy, ["tasks/update"])):
            for method in methods:
                with pytest.raises(Refused) as caught:
                    await peer(method, taskId="0" * 32)
                assert caught.value.code == -32601


async def test_the_sdks_own_client_can_be_told_of_tasks(world: World) -> None:
    async with world.open(), Client(world.server, extensions=[advertise(EXTENSION_ID)]) as client:
        discovered = client.server_capabilities
        assert EXTENSION_ID in (discovered.extensions or {})
        answer = await client.call_tool("plain", {"number": 3})
        assert answer.content[0].text == "3"  # type: ignore[union-attr]


class Headers:
    """A request over HTTP, as far as the extension uses it."""

    def __init__(self, **headers: str) -> None:
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


@pytest.mark.parametrize("required", [False, True])
def test_a_header_that_is_missing_is_refused_by_those_who_insist(*, required: bool) -> None:
    from types import SimpleNamespace

    from mcp.shared.exceptions import MCPError

    from supervisor.mcp_server.tasks.extension import _check_name_header

    missing = SimpleNamespace(request=Headers())
    right = SimpleNamespace(request=Headers(mcp_name="a"))
    encoded = SimpleNamespace(request=Headers(mcp_name="=?base64?YQ==?="))
    no_http = SimpleNamespace(request=None)
    for fine in (right, encoded, no_http):
        _check_name_header(fine, "a", required=required)  # type: ignore[arg-type]
    if required:
        with pytest.raises(MCPError, match="is missing"):
            _check_name_header(missing, "a", required=True)  # type: ignore[arg-type]
    else:
        _check_name_header(missing, "a", required=False)  # type: ignore[arg-type]
    with pytest.raises(MCPError, match="must be the task id"):
        _check_name_header(right, "b", required=required)  # type: ignore[arg-type]


@pytest.mark.parametrize("era", [MODERN, LEGACY])
async def test_a_waiting_job_is_working_and_says_what_it_waits_for(
    world: World, engine: FakeEngine, mock_clock: MockClock, era: str
) -> None:
    ttl = "ttlMs" if era == MODERN else "ttl"
    async with world.open() as sup, world.peer(era=era) as peer:
        await sup.set_group("agents", limit=1)
        first, second, third = [await peer.call("build", target=str(n), group="agents") for n in range(3)]
        assert [each["status"] for each in (first, second, third)] == ["working"] * 3
        got = [await peer.get(each["taskId"]) for each in (second, third)]
        assert [each["statusMessage"] for each in got] == [
            "Waiting: for room in agents; next in line",
            "Waiting: for room in agents; 1 job ahead",
        ]
        assert got[0][ttl] is None, "it may wait for ever"
        mock_clock.jump(100)
        engine.command(first["taskId"]).finish()
        while (got := [await peer.get(second["taskId"])])[0]["statusMessage"] != "The job is running":
            await trio.testing.wait_all_tasks_blocked()
        assert got[0][ttl] == (100 + 1800 + 86400) * 1000
        await sup.pause_group("agents")
        assert (await peer.get(third["taskId"]))["statusMessage"] == "Waiting: its group is paused; next in line"


async def test_the_attempts_of_a_series_are_one_task(world: World, engine: FakeEngine) -> None:
    policy = Retry(maximum_attempts=2, initial_interval=0, retry_on=(7,))
    async with world.open() as sup, world.peer() as peer:
        job = await sup.start(["x"], labels={PRINCIPAL_LABEL: peer.name}, retry=policy)
        engine.commands[0].finish(exit_code=7)
        with trio.fail_after(60):
            while len(engine.commands) < 2:  # noqa: ASYNC110  # the engine has no event for a launch
                await trio.sleep(0.1)
        got = await peer.get(job.job_id)
        assert (got["status"], got["taskId"]) == ("working", job.job_id)
        engine.commands[1].write("again\n")
        engine.commands[1].finish()
        done = await peer.until(job.job_id)
        assert (done["status"], done["taskId"]) == ("completed", job.job_id)
        assert done["result"]["structuredContent"]["value"] == "again\n"
