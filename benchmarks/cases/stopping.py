"""Stopping a tree of processes that ignore SIGTERM."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import supervisor
from benchmarks.figures import OURS, Cannot, Figure, interleaved
from benchmarks.peers import Session
from benchmarks.peers.baselines import BARE
from benchmarks.plan import Plan

__all__ = ["await_up", "end_tree", "stopping", "stubborn_tree"]

_MARK: Final = "STUBBORN_TREE"
_KNOWN: Final = "kill() of known pids"
_GRACE: Final = 0.2
_PATIENCE: Final = 15.0


def stubborn_tree(count: int, mark: str, ready: Path) -> list[str]:
    """Return a command that ignores SIGTERM, like all its descendants, half of them in sessions of their own."""
    below = (count - 1) // 2
    script = (
        f"trap '' TERM; export {_MARK}={mark}; "
        f"for each in $(seq {below}); do sleep 600 & done; "
        f"for each in $(seq {count - 1 - below}); do setsid sleep 600 & done; "
        f"echo up > {shlex.quote(str(ready))}; wait"
    )
    return ["sh", "-c", script]


def _alive(mark: str) -> list[int]:
    """Return the processes that carry the mark: all of the tree but its top, which sets it."""
    wanted = f"{_MARK}={mark}".encode()
    found: list[int] = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                if wanted in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                    found.append(int(name))
    return found


def await_up(ready: Path, mark: str, count: int) -> None:
    give_up = time.monotonic() + _PATIENCE
    while not (ready.exists() and len(_alive(mark)) >= count - 1):
        if time.monotonic() > give_up:
            raise Cannot("never ran the tree")
        time.sleep(0.02)


def end_tree(mark: str) -> int:
    """Kill the remaining processes of a tree, and return their number."""
    left = _alive(mark)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(left)


def stopping(plan: Plan) -> Iterator[Figure]:
    """Measure a stop, beyond the grace, until no process of the tree is left."""
    count = plan.pick(6, 50, 50)
    times = plan.pick(1, 2, 5)
    settings = plan.settings(stop_grace_seconds=_GRACE)

    def ours() -> float:
        async def body(sup: supervisor.Supervisor) -> float:
            taken: list[float] = []
            for _ in range(times):
                mark, ready = uuid.uuid4().hex, plan.fresh("tree") / "ready"
                job = await sup.start(stubborn_tree(count, mark, ready))
                await_up(ready, mark, count)
                begun = time.perf_counter()
                await sup.cancel(job.job_id)
                taken.append(time.perf_counter() - begun - _GRACE)
                if left := end_tree(mark):
                    raise AssertionError(left)
            return sorted(taken)[len(taken) // 2] * 1e3

        return plan.ours(body, settings)

    def known() -> float:
        mark, ready = uuid.uuid4().hex, plan.fresh("tree") / "ready"
        with subprocess.Popen(stubborn_tree(count, mark, ready)) as process:
            await_up(ready, mark, count)
            pids = [process.pid, *_alive(mark)]
            watched = [os.pidfd_open(pid) for pid in pids]
            begun = time.perf_counter()
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            process.wait()
            for each in watched:
                _await_end(each)
            return (time.perf_counter() - begun) * 1e3

    with contextlib.ExitStack() as stack:
        sessions = plan.sessions(stack)
        sessions.pop(BARE, None)
        contenders: dict[str, Callable[[], float]] = {
            OURS: ours,
            _KNOWN: known,
            **{name: _stop_of(plan, session, count) for name, session in sessions.items()},
        }
        values, missing = interleaved(plan.rounds, contenders)
    yield Figure(
        case="stopping",
        name=f"stop of a stubborn tree of {count}",
        unit="ms",
        values=values,
        missing={**plan.missing, **missing},
        note=f"beyond the grace, {_GRACE} s; all ignore SIGTERM, half have a session of their own",
    )


def _await_end(descriptor: int) -> None:
    import select

    with os.fdopen(descriptor):
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.poll(_PATIENCE * 1e3)


def _stop_of(plan: Plan, session: Session, count: int) -> Callable[[], float]:
    def measure() -> float:
        mark, ready = uuid.uuid4().hex, plan.fresh("tree") / "ready"
        job = session.start(stubborn_tree(count, mark, ready))
        await_up(ready, mark, count)
        try:
            begun = time.perf_counter()
            session.stop(job)
            taken = (time.perf_counter() - begun) * 1e3
        except subprocess.TimeoutExpired as late:
            reason = f"had stopped nothing after {late.timeout:.0f} s"
            raise Cannot(reason) from None
        finally:
            left = end_tree(mark)
        if left:
            reason = f"left {left} of {count} processes alive"
            raise Cannot(reason)
        return taken

    return session.turn(measure)
