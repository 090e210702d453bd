"""Many jobs entered at once into a queue with few slots, here and in the tools that have a queue."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Final

import supervisor
from benchmarks.cases.throughput import TRUE
from benchmarks.figures import OURS, Figure, Goal, interleaved
from benchmarks.filling import FILES_ALONE, files_alone
from benchmarks.peers import Session
from benchmarks.peers.baselines import BARE
from benchmarks.plan import Plan

__all__ = ["draining"]

_GROUP: Final = "slots"
_ACCEPTED: Final = "jobs accepted into it, the first ones running"
_SILENT: Final = "does not tell when it has accepted a job"


def draining(plan: Plan) -> Iterator[Figure]:
    """Measure the rate of acceptance, and of recorded exits from the first entry to the last end."""
    jobs = plan.pick(10, 200, 500)
    for slots in (1, 4):
        accepted: dict[str, list[float]] = {}

        def took(name: str, seconds: float | None, accepted: dict[str, list[float]] = accepted) -> None:
            if name == OURS:  # its limit is measured right after it
                accepted.setdefault(FILES_ALONE, []).append(files_alone(plan.fresh("files"), jobs))
            if seconds is not None:
                accepted.setdefault(name, []).append(jobs / seconds)

        with contextlib.ExitStack() as stack:
            sessions = plan.sessions(stack, slots)
            contenders: dict[str, Callable[[], float]] = {
                OURS: lambda slots=slots, took=took: plan.ours(lambda sup: _ours(sup, jobs, slots, took)),  # type: ignore[misc]
                **{name: _of(name, session, jobs, slots, took) for name, session in sessions.items()},
            }
            values, missing = interleaved(plan.rounds, contenders)
        words = f"a queue of {jobs:,} with {slots} slot{'s' if slots > 1 else ''}"
        missing = {**plan.missing, **missing}
        yield Figure(
            case="draining",
            name=f"{words}: jobs to a recorded exit",
            unit="1/s",
            values=values,
            missing=missing,
            goals=[Goal(">=", 1, of=name) for name in values if name not in {OURS, BARE}],
            note="from the first entry to the last end",
        )
        silent = {name: _SILENT for name in values if name not in accepted and name != BARE}
        yield Figure(
            case="draining",
            name=f"{words}: {_ACCEPTED}",
            unit="1/s",
            values={name: accepted[name] for name in (OURS, FILES_ALONE, *values) if name in accepted},
            missing={**missing, **silent},
            note="by `start_many` here, by a process for each job in a queue for the shell",
        )


async def _ours(sup: supervisor.Supervisor, jobs: int, slots: int, took: Callable[[str, float | None], None]) -> float:
    await sup.set_group(_GROUP, limit=slots)
    specs = [supervisor.JobSpec(argv=TRUE, groups=(_GROUP,)) for _ in range(jobs)]
    begun = time.perf_counter()
    made = await sup.start_many(specs)
    took(OURS, time.perf_counter() - begun)
    for each in made:
        job = await sup.wait(each.job_id)
        if job.exit_code != 0:
            raise AssertionError(job)
    return jobs / (time.perf_counter() - begun)


def _of(
    name: str, session: Session, jobs: int, slots: int, took: Callable[[str, float | None], None]
) -> Callable[[], float]:
    def measure() -> float:
        begun = time.perf_counter()
        took(name, session.queue(TRUE, jobs, slots))
        return jobs / (time.perf_counter() - begun)

    return session.turn(measure)
