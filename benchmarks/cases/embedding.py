"""The cost of a call through a facade, next to the same call in Trio: two changes of thread and of event loop."""

from __future__ import annotations

import asyncio
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from statistics import median

import supervisor
from benchmarks.figures import OURS, Figure, Goal, interleaved
from benchmarks.plan import Plan

__all__ = ["embedding"]

_TRIO = "from Trio"
_SWITCH = "a question to a thread"


def embedding(plan: Plan) -> Iterator[Figure]:
    """Measure calls from asyncio and from a thread."""
    times = plan.pick(20, 500, 2000)

    async def asking(sup: supervisor.Supervisor | supervisor.AsyncioSupervisor, argv: list[str] | None) -> float:
        """Return the median microseconds of a status, or of a whole job if ``argv`` is given."""
        job = await sup.start(["sleep", "600"])
        taken: list[float] = []
        for _ in range(times if argv is None else times // 10):
            begin = time.perf_counter()
            if argv is None:
                await sup.status(job.job_id)
            else:
                await sup.run(argv)
            taken.append(time.perf_counter() - begin)
        await sup.cancel(job.job_id)
        return median(taken) * 1e6

    def in_trio(argv: list[str] | None = None) -> float:
        return plan.ours(lambda sup: asking(sup, argv))

    def in_asyncio(argv: list[str] | None = None) -> float:
        async def main() -> float:
            async with supervisor.open_supervisor_asyncio(plan.settings()) as sup:
                await sup.run(["true"])
                return await asking(sup, argv)

        return asyncio.run(main())

    def in_thread() -> float:
        with supervisor.BlockingSupervisor(plan.settings()) as sup:
            job = sup.start(["sleep", "600"])
            taken: list[float] = []
            for _ in range(times):
                begin = time.perf_counter()
                sup.status(job.job_id)
                taken.append(time.perf_counter() - begin)
            sup.cancel(job.job_id)
            return median(taken) * 1e6

    def added() -> float:
        return in_asyncio() - in_trio()

    whole = ["true"]
    for name, ours, beside, other, goals in (
        ("status from asyncio", in_asyncio, _TRIO, in_trio, []),
        ("status from a thread", in_thread, _TRIO, in_trio, []),
        ("run() from asyncio", lambda: in_asyncio(whole), _TRIO, lambda: in_trio(whole), [Goal("<=", 1.5, of=_TRIO)]),
        ("added to a call from asyncio", added, _SWITCH, lambda: _switching(times), [Goal("<=", 10, of=_SWITCH)]),
    ):
        values, missing = interleaved(plan.rounds, {OURS: ours, beside: other})
        yield Figure(case="embedding", name=name, unit="us", values=values, missing=missing, goals=goals)


def _switching(times: int) -> float:
    """Return the cost of a bare question to another thread and back: two sockets, two selectors."""
    ours, theirs = socket.socketpair()

    def echo() -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(theirs, selectors.EVENT_READ)
            while selector.select() and (data := theirs.recv(1)):
                theirs.send(data)

    thread = threading.Thread(target=echo)
    thread.start()
    taken: list[float] = []
    with ours, theirs, selectors.DefaultSelector() as selector:
        selector.register(ours, selectors.EVENT_READ)
        for _ in range(times):
            begin = time.perf_counter()
            ours.send(b"x")
            selector.select()
            ours.recv(1)
            taken.append(time.perf_counter() - begin)
        ours.shutdown(socket.SHUT_WR)
        thread.join()
    return median(taken) * 1e6
