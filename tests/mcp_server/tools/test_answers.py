"""The length of answers: the requested length, for every kind, and never more than a model has room for."""

from __future__ import annotations

import base64
import json
from typing import Any

import attrs
import pytest

from supervisor import Job
from supervisor.testing import Script

KINDS = """
[kind.plain]
description = "Says it."
command = ["plain", "{prompt}"]
parameters.prompt = { default = "" }

[kind.value]
description = "Gives a value."
command = ["value"]
interpret = "json"

[kind.claude]
description = "Asks Claude."
command = ["claude"]
interpret = "claude"

[kind.codex]
description = "Asks Codex."
command = ["codex"]
interpret = "codex"
"""
WORDS = "word " * 100_000
FINDINGS = [{"severity": "low", "title": f"t{n}", "body": "b" * 3000, "line": n + 1} for n in range(100)]


def claude(result: object, **more: object) -> str:
    return json.dumps({"type": "result", "subtype": "success", "is_error": False, "result": result, **more})


def codex(text: str) -> str:
    events = (
        {"type": "thread.started", "thread_id": "t"},
        {"type": "turn.started"},
        {"type": "item.completed", "item": {"id": "1", "type": "agent_message", "text": text}},
        {"type": "turn.completed", "usage": {"input_tokens": 1, "output_tokens": 1}},
    )
    return "\n".join(map(json.dumps, events))


def compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


LONG = [
    ("plain", WORDS),
    ("plain", "é" * 100_000),
    ("plain", "\x01\n" * 100_000),
    ("plain", b"\xff" * 300_000),
    ("value", json.dumps(WORDS)),
    ("value", json.dumps({"a": ["x" * 50] * 10_000})),
    ("value", json.dumps(list(range(100_000)))),
    ("claude", claude(WORDS)),
    ("claude", claude(json.dumps({"summary": WORDS, "verdict": "fail", "findings": FINDINGS}))),
    ("claude", claude("x", structured_output={"a": ["y" * 100] * 10_000})),
    ("codex", codex(WORDS)),
]


@pytest.mark.parametrize("most", [1, 1000, 20_000])
@pytest.mark.parametrize(("kind", "stdout"), LONG)
async def test_max_characters_bounds_every_kind(servers: Any, kind: str, stdout: str | bytes, most: int) -> None:
    servers.script = Script(stdout=stdout)
    async with servers(KINDS) as call:
        job_id = (await call(kind))["job_id"]
        await call("job_wait", job_id=job_id)
        answer = await call.client.call_tool("job_result", {"job_id": job_id, "max_characters": most})
        shape = answer.structured_content
        assert shape["ok"] is True
        value = shape["value"]
        assert len(compact(value)) <= max(most, 4 if kind == "plain" and isinstance(stdout, bytes) else 0) + 2
        assert (shape["truncated"], "call job_" in shape["next"]) == (True, True)
        (content,) = answer.content
        assert json.loads(content.text) == shape
        assert len(content.text) <= len(compact(value)) + 3000
        whole = await call("job_consume_result", job_id=job_id, max_characters=1 << 20)
        assert "truncated" not in whole
        assert len(compact(whole["value"])) > most


@pytest.mark.parametrize(("kind", "stdout"), LONG)
async def test_a_result_that_comes_at_once_is_bounded_too(servers: Any, kind: str, stdout: str | bytes) -> None:
    servers.script = Script(stdout=stdout)
    async with servers(KINDS) as call:
        shape = await call(kind, wait_seconds=20)
        assert len(compact(shape)) < 45_000


async def test_an_agents_answer_that_is_cut_keeps_its_shape(servers: Any) -> None:
    review = {"summary": "s" * 5000, "verdict": "fail", "findings": FINDINGS[:3]}
    servers.script = Script(stdout=claude(json.dumps(review)))
    async with servers(KINDS) as call:
        job_id = (await call("claude"))["job_id"]
        await call("job_wait", job_id=job_id)
        value = (await call("job_result", job_id=job_id, max_characters=4000))["value"]
        assert value["verdict"] == "fail"
        assert [each["line"] for each in value["findings"]] == [1, 2, 3]
        assert value["summary"].endswith("\N{HORIZONTAL ELLIPSIS}")


async def test_short_values_are_left_alone(servers: Any) -> None:
    servers.script = Script(stdout='{"a": [1, "x"]}')
    async with servers(KINDS) as call:
        shape = await call("value", wait_seconds=20)
        assert shape["value"] == {"a": [1, "x"]}
        assert not {"truncated", "encoding", "next"} & shape.keys()


@pytest.mark.parametrize("detail", [None, "summary", "full"])
@pytest.mark.parametrize("length", [3, 1000, 10_000])
async def test_free_text_stands_once(servers: Any, detail: str | None, length: int) -> None:
    text = ("unmistakable " * length)[: 13 * length].strip()
    for kind, stdout in (("claude", claude(text)), ("codex", codex(text))):
        servers.script = Script(stdout=stdout)
        async with servers(KINDS) as call:
            job_id = (await call(kind))["job_id"]
            await call("job_wait", job_id=job_id)
            value = (await call("job_result", job_id=job_id, detail=detail, max_characters=1 << 20))["value"]
            assert value["summary"] is None
            assert text.startswith(value["text"].removesuffix(" ..."))
            assert json.dumps(value).count("unmistakable") <= length


async def test_the_rest_of_a_value_is_read_by_the_offset_that_the_answer_names(servers: Any) -> None:
    texts = {"plain": WORDS, "value": json.dumps({"a": ["x" * 50] * 4000}), "claude": claude(WORDS)}
    for kind, stdout in texts.items():
        servers.script = Script(stdout=stdout)
        async with servers(KINDS) as call:
            job_id = (await call(kind, wait_seconds=20))["job_id"]
            first = await call("job_result", job_id=job_id)
            offset = 0 if kind != "claude" else len(first["value"]["text"]) - 1
            assert f"offset {offset or first['next_offset']}" in first["next"]
            pieces = [first["value"]["text"][:-1]] if offset else []
            while True:
                piece = await call("job_result", job_id=job_id, offset=offset)
                assert len(compact(piece)) < 50_000
                assert piece.get("offset", 0) == offset
                pieces.append(piece["value"])
                if "truncated" not in piece:
                    break
                offset = piece["next_offset"]
                assert f"offset {offset}" in piece["next"]
            whole = {"plain": WORDS, "value": compact(json.loads(texts["value"])), "claude": WORDS}[kind]
            assert "".join(pieces) == whole
            past = await call("job_result", job_id=job_id, offset=10_000_000)
            assert (past["value"], "truncated" in past) == ("", False)


async def test_bytes_are_read_in_pieces_that_can_be_decoded_alone(servers: Any) -> None:
    data = bytes(range(256)) * 400
    servers.script = Script(stdout=data)
    async with servers(KINDS) as call:
        job_id = (await call("plain", wait_seconds=20))["job_id"]
        read, offset = b"", 0
        while offset is not None:
            piece = await call("job_result", job_id=job_id, offset=offset, max_characters=10_001)
            read += base64.b64decode(piece["value"], validate=True)
            offset = piece.get("next_offset")
        assert read == data


async def test_a_result_that_does_not_fit_is_not_deleted(servers: Any) -> None:
    servers.script = Script(stdout=WORDS)
    async with servers(KINDS) as call:
        job_id = (await call("plain", wait_seconds=20))["job_id"]
        kept = await call("job_consume_result", job_id=job_id)
        assert (kept["truncated"], len(kept["warnings"]), len(kept["value"])) == (True, 1, 40_000)
        assert (await call("job_consume_result", job_id=job_id, max_characters=1 << 20))["value"] == WORDS
        assert (await call.refused("job_status", job_id=job_id))["code"] == "job_not_found"


async def test_a_job_is_short_and_whole_on_request(servers: Any) -> None:
    prompt = "p" * 50_000
    labels = {f"label{n}": "v" * 1000 for n in range(30)}
    async with servers(KINDS) as call:
        for _ in range(20):
            job_id = (await call("plain", prompt=prompt, labels=labels))["job_id"]
        page = await call("job_list")
        assert "job_status" in page["next"]
        for job in page["jobs"]:
            assert job.keys() == {
                *("job_id", "kind", "status", "reason", "elapsed_ms", "argv", "labels", "engine"),
                *("argv_truncated", "labels_truncated"),
            }
            assert job["argv"] == ["plain", "p" * 60 + "\N{HORIZONTAL ELLIPSIS}"]
            assert len(job["labels"]) == 8
        whole = await call("job_status", job_id=job_id, detail="full")
        assert {each.name for each in attrs.fields(Job)} <= whole.keys()
        assert whole["argv"][1] == "p" * 4000 + "\N{HORIZONTAL ELLIPSIS}"
        assert len(whole["labels"]["label7"]) == 1000
        for tool in ("job_wait", "job_status", "job_cancel"):
            assert len(compact(await call(tool, job_id=job_id))) < 1500
            assert (await call(tool, job_id=job_id, detail="full")).keys() == whole.keys()
        assert (await call("job_list", detail="full", limit=1))["jobs"][0].keys() <= whole.keys()


async def test_what_is_usual_costs_a_model_little(servers: Any) -> None:
    async with servers(KINDS) as call:
        for _ in range(20):
            job_id = (await call("plain", prompt="word " * 600))["job_id"]
        assert len(compact(await call("job_list"))) <= 8_000
        assert len(compact(await call("job_status", job_id=job_id))) <= 500


async def test_a_failed_job_says_what_is_unusual(servers: Any) -> None:
    servers.script = Script(exit_code=3, stderr="it broke\n")
    async with servers(KINDS) as call:
        job_id = (await call("plain"))["job_id"]
        job = await call("job_wait", job_id=job_id)
        assert (job["status"], job["reason"], job["exit_code"]) == ("failed", "nonzero_exit", 3)
        assert "it broke" in job["detail"]
        error = await call.refused("job_result", job_id=job_id)
        assert "`supervisor" not in error["repair"]
        assert f"job_logs with job_id {job_id} and stream stderr" in error["repair"]


async def test_a_command_of_many_words_is_cut_too(servers: Any) -> None:
    async with servers("", allow_commands=["echo *"]) as call:
        words = ["echo", *map(str, range(5000))]
        job_id = (await call("job_start", command=words))["job_id"]
        (job,) = (await call("job_list"))["jobs"]
        assert (job["argv"][:2], job["argv_truncated"]) == (["echo", "0"], True)
        assert job["argv"][-1].endswith("4993 more")
        assert len((await call("job_status", job_id=job_id, detail="full"))["argv"]) == 257
        short = (await call("job_start", command=["echo", "1"]))["job_id"]
        assert (await call("job_status", job_id=short))["argv"] == ["echo", "1"]
        assert "argv_truncated" not in await call("job_status", job_id=short)
