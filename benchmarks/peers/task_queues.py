"""``docket``, which fastmcp-tasks stands on: here a task that runs a command, kept in memory or on Redis."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import importlib.metadata
import importlib.util
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Coroutine, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.figures import Cannot
from benchmarks.peers import PATIENCE_SECONDS, Session, own_environment

__all__ = ["Docket"]

_T = TypeVar("_T")


async def run_command(argv: list[str]) -> None:
    """Be the task: run a command to its end."""
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.DEVNULL)
    code = await process.wait()
    if code != 0:
        raise AssertionError(code)


@contextlib.contextmanager
def _redis(folder: Path) -> Iterator[str]:
    """Run a Redis of our own on a unix socket, durable as far as it goes: every write is appended to a file."""
    path = folder / "redis.sock"
    argv = ["redis-server", "--port", "0", "--unixsocket", str(path), "--appendonly", "yes", "--dir", str(folder)]
    with (folder / "redis.log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log, cwd=folder, env=own_environment(folder))
    try:
        give_up = time.monotonic() + PATIENCE_SECONDS
        while not path.exists():
            if process.poll() is not None or time.monotonic() > give_up:
                raise Cannot("redis-server did not come up")
            time.sleep(0.02)
        yield f"unix://{path}"
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Docket:
    """A worker beside its queue, in one process, or on a Redis server of its own."""

    def __init__(self, *, on_redis: bool) -> None:
        self._on_redis = on_redis
        self.name = f"docket, {'on Redis' if on_redis else 'in memory'}"
        self.about = "a task that runs the command, its worker in the process that asks; the outcome is kept"
        if on_redis:
            self.about += " on a Redis server that appends every write to a file"

    def version(self) -> str:
        if importlib.util.find_spec("docket") is None:
            raise Cannot("not installed (PyPI's pydocket)")
        if self._on_redis and shutil.which("redis-server") is None:
            raise Cannot("no Redis here (Debian's redis-server)")
        return importlib.metadata.version("pydocket")

    @contextlib.contextmanager
    def opened(self, folder: Path, flight: int) -> Iterator[Session]:
        with contextlib.ExitStack() as stack:
            url = stack.enter_context(_redis(folder)) if self._on_redis else f"memory://{folder.name}"
            session = _DocketSession(url, flight)
            stack.callback(session.rest)
            yield session


class _DocketSession(Session):
    """A worker in a thread with an event loop, which is there only while it is its turn."""

    def __init__(self, url: str, flight: int) -> None:
        self._url = url
        self._flight = flight
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop
        self._queue: Any
        self._over: asyncio.Event

    def resume(self) -> None:
        if self._thread is not None:
            return
        ready: concurrent.futures.Future[None] = concurrent.futures.Future()

        def work() -> None:
            try:
                asyncio.run(self._serve(ready))
            except BaseException as error:
                if ready.done():
                    raise
                ready.set_exception(error)

        self._thread = threading.Thread(target=work)
        self._thread.start()
        ready.result(PATIENCE_SECONDS)
        self.wait(self.start(["true"]))

    def rest(self) -> None:
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._over.set)
            self._thread.join()
            self._thread = None

    async def _serve(self, ready: concurrent.futures.Future[None]) -> None:
        from docket import Docket as Queue
        from docket import Worker

        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        often = timedelta(milliseconds=5)  # by default it looks every 250 ms
        pace = {"minimum_check_interval": often, "scheduling_resolution": often}
        async with (
            Queue(name="benchmark", url=self._url) as queue,
            Worker(queue, concurrency=self._flight, **pace) as worker,
        ):
            queue.register(run_command)
            self._queue = queue
            running = asyncio.create_task(worker.run_forever())
            ready.set_result(None)
            await self._over.wait()
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running

    def _in_loop(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def run_all(self, argv: Sequence[str], jobs: int, flight: int) -> None:
        async def work(left: Iterator[int]) -> None:
            for _ in left:
                execution = await self._queue.add(run_command)([*argv])
                await execution.get_result()

        async def all_of_them() -> None:
            left = iter(range(jobs))
            await asyncio.gather(*(work(left) for _ in range(flight)))

        self._in_loop(all_of_them())

    def start(self, argv: Sequence[str]) -> str:
        async def add() -> str:
            key: str = (await self._queue.add(run_command)([*argv])).key
            return key

        return self._in_loop(add())

    def wait(self, job: str) -> None:
        async def wait() -> None:
            execution = await self._queue.get_execution(job)
            await execution.get_result()

        self._in_loop(wait())

    def status(self, job: str) -> object:
        async def ask() -> object:
            return (await self._queue.get_execution(job)).state

        return self._in_loop(ask())

    def stop(self, job: str) -> None:
        self._in_loop(self._queue.cancel(job))
