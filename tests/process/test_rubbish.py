"""Queries on randomly damaged copies of a state root.

With any damage: only ``SupervisorError`` is raised, no call hangs, no undamaged job is lost, and no process is
signalled that does not belong to a job. A failure names the seed and the damage.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import attrs
import pytest
import trio

import supervisor
from supervisor.jobdir import records
from supervisor.jobs.catalog import Catalog
from supervisor.system import processes

if TYPE_CHECKING:
    from tests.process.conftest import World

LONGEST_SECONDS = 20
SLOW_SECONDS = 4
SEEDS = 24
ODD: tuple[Any, ...] = (
    None,
    True,
    "",
    "x",
    "\ud800",
    "\0",
    "\x1b[2J",
    "../../etc",
    -1,
    0,
    1,
    2**31,
    2**63,
    2**80,
    -(2**70),
    1e308,
    float("inf"),
    float("nan"),
    [],
    [1],
    ["x", None],
    {},
    {"a": 1},
    {"": ""},
    [[[[]]]],
)


@attrs.frozen
class Job:
    """A job of the pattern, and its expected state while its directory is undamaged."""

    job_id: str
    status: str
    exit_code: int | None
    signal: int | None
    value: object


@attrs.frozen
class Pattern:
    """A state root to copy and damage: three ended jobs and two running ones.

    The keeper of one running job lives, and that job is not damaged. The other has lost its
    keeper; each copy gets a process of its own for it.
    """

    root: Path
    jobs: tuple[Job, ...]
    running: str
    unkept: str


def make_pattern(world: World) -> Pattern:
    host = world.host()
    ended = []
    for command in ('echo "$SUPERVISOR_JOB_ID"', "echo no >&2; exit 3", "kill -KILL $$"):
        result = host.call("run", ["sh", "-c", command], labels={"a": "b"}, idempotency_key=command)
        job = result["job"]
        ended.append(Job(job["job_id"], job["status"], job["exit_code"], job["signal"], result.get("value")))
    running = host.start("sleep", "600")
    unkept = host.start("sleep", "600", deadline_seconds=300)
    leader = world.leader(unkept)
    directory, name = world.root, f"{world.job(unkept).parent.name}/{unkept}"
    root = world.directory / "pattern"
    shutil.copytree(directory, root, symlinks=True)
    root.chmod(0o700)
    assert host.call("cancel", unkept)["status"] == "cancelled"
    assert leader.ended()
    assert not (root / name / records.STOP).exists()
    return Pattern(root, tuple(ended), running, unkept)


class Process:
    """A process that leads a session, and ends with the block."""

    def __init__(self, **environment: str) -> None:
        self._process = subprocess.Popen(["sleep", "600"], env=os.environ | environment, start_new_session=True)
        self.pid = self._process.pid
        found = processes.read_process(self.pid)
        assert found is not None
        self.start = found.start

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    @property
    def untouched(self) -> bool:
        return self._process.poll() is None


def read_file(path: Path) -> bytes:
    """Return the content of a file, without waiting for a pipe in its place."""
    if not path.is_file():
        raise FileNotFoundError(path)
    return path.read_bytes()


class Vandal:
    """Damages a copy of the pattern, and remembers how."""

    def __init__(self, seed: int, root: Path, pattern: Pattern, canary: Process) -> None:
        self.random = random.Random(seed)
        self.root = root
        self.pattern = pattern
        self.canary = canary
        self.done: list[str] = []
        self.harmed: set[str] = set()

    def __str__(self) -> str:
        return "; ".join(self.done)

    def harm(self) -> None:
        for _ in range(self.random.choice((1, 1, 1, 2, 3, 6))):
            act = self.random.choice((self.record, self.record, self.record, self.forge, self.file, self.registry))
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                act()
        if self.random.random() < 0.1:
            self.litter()

    def _directory(self) -> Path:
        job_id = self.random.choice([*(job.job_id for job in self.pattern.jobs), self.pattern.unkept])
        self.harmed.add(job_id)
        found = next(self.root.glob(f"*-*/{job_id}"), None)
        if found is None:  # it was removed before
            raise FileNotFoundError(job_id)
        return found

    def record(self) -> None:
        """Put an odd value into a record that is otherwise whole."""
        directory = self._directory()
        path = directory / self.random.choice((records.JOB, records.PROCESS, records.EXIT, records.STOP))
        try:
            record = json.loads(read_file(path))
        except (OSError, ValueError, RecursionError):
            record = {"v": 1}
        if not isinstance(record, dict):
            return
        for _ in range(self.random.choice((1, 1, 3))):
            name = self.random.choice([*record, "why", "survivors", "signalled_boot_ns", "launch_error", "gone"])
            if self.random.random() < 0.2:
                record.pop(name, None)
                self.done.append(f"{path.name} without {name}")
            else:
                record[name] = self.random.choice(ODD)
                self.done.append(f"{path.name} with {name}={record[name]!r}")
        self._replace(path, json.dumps(record).encode())

    def forge(self) -> None:
        """Name the canary in place of a process of a job."""
        directory = self._directory()
        path = directory / records.PROCESS
        try:
            record = json.loads(read_file(path))
        except (OSError, ValueError):
            return
        if not isinstance(record, dict):
            return
        which = self.random.choice(("pid", "keeper_pid"))
        record[which] = self.canary.pid
        if self.random.random() < 0.7:
            wrong = self.random.choice((0, 0, 1, -1, 100))
            record["start" if which == "pid" else "keeper_start"] = self.canary.start - wrong
        self._replace(path, json.dumps(record).encode())
        if self.random.random() < 0.5:
            (directory / records.EXIT).unlink(missing_ok=True)
        self.done.append(f"{which} of {directory.name[:4]} is the canary's")

    def file(self) -> None:
        """Damage a file, or the directory, of a job."""
        directory = self._directory()
        if self.random.random() < 0.1:
            self._damage(directory)
        else:
            names = (records.JOB, records.PROCESS, records.EXIT, records.STOP, records.CLAIM, records.STDOUT)
            self._damage(directory / self.random.choice((*names, records.STDERR)))

    def registry(self) -> None:
        self._damage(
            self.root / self.random.choice(("registry.db", "registry.db", "registry.db-wal", "registry.db-shm"))
        )

    def litter(self) -> None:
        """Leave files that do not belong there."""
        (job,) = self.root.glob(f"*-*/{self.pattern.running}")
        above = self.random.choice((self.root, self.root / ".trash", self.root / ".owners", job.parent))
        name = self.random.choice(
            ("0" * 32, "x", "linked-0123456789ab", "\udcff", "registry.db-journal", "1.1.0.0.dead")
        )
        if not os.path.lexists(above / name):
            self._put(above / name)
            self.done.append(f"litter {above.name}/{name!r}")

    def _damage(self, path: Path) -> None:
        if path.is_symlink():
            target = self.random.choice(("", "nobody", "x" * 300, f"keeper.{self.canary.pid}.1.x.y", "/etc/passwd"))
            path.unlink()
            if target:
                path.symlink_to(target)
            self.done.append(f"{path.name} leads to {target[:40]!r}")
            return
        how = self.random.choice(("truncate", "cut", "zero", "flip", "flip", "scribble", "delete", "replace"))
        self.done.append(f"{how} {path.name}")
        if how in {"delete", "replace"} or not path.is_file():
            aside = path.parent.parent / f"aside{len(self.done)}"
            if os.path.lexists(path):
                os.rename(path, aside)
                if aside.is_dir():
                    shutil.rmtree(aside)
                else:
                    aside.unlink()
            if how != "delete":
                self._put(path)
            return
        content = bytearray(path.read_bytes())
        size = len(content)
        if how == "truncate":
            content = bytearray()
        elif how == "cut":
            del content[self.random.randrange(size + 1) :]
        elif how == "zero":
            begin = self.random.randrange(size + 1)
            content[begin : begin + 4096] = bytes(len(content[begin : begin + 4096]))
        elif how == "flip" and size:
            for _ in range(self.random.choice((1, 8, 100))):
                content[self.random.randrange(size)] ^= 1 << self.random.randrange(8)
        elif how == "scribble":
            content = bytearray(self.random.randbytes(size))
        self._replace(path, bytes(content))

    def _put(self, path: Path) -> None:
        what = self.random.choice(("directory", "full", "loop", "passwd", "dangling", "fifo", "empty", "deep"))
        self.done[-1:] = [f"{self.done[-1] if self.done else ''} ({what})"]
        if what in {"directory", "full"}:
            path.mkdir()
            if what == "full":
                (path / "x").touch()
        elif what in {"loop", "passwd", "dangling"}:
            path.symlink_to({"loop": path, "passwd": "/etc/passwd", "dangling": "nowhere"}[what])
        elif what == "fifo":
            os.mkfifo(path)
        else:
            path.write_bytes(b"" if what == "empty" else b"[" * 100_000)

    @staticmethod
    def _replace(path: Path, content: bytes) -> None:
        if os.path.isfile(path) or not os.path.lexists(path):
            path.write_bytes(content)


class Hangs(BaseException):
    """Distinct from errors of the operating system, and not caught with them."""


@contextlib.contextmanager
def time_limit(what: object) -> Iterator[None]:
    """Interrupt a call that hangs, and name it."""

    def give_up(*_: object) -> None:
        message = f"it hangs: {what}"
        raise Hangs(message)

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(LONGEST_SECONDS + 10)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def set_scene(pattern: Pattern, root: Path, process: Process) -> None:
    """Make a copy whose job without a keeper is ``process``."""
    shutil.copytree(pattern.root, root, symlinks=True)
    root.chmod(0o700)
    (directory,) = root.glob(f"*-*/{pattern.unkept}")
    record = records.read(str(directory), records.PROCESS)
    assert record is not None
    record.pop("v")
    own = {"pid": process.pid, "start": process.start, "keeper_pid": 2**22 - 1, "keeper_start": 1}
    records.replace(str(directory), records.PROCESS, {**record, **own})
    holder = records.keeper_claim(2**22 - 1, 1, processes.boot_id(), processes.pid_namespace())
    (directory / records.CLAIM).unlink()
    assert records.take_claim(str(directory), holder)


def check_what_was_left_alone(pattern: Pattern, vandal: Vandal, catalog: Catalog) -> None:
    for job in pattern.jobs:
        if job.job_id not in vandal.harmed:
            found = catalog.status(job.job_id)
            assert (found.status, found.exit_code, found.signal) == (job.status, job.exit_code, job.signal)
            assert catalog.result(job.job_id).value == job.value
    assert catalog.status(pattern.running).status == "running"
    listed = {job.job_id for job in catalog.list().jobs}
    healthy = {job.job_id for job in pattern.jobs} - vandal.harmed
    assert listed >= {*healthy, pattern.running}


def ask_everything(pattern: Pattern, vandal: Vandal, settings: supervisor.Settings) -> None:
    with Catalog(settings) as catalog:
        catalog.list()
        everything = [*(job.job_id for job in pattern.jobs), pattern.unkept]
        for job_id in everything:
            for ask in (catalog.status, catalog.result):
                with contextlib.suppress(supervisor.SupervisorError):
                    ask(job_id)
        check_what_was_left_alone(pattern, vandal, catalog)
        for end in catalog.cancel_all(job.job_id for job in pattern.jobs):
            assert isinstance(end, supervisor.SupervisorError) or end.status.terminal
        catalog.prune()
        check_what_was_left_alone(pattern, vandal, catalog)


async def ask_a_supervisor(pattern: Pattern, settings: supervisor.Settings) -> None:
    async with supervisor.open_supervisor(settings) as sup:
        with trio.fail_after(LONGEST_SECONDS):
            await ask_through(sup, pattern)


async def ask_through(sup: supervisor.Supervisor, pattern: Pattern) -> None:
    await sup.list()
    for job_id in (*(job.job_id for job in pattern.jobs), pattern.unkept):
        for ask in (sup.status, sup.result):
            with contextlib.suppress(supervisor.SupervisorError):
                await ask(job_id)
    assert (await sup.run(["echo", "on"])).value == "on\n"
    await sup.prune()
    assert (await sup.status(pattern.running)).status == "running"


def damage_and_ask(pattern: Pattern, directory: Path, seed: int) -> None:
    root = directory / f"copy{seed}"
    shutil.rmtree(root, ignore_errors=True)
    settings = supervisor.Settings(state_dir=root, stop_grace_seconds=0.1)
    with Process() as canary, Process(SUPERVISOR_JOB_ID=pattern.unkept) as process:
        set_scene(pattern, root, process)
        vandal = Vandal(seed, root, pattern, canary)
        vandal.harm()
        try:
            with time_limit(vandal):
                if seed % 4 == 0:
                    trio.run(ask_a_supervisor, pattern, settings)
                ask_everything(pattern, vandal, settings)
            assert canary.untouched
        except BaseException as error:
            error.add_note(f"seed {seed}: {vandal}")
            raise
    shutil.rmtree(root)


@pytest.fixture
def pattern(world: World) -> Pattern:
    return make_pattern(world)


def test_damaged_roots(world: World, pattern: Pattern) -> None:
    """A few dozen seeds; ``RUBBISH_SEEDS=FIRST:LAST`` runs those instead, and continues after a failure."""
    seeds = os.environ.get("RUBBISH_SEEDS")
    if seeds is None:
        for seed in range(SEEDS):
            damage_and_ask(pattern, world.directory, seed)
        return
    first, _, last = seeds.partition(":")
    failed: dict[int, str] = {}
    for seed in range(int(first), int(last)):
        begun = time.monotonic()
        try:
            damage_and_ask(pattern, world.directory, seed)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            failed[seed] = "".join(traceback.format_exception(error)[-14:])
            sys.stderr.write(f"FAILED {seed}\n{failed[seed]}\n")
        took = time.monotonic() - begun
        if took > SLOW_SECONDS:
            sys.stderr.write(f"slow {seed}: {took:.1f} s\n")
    assert not failed, f"{len(failed)} of {int(last) - int(first)}: {sorted(failed)}"
