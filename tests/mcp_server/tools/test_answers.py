"""The length of answers: the requested length, for every kind, and never more than a model has room for."""

from __future__ import annotations

import json
from typing import Any

import pytest

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
        assert len(compact(value)) <= most + 2
        assert (shape["truncated"], "call job_" in shape["next"]) == (True, True)
        (content,) = answer.content
        assert json.loads(content.text) == shape
        assert len(content.text) <= len(compact(value)) + 3000
        whole = await call("job_consume_result", job_id=job_id)
        assert "truncated" not in whole
        assert len(compact(whole["value"])) > most


@pytest.mark.parametrize(("kind", "stdout"), LONG)
async def test_a_result_that_comes_at_once_is_bounded_too(servers: Any, kind: str, stdout: str | bytes) -> None:
    servers.script = Script(stdout=stdout)
    async with servers(KINDS) as call:
        shape = await call(kind, wait_seconds=20)
        assert len(compact(shape)) < 105_000


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


async def test_long_words_are_cut_in_lists_and_less_in_a_status(servers: Any) -> None:
    prompt = "p" * 50_000
    labels = {f"label{n}": "v" * 1000 for n in range(30)}
    async with servers(KINDS) as call:
        for _ in range(20):
            job_id = (await call("plain", prompt=prompt, labels=labels))["job_id"]
        page = await call("job_list")
        assert len(json.dumps(page, ensure_ascii=False)) < 120_000
        assert "job_status" in page["next"]
        for job in page["jobs"]:
            assert (job["argv"][0], job["argv_truncated"], job["labels_truncated"]) == ("plain", True, True)
            assert job["argv"][1] == "p" * 120 + "\N{HORIZONTAL ELLIPSIS}"
        status = await call("job_status", job_id=job_id)
        assert status["argv"][1] == "p" * 4000 + "\N{HORIZONTAL ELLIPSIS}"
        assert len(status["labels"]["label7"]) == 1000
        for tool in ("job_wait", "job_result"):
            shape = await call(tool, job_id=job_id)
            assert len(json.dumps(shape)) < 8_000


async def test_a_command_of_many_words_is_cut_too(servers: Any) -> None:
    async with servers("", allow_commands=["echo *"]) as call:
        words = ["echo", *map(str, range(5000))]
        job_id = (await call("job_start", command=words))["job_id"]
        (job,) = (await call("job_list"))["jobs"]
        assert (job["argv"][:2], job["argv_truncated"]) == (["echo", "0"], True)
        assert job["argv"][-1].endswith("4977 more")
        assert len((await call("job_status", job_id=job_id))["argv"]) == 257
        short = (await call("job_start", command=["echo", "1"]))["job_id"]
        assert (await call("job_status", job_id=short))["argv"] == ["echo", "1"]
        assert "argv_truncated" not in await call("job_status", job_id=short)
