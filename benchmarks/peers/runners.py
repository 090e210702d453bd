"""Programs that run commands without a server of their own: GNU ``parallel``, and ``systemd-run``."""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from benchmarks.figures import Cannot
from benchmarks.peers import PATIENCE_SECONDS, Session, debian_version, own_environment
from benchmarks.peers.queues import spawn_all

__all__ = ["Parallel", "SystemdRun"]

_SYSTEMD: Final = Path("/run/systemd/system")


class Parallel:
    """A program that runs a list of commands and ends; each list starts it anew."""

    name = "GNU parallel"
    about = "`parallel -j`, started for each list of commands; a line in its `--joblog` for each exit"

    def version(self) -> str:
        found = debian_version("parallel", "parallel")
        said = subprocess.run(["parallel", "--version"], capture_output=True, text=True, check=False).stdout
        if not said.startswith("GNU parallel"):
            raise Cannot("not installed (Debian's parallel; the one here is that of moreutils)")
        return found

    @contextlib.contextmanager
    def opened(self, folder: Path, flight: int) -> Iterator[Session]:
        yield _ParallelSession(folder)


class _ParallelSession(Session):
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count()

    def run_all(self, argv: Sequence[str], jobs: int, flight: int) -> None:
        log = self._folder / f"joblog-{next(self._numbers)}"
        command = ["parallel", "--will-cite", "-j", str(flight), "-N0", "--joblog", str(log), shlex.join(argv)]
        subprocess.run(
            command, input="\n" * jobs, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True,
            env=own_environment(self._folder),
        )  # fmt: skip
        lines = [line.split("\t") for line in log.read_text(encoding="utf-8").splitlines()]
        column = lines[0].index("Exitval")
        if len([line for line in lines[1:] if line[column] == "0"]) != jobs:
            raise Cannot("lost some of its jobs")

    def queue(self, argv: Sequence[str], jobs: int, slots: int) -> float | None:
        self.run_all(argv, jobs, slots)
        return None  # it reads its list as it goes

    def start(self, argv: Sequence[str]) -> str:
        raise Cannot("runs a list of commands to its end, and has no start that returns")


class SystemdRun:
    """A transient service for each job."""

    name = "systemd-run"
    about = (
        "`systemd-run --wait`, a transient service for each job, whose end is in the journal; a start by `systemd-run`,"
        " a state by `systemctl show`"
    )

    def version(self) -> str:
        found = debian_version("systemd", "systemd-run")
        if not _SYSTEMD.is_dir():
            raise Cannot("systemd does not run here")
        return found

    @contextlib.contextmanager
    def opened(self, folder: Path, flight: int) -> Iterator[Session]:
        session = _SystemdRunSession(folder)
        try:
            yield session
        finally:
            session.close()


class _SystemdRunSession(Session):
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._mine = [] if os.geteuid() == 0 else ["--user"]
        self._started: list[str] = []
        self._prefix = f"benchmark-{os.getpid()}-{folder.name}"

    def _environment(self) -> Mapping[str, str]:
        kept = ("XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS")
        return own_environment(self._folder, **{name: os.environ[name] for name in kept if name in os.environ})

    def _tell(self, *argv: str) -> str:
        program, *words = argv
        return subprocess.check_output(
            [program, *self._mine, *words], env=self._environment(), text=True, timeout=PATIENCE_SECONDS
        )

    def run_all(self, argv: Sequence[str], jobs: int, flight: int) -> None:
        command = ["systemd-run", *self._mine, "--quiet", "--wait", "--collect", *argv]
        spawn_all(command, jobs, flight, self._environment())

    def start(self, argv: Sequence[str]) -> str:
        unit = f"{self._prefix}-{len(self._started)}"
        output = f"StandardOutput=file:{self._folder}/{unit}.out"
        self._tell("systemd-run", "--quiet", "--unit", unit, "-p", "Type=exec", "-r", "-p", output, *argv)
        self._started.append(unit)
        return unit

    def status(self, job: str) -> object:
        return self._tell("systemctl", "show", "-P", "SubState", job).strip()

    def wait(self, job: str) -> None:
        while self.status(job) == "running":
            pass  # no command waits for a service that runs already; each query is a process of its own

    def output(self, job: str) -> bytes:
        return (self._folder / f"{job}.out").read_bytes()

    def stop(self, job: str) -> None:
        self._tell("systemctl", "stop", job)

    def close(self) -> None:
        """Stop each service, also those that have ended: they stay until then."""
        for unit in self._started:
            argv = ["systemctl", *self._mine, "stop", unit]
            subprocess.run(argv, env=self._environment(), capture_output=True, check=False, timeout=PATIENCE_SECONDS)
