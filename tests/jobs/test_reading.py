from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor.errors import SupervisorError
from supervisor.jobs.catalog import Catalog
from supervisor.jobs.reading import Reading
from supervisor.model import Exit, Job, JobPage
from supervisor.settings import Settings
from supervisor.states import Reason, State
from supervisor.store import Row
from supervisor.store.rows import JobOutcome, dump, row_of_record
from supervisor.store.state_root import workspace_key
from supervisor.store.version import VERSION

HERE, THERE = "/some/repo", "/other/repo"
EVERYTHING: dict[str, Any] = {"workspace": None, "state": None, "labels": {}, "limit": 50, "cursor": None}


@pytest.fixture
def settings(state_dir: Path) -> Settings:
    return Settings(state_dir=state_dir)


@pytest.fixture
def catalog(settings: Settings) -> Iterator[Catalog]:
    with Catalog(settings) as opened:
        yield opened


def make(
    catalog: Catalog,
    number: int,
    *,
    state: State | None = State.DONE,
    workspace: str = HERE,
    ttl: float = 86400,
    **members: object,
) -> Row:
    """Make a job that has ended in ``state``, or that is queued."""
    now = time.time_ns()
    record: dict[str, Any] = {"v": 1, "job_id": f"{number:08x}{'a' * 24}", "kind": "raw", "argv": ["tool", "--all"]}
    record |= {"workspace": workspace, "labels": {"number": str(number % 2)}, "created_ns": now - 10**9}
    record |= {"deadline_seconds": 60.0, "ttl_seconds": ttl, "digest": "d", "idempotency_key": None, "owner": "nobody"}
    record |= {"engine": "local", **members}
    key, text = workspace_key(workspace), dump(record)
    row = row_of_record(key, record, text)
    catalog.layout.make_job(key, row.job_id, text.encode())
    assert catalog.index.write(lambda: catalog.index.insert(row))
    if state is not None:
        reason = {State.DONE: Reason.EXITED, State.FAILED: Reason.NONZERO_EXIT}.get(state, Reason.CANCELLED)
        end = Exit(exit_code=0 if state is State.DONE else 3, ended_ns=now, cpu_seconds=0.5, max_rss_bytes=4096)
        outcome = JobOutcome(state=state, reason=reason, exit=end, stdout_bytes=7, session_id="s", cost_usd=0.25)
        assert catalog.index.write(lambda: catalog.index.finish(row.with_outcome(outcome)))
    found = catalog.index.get(row.job_id)
    assert found is not None
    return found


def of_catalog(settings: Settings, **query: Any) -> tuple[JobPage, int]:
    with Catalog(settings, create=False) as opened:
        where = query["workspace"]
        return opened.list(**query), 0 if where is None else opened.count_elsewhere(where)


def status_of_catalog(settings: Settings, job: str) -> Job:
    with Catalog(settings, create=False) as opened:
        return opened.status(opened.resolve_prefix(job))


@pytest.mark.parametrize("state", [State.DONE, State.FAILED, State.CANCELLED])
def test_the_status_of_an_ended_job_is_that_of_the_catalog(catalog: Catalog, settings: Settings, state: State) -> None:
    members: dict[str, object] = {"pty": True, "stdin_open": True, "session_id": "t"}
    for number, more in enumerate(({}, members, {"schedule": "nightly"})):
        row = make(catalog, number, state=state, **more)
        for name in (row.job_id, row.job_id[:9]):
            job = Reading(settings).status(name)
            assert job is not None
            assert job == status_of_catalog(settings, name)


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"workspace": HERE},
        {"workspace": "/nowhere"},
        {"state": "failed"},
        {"labels": {"number": "1"}},
        {"labels": {"number": "1", "other": "x"}},
        {"limit": 2},
        {"limit": 6},
        {"limit": 5, "workspace": HERE},
        {"limit": 2, "cursor": "4"},
        {"cursor": "1"},
    ],
)
def test_a_page_of_ended_jobs_is_that_of_the_catalog(
    catalog: Catalog, settings: Settings, query: dict[str, Any]
) -> None:
    for number in range(6):
        make(catalog, number, state=(State.DONE, State.FAILED)[number % 2], workspace=(HERE, THERE)[number == 4])
    make(catalog, 7, ttl=0)  # has expired
    asked = {**EVERYTHING, **query}
    assert Reading(settings).list(**asked) == of_catalog(settings, **asked)


def test_pages_follow_one_another(catalog: Catalog, settings: Settings) -> None:
    rows = [make(catalog, number) for number in range(5)]
    cursor: str | None = None
    seen: list[str] = []
    for _ in range(3):
        found = Reading(settings).list(**{**EVERYTHING, "limit": 2, "cursor": cursor})
        assert found is not None
        cursor = found[0].next_cursor
        seen += [job.job_id for job in found[0].jobs]
    assert seen == [row.job_id for row in reversed(rows)]
    assert cursor is None


@pytest.mark.parametrize("name", ["", "abc", "zzzz", "ABCD", "ffff", "0000", "f" * 32, "f" * 33, "0000000/../x"])
def test_a_name_that_is_no_job_is_left_to_the_catalog(catalog: Catalog, settings: Settings, name: str) -> None:
    make(catalog, 0)
    make(catalog, 1)  # the beginning "0000" is that of both
    assert Reading(settings).status(name) is None


def test_jobs_that_have_not_ended_have_expired_or_are_not_sound_are_left_to_the_catalog(
    catalog: Catalog, settings: Settings
) -> None:
    unfinished, expired, gone = make(catalog, 0, state=None), make(catalog, 1, ttl=0), make(catalog, 2)
    catalog.layout.discard(gone.workspace_key, gone.job_id)
    for row in (unfinished, expired, gone):
        assert Reading(settings).status(row.job_id) is None
    assert Reading(settings).list(**EVERYTHING) is None


def test_a_state_that_an_unfinished_job_may_have_reached_is_left_to_the_catalog(
    catalog: Catalog, settings: Settings
) -> None:
    make(catalog, 0)
    make(catalog, 1, state=None, workspace=THERE)
    assert Reading(settings).list(**{**EVERYTHING, "state": "done"}) is None
    assert Reading(settings).list(**{**EVERYTHING, "state": "running"}) is None
    assert Reading(settings).list(**{**EVERYTHING, "workspace": HERE}) is not None


@pytest.mark.parametrize("directory", ["deliveries", "schedules"])
def test_what_may_need_a_process_is_left_to_the_catalog(catalog: Catalog, settings: Settings, directory: str) -> None:
    row = make(catalog, 0)
    Path(catalog.layout.root, directory).mkdir(mode=0o700)
    assert Reading(settings).status(row.job_id) is None


def test_jobs_that_wait_are_left_to_the_catalog(catalog: Catalog, settings: Settings) -> None:
    row = make(catalog, 0)
    make(catalog, 1, state=None, groups=["g"], priority=0, weight=1)
    assert Reading(settings).status(row.job_id) is None


@pytest.mark.parametrize("damage", ["missing", "empty", "rubbish", "older", "newer", "row", "pipe", "mode"])
def test_an_index_that_is_not_in_order_is_left_to_the_catalog_untouched(settings: Settings, damage: str) -> None:
    with Catalog(settings) as catalog:
        row = make(catalog, 0)
    index = Path(settings.state_dir, "registry.db")
    if damage == "missing":
        index.unlink()
    elif damage == "empty":
        index.write_bytes(b"")
    elif damage == "rubbish":
        index.write_bytes(b"rubbish" * 10_000)
    elif damage == "pipe":
        index.unlink()
        os.mkfifo(index)
    elif damage == "mode":
        index.chmod(0o644)
    else:
        statement = {
            "older": f"PRAGMA user_version = {VERSION - 1}",
            "newer": f"PRAGMA user_version = {VERSION + 1}",
            "row": "UPDATE jobs SET spec = '{'",
        }[damage]
        with contextlib.closing(sqlite3.connect(index)) as raw, raw:
            raw.execute(statement)
    names = sorted(path.name for path in Path(settings.state_dir).iterdir())
    is_answer = damage == "mode"  # which is corrected, as the catalog does
    assert (Reading(settings).status(row.job_id) is not None) is is_answer
    assert (Reading(settings).list(**EVERYTHING) is not None) is is_answer
    assert sorted(path.name for path in Path(settings.state_dir).iterdir()) == names
    if damage != "newer":  # which this version does not repair
        assert status_of_catalog(settings, row.job_id).job_id == row.job_id


def test_a_state_root_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    assert Reading(Settings(state_dir=tmp_path / "none")).list(**EVERYTHING) is None
    assert not (tmp_path / "none").exists()


def test_a_state_root_that_is_not_safe_is_left_to_the_catalog(settings: Settings) -> None:
    with Catalog(settings) as catalog:
        row = make(catalog, 0)
    settings.state_dir.chmod(0o755)
    assert Reading(settings).status(row.job_id) is None
    with pytest.raises(SupervisorError):
        Catalog(settings)


def test_a_root_whose_disk_takes_no_file_is_left_to_the_catalog_or_read(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Catalog(settings) as catalog:
        row = make(catalog, 0)
    connect = sqlite3.connect

    class Refusing(sqlite3.Connection):
        def execute(self, statement: str, *given: Any) -> sqlite3.Cursor:
            if "jobs" in statement:
                error = sqlite3.OperationalError("unable to open database file")
                error.sqlite_errorname = "SQLITE_CANTOPEN"
                raise error
            return super().execute(statement, *given)

    def connected(*arguments: Any, **options: Any) -> sqlite3.Connection:
        return connect(*arguments, factory=Refusing, **options)

    monkeypatch.setattr(sqlite3, "connect", connected)
    assert Reading(settings).status(row.job_id) is None
    assert Reading(settings).list(**EVERYTHING) is None
