"""``docket``, on which fastmcp-tasks is built: a task that runs a command, stored in memory or on Redis."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures import Cannot
from benchmarks.peers import PATIENCE_SECONDS, PausedSession, Session, own_environment

__all__ = ["Docket"]

_ROOT = str(Path(__file__).parents[2])


@contextlib.contextmanager
def _process(argv: Sequence[str], folder: Path, **streams: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a program in a session of its own, and kill the whole session at the end."""
    environment = own_environment(folder, PYTHONPATH=_ROOT)
    with (folder / f"{Path(argv[0]).name}.log").open("wb") as log:
        process = subprocess.Popen(
            argv, stderr=log, cwd=folder, env=environment, text=True, start_new_session=True, **streams
        )
    with process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def _redis(folder: Path) -> Iterator[str]:
    """Run a Redis on a unix socket, as durable as possible: every write is appended to a file."""
    path = folder / "redis.sock"
    argv = ["redis-server", "--port", "0", "--unixsocket", str(path), "--appendonly", "yes", "--dir", str(folder)]
    with _process(argv, folder, stdout=subprocess.DEVNULL) as process:
        give_up = time.monotonic() + PATIENCE_SECONDS
        while not path.exists():
            if process.poll() is not None or time.monotonic() > give_up:
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
            streams: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            session = _DocketSession(stack.enter_context(_process(argv, folder, **streams)))
            session.wait(session.start(["true"]))
            session.rest()
            yield session


class _DocketSession(PausedSession):
    def _ask(self, what: str, *given: object) -> Any:
        stdin, stdout = self._daemon.stdin, self._daemon.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps([what, *given]) + "\n")
        stdin.flush()
        if not select.select([stdout], [], [], 60)[0]:
            reason = f"gave no answer to {what} within 60 s"
            raise Cannot(reason)
        if not (line := stdout.readline()):
            reason = f"ended at {what}"
            raise Cannot(reason)
        return json.loads(line)

    def run_all(self, argv: Sequence[str], jobs: int, flight: int) -> None:
        self._ask("run_all", [*argv], jobs, flight)

    def start(self, argv: Sequence[str]) -> str:
        key: str = self._ask("start", [*argv])
        return key

    def wait(self, job: str) -> None:
        self._ask("wait", job)

    def status(self, job: str) -> object:
        return self._ask("status", job)

    def stop(self, job: str) -> None:
        self._ask("stop", job)
