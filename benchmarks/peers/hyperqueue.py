"""``hyperqueue`` from PyPI: a server and a worker of HyperQueue in one process, called by its Python API."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.figures import Cannot
from benchmarks.peers import Session
from benchmarks.peers.programs import ProgramSession, dialogue

__all__ = ["HyperQueue"]


class HyperQueue:
    """Its package has no program: what its API lacks (a list, a stop) is a dash."""

    name = "hyperqueue"
    about = (
        "its Python API: a server and a worker with as many cores as jobs in flight; a job of many tasks for a list of"
        " commands, else a job for each; outcomes in its memory, output to files. Its wait looks once a second, so an"
        " end is found by asking again and again"
    )

    def version(self) -> str:
        if importlib.util.find_spec("hyperqueue") is None:
            raise Cannot("not installed (PyPI's hyperqueue)")
        return importlib.metadata.version("hyperqueue")

    @contextlib.contextmanager
    def opened(self, folder: Path, flight: int) -> Iterator[Session]:
        argv = [sys.executable, "-m", "benchmarks.peers.hyperqueue_program", str(folder), str(flight)]
        with dialogue(argv, folder) as program:
            session = _HyperQueueSession(program, folder)
            session.wait(session.start(["true"]))
            try:
                yield session
            finally:
                session.close()


class _HyperQueueSession(ProgramSession):
    def __init__(self, program: object, folder: Path) -> None:
        super().__init__(program)  # type: ignore[arg-type]
        self._folder = folder

    def resume(self) -> None:
        """Nothing, see below."""

    def rest(self) -> None:
        """Nothing: a worker that was stopped for long is lost to its server, and an idle one uses little."""

    def run_all(self, argv: Sequence[str], jobs: int, flight: int) -> None:
        self.queue(argv, jobs, flight)

    def queue(self, argv: Sequence[str], jobs: int, slots: int) -> float | None:
        seconds: float = self.ask("run_all", [*argv], jobs)
        return seconds

    def start(self, argv: Sequence[str]) -> str:
        return str(self.ask("start", [*argv]))

    def wait(self, job: str) -> None:
        self.ask("wait", int(job))

    def status(self, job: str) -> object:
        return self.ask("status", int(job))

    def output(self, job: str) -> bytes:
        return (self._folder / f"{job}-0.out").read_bytes()
