"""What is measured, each case beside its limit."""

from __future__ import annotations

import asyncio
import json
import os
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from statistics import median
from typing import Protocol

import trio

import supervisor
from benchmarks.figures import Figure, paired
from supervisor import interpret

__all__ = ["CASES"]

TRUE = shutil.which("true") or "/bin/true"


class Case(Protocol):
    """Something that can be measured."""

    def __call__(self, *, full: bool) -> list[Figure]:
        """Measure it."""


@contextmanager
def scratch() -> Iterator[Path]:
    """Give a directory of its own; deleted after the case, never between rounds."""
    with tempfile.TemporaryDirectory(prefix="trio-supervisor-benchmark-") as name:
        yield Path(name)


@asynccontextmanager
async def opened(root: Path) -> AsyncGenerator[supervisor.Supervisor]:
    """Open a supervisor on a fresh state root, with its keeper up."""
    settings = supervisor.Settings(state_dir=Path(tempfile.mkdtemp(dir=root)), job_max_count=10**6)
    async with supervisor.open_supervisor(settings) as sup:
        await sup.run([TRUE])
        yield sup


def on_fresh_root(root: Path, body: Callable[[supervisor.Supervisor], Awaitable[float]]) -> float:
    """Run ``body`` with a supervisor of its own and return what it measured."""

    async def main() -> float:
        async with opened(root) as sup:
            return await body(sup)

    return trio.run(main)


def bare_rate(jobs: int, flight: int) -> float:
    """Return spawned and reaped processes a second, by nothing but ``posix_spawn`` and ``waitpid``."""
    environment = dict(os.environ)
    started = done = 0
    begin = time.perf_counter()
    while done < jobs:
        while started - done < flight and started < jobs:
            os.posix_spawn(TRUE, [TRUE], environment)
            started += 1
        os.waitpid(-1, 0)
        done += 1
    return jobs / (time.perf_counter() - begin)


def our_rate(root: Path, jobs: int, flight: int) -> float:
    """Return jobs a second, from ``start`` to an exit code on record."""

    async def body(sup: supervisor.Supervisor) -> float:
        places = trio.Semaphore(flight)

        async def one() -> None:
            async with places:
                job = await sup.wait((await sup.start([TRUE])).job_id)
                if job.exit_code != 0:
                    raise AssertionError(job)

        begin = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for _ in range(jobs):
                nursery.start_soon(one)
        return jobs / (time.perf_counter() - begin)

    return on_fresh_root(root, body)


def throughput(*, full: bool) -> list[Figure]:
    """Starts to recorded exits, at several numbers in flight."""
    figures: list[Figure] = []
    jobs, rounds = (2000, 7) if full else (1000, 3)
    goals = {1: ">= 0.5", 4: ">= 0.5", 16: ">= 0.6", 64: ">= 0.7"}
    with scratch() as root:
        for flight, goal in goals.items():
            ours, bare = paired(rounds, lambda n=flight: our_rate(root, jobs, n), lambda n=flight: bare_rate(jobs, n))  # type: ignore[misc]
            figures.append(Figure(f"jobs, {flight} in flight", "1/s", ours, "bare spawn and wait", bare, goal))
    return figures


def popen_latency(times: int) -> float:
    """Return the median of starting a process by ``subprocess.Popen``, in milliseconds."""
    taken: list[float] = []
    for _ in range(times):
        begin = time.perf_counter()
        process = subprocess.Popen([TRUE], start_new_session=True)
        taken.append(time.perf_counter() - begin)
        process.wait()
    return median(taken) * 1e3


def latency(*, full: bool) -> list[Figure]:
    """What a single call takes on an idle supervisor."""
    times, rounds = (500, 7) if full else (200, 3)
    with scratch() as root:

        async def starting(sup: supervisor.Supervisor) -> float:
            taken: list[float] = []
            for _ in range(times):
                begin = time.perf_counter()
                job = await sup.start([TRUE])
                taken.append(time.perf_counter() - begin)
                await sup.wait(job.job_id)
            return median(taken) * 1e3

        async def status(sup: supervisor.Supervisor) -> float:
            job = await sup.start(["sleep", "600"])
            taken: list[float] = []
            for _ in range(times * 10):
                begin = time.perf_counter()
                await sup.status(job.job_id)
                taken.append(time.perf_counter() - begin)
            await sup.cancel(job.job_id)
            return median(taken) * 1e6

        async def exit_to_wait(sup: supervisor.Supervisor) -> float:
            taken: list[float] = []
            for _ in range(times // 4):
                job = await sup.start([sys.executable, "-c", "import time; print(time.time_ns())"])
                await sup.wait(job.job_id)
                now = time.time_ns()
                taken.append(now - (await sup.status(job.job_id)).completed_at.timestamp() * 1e9)  # type: ignore[union-attr]
            return median(taken) / 1e6

        starts, popens = paired(rounds, lambda: on_fresh_root(root, starting), lambda: popen_latency(times))
        return [
            Figure("start() until launched", "ms", starts, "subprocess.Popen", popens, "<= 5"),
            Figure("status of an own job", "us", [on_fresh_root(root, status) for _ in range(rounds)], goal="<= 10 us"),
            Figure("exit to wait()", "ms", [on_fresh_root(root, exit_to_wait) for _ in range(rounds)], goal="<= 1 ms"),
        ]


def embedding(*, full: bool) -> list[Figure]:
    """What a call costs through a facade, beside the same call in Trio: two changes of thread and of event loop."""
    times, rounds = (2000, 7) if full else (500, 5)
    with scratch() as root:

        def settings() -> supervisor.Settings:
            return supervisor.Settings(state_dir=Path(tempfile.mkdtemp(dir=root)), job_max_count=10**6)

        async def asking(sup: supervisor.Supervisor | supervisor.AsyncioSupervisor, argv: list[str] | None) -> float:
            """Return the median microseconds of a status, or of a whole job if there is ``argv``."""
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
            return on_fresh_root(root, lambda sup: asking(sup, argv))

        def in_asyncio(argv: list[str] | None = None) -> float:
            async def main() -> float:
                async with supervisor.open_supervisor_asyncio(settings()) as sup:
                    await sup.run([TRUE])
                    return await asking(sup, argv)

            return asyncio.run(main())

        def in_thread() -> float:
            with supervisor.BlockingSupervisor(settings()) as sup:
                job = sup.start(["sleep", "600"])
                taken: list[float] = []
                for _ in range(times):
                    begin = time.perf_counter()
                    sup.status(job.job_id)
                    taken.append(time.perf_counter() - begin)
                sup.cancel(job.job_id)
                return median(taken) * 1e6

        def switching() -> float:
            """Return what a question to another thread and back costs at all: two sockets, two selectors."""
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

        statuses, native = paired(rounds, in_asyncio, in_trio)
        blocking, again = paired(rounds, in_thread, in_trio)
        whole, native_whole = paired(rounds, lambda: in_asyncio([TRUE]), lambda: in_trio([TRUE]))
        added, bare = paired(rounds, lambda: in_asyncio() - in_trio(), switching)
    return [
        Figure("status from asyncio", "us", statuses, "from Trio", native),
        Figure("status from a thread", "us", blocking, "from Trio", again),
        Figure("run() from asyncio", "us", whole, "from Trio", native_whole, "<= 1.5"),
        Figure("added to a call from asyncio", "us", added, "bare question to a thread", bare, "<= 10"),
    ]


def _kib(pid: int) -> float:
    fields = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return sum(float(line.split()[1]) for line in fields if line.startswith(("Private_Dirty", "Private_Clean")))


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def sleeping(*, full: bool) -> list[Figure]:
    """Memory and idle processor time with many jobs that only sleep."""
    jobs, seconds = (5000, 30) if full else (1000, 10)
    found: dict[str, float] = {}

    async def body(sup: supervisor.Supervisor) -> float:
        keeper = next(pid for pid in _keepers(sup.settings.state_dir))
        before = _kib(os.getpid()), _kib(keeper)
        for _ in range(jobs):
            await sup.start(["sleep", "600"])
        await trio.sleep(3)
        found["supervisor"] = (_kib(os.getpid()) - before[0]) / jobs
        found["keeper"] = (_kib(keeper) - before[1]) / jobs
        cpu = _cpu(os.getpid()) + _cpu(keeper)
        await trio.sleep(seconds)
        found["idle"] = (_cpu(os.getpid()) + _cpu(keeper) - cpu) / seconds * 100
        async with trio.open_nursery() as nursery:
            for job in (await sup.list(state="running", limit=1000)).jobs:
                nursery.start_soon(sup.cancel, job.job_id)
            cursor: str | None = None
            while True:
                page = await sup.list(limit=1000, cursor=cursor)
                for job in page.jobs:
                    nursery.start_soon(sup.cancel, job.job_id)
                cursor = page.next_cursor
                if cursor is None:
                    break
        return 0.0

    with scratch() as root:
        on_fresh_root(root, body)
    return [
        Figure(f"memory per job at {jobs}, supervisor", "KiB", [found["supervisor"]], goal="both <= 12 KiB"),
        Figure(f"memory per job at {jobs}, keeper", "KiB", [found["keeper"]]),
        Figure(f"idle processor time at {jobs}", "% of a core", [found["idle"]], goal="<= 0.2 % at 1000"),
    ]


def _keepers(root: Path) -> Iterator[int]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if os.fsencode(os.path.realpath(root)) in words and b"-S" in words:
                yield int(name)


def output(*, full: bool) -> list[Figure]:
    """A GiB of output, beside the shell's redirection."""
    size = 1 << 30
    command = ["dd", "if=/dev/zero", "bs=1M", f"count={size >> 20}", "status=none"]
    with scratch() as root:

        def redirected() -> float:
            target = root / "redirected"
            begin = time.perf_counter()
            with target.open("wb") as file:
                subprocess.run(command, stdout=file, check=True)
            taken = time.perf_counter() - begin
            target.unlink()
            return size / taken / 1e6

        def ours() -> float:
            async def body(sup: supervisor.Supervisor) -> float:
                begin = time.perf_counter()
                cpu = time.process_time()
                job = await sup.wait((await sup.start(command)).job_id)
                taken = time.perf_counter() - begin
                used.append((time.process_time() - cpu) * 1e3)
                if job.stdout_bytes != size:
                    raise AssertionError(job)
                return size / taken / 1e6

            async def main() -> float:
                settings = supervisor.Settings(
                    state_dir=Path(tempfile.mkdtemp(dir=root)), job_max_output_bytes=2 * size
                )
                async with supervisor.open_supervisor(settings) as sup:
                    await sup.run([TRUE])
                    rate = await body(sup)
                    for job in (await sup.list()).jobs:
                        await sup.forget(job.job_id)
                    await sup.prune()
                    return rate

            return trio.run(main)

        used: list[float] = []
        rates, bare = paired(5 if full else 3, ours, redirected)
    return [
        Figure("1 GiB of stdout", "MB/s", rates, "command > file", bare, ">= 0.95"),
        Figure("our processor time for 1 GiB", "ms", used),
    ]


def _whole(argv: list[str], times: int) -> Callable[[], float]:
    def run() -> float:
        taken: list[float] = []
        for _ in range(times):
            begin = time.perf_counter()
            subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
            taken.append(time.perf_counter() - begin)
        return median(taken) * 1e3

    return run


def cold(*, full: bool) -> list[Figure]:
    """Whole processes: importing, and asking for a status, beside ``import trio``."""
    times, rounds = (15, 5) if full else (7, 3)
    trio_alone = _whole([sys.executable, "-c", "import trio"], times)
    with scratch() as root:
        ids: list[str] = []

        async def body(sup: supervisor.Supervisor) -> float:
            ids.append((await sup.wait((await sup.start([TRUE])).job_id)).job_id)
            roots.append(sup.settings.state_dir)
            return 0.0

        roots: list[Path] = []
        on_fresh_root(root, body)
        status = [sys.executable, "-m", "supervisor", "status", ids[0], "--state-dir", str(roots[0])]
        importing = [sys.executable, "-c", "import supervisor; supervisor.open_supervisor"]
        imports, bare = paired(rounds, _whole(importing, times), trio_alone)
        statuses, again = paired(rounds, _whole(status, times), trio_alone)
    return [
        Figure("import supervisor, whole", "ms", imports, "import trio", bare, "<= 1.3"),
        Figure("supervisor status JOB", "ms", statuses, "import trio", again, "<= 1.0"),
    ]


def big_envelope(size: int) -> bytes:
    """Return the envelope of a run of ``claude`` that says about ``size`` bytes, with a review at their end."""
    finding = {
        "severity": "major",
        "title": "A title of some length, as reviewers write them",
        "file": "package/module.py",
        "line": 12,
        "evidence": 'It says `if x == "y":` and a line below\n\t\u00e9t\u00e9 {"like": this}. ' * 8,
        "risk": "Something breaks when it is least expected. " * 6,
        "recommendation": "Do the other thing, and test it. " * 6,
    }
    review = json.dumps({"summary": "Much to do.", "verdict": "concerns", "findings": [finding] * 200})
    prose = 'He said "look", and there it was:\n\tif (x) { y(); }  // a path like C:\\temp, an \u00e9t\u00e9.\n'
    text = prose * ((size - len(json.dumps(review))) // len(json.dumps(prose)))
    envelope = {
        "type": "result",
        "subtype": "success",
        "is_error": False,
        "num_turns": 3,
        "session_id": "s",
        "total_cost_usd": 1.25,
        "usage": {"input_tokens": 10, "output_tokens": 20},
        "permission_denials": [],
        "result": f"{text}```json\n{review}\n```\n",
    }
    return json.dumps(envelope).encode() + b"\n"


def long_stream(size: int, line: int) -> bytes:
    """Return about ``size`` bytes of ``stream-json``, in lines of about ``line`` bytes."""
    text = "words of an answer " * (line // 19)
    events = (
        {"type": "assistant", "message": {"id": f"m{number}", "content": [{"type": "text", "text": text}], "usage": {}}}
        for number in range(size // line)
    )
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)


def timed(action: Callable[[], object]) -> float:
    """Return how long an action takes, in milliseconds."""
    begin = time.perf_counter()
    action()
    return (time.perf_counter() - begin) * 1e3


def interpreting(*, full: bool) -> list[Figure]:
    """What it costs to know what an agent's output means, beside a bare ``json.loads`` of the same bytes."""
    rounds = 15 if full else 7
    claude = interpret.get_interpreter("claude")
    data = big_envelope(10_000_000)

    def outcome() -> interpret.Outcome:
        return interpret.Outcome(exit_code=0, read_stdout=lambda: data)

    def verdict() -> object:
        found = claude.verdict(outcome())
        if found.cost_usd != 1.25:
            raise AssertionError(found)
        return found

    def answer() -> object:
        seen = outcome()
        claude.verdict(seen)
        value = interpret.render(claude, seen).value
        if value["verdict"] != "concerns":
            raise AssertionError(value["verdict"])
        return value

    def bare() -> object:
        return json.loads(data)

    stream = long_stream(10_000_000, 2000)

    def follow() -> object:
        reader = interpret.read_progress(claude)
        if reader is None:
            raise AssertionError(claude)
        for start in range(0, len(stream), 65536):
            reader.feed(stream[start : start + 65536])
        return reader.snapshot()

    def lines() -> object:
        return [json.loads(line) for line in stream.splitlines()]

    figures: list[Figure] = []
    for name, ours, limit, beside, goal in (
        ("verdict on a 10 MB envelope", verdict, bare, "json.loads", "<= 2"),
        ("verdict and answer of it", answer, bare, "json.loads", "<= 2"),
        ("progress through a 10 MB stream", follow, lines, "json.loads by line", ""),
    ):
        limit()
        measured, bares = paired(rounds, lambda f=ours: timed(f), lambda f=limit: timed(f))  # type: ignore[misc]
        figures.append(Figure(name, "ms", measured, beside, bares, goal))
    return figures


CASES: dict[str, Case] = {
    "throughput": throughput,
    "latency": latency,
    "embedding": embedding,
    "sleeping": sleeping,
    "output": output,
    "cold": cold,
    "interpret": interpreting,
}
