"""``docket``, on which fastmcp-tasks is built: a task that runs a command, stored in memory or on Redis."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.figures import Cannot
from benchmarks.peers import PATIENCE_SECONDS, Session
from benchmarks.peers.programs import ProgramSession, dialogue, process

__all__ = ["Docket"]


@contextlib.contextmanager
def _redis(folder: Path) -> Iterator[str]:
    """Run a Redis on a unix socket, as durable as possible: every write is appended to a file."""
    path = folder / "redis.sock"
    argv = ["redis-server", "--port", "0", "--unixsocket", str(path), "--appendonly", "yes", "--dir", str(folder)]
    with process(argv, folder, stdout=subprocess.DEVNULL) as server:
        give_up = time.monotonic() + PATIENCE_SECONDS
        while not path.exists():
            if server.poll() is not None or time.monotonic() > give_up:
                raise Cannot("redis-server did not come up")
            time.sleep(0.02)
        yield f"unix://{path}?max_connections=1000"  # the default is 100, for all of its tasks and waiting clients


class Docket:
    """A worker next to its queue, in one process."""

    def __init__(self, *, on_redis: bool) -> None:
        self._on_redis = on_redis
        self.name = f"docket, {'on Redis' if on_redis else 'in memory'}"
        self.about = "a task that runs the command, requested in the process of its worker; the outcome is kept"
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
            url = stack.enter_context(_redis(folder)) if self._on_redis else "memory://benchmark"
            argv = [sys.executable, "-m", "benchmarks.peers.docket_program", url, str(flight)]
            session = _DocketSession(stack.enter_context(dialogue(argv, folder)))
            session.wait(session.start(["true"]))
            session.rest()
            yield session


class _DocketSession(ProgramSession):
    def run_all(self, argv: Sequence[str], jobs: int, flight: int) -> None:
        self.ask("run_all", [*argv], jobs, flight)

    def queue(self, argv: Sequence[str], jobs: int, slots: int) -> float | None:
        seconds: float = self.ask("queue", [*argv], jobs)
        return seconds

    def start(self, argv: Sequence[str]) -> str:
        key: str = self.ask("start", [*argv])
        return key

    def wait(self, job: str) -> None:
        self.ask("wait", job)

    def status(self, job: str) -> object:
        return self.ask("status", job)

    def stop(self, job: str) -> None:
        self.ask("stop", job)
