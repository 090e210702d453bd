"""The job tools, in memory: their answers, and their hints for the next call."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from supervisor.mcp_server.config import kinds_file
from supervisor.testing import Script

ERAS = pytest.mark.parametrize("era", ["legacy", "auto"])  # 2025-11-25 with a handshake, 2026-07-28 without
UNKNOWN = "0" * 32
EXAMPLES = Path(kinds_file.__file__).parent / "examples.toml"


def rewrite(command: Any, data: bytes) -> None:
    """Overwrite the output of a command with other bytes."""
    Path(command.request.directory, "result.json").write_bytes(data)


@ERAS
async def test_a_job_from_its_start_to_its_result(servers: Any, era: str) -> None:
    servers.script = Script(seconds=None)
    async with servers(era=era) as call:
        started = await call("count", upto=3)
        assert started["status"] == "running"
        assert "job_wait" in started["next"]
        job_id = started["job_id"]
        assert (await call("job_status", job_id=job_id))["status"] == "running"

        command = servers.engine.command(job_id)
        command.write("1\n2\n3\n")
        command.finish()
        ended = await call("job_wait", job_id=job_id)
        assert ended["status"] == "done"
        assert "job_result" in ended["next"]

        result = await call("job_result", job_id=job_id)
        assert result["value"] == "1\n2\n3\n"
        assert result["job"]["argv"] == ["seq", "3"]
        assert await call("job_consume_result", job_id=job_id) == result
        assert (await call.refused("job_status", job_id=job_id))["code"] == "job_not_found"


@ERAS
async def test_the_text_is_the_structured_content(servers: Any, era: str) -> None:
    async with servers(era=era) as call:
        for tool, arguments in [("count", {"upto": 3}), ("job_list", {}), ("job_status", {"job_id": UNKNOWN})]:
            answer = await call.client.call_tool(tool, arguments)
            (text,) = answer.content
            assert json.loads(text.text) == answer.structured_content


async def test_a_job_that_runs_has_no_result_yet(servers: Any) -> None:
    servers.script = Script(seconds=None)
    async with servers() as call:
        job_id = (await call("count", upto=3))["job_id"]
        for tool in ("job_result", "job_consume_result"):
            error = await call.refused(tool, job_id=job_id)
            assert error["code"] == "job_running"
            assert error["retryable"] is True
            assert "job_wait" in error["repair"]  # and not a command of a shell
        await call("job_cancel", job_id=job_id)


async def test_a_wait_that_is_over_before_the_job_tells_so(servers: Any, autojump_clock: MockClock) -> None:
    servers.script = Script(seconds=600)
    async with servers() as call:
        job_id = (await call("count", upto=3))["job_id"]
        begun = autojump_clock.current_time()
        waited = await call("job_wait", job_id=job_id)
        assert waited["status"] == "running"
        assert 45 <= autojump_clock.current_time() - begun < 50
        assert "job_wait" in waited["next"]
        assert (await call("job_wait", job_id=job_id, timeout_seconds=3600))["status"] == "done"


async def test_a_cancelled_wait_leaves_the_job_alone(servers: Any) -> None:
    servers.script = Script(seconds=None)
    async with servers() as call:
        job_id = (await call("count", upto=3))["job_id"]
        with trio.move_on_after(0.05) as waiting:  # the client sends notifications/cancelled
            await call("job_wait", job_id=job_id)
        assert waiting.cancelled_caught
        assert (await call("job_status", job_id=job_id))["status"] == "running"
        stopped = await call("job_cancel", job_id=job_id)
        assert (stopped["status"], stopped["reason"]) == ("cancelled", "cancelled")
        assert (await call("job_cancel", job_id=job_id))["status"] == "cancelled"


async def test_the_result_of_a_failed_job_is_an_error(servers: Any) -> None:
    servers.script = Script(stderr="no such number\n", exit_code=7)
    async with servers() as call:
        job_id = (await call("count", upto=3, wait_seconds=0))["job_id"]
        assert (await call("job_wait", job_id=job_id))["status"] == "failed"
        answer = await call.client.call_tool("job_result", {"job_id": job_id})
        assert answer.is_error
        assert answer.structured_content["error"]["code"] == "job_failed"
        assert answer.structured_content["job"]["exit_code"] == 7


async def test_lists(servers: Any) -> None:
    async with servers() as call:
        ids = [(await call("count", upto=3, labels={"n": str(n)}))["job_id"] for n in range(3)]
        for each in ids:
            await call("job_wait", job_id=each)
        page = await call("job_list", limit=2)
        assert [job["job_id"] for job in page["jobs"]] == [ids[2], ids[1]]
        rest = await call("job_list", limit=2, cursor=page["next_cursor"])
        assert [job["job_id"] for job in rest["jobs"]] == [ids[0]]
        assert rest["next_cursor"] is None
        one = await call("job_list", labels={"n": "1"}, state="done")
        assert [job["job_id"] for job in one["jobs"]] == [ids[1]]
        assert [job["labels"]["mcp.tool"] for job in one["jobs"]] == ["count"]
        assert (await call("job_list", workspace="/nowhere"))["jobs"] == []


async def test_logs_while_it_runs_and_afterwards(servers: Any) -> None:
    servers.script = Script(seconds=None)
    async with servers() as call:
        job_id = (await call("count", upto=3))["job_id"]
        empty = await call("job_logs", job_id=job_id)
        assert (empty["value"], empty["size"], empty["ended"]) == ("", 0, False)
        command = servers.engine.command(job_id)
        command.write("first\n")
        command.write("oops\n", stream="stderr")
        some = await call("job_logs", job_id=job_id)
        assert some["value"] == "first\n"
        assert "job_wait" in some["next"]
        assert (await call("job_logs", job_id=job_id, stream="stderr"))["value"] == "oops\n"
        command.write("second\n")
        command.finish()
        await call("job_wait", job_id=job_id)
        more = await call("job_logs", job_id=job_id, offset=some["next_offset"])
        assert (more["value"], more["ended"], more["size"]) == ("second\n", True, 13)
        assert "next" not in more
        assert (await call("job_logs", job_id=job_id, max_bytes=7))["value"] == "second\n"
        beginning = await call("job_logs", job_id=job_id, offset=0, max_bytes=6)
        assert beginning["value"] == "first\n"
        assert "offset 6" in beginning["next"]


@pytest.mark.parametrize("max_bytes", range(4, 12))
async def test_logs_are_cut_between_characters(servers: Any, max_bytes: int) -> None:
    text = "aé€😀" * 5
    servers.script = Script(stdout=text)
    async with servers() as call:
        job_id = (await call("count", upto=3))["job_id"]
        await call("job_wait", job_id=job_id)
        end = await call("job_logs", job_id=job_id, max_bytes=max_bytes)
        assert text.endswith(end["value"])
        assert end["value"]
        read, offset = "", 0
        while offset < end["size"]:
            piece = await call("job_logs", job_id=job_id, offset=offset, max_bytes=max_bytes)
            assert "encoding" not in piece
            assert piece["next_offset"] > offset
            read, offset = read + piece["value"], piece["next_offset"]
        assert read == text


async def test_logs_that_are_no_text(servers: Any) -> None:
    servers.script = Script(stdout=b"\xff\xfe\x00\x01")
    async with servers() as call:
        job_id = (await call("count", upto=3))["job_id"]
        await call("job_wait", job_id=job_id)
        piece = await call("job_logs", job_id=job_id)
        assert piece["encoding"] == "base64"
        assert base64.b64decode(piece["value"]) == b"\xff\xfe\x00\x01"


async def test_a_long_result_is_cut_and_says_how_to_go_on(servers: Any) -> None:
    servers.script = Script(stdout="é" * 1000)
    async with servers() as call:
        job_id = (await call("count", upto=3))["job_id"]
        await call("job_wait", job_id=job_id)
        cut = await call("job_result", job_id=job_id, max_characters=100)
        assert cut["value"] == "é" * 100
        assert cut["truncated"] is True
        assert "job_result with offset 100." in cut["next"]
        assert (await call("job_result", job_id=job_id, offset=100))["value"] == "é" * 900
        servers.script = Script(stdout="x" * 40_001)
        assert len((await call("count", upto=3, wait_seconds=9))["value"]) == 40_000
        whole = await call("job_consume_result", job_id=job_id)
        assert whole["value"] == "é" * 1000


async def test_half_a_surrogate_pair_is_answered_all_the_same(servers: Any) -> None:
    servers.script = Script(stdout='"\\ud800"')
    text = """
        [kind.odd]
        description = "Odd."
        command = ["odd"]
        interpret = "json"
    """
    async with servers(text) as call:
        result = await call("odd", wait_seconds=10)
        assert result["value"] == "?"


@ERAS
@pytest.mark.parametrize("depth", [100, 300, 900])
async def test_a_value_that_nests_too_deeply_to_be_sent_is_sent_as_text(servers: Any, era: str, depth: int) -> None:
    servers.script = Script(stdout="[" * depth + "]" * depth)
    text = """
        [kind.deep]
        description = "Deep."
        command = ["deep"]
        interpret = "json"
    """
    async with servers(text, era=era) as call:
        job_id = (await call("deep"))["job_id"]
        assert (await call("job_wait", job_id=job_id))["status"] == "done"
        result = await call("job_consume_result", job_id=job_id)
        text = result["value"] if depth > 200 else json.dumps(result["value"])
        assert (text, result.get("encoding")) == ("[" * depth + "]" * depth, "json" if depth > 200 else None)


BAD_CALLS = [
    ("job_status", {}, "the argument job_id is missing"),
    ("job_status", {"job_id": 7}, "job_id is 7; it accepts a string"),
    ("job_status", {"job_id": "x", "all": True}, "there is no argument 'all'; there are job_id"),
    ("job_wait", {"job_id": "x", "timeout_seconds": -1}, "it accepts a number of at least 0"),
    ("job_wait", {"job_id": "x", "timeout_seconds": "5"}, "it accepts a number"),
    ("job_wait", {"job_id": "x", "timeout_seconds": True}, "it accepts a number"),
    ("job_list", {"state": "gone"}, "it accepts one of queued, running"),
    ("job_list", {"limit": 1.5}, "it accepts a whole number"),
    ("job_list", {"labels": {"a": 1}}, "it accepts an object whose values are strings"),
    ("job_list", {"cursor": "x"}, "it must be the next_cursor"),
    ("job_logs", {"job_id": "x", "stream": "stdin"}, "it accepts one of stdout, stderr"),
    ("count", {"upto": 0}, "upto is 0; it accepts a number of at least 1"),
    ("count", {"upto": 1000}, "it accepts a number of at most 100"),
    ("count", {"upto": 1, "deadline_seconds": -1}, "it accepts a number of at least 0"),
    ("count", {"upto": 1, "labels": {"mcp.principal": "root"}}, "are reserved for the server"),
    ("ask", {"prompt": "x" * 1001}, "it accepts at most 1000 characters"),
    ("ask", {"prompt": "\0"}, "without NUL characters"),
    ("ask", {"prompt": "x", "deadline_seconds": 601}, "ask may run for at most 600"),
]


@pytest.mark.parametrize(("tool", "arguments", "message"), BAD_CALLS)
async def test_arguments_that_do_not_fit(servers: Any, tool: str, arguments: Any, message: str) -> None:
    async with servers() as call:
        error = await call.refused(tool, **arguments)
        assert error["code"] == "invalid_arguments"
        assert message in error["message"]
        assert not servers.engine.commands


@pytest.mark.parametrize("job_id", [UNKNOWN, "abcd", "../../etc/passwd", ""])
async def test_ids_of_no_job(servers: Any, job_id: str) -> None:
    async with servers() as call:
        for tool in ("job_status", "job_wait", "job_result", "job_consume_result", "job_cancel", "job_logs"):
            error = await call.refused(tool, job_id=job_id)
            assert error["code"] == "job_not_found"
            assert "job_list" in error["repair"]


async def test_an_id_may_not_be_shortened(servers: Any) -> None:
    async with servers() as call:
        job_id = (await call("count", upto=3))["job_id"]
        await call("job_wait", job_id=job_id)
        assert (await call.refused("job_status", job_id=job_id[:8]))["code"] == "job_not_found"


async def test_null_is_as_good_as_left_out(servers: Any) -> None:
    async with servers() as call:
        assert (await call("job_list", state=None, cursor=None))["jobs"] == []


async def test_what_the_tools_say_about_themselves(servers: Any) -> None:
    async with servers() as call:
        listed = await call.client.list_tools()
        tools = {tool.name: tool for tool in listed.tools}
        assert list(tools) == [
            "count", "ask",
            "job_status", "job_wait", "job_result", "job_consume_result", "job_cancel", "job_list", "job_logs",
        ]  # fmt: skip
        read_only = {name for name, tool in tools.items() if tool.annotations.read_only_hint}
        assert read_only == {"ask", "job_status", "job_wait", "job_result", "job_list", "job_logs"}
        destructive = {name for name, tool in tools.items() if tool.annotations.destructive_hint}
        assert destructive == {"count", "job_consume_result", "job_cancel"}
        assert tools["count"].input_schema["required"] == ["upto"]
        assert tools["count"].input_schema["properties"]["upto"] == {
            "type": "integer",
            "description": "Where to end.",
            "minimum": 1,
            "maximum": 100,
        }


async def test_the_tools_are_small(servers: Any) -> None:
    """Every host pays for them in every session: some 800 tokens for the seven that are always there."""
    async with servers("") as call:
        listed = await call.client.list_tools()
        assert len(listed.model_dump_json(by_alias=True, exclude_none=True)) <= 3100
    four = re.split(r"(?=^\[kind\.\w+\]$)", EXAMPLES.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:5]
    async with servers("".join(four)) as call:
        listed = await call.client.list_tools()
        assert len(listed.tools) == 11
        assert len(listed.model_dump_json(by_alias=True, exclude_none=True)) <= 6000


async def test_a_tool_that_is_not_there(servers: Any) -> None:
    from mcp import MCPError

    async with servers() as call:
        with pytest.raises(MCPError, match="there is no tool 'job_start'; there are count"):
            await call.client.call_tool("job_start", {"command": ["true"]})


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
async def test_a_failed_job_names_the_tool_that_shows_its_output(servers: Any, stream: str) -> None:
    servers.script = Script(seconds=None)
    async with servers() as call:
        job_id = (await call("count", upto=3))["job_id"]
        command = servers.engine.command(job_id)
        command.write("the reason", stream=stream)
        command.finish(3)
        await call("job_wait", job_id=job_id)
        error = await call.refused("job_result", job_id=job_id)
        assert f"job_logs with job_id {job_id} and stream {stream}" in error["repair"]
        assert "supervisor" not in error["repair"]
        assert (await call("job_status", job_id=job_id))["detail"] == "the reason"


async def test_an_output_that_is_not_there_any_more_is_no_answer(servers: Any) -> None:
    servers.script = Script(seconds=None)
    async with servers() as call:
        job_id = (await call("count", upto=3))["job_id"]
        command = servers.engine.command(job_id)
        command.write("1\n2\n3\n")
        command.finish()
        await call("job_wait", job_id=job_id)
        rewrite(command, b"1\n")
        for tool in ("job_result", "job_logs", "job_consume_result"):
            error = await call.refused(tool, job_id=job_id)
            assert error["code"] == "output_lost"
            assert error["details"]["found_bytes"] == 2
        assert (await call("job_status", job_id=job_id))["status"] == "done"


async def test_logs_of_a_job_that_has_truncated_its_output_begin_again(servers: Any) -> None:
    servers.script = Script(seconds=None)
    async with servers() as call:
        job_id = (await call("count", upto=3))["job_id"]
        command = servers.engine.command(job_id)
        command.write("a long line\n")
        offset = (await call("job_logs", job_id=job_id))["next_offset"]
        rewrite(command, b"short\n")
        piece = await call("job_logs", job_id=job_id, offset=offset)
        assert (piece["value"], piece["offset"], piece["restarted"]) == ("short\n", 0, True)
        command.finish()


async def test_one_answer_is_never_longer_than_its_bound(servers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.mcp_server.tools.jobs._MAX_ANSWER_CHARACTERS", 1000)
    monkeypatch.setattr("supervisor.mcp_server.tools.jobs._MAX_ON_THE_LOOP", 100)
    servers.script = Script(seconds=None)
    async with servers() as call:
        job_id = (await call("count", upto=3))["job_id"]
        command = servers.engine.command(job_id)
        command.write("x" * 5000)
        command.finish()
        await call("job_wait", job_id=job_id)
        for tool, more in (("job_result", {"max_characters": 1 << 26}), ("job_consume_result", {})):
            result = await call(tool, job_id=job_id, **more)
            assert (len(result["value"]), result["truncated"]) == (1000, True)
            assert "offset 1000" in result["next"]
        assert "The job is kept" in result["warnings"][0]
        assert (await call("job_status", job_id=job_id))["status"] == "done"
