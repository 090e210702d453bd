"""Edge cases of arguments: a value that a tool does not accept gives `invalid_arguments`, never an internal error."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcp import MCPError

from supervisor.errors import InvalidArguments
from supervisor.mcp_server.config.arguments import Parameter, checked
from supervisor.mcp_server.tasks.legacy import requested_ttl
from supervisor.testing import Script

NUMBERS = st.sampled_from(
    [
        10**308, 10**309, -(10**309), int("9" * 309), 10**4299, 2**53 + 1, 2**63, 2**63 - 1, -(2**63) - 1, 2**64,
        1e308, -1e308, 1.7976931348623157e308, 5e-324, math.inf, -math.inf, math.nan, -0.0, 0, -1, 0.5, True,
    ]
)  # fmt: skip
DEEP: list[Any] = []
for _ in range(150):
    DEEP = [DEEP]
ODD = NUMBERS | st.sampled_from(
    ["", "x", "x" * 1_000_000, "\0", "\ud83d", "9" * 309, "nan", None, [], {}, [[]], {"a": {"b": [1]}}, DEEP, ["x", 1]]
)
KINDS = """
[kind.all]
description = "Takes everything."
command = ["all", "--i={i}", "--n={n}", "--s={s}", "--b={b}", "--m={m}"]
parameters.i = { type = "integer", default = 1 }
parameters.n = { type = "number", default = 1 }
parameters.m = { type = "number", minimum = 0, maximum = 10, default = 1 }
parameters.s = { type = "string", default = "" }
parameters.b = { type = "boolean", default = true }
"""
EXTREME = (10**309, 1e308, math.inf, math.nan, -0.0, 10**4000)
FINE = {"invalid_arguments", "idempotency_conflict", "job_not_found", "launch_failed"}


@pytest.mark.parametrize("name", ["integer", "number"])
@pytest.mark.parametrize("value", [10**309, -(10**309), math.inf, -math.inf, math.nan])
def test_numbers_that_are_none(name: str, value: float) -> None:
    with pytest.raises(InvalidArguments, match="it accepts a finite number"):
        checked([Parameter(name="n", type=name)], {"n": value})


@pytest.mark.parametrize("value", [1e308, 2**63, -(2**63) - 1, 1.5])
def test_whole_numbers_that_are_none(value: float) -> None:
    with pytest.raises(InvalidArguments, match="it accepts a whole number"):
        checked([Parameter(name="n", type="integer")], {"n": value})


@pytest.mark.parametrize("value", [2**63 - 1, -(2**63), -0.0, 3.0])
def test_whole_numbers(value: float) -> None:
    given_back = checked([Parameter(name="n", type="integer")], {"n": value})["n"]
    assert (given_back, type(given_back)) == (value, int)


def test_halves_of_surrogate_pairs_are_replaced_and_whole_pairs_put_together() -> None:
    parameters = [Parameter(name="t"), Parameter(name="w", type="words"), Parameter(name="l", type="labels")]
    odd, fine = "a\ud83d\ude00b\ud83dc\udc80", "a\U0001f600b\ufffdc\ufffd"
    assert checked(parameters, {"t": odd, "w": [odd], "l": {odd: odd}}) == {"t": fine, "w": [fine], "l": {fine: fine}}


async def test_every_argument_of_every_tool(servers: Any) -> None:
    """By the schemas that hosts are given."""
    servers.script = Script()
    async with servers(KINDS, allow_commands=["true"]) as call:
        tools = (await call.client.list_tools()).tools
        needed = {"job_id": "0" * 32, "command": ["true"]}
        cases = [(tool.name, tool.input_schema, name) for tool in tools for name in tool.input_schema["properties"]]
        tried: set[tuple[str, str]] = set()
        draws: list[tuple[tuple[str, Any, str], Any]] = []

        @settings(max_examples=600, suppress_health_check=list(HealthCheck))
        @given(st.sampled_from(cases), ODD)
        def draw(case: tuple[str, Any, str], value: Any) -> None:
            draws.append((case, value))

        draw()
        for tool, schema, name in cases:  # numbers above all, each of them with each
            if schema["properties"][name].get("type") in {"integer", "number"}:
                draws += [((tool, schema, name), value) for value in EXTREME]
        for (tool, schema, name), value in draws:
            arguments = {each: needed[each] for each in schema.get("required", []) if each in needed} | {name: value}
            if name == "wait_seconds" and isinstance(value, int | float) and 0 < value <= 3600:
                continue
            answer = await call.client.call_tool(tool, arguments)
            shape = answer.structured_content
            assert shape["ok"] or shape["error"]["code"] in FINE, (tool, name, value, shape)
            tried.add((tool, name))
        assert len(tried) == len(cases)


@pytest.mark.parametrize("ttl", [10**309, 1e308, math.inf, math.nan, -1, True, "1"])
def test_the_numbers_of_tasks(ttl: object) -> None:
    with pytest.raises(MCPError, match="it must be a number of milliseconds"):
        requested_ttl({"task": {"ttl": ttl}})
