"""Queues for the shell: ``tsp`` and ``nq``, with one client process for each query."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from benchmarks.figures import Cannot
from benchmarks.peers import PATIENCE_SECONDS, Session, debian_version, own_environment

__all__ = ["Nq", "TaskSpooler", "spawn_all"]

_MOST_KEPT: Final = 100_000


def spawn_all(argv: Sequence[str], jobs: int, flight: int, environment: Mapping[str, str]) -> None:
    """Run ``argv`` repeatedly, ``flight`` at a time, as cheaply as possible."""
    program = shutil.which(argv[0]) or argv[0]
    quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    started = done = 0
    while done < jobs:
        while started - done < flight and started < jobs:
            os.posix_spawn(program, [*argv], environment, file_actions=quiet)
            started += 1
        _, status = os.waitpid(-1, 0)
        if status != 0:
            reason = f"{argv[0]} ended with {os.waitstatus_to_exitcode(status)}"
            raise Cannot(reason)
        done += 1


class TaskSpooler:
    """A server in memory, and a client that runs the command."""

    name = "task-spooler"
    about = "`tsp -f`, which waits for its job and records the exit; as many slots as jobs in flight; output to files"

    def version(self) -> str:
        return debian_version("task-spooler", "tsp")

    @contextlib.contextmanager
    def opened(self, folder: Path, flight: int) -> Iterator[Session]:
        environment = own_environment(
            folder, TS_SOCKET=str(folder / "socket"), TS_MAXFINISHED=str(_MOST_KEPT), TS_SLOTS=str(flight)
        )
        session = _TaskSpoolerSession(environment)
        session.tell("-S", str(flight))
        try:
            yield session
        finally:
            session.tell("-K")
            session.await_end(folder / "socket")


class _TaskSpoolerSession(Session):
    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def tell(self, *words: str) -> str:
        return subprocess.check_output(["tsp", *words], env=self._environment, stdin=subprocess.DEVNULL, text=True)

    @staticmethod
    def await_end(socket: Path) -> None:
        give_up = time.monotonic() + 5
        while socket.exists() and time.monotonic() < give_up:
            time.sleep(0.01)  # by its own words there is no way to know

    def run_all(self, argv: Sequence[str], jobs: int, flight: int) -> None:
        before = self.list()
        spawn_all(["tsp", "-f", *argv], jobs, flight, self._environment)
        if self.list() - before != jobs:
            raise Cannot("lost some of its jobs")

    def queue(self, argv: Sequence[str], jobs: int, slots: int) -> float | None:
        before, begun = self.list(), time.perf_counter()
        spawn_all(["tsp", *argv], jobs - 1, 1, self._environment)
        last = int(self.start(argv))
        taken = time.perf_counter() - begun
        for job in range(max(0, last - slots + 1), last + 1):  # they start in order, so the others have ended, or will
            self.wait(str(job))
        while sum("finished" in line for line in self.tell("-l").splitlines()) - before < jobs:
            pass
        return taken

    def start(self, argv: Sequence[str]) -> str:
        return self.tell(*argv).strip()

    def wait(self, job: str) -> None:
        self._wait(job, None)

    def _wait(self, job: str, patience: float | None) -> None:
        argv = ["tsp", "-w", job]
        subprocess.run(argv, env=self._environment, stdout=subprocess.DEVNULL, check=False, timeout=patience)

    def output(self, job: str) -> bytes:
        return Path(self.tell("-o", job).strip()).read_bytes()

    def status(self, job: str) -> object:
        return self.tell("-s", job)

    def list(self) -> int:
        return len(self.tell("-l").splitlines()) - 1

    def stop(self, job: str) -> None:
        give_up = time.monotonic() + PATIENCE_SECONDS
        argv = ["tsp", "-k", job]
        while subprocess.run(argv, env=self._environment, capture_output=True, check=False).returncode != 0:
            if time.monotonic() > give_up:  # it fails while its job has no process yet
                raise Cannot("cannot stop it")
        self._wait(job, PATIENCE_SECONDS)


class Nq:
    """Locked files, without a server. A queue runs one job at a time, so there are as many queues as jobs in flight."""

    name = "nq"
    about = "a directory for each job in flight, as a queue runs one at a time; `nq -w` waits for the queued jobs"

    def version(self) -> str:
        return debian_version("nq", "nq")

    @contextlib.contextmanager
    def opened(self, folder: Path, flight: int) -> Iterator[Session]:
        session = _NqSession(folder, flight)
        try:
            yield session
        finally:
            session.close()


class _NqSession(Session):
    def __init__(self, folder: Path, flight: int) -> None:
        self._folder = folder
        self._round = 0
        self._queues = flight
        self._started: list[str] = []

    def _environment(self, queue: Path) -> dict[str, str]:
        return own_environment(self._folder, NQDIR=str(queue))

    def run_all(self, argv: Sequence[str], jobs: int, flight: int) -> None:
        self.queue(argv, jobs, flight)

    def queue(self, argv: Sequence[str], jobs: int, slots: int) -> float | None:
        self._round += 1  # a queue opens the files of all its past jobs, so each round has new queues
        queues = [self._folder / f"queue-{self._round}-{number}" for number in range(slots)]
        begun = time.perf_counter()
        for number in range(jobs):
            spawn_all(["nq", "-q", *argv], 1, 1, self._environment(queues[number % slots]))
        taken = time.perf_counter() - begun
        give_up = time.monotonic() + PATIENCE_SECONDS
        while True:
            for queue in queues:
                subprocess.run(["nq", "-w"], env=self._environment(queue), check=True)
            logs = [log for queue in queues for log in queue.glob(",*")]
            done = [log for log in logs if b"[exited with status 0.]" in log.read_bytes()]
            if len(done) == jobs:
                return taken
            if time.monotonic() > give_up:  # `-w` may come before the lock of a job that was queued just now
                reason = f"recorded {len(done)} of {jobs} ends"
                raise Cannot(reason)

    def start(self, argv: Sequence[str]) -> str:
        queue = self._folder / f"single-{len(self._started)}"
        environment = self._environment(queue)
        said = subprocess.check_output(["nq", *argv], env=environment, stdin=subprocess.DEVNULL, text=True)
        job = str(queue / said.strip())
        self._started.append(job)
        return job

    def wait(self, job: str) -> None:
        self._wait(job, None)

    def _wait(self, job: str, patience: float | None) -> None:
        path = Path(job)
        argv = ["nq", "-w", path.name]
        subprocess.run(argv, env=self._environment(path.parent), check=True, timeout=patience)

    def output(self, job: str) -> bytes:
        lines = Path(job).read_bytes().split(b"\n", 1)[1]  # the first process is the command
        return lines.partition(b"\n\n[exited")[0]

    def status(self, job: str) -> object:
        path = Path(job)
        return subprocess.run(["nq", "-t", path.name], env=self._environment(path.parent), check=False).returncode

    def stop(self, job: str) -> None:
        give_up = time.monotonic() + PATIENCE_SECONDS
        while self.status(job) != 0:
            with contextlib.suppress(ProcessLookupError):  # it has no group of its own yet
                os.killpg(int(job.rpartition(".")[2]), signal.SIGTERM)
            if time.monotonic() > give_up:
                reason = f"had stopped nothing after {PATIENCE_SECONDS:g} s"
                raise Cannot(reason)

    def close(self) -> None:
        for job in self._started:
            if self.status(job) == 0:  # it has ended, and another process may have its pid by now
                continue
            with contextlib.suppress(ProcessLookupError):
                os.killpg(int(job.rpartition(".")[2]), signal.SIGKILL)
