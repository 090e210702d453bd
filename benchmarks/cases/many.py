"""Thousands of jobs: the cost of a running job, delays of deadlines, and opening a state root that is full of them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import AsyncGenerator, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import trio

import supervisor
from benchmarks.apart import apart
from benchmarks.figures import OURS, Figure, Goal, number, parted
from benchmarks.filling import fill
from benchmarks.plan import Plan, percentile
from supervisor.jobdir import records

__all__ = ["deadlines", "kill_all", "leave_running", "pid_of", "reopening", "settings_of", "sleeping", "start_many"]

_SLEEPER: Final = ("sleep", "600")
_PLAIN: Final = {"PATH": os.environ.get("PATH", os.defpath)}
_BARE_KILL: Final = "a heap and kill()"
_MOST_TRIES: Final = 5
_DEADLINES_A_SECOND: Final = 1000


def settings_of(root: str) -> supervisor.Settings:
    return supervisor.Settings(state_dir=Path(root), job_max_count=10**6)


async def start_many(sup: supervisor.Supervisor, count: int, deadline: Any = lambda _: None) -> list[supervisor.Job]:
    jobs: list[supervisor.Job] = []
    left = iter(range(count))

    async def work() -> None:
        for place in left:
            job = await sup.start(_SLEEPER, env=_PLAIN, deadline_seconds=deadline(place))
            jobs.append(job)

    async with trio.open_nursery() as nursery:
        for _ in range(min(count, 32)):
            nursery.start_soon(work)
    return jobs


@contextlib.asynccontextmanager
async def _many(sup: supervisor.Supervisor, count: int) -> AsyncGenerator[list[supervisor.Job]]:
    """Start many commands that sleep, and end them by a signal, which is faster than stopping their jobs."""
    jobs = await start_many(sup, count)
    try:
        yield jobs
    finally:
        with trio.CancelScope(shield=True):
            kill_all(map(pid_of, jobs))
            for job in jobs:
                await sup.wait(job.job_id)


def pid_of(job: supervisor.Job) -> int:
    if job.pid is None:  # the pid 0 would mean the whole group
        raise AssertionError(job)
    return job.pid


def kill_all(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _private_kib(pid: int) -> float:
    fields = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return sum(float(line.split()[1]) for line in fields if line.startswith(("Private_Dirty", "Private_Clean")))


def _cpu_ns(pid: int) -> int:
    """Return the processor time of all threads, also ended ones, in nanoseconds; ``stat`` has only ticks."""
    return time.clock_gettime_ns(~pid << 3 | 2)  # clock_getcpuclockid(3), which Python does not offer


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[1])


def sleep_many(root: str, count: int, seconds: float) -> dict[str, float]:
    """Return the cost of ``count`` running jobs: KiB a job in supervisor and keeper, and percent of a core."""

    async def main() -> dict[str, float]:
        async with supervisor.open_supervisor(settings_of(root)) as sup:
            first = await sup.start(_SLEEPER, env=_PLAIN)
            keeper = _parent(pid_of(first))
            both = os.getpid(), keeper
            await trio.sleep(3)  # until it has imported all that it may need while it runs, which no job adds to
            before = [_private_kib(pid) for pid in both]
            async with _many(sup, count):
                await trio.sleep(min(seconds, 3))  # until it is idle
                ours, keepers = ((_private_kib(pid) - was) / count for pid, was in zip(both, before, strict=True))
                used, begun = sum(map(_cpu_ns, both)), time.monotonic_ns()
                await trio.sleep(seconds)
                idle = (sum(map(_cpu_ns, both)) - used) / (time.monotonic_ns() - begun) * 100
            await sup.cancel(first.job_id)
            return {"supervisor": ours, "keeper": keepers, "idle": idle}

    return trio.run(main)


def sleeping(plan: Plan) -> Iterator[Figure]:
    """Measure memory and idle processor time with many jobs that only sleep."""
    for count in plan.pick((20,), (1000,), (10, 100, 1000, 5000)):
        seconds = plan.pick(1, 10, 20)
        rounds = plan.pick(1, 1, 2)
        found = [apart(sleep_many, str(plan.fresh("ours")), count, seconds) for _ in range(rounds)]
        shape: dict[str, Any] = {"case": "sleeping", "at": count, "along": "jobs running"}
        if count >= 1000 or plan.size == "toy":  # with fewer jobs the interpreter's noise dominates
            yield Figure(
                name=f"memory per running job, {count:,} running",
                unit="KiB",
                values={OURS: [each["supervisor"] + each["keeper"] for each in found]},
                note=f"private memory of supervisor and keeper; the keeper has {number(found[-1]['keeper'])} KiB",
                goals=[Goal("<=", 12)] if count >= 5000 else [],
                **shape,
            )
        yield Figure(
            name=f"idle processor time, {count:,} running",
            unit="% of a core",
            values={OURS: [each["idle"] for each in found]},
            goals=[Goal("<=", 0.2)] if count == 1000 else [],
            note=f"supervisor, its output watcher and keeper together, over {seconds} s",
            **shape,
        )


def deadlines_of_ours(root: str, count: int, lead: float, seconds: int = 1) -> dict[str, float]:
    """Return the delays of deadlines, in milliseconds, to the leader's exit and to the empty tree."""

    async def main() -> float:
        async with supervisor.open_supervisor(settings_of(root)) as sup:
            await sup.run(["true"])
            aim = time.monotonic() + lead
            step = seconds / count
            jobs = await start_many(sup, count, lambda place: max(0.0, aim + step * place - time.monotonic()))
            if time.monotonic() > aim:
                return time.monotonic() - aim

            async def wait(job: supervisor.Job) -> None:
                ended = await sup.wait(job.job_id)
                ends[job.job_id] = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
                if ended.status != "timeout":
                    raise AssertionError(ended)

            async with trio.open_nursery() as nursery:
                for job in jobs:
                    nursery.start_soon(wait, job)
            return 0

    ends: dict[str, int] = {}
    if late := trio.run(main):
        return {"late": late}
    leaders: list[float] = []
    trees: list[float] = []
    for job_id, end in ends.items():
        (directory,) = Path(root).glob(f"*-*/{job_id}")
        born = records.read(str(directory), records.PROCESS) or {}
        ended = records.read(str(directory), records.EXIT) or {}
        leaders.append((ended["ended_boot_ns"] - born["deadline_boot_ns"]) / 1e6)
        trees.append((end - born["deadline_boot_ns"]) / 1e6)
    return {"leader": percentile(leaders, 0.99), "tree": percentile(trees, 0.99)}


def deadlines_of_bare(count: int, seconds: int) -> float:
    """Return the same for processes that a heap of deadlines kills and reaps one after another."""
    processes = [subprocess.Popen(_SLEEPER, env=_PLAIN, start_new_session=True) for _ in range(count)]
    aim = time.monotonic() + 0.5
    late: list[float] = []
    for place, process in enumerate(processes):
        due = aim + seconds * place / count
        if (left := due - time.monotonic()) > 0:
            time.sleep(left)
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        late.append((time.monotonic() - due) * 1e3)
    return percentile(late, 0.99)


def deadlines(plan: Plan) -> Iterator[Figure]:
    """Measure the delays of few and many deadlines, a thousand of them within a second at most."""
    for count in plan.pick((20,), (10, 100, 1000), (10, 100, 1000, 10_000)):
        yield from _deadlines(plan, count)


def _deadlines(plan: Plan, count: int) -> Iterator[Figure]:
    seconds = max(1, count // _DEADLINES_A_SECOND)
    lead = [plan.pick(2.0, 1.0 + count / 100, 2.0 + count / 150)]

    def ours() -> dict[str, float]:
        for _ in range(_MOST_TRIES):
            found: dict[str, float] = apart(deadlines_of_ours, str(plan.fresh("ours")), count, lead[0], seconds)
            if "late" not in found:
                return found
            lead[0] += found["late"] * 2 + 1  # the machine was too slow to start all of them before the first deadline
            plan.tell(f"deadlines: not all had started in time; again, with {lead[0]:.0f} s for that")
        raise TimeoutError(found)

    def bare() -> dict[str, float]:
        found: float = apart(deadlines_of_bare, count, seconds)
        return {"leader": found, "tree": found}

    about = {"leader": ("the leader's exit", 20), "tree": ("an empty tree", 100)}
    rounds = plan.rounds if count <= _DEADLINES_A_SECOND else min(plan.rounds, 2)
    for what, values, missing in parted(rounds, [*about], {OURS: ours, _BARE_KILL: bare}):
        words, goal = about[what]
        yield Figure(
            case="deadlines",
            name=f"deadline to {words}, p99 of {count:,} within {seconds} s",
            unit="ms",
            values=values,
            missing=missing,
            goals=[Goal("<=", goal)],
            at=count,
            along="deadlines",
        )


def reopen(root: str) -> dict[str, float]:
    """Return the seconds until a state root is open and answers, and until all running jobs are adopted."""

    async def main() -> dict[str, float]:
        begun = time.perf_counter()
        async with supervisor.open_supervisor(settings_of(root)) as sup:
            opened = time.perf_counter() - begun
            page = await sup.list(state="running", limit=1000)
            listed = time.perf_counter() - begun
            with trio.fail_after(60):
                while (await sup.metrics()).adoptions < len(page.jobs):  # noqa: ASYNC110  # adoption wakes no task
                    await trio.sleep(0.002)
            return {"opened": opened, "listed": listed, "adopted": time.perf_counter() - begun}

    return trio.run(main)


def leave_running(root: str, count: int) -> list[int]:
    """Start jobs, leave them to their keeper, and return the pids of their commands."""

    async def main() -> list[int]:
        async with supervisor.open_supervisor(settings_of(root)) as sup:
            return [pid_of(job) for job in await start_many(sup, count)]

    return trio.run(main)


def reopening(plan: Plan) -> Iterator[Figure]:
    """Measure the opening of a state root with many finished and many running jobs."""
    finished, alive = plan.pick((50, 5), (2000, 200), (10_000, 1000))
    root = plan.fresh("ours")
    fill(settings_of(str(root)), finished)
    pids: list[int] = apart(leave_running, str(root), alive)
    try:
        about: dict[str, tuple[str, list[Goal]]] = {
            "opened": ("until it is open", [Goal("<=", 0.3)]),
            "listed": ("until the running ones are listed", []),
            "adopted": ("until every running job is adopted", []),
        }
        for what, values, missing in parted(plan.rounds, [*about], {OURS: lambda: apart(reopen, str(root))}):
            words, goals = about[what]
            yield Figure(
                case="reopening",
                name=f"open with {finished:,} finished, {alive:,} running: {words}",
                unit="s",
                values=values,
                missing=missing,
                goals=goals,
            )
    finally:
        kill_all(pids)
