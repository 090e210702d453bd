"""The limits of the machine, and a server that scans a file for each job."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.figures import Cannot
from benchmarks.peers import Session

__all__ = ["BARE", "ORIGINAL", "Bare", "Original"]

BARE: Final = "bare spawn and wait"
ORIGINAL: Final = "a file a job, scanned"


class Bare:
    """Only ``posix_spawn`` and ``waitpid``; a single job uses ``subprocess.Popen``, as Python programs do."""

    name = BARE
    about = "`os.posix_spawn` and `os.waitpid` in a loop, single jobs by `subprocess.Popen`; nothing is recorded"

    def version(self) -> str:
        return platform.python_version()

    @contextlib.contextmanager
    def opened(self, folder: Path, flight: int) -> Iterator[Session]:  # it stores nothing
        yield _BareSession()


class _BareSession(Session):
    def __init__(self) -> None:
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._said: dict[str, bytes] = {}

    def run_all(self, argv: Sequence[str], jobs: int, flight: int) -> None:
        environment = dict(os.environ)
        program = shutil.which(argv[0]) or argv[0]
        started = done = 0
        while done < jobs:
            while started - done < flight and started < jobs:
                os.posix_spawn(program, [*argv], environment)
                started += 1
            _, status = os.waitpid(-1, 0)
            if status != 0:
                raise AssertionError(status)
            done += 1

    def queue(self, argv: Sequence[str], jobs: int, slots: int) -> float | None:
        self.run_all(argv, jobs, slots)  # a list in memory, of which there is nothing to tell
        return None

    def start(self, argv: Sequence[str]) -> str:
        process = subprocess.Popen(argv, start_new_session=True, stdout=subprocess.PIPE)
        self._running[str(process.pid)] = process
        return str(process.pid)

    def wait(self, job: str) -> None:
        self._running[job].wait()

    def output(self, job: str) -> bytes:
        return self._running.pop(job).communicate()[0]

    def stop(self, job: str) -> None:
        with self._running.pop(job) as process:
            process.kill()


class Original:
    """The method of the first supervisor of this kind, in a few lines.

    It has ``Popen`` with ``start_new_session``, a ``meta.json`` for each job, a scan of all of them at every start to
    keep no more than ``cap``, and a poll every second for ended jobs. A dropped job is moved
    aside and not deleted, since a deletion would slow down the next peer on the same file system.
    """

    name = ORIGINAL
    about = (
        "the method this package replaces, in a few lines: `Popen`, a `meta.json` a job, a scan of all of them at"
        " every start, a poll every second"
    )

    def __init__(self, cap: int) -> None:
        self.cap = cap

    def version(self) -> str:
        return platform.python_version()

    @contextlib.contextmanager
    def opened(self, folder: Path, flight: int) -> Iterator[Session]:  # it has no limit
        yield OriginalSession(folder, self.cap)


class OriginalSession(Session):
    """One workspace of it."""

    most_waits = 5  # it polls every second

    def __init__(self, folder: Path, cap: int) -> None:
        self._jobs = folder / "jobs"
        self._jobs.mkdir()
        self._aside = folder / "aside"
        self._aside.mkdir()
        self._cap = cap
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def fill(self, count: int) -> None:
        """Enter finished jobs without running them."""
        for number in range(count):
            job = uuid.uuid4().hex
            (self._jobs / job).mkdir()
            self._write(job, {"job_id": job, "status": "done", "created": number, "exit_code": 0, "argv": ["true"]})

    def _write(self, job: str, meta: dict[str, Any]) -> None:
        path = self._jobs / job / "meta.json"
        path.with_suffix(".tmp").write_text(json.dumps(meta), encoding="utf-8")
        path.with_suffix(".tmp").rename(path)

    def _read(self, job: str) -> dict[str, Any]:
        meta: dict[str, Any] = json.loads((self._jobs / job / "meta.json").read_text(encoding="utf-8"))
        return meta

    def run_all(self, argv: Sequence[str], jobs: int, flight: int) -> None:
        """Run them without its poll, which would dominate the result."""
        started = 0
        begun: list[str] = []
        while started < jobs or begun:
            while len(begun) < flight and started < jobs:
                begun.append(self.start(argv))
                started += 1
            job = begun.pop(0)
            self._running[job].wait()
            if self.status(job)["exit_code"] != 0:
                raise AssertionError(job)

    def start(self, argv: Sequence[str]) -> str:
        kept = sorted((self._read(job.name) for job in self._jobs.iterdir()), key=lambda meta: meta["created"])
        finished = [meta for meta in kept if meta["status"] != "running"]
        for meta in finished[: max(0, len(kept) + 1 - self._cap)]:
            (self._jobs / meta["job_id"]).rename(self._aside / meta["job_id"])
        job = uuid.uuid4().hex
        folder = self._jobs / job
        folder.mkdir()
        with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True)
        self._running[job] = process
        self._write(
            job, {"job_id": job, "status": "running", "created": time.time(), "pid": process.pid, "argv": [*argv]}
        )
        return job

    def status(self, job: str) -> dict[str, Any]:
        meta = self._read(job)
        if meta["status"] == "running" and (code := self._running[job].poll()) is not None:
            meta |= {"status": "done" if code == 0 else "failed", "exit_code": code}
            self._write(job, meta)
        return meta

    def wait(self, job: str) -> None:
        while self.status(job)["status"] == "running":
            time.sleep(1)

    def output(self, job: str) -> bytes:
        return (self._jobs / job / "stdout").read_bytes()

    def list(self) -> int:
        return len([self.status(job.name) for job in self._jobs.iterdir()])

    def stop(self, job: str) -> None:
        """Signal the process group, as that supervisor did: SIGTERM, five seconds, SIGKILL."""
        process = self._running[job]
        for number in (15, 9):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
                return
        raise Cannot("did not stop within its grace")
