"""Whole processes: an import, a status at the shell, a job at the shell, the first answer over MCP."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from statistics import median
from typing import Final

import supervisor
from benchmarks.apart import with_bytecode
from benchmarks.figures import OURS, Figure, Goal, Together, interleaved
from benchmarks.peers import Session
from benchmarks.plan import Plan
from benchmarks.wire import first_answer

__all__ = ["cold"]

_TRIO: Final = "import trio"


def _whole(argv: list[str], times: int, environment: Mapping[str, str]) -> Callable[[], float]:
    def once() -> float:
        begun = time.perf_counter()
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, env=environment)
        return time.perf_counter() - begun

    once()  # compiles the imported modules
    return lambda: median(once() for _ in range(times)) * 1e3


def _processor_time(argv: list[str], environment: Mapping[str, str]) -> Callable[[], float]:
    """Return what measures the user and system time of a whole process; unlike its duration, other load adds little."""

    def once() -> float:
        with open(os.devnull, "r+b") as nowhere:
            into = [(os.POSIX_SPAWN_DUP2, nowhere.fileno(), number) for number in (0, 1)]
            pid = os.posix_spawn(argv[0], argv, environment, file_actions=into)
        _, status, used = os.wait4(pid, 0)
        if status != 0:
            message = f"{argv} has ended with the status {status}"
            raise RuntimeError(message)
        return (used.ru_utime + used.ru_stime) * 1e3

    once()  # compiles the imported modules
    return once


def _in_turn(ours: Callable[[], float], theirs: Callable[[], float], times: int) -> dict[str, float]:
    """Return the median of each, process by process in turn: the speed of the machine changes between two of them."""
    taken: dict[str, list[float]] = {OURS: [], _TRIO: []}
    for _ in range(times):
        taken[OURS].append(ours())
        taken[_TRIO].append(theirs())
    return {name: median(each) for name, each in taken.items()}


def cold(plan: Plan) -> Iterator[Figure]:
    """Measure whole processes."""
    times = plan.pick(1, 5, 11)
    settings = plan.settings()

    async def one(sup: supervisor.Supervisor) -> str:
        return (await sup.wait((await sup.start(["true"])).job_id)).job_id

    job = plan.ours(one, settings)
    root = ["--state-dir", str(settings.state_dir)]
    cli = [sys.executable, "-m", "supervisor"]
    environment = with_bytecode(plan.fresh("bytecode"))  # of peers, too
    trio_alone = _whole([sys.executable, "-c", "import trio"], times, environment)
    importing = [sys.executable, "-c", "import supervisor; supervisor.open_supervisor"]
    for name, argv, goals in (
        ("import supervisor, a whole process", importing, [Goal("<=", 1.3, of=_TRIO)]),
        ("supervisor status JOB, a whole process", [*cli, "status", job, *root], [Goal("<=", 1, of=_TRIO)]),
        ("supervisor list, a whole process", [*cli, "list", "--all", *root], []),
    ):
        one_of_each = _whole(argv, 1, environment), _whole([sys.executable, "-c", "import trio"], 1, environment)
        together = Together(partial(_in_turn, *one_of_each, times))
        values, missing = interleaved(plan.rounds, {name: together.one(name) for name in (OURS, _TRIO)})
        yield Figure(case="cold", name=name, unit="ms", values=values, missing=missing, goals=goals)

    for name, argv, goals in (
        ("supervisor status JOB, processor time", [*cli, "status", job, *root], [Goal("<=", 0.5, of=_TRIO)]),
        ("supervisor status JOB --json, processor time", [*cli, "status", job, "--json", *root], []),
        ("supervisor list, processor time", [*cli, "list", "--all", *root], [Goal("<=", 0.5, of=_TRIO)]),
        ("supervisor start -- true, processor time", [*cli, "start", *root, "--", "true"], [Goal("<=", 1, of=_TRIO)]),
    ):
        pair = _processor_time(argv, environment), _processor_time([sys.executable, "-c", "import trio"], environment)
        together = Together(partial(_in_turn, *pair, times))
        values, missing = interleaved(plan.rounds, {each: together.one(each) for each in (OURS, _TRIO)})
        yield Figure(
            case="cold", name=name, unit="ms", values=values, missing=missing, goals=goals,
            note="user and system time of the command itself; of `start`, without its keeper and its job",
        )  # fmt: skip

    with contextlib.ExitStack() as stack:
        sessions = plan.sessions(stack, only={"task-spooler", "nq"})
        contenders: dict[str, Callable[[], float]] = {
            OURS: _whole([*cli, "run", *root, "--", "true"], times, environment),
            _TRIO: trio_alone,
            **{name: _job_of(session, times) for name, session in sessions.items()},
        }
        values, missing = interleaved(plan.rounds, contenders)
    yield Figure(
        case="cold", name="supervisor run -- true, a whole process", unit="ms", values=values, missing=missing,
        note="the job starts a keeper, which exits after it; the server of task-spooler runs already",
    )  # fmt: skip
    answers = {
        name: partial(_first_answer, plan, server, max(1, times // 5), environment)
        for name, server in ((OURS, "supervisor"), ("a bare server of the SDK's", "bare"))
    }
    for answer in answers.values():
        answer()
    values, missing = interleaved(plan.rounds, answers)
    yield Figure(case="cold", name="first answer over MCP, a whole process", unit="ms", values=values, missing=missing)


def _first_answer(plan: Plan, server: str, times: int, environment: Mapping[str, str]) -> float:
    return first_answer(server, plan.fresh("mcp"), times, environment)


def _job_of(session: Session, times: int) -> Callable[[], float]:
    def measure() -> float:
        begun = time.perf_counter()
        session.run_all(["true"], times, 1)
        return (time.perf_counter() - begun) / times * 1e3

    return session.turn(measure)
