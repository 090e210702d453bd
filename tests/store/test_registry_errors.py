"""An error of SQLite, or of the system below it, is no evidence of damage: the registry stays, and answers again."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from supervisor.errors import StateCorrupt, StateUnsafe, SupervisorError
from supervisor.jobdir import records, validation
from supervisor.jobs.catalog import Catalog
from supervisor.model import to_json
from supervisor.runtime.opening import open_supervisor
from supervisor.settings import Settings
from supervisor.store import Layout
from supervisor.store.rows import dump
from supervisor.store.schema import MIGRATIONS
from supervisor.store.state_root import new_job_id
from supervisor.testing import FakeEngine
from tests.store.test_index import make

PRIMARY = [
    *("ABORT", "AUTH", "BUSY", "CANTOPEN", "CONSTRAINT", "CORRUPT", "EMPTY", "ERROR", "FORMAT", "FULL", "INTERNAL"),
    *("INTERRUPT", "IOERR", "LOCKED", "MISMATCH", "MISUSE", "NOLFS", "NOMEM", "NOTADB", "NOTFOUND", "PERM", "PROTOCOL"),
    *("RANGE", "READONLY", "SCHEMA", "TOOBIG"),
]
CODES = sorted(
    name
    for name in dir(sqlite3)
    for primary in PRIMARY
    if (name == f"SQLITE_{primary}" or name.startswith(f"SQLITE_{primary}_"))
    and getattr(sqlite3, name) & 0xFF == getattr(sqlite3, f"SQLITE_{primary}")
)
DAMAGE = {name for name in CODES if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB"))}


class Shim:
    """Has statements of every connection fail: the next ``times`` of those that ``matters`` says it of."""

    def __init__(self) -> None:
        self.error: Callable[[], BaseException] | None = None
        self.times = 0
        self.matters: Callable[[str], bool] = lambda _: True
        shim = self

        class Failing(sqlite3.Connection):
            def execute(self, sql: str, *rest: Any) -> sqlite3.Cursor:
                if shim.error is not None and shim.times and shim.matters(sql):
                    shim.times -= 1
                    raise shim.error()
                return super().execute(sql, *rest)

        self.factory = Failing

    def fail(self, name: str, times: int) -> None:
        def error() -> sqlite3.Error:
            made = sqlite3.OperationalError(f"injected {name}")
            made.sqlite_errorname, made.sqlite_errorcode = name, getattr(sqlite3, name)
            return made

        self.error, self.times = error, times


@pytest.fixture
def shim(monkeypatch: pytest.MonkeyPatch) -> Shim:
    made, connect = Shim(), sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **named: connect(*args, **named, factory=made.factory))
    return made


def unchanged(root: Path, inode: int) -> bool:
    return (root / "registry.db").stat().st_ino == inode and not list(root.glob("*damaged*"))


@pytest.mark.parametrize("times", [1, 10**9], ids=["once", "for_good"])
@pytest.mark.parametrize("name", CODES)
def test_no_error_of_sqlite_sets_a_healthy_registry_aside(state_dir: Path, shim: Shim, name: str, times: int) -> None:
    with Catalog(Settings(state_dir=state_dir), wait_seconds=0) as catalog:
        row = make(catalog, ended=0)
        inode = (state_dir / "registry.db").stat().st_ino
        if name in DAMAGE:  # what a check of the whole registry says is believed
            shim.matters = lambda sql: not sql.startswith(("PRAGMA", "SELECT count(*) FROM sqlite_master"))
            times = 1
        asked: list[Callable[[], object]] = [
            lambda: catalog.status(row.job_id),
            catalog.list,
            lambda: catalog.index.write(lambda: catalog.index.set_fetched(row.job_id)),
            catalog.index.checkpoint,
            lambda: Catalog(Settings(state_dir=state_dir), wait_seconds=0).close(),
        ]
        for ask in asked:
            shim.fail(name, times)
            raised: list[SupervisorError] = []
            try:
                ask()
            except SupervisorError as error:
                raised.append(error)
            assert all(error.retryable or name in DAMAGE for error in raised), raised
            assert {error.code for error in raised} <= {"state_busy", "state_full", "internal_error"}
            shim.error = None
            assert unchanged(state_dir, inode)
            assert catalog.status(row.job_id).status == "done"
        assert [job.job_id for job in catalog.list().jobs] == [row.job_id]


@pytest.mark.parametrize("times", [1, 10**9])
def test_no_memory_for_sqlite(state_dir: Path, shim: Shim, times: int) -> None:
    """It comes as ``MemoryError`` out of the sqlite3 module."""
    with Catalog(Settings(state_dir=state_dir)) as catalog:
        row = make(catalog, ended=0)
        shim.error, shim.times = MemoryError, times
        with pytest.raises(SupervisorError) as raised:
            catalog.list()
        assert (raised.value.code, raised.value.retryable) == ("state_busy", True)
        shim.error = None
        assert catalog.status(row.job_id).status == "done"


SHORT_OF_DESCRIPTORS = """
    import os, resource, sys
    import supervisor.system.file_systems
    from supervisor.jobs.catalog import Catalog
    from supervisor.errors import SupervisorError
    from supervisor.settings import Settings
    import supervisor.interpret.raw, json, hashlib, shutil

    root, job_id, how = sys.argv[1:]
    settings = Settings(state_dir=root)
    ends = []
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    kept = Catalog(settings, wait_seconds=0) if how == "open" else None
    lowest = os.dup(0)
    os.close(lowest)
    for free in range(12):
        taken = len(os.listdir("/proc/self/fd")) - 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (taken + free, hard))
        try:
            catalog = kept or Catalog(settings, wait_seconds=0)
            jobs = catalog.list().jobs
            catalog.index.write(lambda: catalog.index.set_fetched(job_id))
            ends.append([job.status.value for job in jobs])
        except SupervisorError as error:
            ends.append([error.code, error.retryable])
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            if kept is None and "catalog" in dir():
                catalog.close()
    print(json.dumps(ends))
"""


@pytest.mark.parametrize("how", ["fresh", "open"])
@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs Linux")
def test_a_process_without_descriptors_leaves_the_registry_alone(state_dir: Path, how: str) -> None:
    with Catalog(Settings(state_dir=state_dir)) as catalog:
        row = make(catalog, ended=0)
    inode = (state_dir / "registry.db").stat().st_ino
    argv = [sys.executable, "-c", textwrap.dedent(SHORT_OF_DESCRIPTORS), str(state_dir), row.job_id, how]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    ends = json.loads(done.stdout)
    assert [end for end in ends if end not in (["done"], ["state_busy", True])] == []
    assert ends[-1] == ["done"]
    assert how == "open" or ["state_busy", True] in ends
    assert unchanged(state_dir, inode)


# ---------------------------------------------------------------- newer versions


@pytest.mark.parametrize(
    ("change", "status", "reason"),
    [
        ("outcome = replace(outcome, 'exited', 'exited_late')", "done", "exited_late"),
        ("state = 'skipped'", "skipped", "exited"),
        ("state = 'failed', outcome = replace(outcome, 'exited', 'memory_limit')", "failed", "memory_limit"),
        ("""outcome = replace(outcome, '"error":null', '"new":1,"error":null')""", "done", "exited"),
    ],
)
def test_what_a_newer_version_has_written_of_an_end_is_shown_as_it_is(
    state_dir: Path, change: str, status: str, reason: str
) -> None:
    with Catalog(Settings(state_dir=state_dir)) as catalog:
        row, other = make(catalog, ended=0), make(catalog, ended=0)
        inode = (state_dir / "registry.db").stat().st_ino
        catalog.index.write(lambda: catalog.index._db.execute(f"UPDATE jobs SET {change} WHERE seq = {row.seq}"))
    with Catalog(Settings(state_dir=state_dir)) as catalog:
        job = catalog.status(row.job_id)
        assert (job.status, job.reason, job.status.terminal) == (status, reason, True)
        assert to_json(job)["status"] == status
        assert {each.job_id for each in catalog.list().jobs} == {row.job_id, other.job_id}
        assert catalog.cancel(row.job_id) == job
        assert [each.status for each in catalog.wait([row.job_id], timeout=60)] == [status]
        assert catalog.result(row.job_id).job.reason == reason
        assert unchanged(state_dir, inode)
        catalog.forget(row.job_id)


def test_an_error_with_more_to_it_is_told_without(state_dir: Path) -> None:
    with Catalog(Settings(state_dir=state_dir)) as catalog:
        row = make(catalog, ended=3)
        known = catalog.result(row.job_id).error
        change = """outcome = replace(outcome, '"code":', '"severity":"low","code":')"""
        catalog.index.write(lambda: catalog.index._db.execute(f"UPDATE jobs SET {change}"))
    with Catalog(Settings(state_dir=state_dir)) as catalog:
        assert catalog.result(row.job_id).error == known
        assert catalog.index.set_aside is None


def test_a_live_job_in_a_state_of_a_newer_version_is_left_to_that(state_dir: Path) -> None:
    with Catalog(Settings(state_dir=state_dir)) as catalog:
        row = make(catalog)
        catalog.index.write(lambda: catalog.index._db.execute("UPDATE jobs SET state = 'paused'"))
        before = sorted(os.listdir(catalog.directory(row)))
        job = catalog.status(row.job_id)
        assert (job.status, job.status.terminal) == ("paused", False)
        assert [each.status for each in catalog.list().jobs] == ["paused"]
        with pytest.raises(SupervisorError) as raised:
            catalog.cancel(row.job_id)
        assert raised.value.code == "job_elsewhere"
        with pytest.raises(SupervisorError) as raised:
            catalog.result(row.job_id)
        assert raised.value.code == "job_running"
        assert [each.status for each in catalog.wait([row.job_id], timeout=0)] == ["paused"]
        catalog.prune()
        assert catalog.status(row.job_id).status == "paused"
        assert sorted(os.listdir(catalog.directory(row))) == before


def test_rows_of_a_newer_registry_that_make_no_sense_here_hide_no_others(state_dir: Path) -> None:
    with Catalog(Settings(state_dir=state_dir)) as catalog:
        row, other = make(catalog, ended=0), make(catalog, ended=0)
        catalog.index._db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
        change = f"UPDATE jobs SET outcome = '[]' WHERE seq = {row.seq}"
        catalog.index.write(lambda: catalog.index._db.execute(change))
    with Catalog(Settings(state_dir=state_dir)) as catalog:
        assert [job.job_id for job in catalog.list().jobs] == [other.job_id]
        with pytest.raises(StateCorrupt, match="newer version"):
            catalog.status(row.job_id)
        assert not list(state_dir.glob("*damaged*"))


def test_a_newer_registry_of_another_shape_is_refused_and_left_alone(state_dir: Path) -> None:
    with Catalog(Settings(state_dir=state_dir)) as catalog:
        make(catalog, ended=0)
        catalog.index._db.execute("ALTER TABLE jobs RENAME COLUMN digest TO fingerprint")
        catalog.index._db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    inode = (state_dir / "registry.db").stat().st_ino
    with Catalog(Settings(state_dir=state_dir)) as catalog, pytest.raises(StateUnsafe, match="newer version"):
        catalog.list()
    assert unchanged(state_dir, inode)


@pytest.mark.parametrize("change", ["DROP TABLE labels", "ALTER TABLE jobs RENAME COLUMN digest TO fingerprint"])
def test_a_schema_that_nothing_of_ours_makes_is_damage(state_dir: Path, change: str) -> None:
    with Catalog(Settings(state_dir=state_dir)) as catalog:
        row = make(catalog, ended=0, labels={"a": "b"})
        if "labels" in change:
            catalog.index._db.execute("DROP TRIGGER labels_given")
            catalog.index._db.execute("DROP TRIGGER jobs_gone")
        catalog.index._db.execute(change)
    with Catalog(Settings(state_dir=state_dir)) as catalog:
        assert [job.job_id for job in catalog.list(labels={"a": "b"}).jobs] == [row.job_id]
        assert catalog.index.set_aside is not None


def test_a_stop_for_something_that_only_a_newer_version_knows_is_told_in_its_word(state_dir: Path) -> None:
    with Catalog(Settings(state_dir=state_dir)) as catalog:
        row = make(catalog)
        directory = catalog.directory(row)
        process = records.read(directory, records.PROCESS) or {}
        records.create(directory, records.STOP, {"why": "disk_limit", "signalled_boot_ns": 5, "gone": True, "more": 1})
        end: dict[str, object] = {name: process[name] for name in ("pid", "start", "boot")}
        records.create(directory, records.EXIT, {**end, "signal": 15, "ended_ns": row.created_ns + 1, "more": 1})
        job = catalog.status(row.job_id)
        assert (job.status, job.reason, job.signal) == ("failed", "disk_limit", 15)
        error = catalog.result(row.job_id).error
        assert error is not None
        assert (error.code, error.message) == ("job_failed", "The command was stopped: disk_limit.")
        assert [each.reason for each in catalog.list().jobs] == ["disk_limit"]


# ---------------------------------------------------------------- looking into the state root


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.EACCES])
@pytest.mark.parametrize("call", ["listdir", "lstat"])
def test_a_rebuild_that_cannot_see_everything_waits_until_it_can(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    with Catalog(Settings(state_dir=state_dir)) as catalog:
        rows = [make(catalog, ended=0) for _ in range(2)]
    (state_dir / "registry.db").unlink()
    whole = getattr(os, call)

    def refused(path: Any, *rest: Any) -> Any:
        if str(rows[0].workspace_key) in str(path) or (call == "listdir" and str(path) == str(state_dir)):
            raise OSError(number, os.strerror(number), path)
        return whole(path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refused)
        with pytest.raises(SupervisorError) as raised:
            Catalog(Settings(state_dir=state_dir))
        assert (raised.value.code, raised.value.retryable) == ("state_busy", True)
    with Catalog(Settings(state_dir=state_dir)) as catalog:
        assert {job.job_id for job in catalog.list().jobs} == {row.job_id for row in rows}


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EIO, errno.EACCES])
def test_an_error_while_looking_for_an_owner_does_not_bury_it(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    layout = Layout(state_dir)
    name = layout.owners.register()
    whole = os.lstat

    def refused(path: Any, **named: Any) -> Any:
        if ".owners" in str(path):
            raise OSError(number, os.strerror(number), path)
        return whole(path, **named)

    with monkeypatch.context() as patch:
        patch.setattr(os, "lstat", refused)
        with pytest.raises(SupervisorError):
            layout.owners.is_alive(name)
        with contextlib.suppress(SupervisorError):
            layout.owners.sweep()
    assert layout.owners.is_alive(name)


@pytest.mark.parametrize("record", [{"v": 1, "wait_for": "another"}, {"v": 2}])
def test_a_queued_job_that_says_something_new_is_not_settled_from_here(state_dir: Path, record: dict[str, Any]) -> None:
    with Catalog(Settings(state_dir=state_dir)) as catalog:
        row = make(catalog, ended=0)
        queued = attrs.evolve(row, job_id=new_job_id(), state="queued", completed_ns=None, outcome=None, pid=None)
        queued = attrs.evolve(queued, started_ns=None, expires_ns=None)
        known = {**row.request, "job_id": queued.job_id}
        queued.spec = dump({**known, **record})
        queued._request = None
        directory = catalog.layout.make_job(queued.workspace_key, queued.job_id, (queued.spec + "\n").encode())
        assert catalog.index.write(lambda: catalog.index.insert(queued))
        assert catalog.status(queued.job_id).status == "queued"
        catalog.prune()
        assert {job.status for job in catalog.list().jobs} == {"done", "queued"}
        assert os.listdir(directory) == [records.JOB]
        Path(directory, records.JOB).write_text(dump(known) + "\n")
        assert catalog.status(queued.job_id).reason == "launch_failed"


async def test_this_version_knows_all_that_it_says_of_a_job(state_dir: Path) -> None:
    async with open_supervisor(Settings(state_dir=state_dir), engine=FakeEngine()) as sup:
        job = (await sup.run(["x"], labels={"a": "b"}, idempotency_key="k", deadline_seconds=5)).job
        assert not validation.is_newer_request(sup._catalog.directory(sup._catalog.row(job.job_id)))
