"""Control groups, which cost a little at each start and spare searches of all processes: with them and without."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

import supervisor
from benchmarks.apart import apart
from benchmarks.cases.many import deadlines_of_ours
from benchmarks.cases.stopping import await_up, end_tree, stubborn_tree
from benchmarks.figures import OURS, Figure, Goal, interleaved
from benchmarks.plan import Plan

__all__ = ["containing"]

_WITHOUT: Final = "without control groups"
_VARIABLE: Final = "SUPERVISOR_CGROUPS"
_GRACE: Final = 0.2


def _both(measure: Callable[[], float]) -> dict[str, Callable[[], float]]:
    """Return the two contenders: a keeper reads the variable when it starts."""

    def without() -> float:
        os.environ[_VARIABLE] = "off"
        try:
            return measure()
        finally:
            del os.environ[_VARIABLE]

    return {OURS: measure, _WITHOUT: without}


async def _start(sup: supervisor.Supervisor, times: int) -> float:
    taken: list[float] = []
    for _ in range(times):
        begun = time.perf_counter()
        job = await sup.start(["true"])
        taken.append(time.perf_counter() - begun)
        await sup.wait(job.job_id)
    return sorted(taken)[times // 2] * 1e3


def containing(plan: Plan) -> Iterator[Figure]:
    """Measure a start, the stop of a stubborn tree, and many deadlines within a second."""
    times, count, many = plan.pick((3, 6, 20), (100, 50, 500), (300, 50, 1000))

    def tree(sup: supervisor.Supervisor) -> Awaitable[float]:
        async def stop() -> float:
            mark, ready = uuid.uuid4().hex, plan.fresh("tree") / "ready"
            job = await sup.start(stubborn_tree(count, mark, ready))
            await_up(ready, mark, count)
            begun = time.perf_counter()
            await sup.cancel(job.job_id)
            taken = time.perf_counter() - begun - _GRACE
            if left := end_tree(mark):
                raise AssertionError(left)
            return taken * 1e3

        return stop()

    def deadlines() -> float:
        lead = plan.pick(2.0, 8.0, 12.0)
        while "late" in (found := apart(deadlines_of_ours, str(plan.fresh("ours")), many, lead)):
            lead += found["late"] * 2 + 1
        return float(found["tree"])

    figures: dict[str, tuple[Callable[[], float], list[Goal]]] = {
        "start": (lambda: plan.ours(lambda sup: _start(sup, times)), [Goal("<=", 1.1, _WITHOUT)]),
        f"stop of a stubborn tree of {count}": (
            lambda: plan.ours(tree, plan.settings(stop_grace_seconds=_GRACE)),
            [],
        ),
        f"deadline to an empty tree, p99 of {many:,} within 1 s": (deadlines, []),
    }
    for name, (measure, goals) in figures.items():
        values, missing = interleaved(plan.rounds, _both(measure))
        yield Figure(case="containing", name=name, unit="ms", values=values, missing=missing, goals=goals)
