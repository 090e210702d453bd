"""Records the lives of jobs, and settles what a loss of power leaves of them."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Generator, Iterator
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import attrs
import pytest

from supervisor.errors import SupervisorError
from supervisor.jobs.catalog import Catalog
from supervisor.keeper import entry as keeper_entry
from supervisor.settings import Settings
from supervisor.store.sqlite import Connection
from supervisor.system import processes, syncing
from tests.power.recorder import Recorder
from tests.power.replay import Crash

T = TypeVar("T")
HERE = Path(__file__).parent


@attrs.define
class Life:
    """A state root in which the lives of jobs are recorded.

    Attributes:
        top: what is recorded; the parents of the state root are new, too.
        log: the log.
        recorder: writes it.
        durability: of what is recorded.
    """

    top: Path
    log: Path
    recorder: Recorder
    path: str = "new/deep/root"
    durability: str = "power"

    def settings(self, durability: str | None = None) -> Settings:
        chosen = durability or self.durability
        return Settings(state_dir=self.top / self.path, durability=chosen, stop_grace_seconds=0.3)

    def acknowledge(self, what: str, job_id: str, **facts: Any) -> None:
        """Note that a caller was told something."""
        self.recorder.mark(what, job_id=job_id, **facts)

    def fail(self, error: str, name: str) -> None:
        """Have each sync of a file fail whose path ends with ``name``."""
        Path(f"{self.log}.fail").write_text(f"{error} {name}", encoding="ascii")

    def mend(self) -> None:
        """Have no sync fail any more."""
        Path(f"{self.log}.fail").unlink()


@pytest.fixture
def memory() -> Iterator[Path]:
    """Return a directory in memory, where there is one: these tests wait for disks that they only model."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.fixture
def life(memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Life:
    """Have this process and its keepers record what they write."""
    place = tmp_path / "recorded" / "keeper"
    place.mkdir(parents=True)
    top, log, copies = memory / "top", memory / "log", memory / "copies"
    top.mkdir()
    copies.mkdir()
    shutil.copy(HERE / "recorded/keeper/entry.py", place)
    shutil.copy(HERE / "recorder.py", place)
    (place / "real").write_text(str(Path(keeper_entry.__file__).parent), encoding="utf-8")
    (place / "where").write_text(f"{top}\n{log}", encoding="utf-8")
    monkeypatch.setattr(keeper_entry, "__file__", str(place / "entry.py"))
    recorder = Recorder(str(top), str(log))
    write, numbers = Connection.write, count()

    def recorded(index: Connection, action: Callable[[], T], *, single: bool = False) -> T:
        result = write(index, action, single=single)
        _note(index)
        return result

    def _note(index: Connection) -> None:
        copy = copies / f"{next(numbers)}.db"
        with (
            contextlib.closing(sqlite3.connect(index.layout.index_path)) as now,
            contextlib.closing(sqlite3.connect(copy)) as kept,
        ):
            now.backup(kept)
            full = index._db.execute("PRAGMA synchronous").fetchone()[0] == 2
        recorder.commit(str(copy), full=full)

    monkeypatch.setattr(Connection, "write", recorded)
    recorder.install(monkeypatch.setattr)
    return Life(top, log, recorder)


Told = tuple[Any, ...]
"""What a job is said to be: status, reason, exit code, and value or code of the error."""


class Disk:
    """A machine that was booted after a loss of power, and asks about a job."""

    def __init__(self, life: Life, folder: Path) -> None:
        self._life = life
        self._folder = folder
        self._known: dict[tuple[Crash, str], Told] = {}
        self.settled = 0

    def tell(self, crash: Crash, job_id: str) -> Told:
        """Return what is told about a job; remembers it."""
        key = crash, job_id
        if key not in self._known:
            self._known[key] = self._settle(crash, job_id)
        return self._known[key]

    def ask(self, crash: Crash, question: Callable[[Catalog], Any]) -> Any:
        """Return what is told by this machine; remembers nothing."""
        with self._mounted(crash) as catalog:
            return question(catalog)

    @contextlib.contextmanager
    def _mounted(self, crash: Crash) -> Generator[Catalog]:
        with tempfile.TemporaryDirectory(dir=self._folder) as name:
            crash.write(str(self._life.top), Path(name), self._life.path)
            root = Path(name, self._life.path)
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            with Catalog(Settings(state_dir=root)) as catalog:
                yield catalog

    def _settle(self, crash: Crash, job_id: str) -> Told:
        self.settled += 1
        with self._mounted(crash) as catalog:
            try:
                job = catalog.status(job_id)
            except SupervisorError as error:
                return (error.code, None, None, None)
            try:
                result = catalog.result(job_id)
                value = result.value if result.error is None else result.error.code
            except SupervisorError as error:
                value = error.code
            return (str(job.status), job.reason, job.exit_code, value)


@pytest.fixture
def disk(life: Life, memory: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Disk]:
    """Return a function that boots another machine; nothing is recorded from then on, and nothing waits for a disk."""

    def boot() -> Disk:
        monkeypatch.undo()
        monkeypatch.setattr(processes, "boot_id", lambda: "another-boot-of-the-machine")
        monkeypatch.setattr(syncing, "sync_descriptor", lambda _: None)
        return Disk(life, memory)

    return boot
