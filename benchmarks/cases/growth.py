"""Speed as the number of kept jobs grows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final

import supervisor
from benchmarks.cases.throughput import TRUE, run_all
from benchmarks.figures import OURS, Figure, Goal, interleaved, median_us
from benchmarks.filling import fill
from benchmarks.peers.baselines import ORIGINAL, OriginalSession
from benchmarks.plan import Plan
from supervisor.jobs.catalog import Catalog

__all__ = ["growth"]

_FLIGHT: Final = 16
_MOST_SCANNED: Final = 10_000


def growth(plan: Plan) -> Iterator[Figure]:
    """Measure jobs a second and a status with the cap on kept jobs reached, so that each start drops the oldest."""
    jobs = plan.pick(20, 200, 1000)
    goals = {50: 3.5, 1000: 30.0}
    statuses: list[Figure] = []
    for kept in plan.pick((10, 50), (10, 50, 100, 1000, 10_000), (10, 50, 100, 1000, 10_000, 100_000)):
        settings = plan.settings(job_max_count=kept)
        finished = fill(settings, kept)
        contenders: dict[str, Callable[[], float]] = {
            OURS: lambda settings=settings: plan.ours(lambda sup: _rate(sup, jobs), settings),  # type: ignore[misc]
        }
        held_back: dict[str, str] = {}
        if ORIGINAL in plan.peers and kept > _MOST_SCANNED:
            held_back[ORIGINAL] = f"reads {kept:,} files at every start"
        elif ORIGINAL in plan.peers:
            session = OriginalSession(plan.fresh("peer"), kept)
            session.fill(kept)
            few = max(3, min(jobs, 20_000 // kept))  # the start of a peer takes longer the more jobs it has
            contenders[ORIGINAL] = lambda session=session, few=few: _original_rate(session, few)  # type: ignore[misc]
        # First, since the others drop the job that it asks about.
        taken, _ = interleaved(plan.rounds, {OURS: lambda: _status_us(settings, finished[-1], plan.pick(5, 50, 200))})  # noqa: B023
        statuses.append(
            Figure(
                case="growth",
                name=f"status by a fresh catalog, {kept:,} kept",
                unit="us",
                values=taken,
                goals=[Goal("<=", 200)],
                at=kept,
                along="jobs kept",
            )
        )
        values, missing = interleaved(plan.rounds, contenders)
        yield Figure(
            case="growth",
            name=f"jobs to a recorded exit, {kept:,} kept",
            unit="1/s",
            values=values,
            missing={**held_back, **missing},
            goals=[Goal(">=", goals[kept], of=ORIGINAL)] if kept in goals else [],
            at=kept,
            along="jobs kept",
            note=f"{_FLIGHT} in flight; each start drops the oldest",
        )
    yield from statuses


async def _rate(sup: supervisor.Supervisor, jobs: int) -> float:
    begun = time.perf_counter()
    await run_all(sup, TRUE, jobs, _FLIGHT)
    return jobs / (time.perf_counter() - begun)


def _original_rate(session: OriginalSession, jobs: int) -> float:
    begun = time.perf_counter()
    session.run_all(TRUE, jobs, _FLIGHT)
    return jobs / (time.perf_counter() - begun)


def _status_us(settings: supervisor.Settings, job: str, times: int) -> float:
    def ask() -> None:
        with Catalog(settings) as catalog:
            catalog.status(job)

    return median_us(times, ask)
