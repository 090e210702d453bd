"""The duration of a single call: a start, a wait for an end, a status, a list."""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, Final

import trio

import supervisor
from benchmarks.apart import apart
from benchmarks.figures import OURS, Cannot, Figure, Goal, Together, interleaved, median_us, parted
from benchmarks.filling import fill
from benchmarks.peers import PATIENCE_SECONDS, Session
from benchmarks.peers.baselines import BARE
from benchmarks.plan import Plan
from supervisor.jobs.catalog import Catalog

__all__ = ["exits", "lists", "starts", "statuses"]

_SLEEPER: Final = ("sleep", "600")
_TELLING: Final = ("sh", "-c", "sleep 0.05; exec date +%s%N")
"""Its last act is to print the time; by then its caller is idle."""
_BY_SQL: Final = "a row by SQL"


def starts(plan: Plan) -> Iterator[Figure]:
    """Measure ``start`` until it is acknowledged, on an otherwise idle supervisor or peer."""
    times = plan.pick(3, 60, 300)
    with contextlib.ExitStack() as stack:
        sessions = plan.sessions(stack)
        bare = sessions.pop(BARE, None)

        async def taking_turns(sup: supervisor.Supervisor) -> dict[str, float]:
            taken: dict[str, list[float]] = {OURS: [], BARE: []}
            for _ in range(times):
                begun = time.perf_counter()
                job = await sup.start(["true"])
                taken[OURS].append(time.perf_counter() - begun)
                await sup.wait(job.job_id)
                begun = time.perf_counter()
                process = subprocess.Popen(["true"], start_new_session=True)  # noqa: ASYNC220  # this call is measured
                taken[BARE].append(time.perf_counter() - begun)
                process.wait()  # and nothing else may run meanwhile
            return {name: median(each) * 1e3 for name, each in taken.items()}

        together = Together(lambda: plan.ours(taking_turns))
        contenders: dict[str, Callable[[], float]] = {OURS: together.one(OURS)}
        if bare is not None:
            contenders[BARE] = together.one(BARE)
        contenders |= {
            name: _start_of(session, int(min(max(3, times // 4), session.most_waits)))
            for name, session in sessions.items()
        }
        values, missing = interleaved(plan.rounds, contenders)
    yield Figure(
        case="starts",
        name="start() until launched",
        unit="ms",
        values=values,
        missing={**plan.missing, **missing},
        goals=[Goal("<=", 5, of=BARE)],
        note="medians of a round; next to a bare Popen, call by call; peers for the shell use a process for each call",
    )


def _start_of(session: Session, times: int) -> Callable[[], float]:
    def measure() -> float:
        taken: list[float] = []
        for _ in range(times):
            begun = time.perf_counter()
            job = session.start(["true"])
            taken.append(time.perf_counter() - begun)
            session.wait(job)
        return median(taken) * 1e3

    return session.turn(measure)


def exits(plan: Plan) -> Iterator[Figure]:
    """Measure from the last act of a command to the return of the waiting call."""
    for flight, goal in ((1, 1.0), (16, 5.0)):
        times = plan.pick(2, 20, 50) * (1 if flight == 1 else 4)
        with contextlib.ExitStack() as stack:
            sessions = plan.sessions(stack) if flight == 1 else plan.sessions(stack, flight, only={BARE})
            contenders: dict[str, Callable[[], float]] = {
                OURS: lambda times=times, flight=flight: plan.ours(  # type: ignore[misc]
                    lambda sup: _our_exit(sup, times, flight),
                ),
            }
            for name, session in sessions.items():
                contenders[name] = _exit_of(session, int(min(times, session.most_waits)), flight)
            values, missing = interleaved(plan.rounds, contenders)
        yield Figure(
            case="exits",
            name=f"exit to wait() returning, {'idle' if flight == 1 else f'{flight} in flight'}",
            unit="ms",
            values=values,
            missing={**plan.missing, **missing},
            goals=[Goal("<=", goal)],
            at=flight,
            along="jobs in flight",
            note="from the clock that the command reads last to the return of the wait, the process end included",
        )


async def _our_exit(sup: supervisor.Supervisor, times: int, flight: int) -> float:
    taken: list[float] = []
    left = iter(range(times))

    async def work() -> None:
        for _ in left:
            job = await sup.start(_TELLING)
            await sup.wait(job.job_id)
            now = time.time_ns()
            taken.append((now - int(str((await sup.result(job.job_id)).value))) / 1e6)

    async with trio.open_nursery() as nursery:
        for _ in range(flight):
            nursery.start_soon(work)
    return median(taken)


def _told(session: Session, job: str) -> int:
    """Return the time by the command's clock: some peers report an end before they have the output."""
    give_up = time.monotonic() + PATIENCE_SECONDS
    while not (said := session.output(job).strip()) and time.monotonic() < give_up:
        time.sleep(0.005)
    return int(said)


def _exit_of(session: Session, times: int, flight: int) -> Callable[[], float]:
    def measure() -> float:
        taken: list[float] = []
        left = itertools.islice(itertools.count(), times)
        lock = threading.Lock()

        def work() -> None:
            while True:
                with lock:
                    if next(left, None) is None:
                        return
                job = session.start(_TELLING)
                session.wait(job)
                now = time.time_ns()
                taken.append((now - _told(session, job)) / 1e6)

        if flight == 1:
            work()
        else:
            threads = [threading.Thread(target=work) for _ in range(flight)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        return median(taken)

    return session.turn(measure)


async def _median_us(times: int, call: Callable[[], Awaitable[object]]) -> float:
    taken: list[float] = []
    for _ in range(times):
        begun = time.perf_counter()
        await call()
        taken.append(time.perf_counter() - begun)
    return median(taken) * 1e6


def status_elsewhere(root: str, jobs: list[str], times: int) -> list[float]:
    """Return the duration of a status of another supervisor's job, in microseconds."""

    async def main() -> list[float]:
        async with supervisor.open_supervisor(supervisor.Settings(state_dir=Path(root))) as sup:
            return [await _median_us(times, lambda job=job: sup.status(job)) for job in jobs]  # type: ignore[misc]

    return trio.run(main)


def status_afresh(root: str, jobs: list[str], times: int) -> list[float]:
    """Return the duration of opening the catalog for one status, in microseconds."""
    settings = supervisor.Settings(state_dir=Path(root))

    def ask(job: str) -> object:
        with Catalog(settings) as catalog:
            return catalog.status(job)

    return [median_us(times, lambda job=job: ask(job)) for job in jobs]  # type: ignore[misc]


def _select(root: Path, job: str, times: int, *, afresh: bool) -> float:
    """Return the duration of reading a job's row by SQL, in microseconds, on an open connection or a new one."""
    statement = "SELECT * FROM jobs WHERE job_id = ?"

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(root / "registry.db", isolation_level=None)

    def ask_afresh() -> None:
        with contextlib.closing(connect()) as database:
            database.execute(statement, (job,)).fetchone()

    if afresh:
        return median_us(times, ask_afresh)
    with contextlib.closing(connect()) as database:
        return median_us(times, lambda: database.execute(statement, (job,)).fetchone())


def statuses(plan: Plan) -> Iterator[Figure]:
    """Measure a status: of an own job, by another process, and by a process that opens the state root for it."""
    times = plan.pick(20, 500, 2000)
    settings = plan.settings()
    finished = fill(settings, plan.pick(20, 1000, 10_000))[-1]
    root = settings.state_dir

    async def own(sup: supervisor.Supervisor) -> dict[str, float]:
        job = await sup.start(_SLEEPER)
        try:
            return {
                OURS: await _median_us(times, lambda: sup.status(job.job_id)),
                "a Trio checkpoint": await _median_us(times, trio.lowlevel.checkpoint),
            }
        finally:
            await sup.cancel(job.job_id)

    with contextlib.ExitStack() as stack:
        sessions = plan.sessions(stack)
        together = Together(lambda: plan.ours(own, settings))
        contenders: dict[str, Callable[[], float]] = {
            name: together.one(name) for name in (OURS, "a Trio checkpoint")
        } | {name: _status_of(session, max(3, times // 20)) for name, session in sessions.items()}
        values, missing = interleaved(plan.rounds, contenders)
    yield Figure(
        case="statuses",
        name="status of an own running job",
        unit="us",
        values=values,
        missing={**plan.missing, **missing},
        goals=[Goal("<=", 10)],
        note="peers for the shell use one process for each query",
    )

    figures: list[Figure] = []

    async def others(sup: supervisor.Supervisor) -> None:
        job = await sup.start(_SLEEPER)
        figures.extend(_by_others(plan, root, {"finished": finished, "running": job.job_id}, times))
        await sup.cancel(job.job_id)

    plan.ours(others, settings)
    yield from figures


def _by_others(plan: Plan, root: Path, jobs: dict[str, str], times: int) -> Iterator[Figure]:
    """Ask from other processes, while the supervisor that started the jobs is open in this process."""
    for afresh, function, goal in ((False, status_elsewhere, 50), (True, status_afresh, 200)):

        def ours(function: Callable[..., Any] = function) -> dict[str, float]:
            return dict(zip(jobs, apart(function, str(root), [*jobs.values()], times), strict=True))

        def by_sql(*, afresh: bool = afresh) -> dict[str, float]:
            return {what: _select(root, job, times, afresh=afresh) for what, job in jobs.items()}

        for what, values, missing in parted(plan.rounds, [*jobs], {OURS: ours, _BY_SQL: by_sql}):
            yield Figure(
                case="statuses",
                name=f"status of a {what} job {'by a fresh catalog' if afresh else 'by another process'}",
                unit="us",
                values=values,
                missing=missing,
                goals=[Goal("<=", goal)],
            )


def _status_of(session: Session, times: int) -> Callable[[], float]:
    def measure() -> float:
        job = session.start(["sleep", "30"])
        try:
            return median_us(times, lambda: session.status(job))
        finally:
            with contextlib.suppress(Cannot):  # then it ends by itself
                session.stop(job)

    return session.turn(measure)


def lists(plan: Plan) -> Iterator[Figure]:
    """Measure a list of 50 out of few and of many, with each filter."""
    times = plan.pick(3, 40, 200)
    sizes = plan.pick((50, 200), (50, 1000, 10_000), (50, 1000, 10_000, 100_000))
    for size in sizes:
        settings = plan.settings()
        fill(settings, size, workspaces=max(1, min(10, size // 50)))
        filters: dict[str, dict[str, Any]] = {"": {}}
        if size == sizes[-1]:
            filters |= {
                " of a workspace": {"workspace": os.getcwd()},
                " in a state": {"state": "failed"},
                " of a workspace in a state": {"workspace": os.getcwd(), "state": "done"},
                " with a label": {"labels": {"batch": "7"}},
            }
        for words, wanted in filters.items():
            with contextlib.ExitStack() as stack:
                sessions = plan.sessions(stack) if size == 50 else {}
                contenders: dict[str, Callable[[], float]] = {
                    OURS: lambda settings=settings, wanted=wanted: plan.ours(  # type: ignore[misc]
                        lambda sup: _list_ms(sup, times, wanted), settings
                    ),
                    "50 rows by SQL": lambda root=settings.state_dir: _newest_ms(root, times),  # type: ignore[misc]
                    **{name: _list_of(session, times) for name, session in sessions.items() if name != BARE},
                }
                values, missing = interleaved(plan.rounds, contenders)
            yield Figure(
                case="lists",
                name=f"list of 50 out of {size:,}{words}",
                unit="ms",
                values=values,
                missing={**(plan.missing if sessions else {}), **missing},
                goals=[Goal("<=", 0.5)],
                at=None if words else size,
                along="" if words else "jobs kept",
                note="peers have 50 jobs and list them all" if sessions else "",
            )


async def _list_ms(sup: supervisor.Supervisor, times: int, wanted: dict[str, Any]) -> float:
    page = await sup.list(limit=50, **wanted)
    if not page.jobs:
        raise AssertionError(wanted)
    return await _median_us(times, lambda: sup.list(limit=50, **wanted)) / 1e3


def _newest_ms(root: Path, times: int) -> float:
    with contextlib.closing(sqlite3.connect(root / "registry.db", isolation_level=None)) as database:
        statement = "SELECT * FROM jobs ORDER BY seq DESC LIMIT 50"
        return median_us(times, lambda: database.execute(statement).fetchall()) / 1e3


def _list_of(session: Session, times: int) -> Callable[[], float]:
    filled = False

    def measure() -> float:
        nonlocal filled
        if not filled:
            session.list()
            session.run_all(["true"], 50, 1)
            filled = True
        if session.list() < 50:
            raise Cannot("keeps no jobs that have ended")
        return median_us(times, session.list) / 1e3

    return session.turn(measure)
