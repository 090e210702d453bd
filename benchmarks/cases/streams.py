"""Streams: a GiB of output, and events to many subscribers."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import trio

import supervisor
from benchmarks.cases.throughput import TRUE, run_all
from benchmarks.figures import OURS, Cannot, Figure, Goal, interleaved
from benchmarks.peers import Session
from benchmarks.peers.baselines import BARE
from benchmarks.plan import Plan

__all__ = ["events", "output"]

_REDIRECTED: Final = "command > file"
_ONE: Final = "to a single one"


def output(plan: Plan) -> Iterator[Figure]:
    """Measure a job that writes a lot, next to the shell's redirection on the same file system."""
    size = plan.pick(1 << 24, 1 << 28, 1 << 30)
    command = ["dd", "if=/dev/zero", "bs=1M", f"count={size >> 20}", "status=none"]
    used: list[float] = []

    def redirected() -> float:
        target = plan.fresh("redirected") / "file"
        begun = time.perf_counter()
        with target.open("wb") as file:
            subprocess.run(command, stdout=file, check=True)
        taken = time.perf_counter() - begun
        target.unlink()
        return size / taken / 1e6

    def ours() -> float:
        settings = plan.settings(job_max_output_bytes=2 * size)

        async def body(sup: supervisor.Supervisor) -> float:
            begun, cpu = time.perf_counter(), time.process_time()
            job = await sup.wait((await sup.start(command)).job_id)
            taken = time.perf_counter() - begun
            used.append((time.process_time() - cpu) * 1e3)
            if job.stdout_bytes != size:
                raise AssertionError(job)
            return size / taken / 1e6

        rate = plan.ours(body, settings)
        _shorten(settings.state_dir)
        return rate

    def of(session: Session) -> Callable[[], float]:
        def measure() -> float:
            if size > session.most_output:
                reason = f"keeps {session.most_output / (1 << 20):.0f} MiB of a job at most"
                raise Cannot(reason)
            job = session.start(["echo", "kept"])
            session.wait(job)
            if session.output(job).strip() != b"kept":
                raise Cannot("keeps no output")
            begun = time.perf_counter()
            session.run_all(command, 1, 1)
            taken = time.perf_counter() - begun
            for folder in plan.peers_folders():
                _shorten(folder)
            return size / taken / 1e6

        return session.turn(measure)

    with contextlib.ExitStack() as stack:
        sessions = plan.sessions(stack)
        sessions.pop(BARE, None)  # the peer keeps no output
        contenders: dict[str, Callable[[], float]] = {OURS: ours, _REDIRECTED: redirected}
        contenders |= {name: of(session) for name, session in sessions.items()}
        values, missing = interleaved(plan.pick(2, 3, 3), contenders)
    yield Figure(
        case="output",
        name=f"{size >> 20} MiB to stdout",
        unit="MB/s",
        values=values,
        missing={**plan.missing, **missing},
        goals=[Goal(">=", 0.95, of=_REDIRECTED)],
    )
    yield Figure(case="output", name=f"our processor time for {size >> 20} MiB", unit="ms", values={OURS: used})


def _shorten(folder: Path) -> None:
    """Free the disk space of the output."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.stat().st_size > 1 << 23:
            with path.open("r+b") as file:
                file.truncate()


def events(plan: Plan) -> Iterator[Figure]:
    """Measure the rate of jobs while subscribers receive each event, and the delay of the last one."""
    for subscribers in plan.pick((100,), (10, 100, 1000), (10, 100, 1000, 10_000)):
        # In all, a million events are received at most, each of which takes some microseconds.
        yield from _events(plan, subscribers, max(20, min(plan.pick(20, 150, 600), 300_000 // subscribers)))


def _events(plan: Plan, subscribers: int, jobs: int) -> Iterator[Figure]:
    lags: list[float] = []
    missed: list[float] = []

    alone_lags: list[float] = []
    beside: dict[str, Any] = {"at": subscribers, "along": "subscribers"}

    async def heard(sup: supervisor.Supervisor) -> float:
        """Return jobs a second, with every subscriber reading until it has the last event."""
        left = subscribers
        lost = 0
        all_heard = trio.Event()

        async def listen(task_status: trio.TaskStatus[None]) -> None:
            nonlocal left, lost
            async with sup.events() as told_of:
                task_status.started()
                async for event in told_of:
                    lost += event.lagged
                    if event.status.terminal and event.job.labels:
                        break
            left -= 1
            if left == 0:
                all_heard.set()

        async with trio.open_nursery() as nursery:
            for _ in range(subscribers):
                await nursery.start(listen)
            begun = time.perf_counter()
            await run_all(sup, TRUE, jobs, 16)
            rate = jobs / (time.perf_counter() - begun)
            await sup.run(TRUE, labels={"the": "last"})
            ended = time.perf_counter()
            await all_heard.wait()
            lags.append((time.perf_counter() - ended) * 1e3)
            missed.append(lost / subscribers)
            return rate

    async def one_reader(sup: supervisor.Supervisor) -> float:
        """Return the delay with a single subscriber."""
        async with sup.events() as told_of:
            await sup.run(TRUE, labels={"the": "last"})
            ended = time.perf_counter()
            async for event in told_of:
                if event.status.terminal and event.job.labels:
                    break
            return (time.perf_counter() - ended) * 1e3

    async def alone(sup: supervisor.Supervisor) -> float:
        begun = time.perf_counter()
        await run_all(sup, TRUE, jobs, 16)
        rate = jobs / (time.perf_counter() - begun)
        alone_lags.append(await one_reader(sup))
        return rate

    values, missing = interleaved(
        plan.rounds, {OURS: lambda: plan.ours(heard), "without subscribers": lambda: plan.ours(alone)}
    )
    yield Figure(
        case="events",
        name=f"jobs at 16 in flight, {subscribers:,} subscribers to all events",
        unit="1/s",
        values=values,
        missing=missing,
        **beside,
    )
    yield Figure(
        case="events",
        name=f"last end to the last of {subscribers:,} subscribers",
        unit="ms",
        values={OURS: lags, _ONE: alone_lags},
        **beside,
    )
    yield Figure(
        case="events",
        name=f"events that a subscriber missed, of some {3 * jobs:,}",
        unit="events",
        values={OURS: missed},
        **beside,
        note="a subscription holds 256 events; a reader that is too slow misses the oldest, and gets their number",
    )
