"""The cost of a request through MCP, from one client with one request at a time."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks import answers
from benchmarks.figures import OURS, Figure, Goal, Together, interleaved
from benchmarks.plan import Plan
from benchmarks.wire import Wire, opening, recorded, served

__all__ = ["mcp"]

_BARE: Final = "a bare tool of the SDK's"
_FASTMCP: Final = "fastmcp-tasks"
_SDK: Final = "a bare server of the SDK's"


def mcp(plan: Plan) -> Iterator[Figure]:
    """Measure ``tasks/get`` over both transports, and the start, the answers and the list of ``supervisor mcp``."""
    yield from _openings(plan)
    yield from _sizes()
    count = plan.pick(3, 60, 300)
    for transport in ("stdio", "http"):
        with contextlib.ExitStack() as stack:
            ours = stack.enter_context(served("ours", transport, plan.fresh("mcp")))
            bare = stack.enter_context(served("bare", transport, plan.fresh("mcp")))
            contenders = {
                OURS: _asking(ours, count, "tasks/get", taskId=_task(ours)),
                _BARE: _asking(bare, count, "tools/call", name="work", arguments={}),
            }
            missing: dict[str, str] = {}
            if importlib.util.find_spec("fastmcp_tasks") is None:
                missing[_FASTMCP] = "not installed (PyPI's fastmcp-tasks)"
            else:
                theirs = stack.enter_context(served("fastmcp", transport, plan.fresh("mcp")))
                contenders[_FASTMCP] = _asking(theirs, count, "tasks/get", taskId=_task(theirs))
            for measure in contenders.values():
                measure()  # the first request finds all caches cold
            values, failed = interleaved(plan.rounds, contenders)
        yield Figure(
            case="mcp",
            name=f"status of a task through MCP, over {transport}",
            unit="ms",
            values=values,
            missing={**missing, **failed},
            note="fastmcp-tasks keeps its tasks in memory" if _FASTMCP in values else "",
        )
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(served("supervisor", "stdio", plan.fresh("mcp")))
        bare = stack.enter_context(served("bare", "stdio", plan.fresh("mcp")))
        contenders = {
            OURS: _asking(ours, count, "tools/call", name="job_list", arguments={}),
            _BARE: _asking(bare, count, "tools/call", name="work", arguments={}),
        }
        for measure in contenders.values():
            measure()
        values, failed = interleaved(plan.rounds, contenders)
    yield Figure(case="mcp", name="job_list of supervisor mcp, over stdio", unit="ms", values=values, missing=failed)


def _openings(plan: Plan) -> Iterator[Figure]:
    """Measure cold processes in pairs: to the first answer, and from there to the list of tools."""
    folder, times = plan.fresh("mcp"), plan.pick(1, 5, 9)
    recorded(folder, os.environ)

    def in_turn(which: int) -> dict[str, float]:
        taken: dict[str, list[float]] = {OURS: [], _SDK: []}
        for _ in range(times):
            for name, whose in ((OURS, "supervisor"), (_SDK, "bare")):
                taken[name].append(opening(whose, folder, os.environ)[which])
        return {name: median(each) for name, each in taken.items()}

    for which, what, goal in (
        (0, "first answer of supervisor mcp, from exec on", Goal("<=", 0.35, of=_SDK)),
        (1, "tools/list after the first answer", Goal("<=", 50)),
    ):
        together = Together(partial(in_turn, which))
        values, missing = interleaved(plan.rounds, {name: together.one(name) for name in (OURS, _SDK)})
        note = "a server with a record of its first answers, as each but the first has"
        yield Figure(case="mcp", name=what, unit="ms", values=values, missing=missing, goals=[goal], note=note)


def _sizes() -> Iterator[Figure]:
    """Measure the text of each tool's answer, which a model reads."""
    for answer, count in answers.measure(Path(__file__).parents[2]).items():
        name = f"answer: {answer.replace('`', '')}"
        note = "the text of an answer, which a model reads; its structured content is the same once more"
        yield Figure(case="mcp", name=name, unit="bytes", values={OURS: [count]}, note=note)


def _task(wire: Wire) -> str:
    """Start a task and return its id."""
    wire.hang_up()
    created = wire.ask("tools/call", name="work", arguments={})
    task: str = created["taskId"]
    if wire.ask("tasks/get", taskId=task)["status"] != "working":
        raise AssertionError(created)
    return task


def _asking(wire: Wire, count: int, method: str, **params: Any) -> Callable[[], float]:
    """Return a function that measures the milliseconds of a request."""

    def measure() -> float:
        wire.hang_up()
        begun = time.perf_counter()
        for _ in range(count):
            wire.ask(method, **params)
        return (time.perf_counter() - begun) / count * 1e3

    return measure
