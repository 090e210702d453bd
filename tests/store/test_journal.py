"""The journal: every end once, in the order of the commits, for readers that go on where they stopped."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest

from supervisor.jobs.catalog import Catalog
from supervisor.settings import Settings
from supervisor.store import journal
from supervisor.store.journal import ENDED, STARTED, Journal, JournalEvent, Page, Position
from supervisor.store.schema import MIGRATIONS, statements
from tests.store.test_index import make


@pytest.fixture
def open_catalog(state_dir: Path) -> Iterator[Callable[[], Catalog]]:
    made: list[Catalog] = []

    def opened() -> Catalog:
        made.append(Catalog(Settings(state_dir=state_dir)))
        return made[-1]

    yield opened
    for catalog in made:
        catalog.close()


@pytest.fixture
def catalog(open_catalog: Callable[[], Catalog]) -> Catalog:
    return open_catalog()


@attrs.frozen
class Jobs:
    """A journal over a table of jobs in memory."""

    db: sqlite3.Connection
    journal: Journal

    def end(self, number: int) -> None:
        self.db.execute(
            "INSERT INTO jobs (job_id, workspace_key, kind, state, created_ns, digest, owner, spec)"
            " VALUES (?, 'w', 'raw', 'queued', 1, 'd', 'o', '{}')",
            (str(number),),
        )
        self.db.execute("UPDATE jobs SET state = 'done', completed_ns = 7 WHERE job_id = ?", (str(number),))


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    db = sqlite3.connect(":memory:", isolation_level=None)
    for script in MIGRATIONS:
        for statement in statements(script):
            db.execute(statement)
    yield Jobs(db, Journal(db))
    db.close()


def beginning(position: Position) -> Position:
    return position._replace(number=0)


def told(page: Page) -> list[tuple[str, str, str]]:
    assert not page.is_reset
    return [(event.type, event.job_id, event.state) for event in page.events]


def test_every_start_and_every_end_is_in_it_once(catalog: Catalog) -> None:
    begun = catalog.index.read_after(None)
    assert begun == Page([], begun.position, is_reset=False)
    runs, done, failed = make(catalog), make(catalog, ended=0), make(catalog, ended=3)
    assert not catalog.index.write(lambda: catalog.index.finish(done))
    launched = runs.launched()
    assert launched is not None
    catalog.index.write(lambda: catalog.index.set_launched(runs.job_id, launched))
    page = catalog.index.read_after(begun.position)
    assert told(page) == [
        (STARTED, runs.job_id, "running"),
        *((STARTED, done.job_id, "running"), (ENDED, done.job_id, "done")),
        *((STARTED, failed.job_id, "running"), (ENDED, failed.job_id, "failed")),
    ]
    assert [event.at_ns for event in page.events[:3]] == [runs.started_ns, done.started_ns, done.completed_ns]
    assert page.position.number == page.events[-1].number == 5
    assert catalog.index.read_after(page.position) == Page([], page.position, is_reset=False)


def test_it_is_read_in_portions(catalog: Catalog) -> None:
    for _ in range(5):
        make(catalog, ended=0)
    position, found = beginning(catalog.index.read_after(None).position), list[JournalEvent]()
    while (page := catalog.index.read_after(position, 3)).events:
        assert len(page.events) <= 3
        found += page.events
        position = page.position
    assert [event.number for event in found] == [*range(1, 11)]


def test_it_keeps_the_end_of_a_forgotten_job(catalog: Catalog) -> None:
    row = make(catalog, ended=0)
    catalog.forget(row.job_id)
    assert (ENDED, row.job_id, "done") in told(
        catalog.index.read_after(beginning(catalog.index.read_after(None).position))
    )


def test_another_process_goes_on_where_one_was_killed(open_catalog: Callable[[], Catalog]) -> None:
    position = open_catalog().index.read_after(None).position
    row = make(open_catalog(), ended=0)
    again = Position.parse(str(position))
    assert again == position
    assert told(open_catalog().index.read_after(again))[-1] == (ENDED, row.job_id, "done")


def test_a_rebuilt_index_repeats_no_event_and_says_that_some_may_be_missing(
    open_catalog: Callable[[], Catalog],
) -> None:
    first = open_catalog()
    make(first, ended=0)
    old = first.index.read_after(None).position
    first.close()
    os.unlink(first.layout.index_path)
    second = open_catalog()
    page = second.index.read_after(old)
    assert page.is_reset
    assert page.events == []
    assert page.position.number == 0
    assert page.position.epoch != old.epoch
    row = make(second, ended=0)
    assert told(second.index.read_after(page.position)) == [
        (STARTED, row.job_id, "running"),
        (ENDED, row.job_id, "done"),
    ]
    assert second.index.read_after(old).is_reset


def test_an_end_that_an_earlier_version_records_is_in_it(open_catalog: Callable[[], Catalog], state_dir: Path) -> None:
    catalog = open_catalog()
    row, position = make(catalog), catalog.index.read_after(None).position
    with sqlite3.connect(state_dir / "registry.db") as old:  # as that version writes
        old.execute(
            "UPDATE jobs SET state = 'done', completed_ns = 5, outcome = '{}' WHERE job_id = ? AND state = 'running'",
            (row.job_id,),
        )
    old.close()
    assert told(catalog.index.read_after(position)) == [(ENDED, row.job_id, "done")]


def test_an_index_of_an_earlier_version_gets_an_empty_one(state_dir: Path, open_catalog: Callable[[], Catalog]) -> None:
    row = make(open_catalog(), ended=0)
    with sqlite3.connect(state_dir / "registry.db") as old:
        old.executescript("DROP TABLE journal; DROP TRIGGER jobs_changed; PRAGMA user_version = 6")
    old.close()
    catalog = open_catalog()
    assert catalog.index.get(row.job_id) == row
    assert catalog.index.read_after(None).position.number == 0
    another = make(catalog, ended=0)
    page = catalog.index.read_after(beginning(catalog.index.read_after(None).position))
    assert told(page)[-1] == (ENDED, another.job_id, "done")


@pytest.mark.parametrize("number", [1, 2**40])
def test_a_position_after_its_end_is_a_reset(jobs: Jobs, number: int) -> None:
    assert jobs.journal.read_after(jobs.journal.end()._replace(number=number)).is_reset


def test_old_events_are_deleted_and_their_numbers_not_used_again(jobs: Jobs) -> None:
    kept = journal.KEPT
    begun = jobs.journal.end()
    jobs.end(1)
    jobs.db.execute(f"INSERT INTO journal VALUES ({kept}, '{ENDED}', 'j', 'done', 1)")
    jobs.end(2)
    jobs.journal.prune("ff")
    assert [event.number for event in jobs.journal.read_after(begun).events] == [1, kept, kept + 1]
    jobs.journal.prune("f00")
    assert jobs.journal.read_after(begun).is_reset
    assert [event.number for event in jobs.journal.read_after(begun._replace(number=kept - 1)).events] == [
        kept,
        kept + 1,
    ]
    jobs.end(3)
    assert jobs.journal.end() == begun._replace(number=kept + 2)


def test_some_ends_delete_old_events(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = catalog.index.read_after(None).position
    monkeypatch.setattr(journal, "KEPT", 4)
    for _ in range(3):
        make(catalog, ended=0)
    assert len(catalog.index.read_after(begun).events) == 6
    monkeypatch.setattr(journal, "_PRUNED_BY", "")
    make(catalog, ended=0)
    assert catalog.index.read_after(begun).is_reset
    assert [event.number for event in catalog.index.read_after(begun._replace(number=4)).events] == [5, 6, 7, 8]


@pytest.mark.parametrize(
    "text", ["", "1", "3fa94c01", "3fa94c01-", "3fa94c01--1", "3FA94C01-1", "3fa94c01-1 ", "3fa94c01-01", "3fa94c01-²"]
)
def test_a_text_that_is_no_position(text: str) -> None:
    assert Position.parse(text) is None
