"""Shared by the tests with real processes: programs that can be killed, and ways to wait for events."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import supervisor
from supervisor.jobdir import records
from supervisor.jobs.catalog import Catalog
from supervisor.system import processes

HOST = Path(__file__).with_name("host.py")
PACKAGE = Path(supervisor.__file__).parents[1]  # programs use the package of this checkout, installed or not
PATIENCE = 60.0


def _wait_readable(descriptor: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(max(0.0, seconds) * 1000))


def environment(package: Path = PACKAGE) -> dict[str, str]:
    """Return the environment of a program that imports the package below ``package``."""
    return os.environ | {"PYTHONPATH": str(package)}


class Proc:
    """A process held by its pidfd: its pid may be reused."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        found = processes.read_process(pid)
        assert found is not None, f"there is no process {pid}"
        self.start = found.start
        self.descriptor = os.pidfd_open(pid)

    @property
    def alive(self) -> bool:
        return processes.is_alive(self.pid, self.start)

    def ended(self, seconds: float = PATIENCE) -> bool:
        """Wait for its end; ``False`` after a time-out."""
        return _wait_readable(self.descriptor, seconds)

    def send(self, number: int) -> None:
        signal.pidfd_send_signal(self.descriptor, number)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.send(signal.SIGKILL)
        assert self.ended(), f"process {self.pid} outlived SIGKILL"

    def reaped(self, seconds: float = PATIENCE) -> bool:
        """Wait until it was reaped, too; there is no event for that on every kernel."""
        give_up = time.monotonic() + seconds
        while (found := processes.read_process(self.pid)) is not None and found.start == self.start:
            if time.monotonic() > give_up:
                return False
            time.sleep(0.005)
        return True


class Fifo:
    """A named pipe between a test and its jobs; lines in either direction."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path, 0o600)
        # Opened in both directions, so that neither end ever waits for the other to open it.
        self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        self._rest = b""

    def __str__(self) -> str:
        return str(self.path)

    def line(self, seconds: float = PATIENCE) -> str:
        """Wait for the next line and return it."""
        give_up = time.monotonic() + seconds
        while b"\n" not in self._rest:
            assert _wait_readable(self._descriptor, give_up - time.monotonic()), f"nothing came through {self.path}"
            self._rest += os.read(self._descriptor, 65536)
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()

    def number(self) -> int:
        return int(self.line())

    @property
    def silent(self) -> bool:
        """Whether no (further) line has arrived."""
        return not self._rest and not _wait_readable(self._descriptor, 0)

    def open(self, times: int = 1) -> None:
        """Release a process that waits in ``read line < fifo``."""
        os.write(self._descriptor, b"go\n" * times)

    def close(self) -> None:
        os.close(self._descriptor)


class Host:
    """A program that embeds a supervisor, see ``host.py``."""

    def __init__(
        self,
        directory: Path,
        prefix: Sequence[str] = (),
        *,
        package: Path = PACKAGE,
        python: str = sys.executable,
        **options: Any,
    ) -> None:
        self._process = subprocess.Popen(
            [*prefix, python, str(HOST)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=directory,
            env=environment(package),
            start_new_session=True,
            **options,
        )
        self.pid = self._process.pid
        self._numbers = 0
        self._rest = b""
        self._answers: dict[int, dict[str, Any]] = {}

    def ready(self) -> Host:
        assert self.answer(0) == "ready"
        return self

    def ask(self, do: str, *args: Any, **named: Any) -> int:
        """Call a method in it, and return at once."""
        self._numbers += 1
        request = {"number": self._numbers, "do": do, "args": args, "named": named}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        return self._numbers

    def answer(self, number: int) -> Any:
        """Wait for the result of a call; for a ``SupervisorError``, its code."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        give_up = time.monotonic() + PATIENCE
        while number not in self._answers:
            assert _wait_readable(descriptor, give_up - time.monotonic()), f"no answer to call {number}"
            data = os.read(descriptor, 1 << 20)
            assert data, f"the host ended, with {self._process.wait()}, before it answered call {number}"
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                answer = json.loads(line)
                self._answers[answer["number"]] = answer
        answer = self._answers.pop(number)
        return answer.get("error") or answer["value"]

    def answered(self, number: int) -> bool:
        """Whether the call has returned, as far as its answers have arrived."""
        assert self._process.stdout is not None
        return number in self._answers or _wait_readable(self._process.stdout.fileno(), 0)

    def call(self, do: str, *args: Any, **named: Any) -> Any:
        return self.answer(self.ask(do, *args, **named))

    def start(self, *argv: str, **named: Any) -> str:
        """Start a job and return its id."""
        job_id: str = self.call("start", list(argv), **named)["job_id"]
        return job_id

    def kill(self) -> None:
        """SIGKILL the program and its whole process group; jobs and keepers are not in it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._finish()

    def leave(self) -> int:
        """Let it leave its ``async with`` and end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self._process.wait(PATIENCE)

    def _finish(self) -> None:
        self._process.wait(PATIENCE)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()


class World:
    """A state root, its programs, and what is observed of them from outside."""

    def __init__(self, root: Path, directory: Path) -> None:
        self.root = root
        self.directory = directory
        self._undo = contextlib.ExitStack()
        self._hosts: list[Host] = []
        self._stopped: list[Proc] = []
        self._catalog: Catalog | None = None
        self._fifos = 0

    @property
    def catalog(self) -> Catalog:
        """The catalog of the state root, as the command line uses it."""
        if self._catalog is None:
            self._catalog = self._undo.enter_context(Catalog(supervisor.Settings(state_dir=self.root)))
        return self._catalog

    @property
    def environment(self) -> dict[str, str]:
        return environment()

    def host(self, prefix: Sequence[str] = (), **options: Any) -> Host:
        """Start a program that embeds a supervisor on this root."""
        return self.hosts(1, prefix, **options)[0]

    def hosts(self, count: int, prefix: Sequence[str] = (), **options: Any) -> list[Host]:
        """Start several at once."""
        made = [Host(self.directory, prefix, **options) for _ in range(count)]
        self._hosts += made
        return [host.ready() for host in made]

    def fifo(self) -> Fifo:
        self._fifos += 1
        fifo = Fifo(self.directory / f"fifo{self._fifos}")
        self._undo.callback(fifo.close)
        return fifo

    def hold(self, pid: int) -> Proc:
        """Hold a process by its pid."""
        process = Proc(pid)
        self._undo.callback(os.close, process.descriptor)
        return process

    def job(self, job_id: str) -> Path:
        """Return the directory of a job."""
        (found,) = self.root.glob(f"*-*/{job_id}")
        return found

    def record(self, job_id: str, name: str) -> dict[str, Any] | None:
        return records.read(str(self.job(job_id)), name)

    def leader(self, job_id: str) -> Proc:
        """Hold the process of a running job."""
        return self.hold((self.record(job_id, records.PROCESS) or {})["pid"])

    def keeper(self, job_id: str) -> Proc:
        """Hold the keeper of a running job."""
        return self.hold((self.record(job_id, records.PROCESS) or {})["keeper_pid"])

    def stop(self, process: Proc) -> None:
        """SIGSTOP a process, until the end of the test at the latest."""
        process.send(signal.SIGSTOP)
        self._stopped.append(process)

    def resume(self, process: Proc) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.send(signal.SIGCONT)

    def close(self) -> None:
        """End the programs, then the jobs, after which their keepers exit."""
        for host in self._hosts:
            host.kill()
        for process in self._stopped:
            self.resume(process)
        if self._catalog is not None or any(self.root.glob(f"*-*/*/{records.PROCESS}")):
            unfinished = [row.job_id for row in self.catalog.index.unfinished()]
            self.catalog.cancel_all(unfinished)
        self._undo.close()


@pytest.fixture
def world(state_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A new state root with a short grace; all its processes are ended at the end."""
    monkeypatch.setenv("SUPERVISOR_STOP_GRACE_SECONDS", "0.3")
    directory = tmp_path / "work"
    directory.mkdir()
    monkeypatch.chdir(directory)
    made = World(state_dir, directory)
    try:
        yield made
    finally:
        made.close()
