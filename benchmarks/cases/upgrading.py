"""A program that embeds a supervisor is replaced while its jobs run, and many jobs are stopped at once."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import trio

import supervisor
from benchmarks.apart import apart
from benchmarks.cases.many import kill_all, leave_running, settings_of, start_many
from benchmarks.figures import OURS, Figure, interleaved
from benchmarks.plan import Plan

__all__ = ["stops", "upgrade"]

_LOOKED_AT: Final = "a pidfd and a look at /proc each"
_KILLED: Final = "kill() and wait() of each"
_SLEEPER: Final = ("sleep", "600")


def adopt(root: str, count: int, begun_ns: int) -> float:
    """Return the milliseconds from a time until a new process has opened the state root and adopted all jobs."""

    async def main() -> float:
        async with supervisor.open_supervisor(settings_of(root)) as sup:
            with trio.fail_after(120):
                while (await sup.metrics()).adoptions < count:  # noqa: ASYNC110  # adoption wakes no task
                    await trio.sleep(0.002)
            return (time.clock_gettime_ns(time.CLOCK_MONOTONIC) - begun_ns) / 1e6

    return trio.run(main)


def look_at(pids: list[int], begun_ns: int) -> float:
    """Return the same for a process that opens each process, and reads its start time."""
    held = [os.pidfd_open(pid) for pid in pids]
    for pid in pids:
        Path(f"/proc/{pid}/stat").read_bytes()
    taken = (time.clock_gettime_ns(time.CLOCK_MONOTONIC) - begun_ns) / 1e6
    for each in held:
        os.close(each)
    return taken


def upgrade(plan: Plan) -> Iterator[Figure]:
    """Measure a new process of another installation, from its start until it has adopted all running jobs."""
    installation = plan.fresh("installation")
    ours = Path(supervisor.__file__).parent
    shutil.copytree(ours, installation / ours.name, ignore=shutil.ignore_patterns("__pycache__"))
    for count in plan.pick((5,), (10, 100, 1000), (10, 100, 1000, 10_000)):
        root = plan.fresh("ours")
        pids: list[int] = apart(leave_running, str(root), count)

        def adopted(root: Path = root, count: int = count) -> float:
            begun = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
            taken: float = apart(adopt, str(root), count, begun, installation=installation)
            return taken

        def looked_at(pids: list[int] = pids) -> float:
            taken: float = apart(look_at, pids, time.clock_gettime_ns(time.CLOCK_MONOTONIC), installation=installation)
            return taken

        try:
            adopted()  # compiles the copied modules
            values, missing = interleaved(plan.rounds, {OURS: adopted, _LOOKED_AT: looked_at})
        finally:
            kill_all(pids)
        yield Figure(
            case="upgrade", name=f"{count:,} running jobs adopted by another installation", unit="ms", values=values,
            missing=missing, at=count, along="jobs running", note="from the start of the new process, imports included",
        )  # fmt: skip


def stop_ours(root: str, count: int) -> float:
    """Return the milliseconds until all jobs are stopped and recorded."""

    async def main() -> float:
        async with supervisor.open_supervisor(settings_of(root)) as sup:
            jobs = await start_many(sup, count)
            begun = time.perf_counter()
            async with trio.open_nursery() as nursery:
                for job in jobs:
                    nursery.start_soon(sup.cancel, job.job_id)
            return (time.perf_counter() - begun) * 1e3

    return trio.run(main)


def stop_bare(count: int) -> float:
    """Return the milliseconds until the processes are killed and reaped."""
    processes = [subprocess.Popen(_SLEEPER, start_new_session=True) for _ in range(count)]
    begun = time.perf_counter()
    for process in processes:
        os.killpg(process.pid, signal.SIGTERM)
    for process in processes:
        process.wait()
    return (time.perf_counter() - begun) * 1e3


def stops(plan: Plan) -> Iterator[Figure]:
    """Measure the stop of few and many running jobs, all at once."""
    for count in plan.pick((5,), (10, 100, 1000), (10, 100, 1000, 10_000)):

        def ours(count: int = count) -> float:
            taken: float = apart(stop_ours, str(plan.fresh("ours")), count)
            return taken

        def bare(count: int = count) -> float:
            taken: float = apart(stop_bare, count)
            return taken

        rounds = plan.rounds if count <= 1000 else min(plan.rounds, 2)
        values, missing = interleaved(rounds, {OURS: ours, _KILLED: bare})
        yield Figure(
            case="stops", name=f"stop of {count:,} running jobs at once", unit="ms", values=values, missing=missing,
            at=count, along="jobs running",
            note="`cancel` of each, concurrently, until every end is recorded; `sleep` ends at SIGTERM",
        )  # fmt: skip
