"""Control groups, which cost a little at each start and spare searches of all processes: with them and without.

Limits cost more: each one that has a hierarchy of version 1 needs a control group of its own.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Awaitable, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from statistics import median
from typing import Final

import trio

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


@contextmanager
def _no_control_groups() -> Generator[None]:
    """Have the keepers that are started meanwhile make none: a keeper reads the variable when it starts."""
    os.environ[_VARIABLE] = "off"
    try:
        yield
    finally:
        del os.environ[_VARIABLE]


def _both(measure: Callable[[], float]) -> dict[str, Callable[[], float]]:
    """Return the two contenders."""

    def without() -> float:
        with _no_control_groups():
            return measure()

    return {OURS: measure, _WITHOUT: without}


_MEMORY, _CPUS, _PIDS = 256 << 20, 1.0, 100
_LIMITS: Final = {
    "a limit on memory": supervisor.Limits(memory_bytes=_MEMORY),
    "a limit on processors": supervisor.Limits(cpus=_CPUS),
    "a limit on processes": supervisor.Limits(pids=_PIDS),
    "all three limits": supervisor.Limits(memory_bytes=_MEMORY, cpus=_CPUS, pids=_PIDS),
}
_UNLIMITED: Final = "without limits"


async def _in_turn(
    times: int, contenders: Mapping[str, tuple[supervisor.Supervisor, supervisor.Limits | None]]
) -> dict[str, float]:
    """Return the median of the times that a start takes, in ms, for each contender: start by start in turn."""
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(times):
        for name in list(contenders)[:: 1 if turn % 2 else -1]:
            sup, limits = contenders[name]
            begun = time.perf_counter()
            job = await sup.start(["true"], limits=limits)
            taken[name].append(time.perf_counter() - begun)
            await sup.wait(job.job_id)
    return {name: median(each) * 1e3 for name, each in taken.items()}


def _starts(plan: Plan, times: int) -> Iterator[Figure]:
    """Measure a start without a control group, with one, and with each limit that can be had here."""

    async def in_turn() -> dict[str, float]:
        async with AsyncExitStack() as stack:
            sup = await stack.enter_async_context(plan.opened())
            with _no_control_groups():
                without = await stack.enter_async_context(plan.opened())
            contenders: dict[str, tuple[supervisor.Supervisor, supervisor.Limits | None]]
            contenders = {OURS: (sup, None), _WITHOUT: (without, None)}
            for name, limits in _LIMITS.items():
                try:
                    await sup.run(["true"], limits=limits)
                except supervisor.FeatureUnavailable as error:
                    plan.tell(f"no start with {name}: {error}")
                else:
                    contenders[name] = sup, limits
            return await _in_turn(times, contenders)

    rounds = [trio.run(in_turn) for _ in range(plan.rounds)]
    yield _beside("start", OURS, _WITHOUT, _WITHOUT, rounds)
    for name in [name for name in rounds[0] if name in _LIMITS]:
        yield _beside(f"start with {name}", name, OURS, _UNLIMITED, rounds)


def _beside(title: str, name: str, other: str, shown: str, rounds: Sequence[Mapping[str, float]]) -> Figure:
    """Return the figure of a contender, beside another one that is shown under a name of its own."""
    values = {OURS: [each[name] for each in rounds], shown: [each[other] for each in rounds]}
    return Figure(case="containing", name=title, unit="ms", values=values, goals=[Goal("<=", 1.1, shown)])


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

    yield from _starts(plan, times)
    figures: dict[str, Callable[[], float]] = {
        f"stop of a stubborn tree of {count}": (lambda: plan.ours(tree, plan.settings(stop_grace_seconds=_GRACE))),
        f"deadline to an empty tree, p99 of {many:,} within 1 s": deadlines,
    }
    for name, measure in figures.items():
        values, missing = interleaved(plan.rounds, _both(measure))
        yield Figure(case="containing", name=name, unit="ms", values=values, missing=missing)
