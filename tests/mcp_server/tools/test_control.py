"""The tools that act on jobs of kinds with ``control``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mcp_types import ElicitResult

from supervisor import open_supervisor
from supervisor.errors import InvalidSettings
from supervisor.mcp_server.config import kinds_file
from supervisor.mcp_server.config.kinds import CONTROLS
from supervisor.testing import Script

KIND = """
[kind.work]
description = "Work."
command = ["work", "{how}"]
parameters.how = {}
"""
TOOLS = {
    "pause": {"job_pause", "job_resume"},
    "send": {"job_send"},
    "rerun": {"job_rerun"},
    "continue": {"job_continue"},
}
CALLS = (("pause", {}), ("resume", {}), ("send", {"text": "x"}), ("rerun", {}), ("continue", {"prompt": "x"}))


def kinds(*control: str, more: str = "") -> str:
    return f"{KIND}control = {list(control)}\n{more}\n"


async def names(call: Any) -> set[str]:
    return {each.name for each in (await call.client.list_tools()).tools}


@pytest.mark.parametrize("control", CONTROLS)
async def test_only_what_a_kind_names_is_there(servers: Any, control: str) -> None:
    async with servers(KIND) as call:
        without = await names(call)
    async with servers(kinds(control)) as call:
        assert await names(call) - without == TOOLS[control]


async def test_a_job_is_paused_and_resumed(servers: Any) -> None:
    servers.script = Script(seconds=None)
    async with servers(kinds("pause")) as call:
        job = await call("work", how="x")
        paused = await call("job_pause", job_id=job["job_id"])
        assert (paused["paused"], servers.engine.commands[0].paused) == (True, True)
        assert paused["next"].startswith("The job is paused.")
        assert "paused" not in await call("job_resume", job_id=job["job_id"])
        assert not servers.engine.commands[0].paused
        error = await call.refused("job_pause", job_id=job["job_id"], hold_deadline=True)
        assert error["code"] == "invalid_arguments"  # a caller could prolong its job


@pytest.mark.parametrize(("tool", "more"), CALLS)
async def test_no_job_of_another_kind_is_touched(servers: Any, tool: str, more: dict[str, Any]) -> None:
    servers.script = Script(seconds=None)
    text = kinds(*CONTROLS) + '[kind.other]\ndescription = "O."\ncommand = ["o"]\n'
    async with servers(text) as call, open_supervisor(servers.settings, engine=servers.engine) as sup:
        others = [(await call("other"))["job_id"], (await sup.start(["x"])).job_id]
        for job_id in others:
            error = await call.refused(f"job_{tool}", job_id=job_id, **more)
            assert (error["code"], error["details"]) == ("permission_denied", {"job_id": job_id})
        assert (await call.refused(f"job_{tool}", job_id="0" * 32, **more))["code"] == "job_not_found"
    assert len(servers.engine.commands) == 2
    assert not any(each.paused for each in servers.engine.commands)


async def test_a_job_is_started_again_under_the_limits_of_today(servers: Any, tmp_path: Path) -> None:
    servers.script = Script(seconds=None)
    async with open_supervisor(servers.settings, engine=servers.engine) as sup:
        await sup.set_group("agents", limit=5)
    async with servers(kinds("rerun")) as call:
        first = await call("work", how="x", deadline_seconds=900, labels={"a": "b"})
    today = 'group = "agents"\npriority = 7\ndeadline_seconds = 60\nretry = { maximum_attempts = 2 }'
    async with servers(kinds("rerun", more=today)) as call:
        job = await call("job_rerun", job_id=first["job_id"], idempotency_key="k")
        assert (await call("job_rerun", job_id=first["job_id"], idempotency_key="k"))["job_id"] == job["job_id"]
        whole = await call("job_status", job_id=job["job_id"], detail="full")
        assert (whole["argv"], whole["labels"]) == (["work", "x"], {"a": "b", "mcp.tool": "work"})
        assert (whole["groups"], whole["priority"], whole["deadline_seconds"]) == (["agents"], 7, 60)
        assert whole["maximum_attempts"] == 2
        for name, value in (("deadline_seconds", 900), ("priority", 1000), ("group", "x"), ("workspace", "/")):
            error = await call.refused("job_rerun", job_id=first["job_id"], **{name: value})
            assert (error["code"], error["details"]) == ("invalid_arguments", {"argument": name})
    async with servers(kinds("rerun", more=f'workspaces = ["{tmp_path / "state"}x"]')) as call:
        error = await call.refused("job_rerun", job_id=first["job_id"])
        assert "which is not in" in error["message"]
    assert len(servers.engine.commands) == 2


async def test_the_user_is_asked_before_a_job_is_started_again(servers: Any) -> None:
    asked: list[str] = []

    async def decline(_: Any, params: Any) -> ElicitResult:
        asked.append(params.message)
        return ElicitResult(action="decline")

    async with servers(kinds("rerun")) as call:
        first = await call("work", how="x")
    async with servers(kinds("rerun", more="confirm = true"), elicitation_callback=decline) as call:
        assert (await call.refused("job_rerun", job_id=first["job_id"]))["code"] == "not_confirmed"
    assert f'job_id: "{first["job_id"]}"' in asked[0]
    assert len(servers.engine.commands) == 1


async def test_a_job_with_input_is_not_started_again_without_it(servers: Any) -> None:
    async with servers(kinds("rerun", more='stdin = "{how}"')) as call:
        first = await call("work", how="x")
        error = await call.refused("job_rerun", job_id=first["job_id"])
        assert (error["code"], error["repair"]) == ("invalid_arguments", "Call work with the same arguments.")


@pytest.mark.parametrize("value", ['"pause"', '["pause", "pause"]', '["cancel"]', "[5]", "true"])
def test_a_mistake_in_the_file(value: str) -> None:
    with pytest.raises(InvalidSettings, match=r"control.*; it accepts|allowed: a list of some of pause, send"):
        kinds_file.parse(f"{KIND}control = {value}", "kinds.toml")


AGENT = """
[kind.agent]
description = "Ask."
command = ["claude", "-p", "--output-format", "stream-json", "--verbose", "--max-budget-usd=1"]
stdin = "{prompt}"
interpret = "claude"
control = ["continue"]
parameters.prompt = {}
"""


async def test_the_session_of_an_agent_is_continued(servers: Any) -> None:
    run = Path(__file__).parents[2] / "interpret/fixtures/claude/stream.json"
    servers.script = Script(stdout=json.loads(run.read_text(encoding="utf-8"))["stdout"])
    async with servers(AGENT) as call:
        first = await call("agent", prompt="Begin.", wait_seconds=60)
        session = (await call("job_status", job_id=first["job"]["job_id"], detail="full"))["session_id"]
        job = await call("job_continue", job_id=first["job"]["job_id"], prompt="And now?", wait_seconds=60)
        assert job["job"]["job_id"] != first["job"]["job_id"]
        second = servers.engine.commands[1]
        words = list(second.argv)
        assert words[words.index("--resume") + 1] == session
        assert "--max-budget-usd=1" in second.argv
        assert second.request.stdin == b"And now?"


async def test_a_text_reaches_a_real_command_once(servers: Any) -> None:
    servers.engine = None  # this machine
    text = kinds("send").replace('["work", "{how}"]', '["sh", "-c", "cat; echo $1", "sh", "{how}"]')
    async with servers(text) as call:
        job_id = (await call("work", how="over"))["job_id"]
        assert (await call("job_send", job_id=job_id, text="one\n"))["sent_bytes"] == 4
        await call("job_send", job_id=job_id, text="two\n", eof=True)
        await call("job_wait", job_id=job_id)
        assert (await call("job_result", job_id=job_id))["value"] == "one\ntwo\nover\n"
        for given in ({"text": "x"}, {}, {"text": "x" * 65537}):
            assert (await call.refused("job_send", job_id=job_id, **given))["code"] == "invalid_arguments"
