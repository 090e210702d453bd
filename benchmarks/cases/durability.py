"""What it costs that jobs survive the loss of power: with ``SUPERVISOR_DURABILITY=power``, and without."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from statistics import median
from typing import Final

import trio

import supervisor
from benchmarks.figures import OURS, Figure
from benchmarks.plan import Plan

__all__ = ["durability"]

_POWER: Final = "durability power"
_START: Final = "start() until launched"
_END: Final = "a job from its start to its result"
_MANY: Final = "16 jobs at once, for each"
_FLIGHT: Final = 16


def durability(plan: Plan) -> Iterator[Figure]:
    """Measure a start, a whole job, and many at once: the two settings in turn, job by job, on one file system."""
    times = plan.pick(2, 20, 100)

    async def taking_turns() -> dict[str, dict[str, float]]:
        taken = {name: {contender: list[float]() for contender in (OURS, _POWER)} for name in (_START, _END, _MANY)}
        async with _opened(plan) as both:
            for _ in range(times):
                for contender, sup in both.items():
                    begun = time.perf_counter()
                    job = await sup.start(["true"])
                    taken[_START][contender].append(time.perf_counter() - begun)
                    await sup.wait(job.job_id)
                    await sup.result(job.job_id)
                    taken[_END][contender].append(time.perf_counter() - begun)
            for _ in range(max(1, times // 10)):
                for contender, sup in both.items():
                    begun = time.perf_counter()
                    async with trio.open_nursery() as nursery:
                        for _ in range(_FLIGHT):
                            nursery.start_soon(sup.run, ["true"])
                    taken[_MANY][contender].append((time.perf_counter() - begun) / _FLIGHT)
        return {name: {which: median(each) * 1e3 for which, each in by.items()} for name, by in taken.items()}

    rounds = [trio.run(taking_turns) for _ in range(plan.rounds)]
    for name in (_START, _END, _MANY):
        yield Figure(
            case="durability",
            name=name,
            unit="ms",
            values={contender: [each[name][contender] for each in rounds] for contender in (OURS, _POWER)},
            note="medians of a round, job by job in turn; the difference is the wait for this disk",
        )


@asynccontextmanager
async def _opened(plan: Plan) -> AsyncGenerator[dict[str, supervisor.Supervisor]]:
    """Open a supervisor of either setting."""
    async with AsyncExitStack() as stack:
        yield {
            contender: await stack.enter_async_context(plan.opened(plan.settings(durability=setting)))
            for contender, setting in ((OURS, "process"), (_POWER, "power"))
        }
