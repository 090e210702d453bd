"""A server with open pages and event streams, in the process of a supervisor that has many running jobs."""

from __future__ import annotations

import contextlib
import http.client
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Generator, Iterator
from importlib.util import find_spec
from statistics import median
from typing import Final

import trio

import supervisor
from benchmarks.cases.throughput import TRUE, run_all
from benchmarks.figures import OURS, Cannot, Figure, Goal
from benchmarks.plan import Plan

__all__ = ["serve"]

_FLIGHT: Final = 16
_WITHOUT: Final = "without streams"
_ALONE: Final = "without running jobs"
_IN_PROCESS: Final = "to a subscriber in the process"
_PAGES: Final = 8
"""Of so many streams, one is that of an open page; the others are those of programs."""
_CLIENTS: Final = """
import selectors, socket, sys
port, streams, pages = map(int, sys.argv[1:])
with selectors.DefaultSelector() as selector:
    for number in range(streams):
        path = "/page/events" if number % pages == 0 else "/v1/events"
        client = socket.create_connection(("127.0.0.1", port))
        client.sendall(f"GET {path} HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n".encode())
        if not client.recv(65536).startswith(b"HTTP/1.1 200"):
            sys.exit("a stream was refused")
        selector.register(client, selectors.EVENT_READ)
    print("listening", flush=True)
    while selector.get_map():
        for key, _ in selector.select():
            if not key.fileobj.recv(1 << 20):
                selector.unregister(key.fileobj)
"""
"""Reads event streams and drops what it reads, in a process of its own: its time is not that of the server."""


def serve(plan: Plan) -> Iterator[Figure]:
    """Measure the first page, and the rate of jobs with and without event streams, with many running jobs."""
    if any(find_spec(name) is None for name in ("starlette", "hypercorn", "jinja2")):
        raise Cannot("needs the extra `serve`")
    running, streams = plan.pick(10, 1000, 5000), plan.pick(4, 50, 200)
    jobs = plan.pick(20, 300, 1000)
    note = f"{running:,} running jobs, {streams} streams, every {_PAGES}th that of an open page"
    first: dict[str, list[float]] = {OURS: [], _ALONE: []}
    sizes: list[float] = []
    lags: dict[str, list[float]] = {OURS: [], _IN_PROCESS: []}
    rates: dict[str, list[float]] = {OURS: [], _WITHOUT: []}
    by_processor: dict[str, list[float]] = {OURS: [], _WITHOUT: []}

    async def measure() -> None:
        async with _serving(plan) as (sup, port):
            await sup.run(TRUE)
            await _look(port, plan.rounds, first[_ALONE], [])
            await _start(sup, running)
            await _look(port, plan.rounds, first[OURS], sizes)
            for _ in range(plan.rounds):
                for name, lag in (await _lags(sup, port, plan.pick(3, 30, 100))).items():
                    lags[name].append(lag)
            for turn in range(2 * plan.rounds):
                with contextlib.ExitStack() as stack:
                    contender = OURS if turn % 4 in {0, 3} else _WITHOUT
                    if contender == OURS:
                        await trio.to_thread.run_sync(stack.enter_context, _listening(port, streams))
                    begun, used = time.perf_counter(), time.process_time()
                    await run_all(sup, TRUE, jobs, _FLIGHT)
                    rates[contender].append(jobs / (time.perf_counter() - begun))
                    by_processor[contender].append(jobs / (time.process_time() - used))

    trio.run(measure)
    yield Figure(case="serve", name="the first page", unit="ms", values=first, goals=[Goal("<=", 100)], note=note)
    yield Figure(case="serve", name="its size", unit="kB", values={OURS: sizes}, goals=[Goal("<=", 150)], note=note)
    words = "recorded end of a job to its event on a stream"
    yield Figure(case="serve", name=words, unit="ms", values=lags, note=f"{note}; a single stream for the events")
    yield Figure(
        case="serve",
        name="jobs to a recorded exit",
        unit="1/s",
        values=rates,
        goals=[Goal(">=", 0.95, of=_WITHOUT)],
        note=note,
    )
    # Streams are paced by the clock: beside other programs they are a larger part of what the server gets.
    name = "jobs in a second of the processor time of the server"
    yield Figure(case="serve", name=name, unit="jobs/s", values=by_processor, note=note)


@contextlib.asynccontextmanager
async def _serving(plan: Plan) -> AsyncGenerator[tuple[supervisor.Supervisor, int]]:
    """Serve a new state root without tokens, and yield the supervisor of the server and its port."""
    from supervisor.http.listening import Address
    from supervisor.mcp_server.options import Options
    from supervisor.web import serving

    settings = plan.settings(job_max_seconds=86_400)
    opened, over = trio.Event(), trio.Event()
    found: list[supervisor.Supervisor] = []
    ports: list[int] = []

    @contextlib.asynccontextmanager
    async def open_it() -> AsyncGenerator[supervisor.Supervisor]:
        async with supervisor.open_supervisor(settings) as sup:
            found.append(sup)
            opened.set()
            yield sup

    def started(address: Address) -> None:
        ports.append(int(str(address).rpartition(":")[2]))

    async def serve_it() -> None:
        options = Options(settings=settings)
        address = Address("127.0.0.1")
        await serving.serve(
            options, address, callers=None, allowed_hosts=(), started=started, open_it=open_it, over=over
        )

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_it)
        await opened.wait()
        yield found[0], ports[0]
        over.set()


async def _start(sup: supervisor.Supervisor, count: int) -> None:
    left = iter(range(count))

    async def work() -> None:
        for _ in left:
            await sup.start(["sleep", "86400"])

    async with trio.open_nursery() as nursery:
        for _ in range(_FLIGHT):
            nursery.start_soon(work)


async def _lags(sup: supervisor.Supervisor, port: int, times: int) -> dict[str, float]:
    """Return the medians from the end of a job, by its keeper's clock, to its event, on a stream and in the process."""
    heard: dict[str, dict[str, float]] = {OURS: {}, _IN_PROCESS: {}}
    taken: dict[str, list[float]] = {OURS: [], _IN_PROCESS: []}

    async def listen() -> None:
        async with sup.events() as told_of:
            async for event in told_of:
                if event.status.terminal:
                    heard[_IN_PROCESS].setdefault(event.job.job_id, time.time())

    async def read() -> None:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            await stream.send_all(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            held = b""
            async for data in stream:
                held, now = held + data, time.time()
                *blocks, held = held.split(b"\n\n")
                for block in blocks:
                    for job_id in awaited:
                        if job_id.encode() in block and b'"completed_at":"' in block.replace(b" ", b""):
                            heard[OURS].setdefault(job_id, now)

    awaited: list[str] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        nursery.start_soon(read)
        await trio.sleep(0.5)  # until both listen
        for _ in range(times):
            job = await sup.start(TRUE)
            awaited[:] = [job.job_id]
            ended = await sup.wait(job.job_id)
            if ended.completed_at is None:
                raise AssertionError(ended)
            with trio.fail_after(60):
                while any(job.job_id not in each for each in heard.values()):  # noqa: ASYNC110  # see above
                    await trio.sleep(0.002)
            for name, each in heard.items():
                taken[name].append((each[job.job_id] - ended.completed_at.timestamp()) * 1e3)
        nursery.cancel_scope.cancel()
    return {name: median(each) for name, each in taken.items()}


async def _look(port: int, rounds: int, milliseconds: list[float], kilobytes: list[float]) -> None:
    """Fetch the page, once for each round after a first time, each time the median of five."""

    def fetch() -> float:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        begun = time.perf_counter()
        connection.request("GET", "/")
        answer = connection.getresponse()
        body = answer.read()
        taken = (time.perf_counter() - begun) * 1e3
        connection.close()
        if answer.status != http.client.OK:
            raise AssertionError(body)
        kilobytes.append(len(body) / 1e3)
        return taken

    await trio.to_thread.run_sync(fetch)
    kilobytes.clear()
    for _ in range(rounds):
        taken = [await trio.to_thread.run_sync(fetch) for _ in range(5)]
        milliseconds.append(median(taken))


@contextlib.contextmanager
def _listening(port: int, streams: int) -> Generator[None]:
    """Have streams open and read."""
    command = [sys.executable, "-c", _CLIENTS, *map(str, (port, streams, _PAGES))]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as clients:
        try:
            assert clients.stdout is not None
            if clients.stdout.readline() != b"listening\n":
                raise Cannot("the clients could not connect")
            yield
        finally:
            clients.kill()
