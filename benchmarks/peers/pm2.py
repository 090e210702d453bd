"""``pm2`` from npm, which keeps programs running, used by its API in one process of Node."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.figures import Cannot
from benchmarks.peers import Session
from benchmarks.peers.programs import ProgramSession, dialogue

__all__ = ["Pm2"]


def _package() -> Path:
    """Return the directory of the package whose program is on the path."""
    if shutil.which("node") is None:
        raise Cannot("needs Node, which is not installed")
    found = shutil.which("pm2")
    if found is None:
        raise Cannot("not installed (npm's pm2)")
    return Path(found).resolve().parents[1]


class Pm2:
    """A name is a slot; a job is one run of a slot. Only the latest run is remembered."""

    name = "pm2"
    about = (
        "its API, with its daemon in the same process: a name for each job in flight, restarted repeatedly, without"
        " autorestart; an end is an event, and the last one of a name is kept"
    )

    def version(self) -> str:
        held: dict[str, str] = json.loads((_package() / "package.json").read_text(encoding="utf-8"))
        return held["version"]

    @contextlib.contextmanager
    def opened(self, folder: Path, flight: int) -> Iterator[Session]:
        argv = ["node", str(Path(__file__).with_name("pm2_program.js")), str(_package()), str(folder)]
        with dialogue(argv, folder) as program:
            session = _Pm2Session(program, folder)
            session.wait(session.start(["true"]))
            session.rest()
            try:
                yield session
            finally:
                session.close()


class _Pm2Session(ProgramSession):
    def __init__(self, program: object, folder: Path) -> None:
        super().__init__(program)  # type: ignore[arg-type]
        self._folder = folder

    def run_all(self, argv: Sequence[str], jobs: int, flight: int) -> None:
        self.ask("run_all", _resolved(argv), jobs, flight)

    def start(self, argv: Sequence[str]) -> str:
        name: str = self.ask("start", _resolved(argv))
        return name

    def wait(self, job: str) -> None:
        self.ask("wait", job)

    def status(self, job: str) -> object:
        return self.ask("status", job)

    def output(self, job: str) -> bytes:
        return (self._folder / f"{job}.out").read_bytes()

    def list(self) -> int:
        count: int = self.ask("list")
        return count

    def stop(self, job: str) -> None:
        self.ask("stop", job)


def _resolved(argv: Sequence[str]) -> list[str]:
    program = shutil.which(argv[0])  # it looks in its working directory
    return [program or argv[0], *argv[1:]]
