"""The rate from starts to recorded exits, at several numbers of jobs in flight and of jobs kept."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import trio

import supervisor
from benchmarks.figures import OURS, Figure, Goal, interleaved
from benchmarks.peers import Session
from benchmarks.peers.baselines import BARE
from benchmarks.plan import Plan

__all__ = ["our_rate", "rate_of", "throughput"]

TRUE: Final = (shutil.which("true") or "/bin/true",)
"""The cheapest command, by its full path."""
_SHARES: Final = {1: 0.5, 4: 0.5, 16: 0.6, 64: 0.7}


async def run_all(sup: supervisor.Supervisor, argv: Sequence[str], jobs: int, flight: int) -> None:
    """Run ``argv`` as ``jobs`` jobs, ``flight`` at a time, each until its exit is recorded.

    A task for each place in flight takes one job after another, so the creation of tasks is not measured.
    """
    left = iter(range(jobs))

    async def work() -> None:
        for _ in left:
            job = await sup.wait((await sup.start(argv)).job_id)
            if job.exit_code != 0:
                raise AssertionError(job)

    async with trio.open_nursery() as nursery:
        for _ in range(flight):
            nursery.start_soon(work)


def our_rate(plan: Plan, jobs: int, flight: int) -> float:
    """Return this package's jobs a second."""

    async def body(sup: supervisor.Supervisor) -> float:
        begun = time.perf_counter()
        await run_all(sup, TRUE, jobs, flight)
        return jobs / (time.perf_counter() - begun)

    return plan.ours(body)


def rate_of(session: Session, jobs: int, flight: int, seconds: float) -> Callable[[], float]:
    """Return a function that measures a peer's jobs a second, with fewer jobs for a slow peer."""
    count = min(jobs, 40 + 4 * flight)

    def measure() -> float:
        nonlocal count
        begun = time.perf_counter()
        session.run_all(TRUE, count, flight)
        rate = count / (time.perf_counter() - begun)
        count = min(jobs, max(2 * flight, 20, int(rate * seconds)))
        return rate

    return session.turn(measure)


def throughput(plan: Plan) -> Iterator[Figure]:
    """Measure the rate from starts to recorded exits, at several numbers in flight."""
    for flight, share in _SHARES.items():
        with contextlib.ExitStack() as stack:
            contenders: dict[str, Callable[[], float]] = {}
            jobs = plan.pick(20, 150, 1000)
            contenders[OURS] = lambda jobs=jobs, flight=flight: our_rate(plan, jobs, flight)  # type: ignore[misc]
            sessions = plan.sessions(stack, flight)
            contenders |= {
                name: rate_of(session, jobs, flight, plan.pick(0.1, 1, 2)) for name, session in sessions.items()
            }
            values, missing = interleaved(plan.rounds, contenders)
        yield Figure(
            case="throughput",
            name=f"jobs to a recorded exit, {flight} in flight",
            unit="1/s",
            values=values,
            missing={**plan.missing, **missing},
            goals=[Goal(">=", share, of=BARE), *(Goal(">=", 1, of=name) for name in sessions if name != BARE)],
            at=flight,
            along="jobs in flight",
        )
