from __future__ import annotations

import json
import math
import os
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from supervisor.errors import StateBusy
from supervisor.jobdir import records
from supervisor.jobdir.facts import Launched
from supervisor.jobs.catalog import Catalog
from supervisor.model import Exit
from supervisor.settings import Settings
from supervisor.states import Reason, State
from supervisor.store import Index, Row, queries
from supervisor.store.rows import JobOutcome, dump, row_of_record
from supervisor.store.schema import MIGRATIONS, TABLES, statements
from supervisor.store.state_root import new_job_id, workspace_key
from supervisor.system import processes

WORKSPACE = "/some/repo"


@pytest.fixture
def open_catalog(state_dir: Path) -> Iterator[Callable[..., Catalog]]:
    made: list[Catalog] = []

    def opened(**options: Any) -> Catalog:
        made.append(Catalog(Settings(state_dir=state_dir), **options))
        return made[-1]

    yield opened
    for catalog in made:
        catalog.close()


@pytest.fixture
def catalog(open_catalog: Callable[..., Catalog]) -> Catalog:
    return open_catalog()


def make(
    catalog: Catalog,
    *,
    workspace: str = WORKSPACE,
    key: str | None = None,
    labels: dict[str, str] | None = None,
    ended: int | None = None,
    ttl: float = 86400,
) -> Row:
    """Make a job with all its records: running if it is a minute old at most, else ended with ``ended``."""
    key_of = workspace_key(workspace)
    now = time.time_ns()
    born = {"host": processes.host_id(), "boot": processes.boot_id(), "ns": processes.pid_namespace()}
    record: dict[str, Any] = {"v": 1, "job_id": new_job_id(), "kind": "raw", "argv": ["tool"], "workspace": workspace}
    record |= {"labels": labels or {}, "created_ns": now, "deadline_seconds": None, "ttl_seconds": ttl, "digest": "d"}
    record |= {"idempotency_key": key, "owner": "nobody", "engine": "local", **born}
    text = dump(record)
    row = row_of_record(key_of, record, text)
    directory = catalog.layout.make_job(key_of, row.job_id, text.encode())
    pid, start = processes.own_identity()
    process = {"pid": pid, "start": start, "boot": processes.boot_id(), "ns": processes.pid_namespace()}
    records.create(
        directory,
        records.PROCESS,
        process
        | {
            "keeper_pid": pid,
            "keeper_start": start,
            "started_ns": now,
            "started_boot_ns": processes.ticks_to_ns(start),
        },
    )
    if ended is not None:
        Path(directory, records.STDOUT).write_text("output")
        end: dict[str, object] = {"pid": pid, "start": start, "boot": processes.boot_id(), "exit_code": ended}
        records.create(directory, records.EXIT, end | {"signal": None, "ended_ns": now + 1_000_000})
    assert catalog.index.write(lambda: catalog.index.insert(row))
    catalog.refresh(row)
    found = catalog.index.get(row.job_id)
    assert found is not None
    assert found.state == ("running" if ended is None else "done" if ended == 0 else "failed")
    return found


def ids(rows: list[Row]) -> list[str]:
    return [row.job_id for row in rows]


def everything(index: Index) -> list[Row]:
    """Return all rows but for what only the registry knows: their numbers, and who has fetched them."""
    return [attrs.evolve(row, seq=0, fetched=0) for row in index.page(limit=10_000)]


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("umask", [0o022, 0o000, 0o777])
def test_its_files_are_private_whatever_the_umask(open_catalog: Callable[..., Catalog], umask: int) -> None:
    previous = os.umask(umask)
    try:
        catalog = open_catalog()
        make(catalog)
        files = [path for path in Path(catalog.layout.root).iterdir() if path.is_file()]
    finally:
        os.umask(previous)
    assert {path.name for path in files} == {"registry.db", "registry.db-wal", "registry.db-shm", "lock"}
    assert {path.name: path.stat().st_mode & 0o777 for path in files} == dict.fromkeys(
        (path.name for path in files), 0o600
    )


def test_it_is_set_up_so_that_no_commit_syncs(catalog: Catalog) -> None:
    pragmas = {
        name: catalog.index._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")
    }
    assert pragmas == {"journal_mode": "wal", "synchronous": 1}
    assert catalog.index._db.execute("PRAGMA wal_autocheckpoint").fetchone()[0] == 0


def test_a_checkpoint_empties_the_log(catalog: Catalog) -> None:
    make(catalog)
    log = Path(catalog.layout.index_path + "-wal")
    assert log.stat().st_size > 0
    catalog.index.checkpoint()
    assert log.stat().st_size == 0


# ---------------------------------------------------------------- versions


def test_a_new_registry_has_our_version(catalog: Catalog) -> None:
    assert catalog.index._version() == len(MIGRATIONS)


def test_each_migration_makes_the_tables_that_are_required_after_it() -> None:
    connection = sqlite3.connect(":memory:")
    for script, tables in zip(MIGRATIONS, TABLES, strict=True):
        for statement in statements(script):
            connection.execute(statement)
        for table, columns in tables.items():
            assert columns <= {each[1] for each in connection.execute(f"PRAGMA table_info({table})")}, table
    connection.close()


def test_each_migration_can_be_repeated(catalog: Catalog) -> None:
    row = make(catalog, ended=0)
    catalog.index._db.execute("PRAGMA user_version = 0")
    catalog.index._migrate()
    assert catalog.index.get(row.job_id) == row
    assert catalog.index._version() == len(MIGRATIONS)


def test_an_older_registry_is_brought_up(open_catalog: Callable[..., Catalog], state_dir: Path) -> None:
    with sqlite3.connect(state_dir / "registry.db") as old:
        old.executescript(MIGRATIONS[0])
        old.execute("PRAGMA user_version = 1")
    old.close()
    catalog = open_catalog()
    assert catalog.index._version() == len(MIGRATIONS)
    assert catalog.index._db.execute("PRAGMA journal_mode").fetchone()[0] in {"wal", "delete"}
    make(catalog)


def test_a_version_that_knows_of_no_labels_keeps_them_all_the_same(
    open_catalog: Callable[..., Catalog], state_dir: Path
) -> None:
    first = open_catalog()
    row = make(first, labels={"team": "a", "half": "\ud800"})
    first.close()
    with sqlite3.connect(state_dir / "registry.db") as old:
        old.executescript(
            "DROP TRIGGER labels_given; DROP TRIGGER jobs_gone; DROP TABLE labels; PRAGMA user_version = 1",
        )
    old.close()
    catalog = open_catalog()
    assert ids(catalog.index.page(labels=[("half", "\ud800")])) == [row.job_id]
    with sqlite3.connect(state_dir / "registry.db") as old:  # as that version writes
        assert old.execute("UPDATE jobs SET job_id = 'other'").rowcount == 1
        columns = ", ".join(each[1] for each in old.execute("PRAGMA table_info(jobs)") if each[1] != "seq")
        old.execute("CREATE TEMP TABLE kept AS SELECT * FROM jobs")
        old.execute("DELETE FROM jobs")
        assert old.execute("SELECT count(*) FROM labels").fetchone() == (0,)
        old.execute(f"UPDATE kept SET job_id = '{row.job_id}'")
        old.execute(f"INSERT INTO jobs ({columns}) SELECT {columns} FROM kept")
    old.close()
    assert ids(catalog.index.page(labels=[("team", "a"), ("half", "\ud800")])) == [row.job_id]


def test_a_newer_registry_is_used_as_it_is(open_catalog: Callable[..., Catalog]) -> None:
    first = open_catalog()
    row = make(first, ended=0)
    first.index._db.execute("ALTER TABLE jobs ADD COLUMN from_the_future TEXT DEFAULT 'x'")
    first.index._db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 7}")
    first.close()
    second = open_catalog()
    assert second.index.get(row.job_id) == row
    make(second)
    assert second.index._version() == len(MIGRATIONS) + 7
    assert second.index.set_aside is None


# ---------------------------------------------------------------- damage


def _truncate(path: Path) -> None:
    os.truncate(path, 5000)


def _empty(path: Path) -> None:
    os.truncate(path, 0)


def _zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for offset in range(100, len(data), 97):
        data[offset] ^= 0x55
    path.write_bytes(data)


def _text(path: Path) -> None:
    path.write_text("this is not a database\n" * 400)


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _other_schema(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE jobs (something TEXT)")
        other.execute("PRAGMA user_version = 1")
    other.close()


def _remove(path: Path) -> None:
    path.unlink()


DAMAGES = [_truncate, _empty, _zero, _flip, _text, _directory, _other_schema, _remove]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_registry_is_rebuilt_as_it_was(
    open_catalog: Callable[..., Catalog],
    damage: Callable[[Path], None],
) -> None:
    first = open_catalog()
    for number in range(10):
        make(first, workspace=f"/repo/{number % 3}", ended=None if number == 9 else number % 2, key=f"key-{number}")
    before = everything(first.index)
    first.index.checkpoint()
    first.close()
    path = Path(first.layout.index_path)
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    damage(path)
    second = open_catalog()
    assert everything(second.index) == before
    set_aside = [each.name for each in path.parent.iterdir() if ".damaged-" in each.name]
    assert bool(set_aside) is (damage is not _remove)
    assert second.index.set_aside is None or Path(second.index.set_aside).name in set_aside
    make(second)


@pytest.mark.parametrize("damage", [_truncate, _flip, _text])
def test_damage_under_an_open_registry_is_noticed(
    open_catalog: Callable[..., Catalog],
    damage: Callable[[Path], None],
) -> None:
    catalog = open_catalog()
    rows = [make(catalog, ended=0) for _ in range(10)]
    catalog.index.checkpoint()
    damage(Path(catalog.layout.index_path))
    other = open_catalog()
    assert [ids(each.index.page()) for each in (other, catalog)] == [ids(rows)[::-1]] * 2
    late = make(catalog)
    assert other.index.get(late.job_id) == late


def test_whoever_holds_an_old_registry_open_writes_into_the_new_one(open_catalog: Callable[..., Catalog]) -> None:
    holder, healer = open_catalog(), open_catalog()
    first = make(holder, ended=0)
    healer.close()
    os.rename(holder.layout.index_path, holder.layout.index_path + ".damaged-by-a-test")
    healer = open_catalog()
    assert ids(healer.index.page()) == [first.job_id]
    second = make(holder, ended=0)
    assert ids(healer.index.page()) == [second.job_id, first.job_id]


def test_a_rebuild_gives_a_key_to_the_job_that_had_it_last(open_catalog: Callable[..., Catalog]) -> None:
    first = open_catalog()
    old = make(first, key="k", ended=0)
    first.index.write(lambda: first.index.release_key(old.job_id))
    new = make(first, key="k", ended=0)
    before = everything(first.index)
    first.close()
    os.unlink(first.layout.index_path)
    second = open_catalog()
    assert everything(second.index) == before
    holder = second.index.with_key(new.workspace_key, "k")
    assert holder is not None
    assert holder.job_id == new.job_id


@pytest.mark.parametrize("record", [b"", b"{", b"[]", b'{"v":2}', b'{"v":1}', b'{"v":1,"job_id":"' + b"0" * 32 + b'"}'])
def test_a_rebuild_leaves_out_what_is_no_job(open_catalog: Callable[..., Catalog], record: bytes) -> None:
    first = open_catalog()
    row = make(first, ended=0)
    first.layout.make_job(row.workspace_key, "0" * 32, record)
    first.close()
    os.unlink(first.layout.index_path)
    assert ids(open_catalog().index.page()) == [row.job_id]


def test_a_job_whose_row_is_gone_is_found_by_its_directory(catalog: Catalog) -> None:
    row = make(catalog, ended=3)
    catalog.index.write(lambda: catalog.index.delete(row.job_id))
    assert catalog.status(row.job_id).exit_code == 3
    assert ids(catalog.index.page()) == [row.job_id]


# ---------------------------------------------------------------- rows


def test_a_row_comes_back_as_it_went_in(catalog: Catalog) -> None:
    row = make(catalog, key="💥 'quoted\"", labels={"a": "b"})
    assert catalog.index.get(row.job_id) == row
    assert catalog.index.with_key(row.workspace_key, "💥 'quoted\"") == row
    assert catalog.index.get("0" * 32) is None
    assert catalog.index.with_key(row.workspace_key, "other") is None


def test_keys_are_unique_in_a_workspace(catalog: Catalog) -> None:
    first = make(catalog, key="k")
    taken = attrs.evolve(first, job_id=new_job_id())
    assert not catalog.index.write(lambda: catalog.index.insert(taken))
    elsewhere = attrs.evolve(taken, workspace_key="other-0123456789ab")
    assert catalog.index.write(lambda: catalog.index.insert(elsewhere))
    for _ in range(2):
        without = attrs.evolve(first, job_id=new_job_id(), idempotency_key=None)
        assert catalog.index.write(lambda row=without: catalog.index.insert(row))  # type: ignore[misc]
    catalog.index.write(lambda: catalog.index.release_key(first.job_id))
    assert catalog.index.write(lambda: catalog.index.insert(taken))


def test_only_the_first_end_counts(catalog: Catalog) -> None:
    row = make(catalog)

    def end(state: State, reason: Reason) -> bool:
        outcome = JobOutcome(state=state, reason=reason, exit=Exit(ended_ns=row.created_ns + 5))
        return catalog.index.write(lambda: catalog.index.finish(row.with_outcome(outcome)))

    assert end(State.CANCELLED, Reason.CANCELLED)
    assert not end(State.DONE, Reason.EXITED)
    found = catalog.index.get(row.job_id)
    assert found is not None
    assert (found.state, found.completed_ns) == ("cancelled", row.created_ns + 5)
    assert found.expires_ns == row.created_ns + 5 + 86400 * 10**9
    catalog.index.write(lambda: catalog.index.set_launched(row.job_id, Launched(pid=2, started_ns=1)))
    assert catalog.index.get(row.job_id) == found


def test_an_owner_is_replaced_only_by_whoever_knew_it(catalog: Catalog) -> None:
    row = make(catalog)
    told = [catalog.index.write(lambda new=new: catalog.index.set_owner(row.job_id, new, "nobody")) for new in "ab"]  # type: ignore[misc]
    assert told == [True, False]
    found = catalog.index.get(row.job_id)
    assert found is not None
    assert found.owner == "a"


def test_a_transaction_is_whole_or_not_at_all(catalog: Catalog) -> None:
    row = make(catalog)

    def half() -> None:
        catalog.index.delete(row.job_id)
        raise LookupError

    with pytest.raises(LookupError):
        catalog.index.write(half)
    assert catalog.index.get(row.job_id) == row
    make(catalog)


# ---------------------------------------------------------------- eviction and expiry


def test_fetched_jobs_go_first_then_the_oldest_and_never_a_live_one(catalog: Catalog) -> None:
    live = make(catalog)
    finished = [make(catalog, ended=0) for _ in range(6)]
    other = make(catalog, workspace="/other", ended=0)
    for number in (4, 2):
        catalog.index.write(lambda number=number: catalog.index.set_fetched(finished[number].job_id))  # type: ignore[misc]

    def evict(most: int, spared: list[str] | None = None) -> list[str]:
        return catalog.index.write(lambda: catalog.index.evict(live.workspace_key, most, spared or []))

    assert evict(6) == []
    assert evict(5) == [finished[2].job_id]
    assert evict(3, [finished[4].job_id]) == [finished[0].job_id, finished[1].job_id]
    assert evict(0) == [finished[number].job_id for number in (4, 3, 5)]
    assert evict(0) == []
    assert ids(catalog.index.page()) == [other.job_id, live.job_id]
    assert [job_id for _, job_id in sorted(catalog.layout.jobs())] == ids(
        sorted((live, other), key=lambda row: row.workspace_key),
    )


def test_no_principal_takes_the_room_of_another(catalog: Catalog) -> None:
    alices = [make(catalog, ended=0, labels={"mcp.principal": "alice"}) for _ in range(2)]
    bobs = [make(catalog, ended=0, labels={"mcp.principal": "bob", "x": "y"}) for _ in range(9)]
    owners = [make(catalog, ended=0) for _ in range(3)]
    live = make(catalog, labels={"mcp.principal": "bob"})
    catalog.index.write(lambda: catalog.index.set_fetched(bobs[5].job_id))

    def evict(most: int) -> set[str]:
        return set(catalog.index.write(lambda: catalog.index.evict(live.workspace_key, most)))

    assert evict(9) == set()
    assert evict(5) == {bobs[number].job_id for number in (5, 0, 1, 2)}
    assert evict(2) == {bobs[number].job_id for number in (3, 4, 6)} | {owners[0].job_id}
    assert evict(2) == set()
    assert evict(0) == {each.job_id for each in (*alices, *bobs[7:], *owners[1:])}
    assert ids(catalog.index.page()) == [live.job_id]


def test_making_room_looks_at_no_job_to_find_it_unexpired(catalog: Catalog) -> None:
    rows = [make(catalog, ended=0) for _ in range(3)]
    statements: list[str] = []
    catalog.index._db.set_trace_callback(statements.append)
    catalog.index.write(lambda: catalog.index.evict(rows[0].workspace_key, 1))
    catalog.index._db.set_trace_callback(None)
    (asked,) = [each for each in statements if "expires_ns <=" in each]
    for _ in range(2):
        step = next(row[3] for row in catalog.index._db.execute(f"EXPLAIN QUERY PLAN {asked}"))
        assert "INDEX jobs_expiry (expires_ns<?)" in step
        catalog.index._db.execute("ANALYZE")  # nor once SQLite knows how few there are


def test_the_cap_counts_what_others_have_added(open_catalog: Callable[..., Catalog]) -> None:
    mine, theirs = open_catalog(), open_catalog()
    rows = [make(mine, ended=0), make(mine, ended=0)]
    assert mine.index.write(lambda: mine.index.evict(rows[0].workspace_key, 2)) == []
    rows.append(make(theirs, ended=0))
    assert mine.index.write(lambda: mine.index.evict(rows[0].workspace_key, 2)) == [rows[0].job_id]


def test_expired_jobs_are_out_of_sight_and_can_be_swept(catalog: Catalog) -> None:
    over = make(catalog, ended=0, ttl=0)
    kept = make(catalog, ended=0, ttl=60)
    live = make(catalog, ttl=0)
    time.sleep(0.002)  # its end is a millisecond after its start
    assert ids(catalog.index.page()) == [live.job_id, kept.job_id]
    assert ids(catalog.index.expired(time.time_ns(), 10)) == [over.job_id]
    assert ids(catalog.index.expired(time.time_ns(), 10, "other-0123456789ab")) == []
    assert ids(catalog.index.expired(time.time_ns() + 61 * 10**9, 10)) == [over.job_id, kept.job_id]
    assert ids(catalog.index.unfinished()) == [live.job_id]


@pytest.mark.parametrize("name", ["kind", "digest", "owner", "idempotency_key"])
def test_a_record_with_half_a_character_costs_no_other_job(open_catalog: Callable[..., Catalog], name: str) -> None:
    catalog = open_catalog()
    odd, other = make(catalog), make(catalog, ended=0)
    catalog.close()
    directory = catalog.directory(odd)
    record = records.read(directory, records.JOB)
    assert record is not None
    record.pop("v")
    records.replace(directory, records.JOB, {**record, name: "\ud800"})
    Path(catalog.layout.index_path).unlink()
    assert ids(open_catalog().index.page()) == [other.job_id]


def test_a_record_that_is_json_to_python_only_is_kept(open_catalog: Callable[..., Catalog]) -> None:
    catalog = open_catalog()
    odd = make(catalog, labels={"a": "b"}, ended=0)
    catalog.close()
    directory = catalog.directory(odd)
    path = Path(directory, records.JOB)
    path.write_text(json.dumps({**json.loads(path.read_text()), "from_the_future": math.inf}))
    Path(catalog.layout.index_path).unlink()
    again = open_catalog()
    assert ids(again.index.page()) == [odd.job_id]
    again.index._db.execute("PRAGMA user_version = 1")
    again.index._migrate()
    assert ids(again.index.page()) == [odd.job_id]


def test_who_only_reads_follows_a_registry_that_was_rebuilt(open_catalog: Callable[..., Catalog]) -> None:
    reader, other = open_catalog(), open_catalog()
    first = make(other, ended=0)
    assert ids(reader.index.page()) == [first.job_id]
    reader.index.changed()
    other.close()
    Path(other.layout.index_path).rename(f"{other.layout.index_path}.aside")
    third = open_catalog()
    second = make(third, ended=0)
    assert reader.index.changed()
    assert ids(reader.index.page()) == [second.job_id, first.job_id]
    assert reader.index.count() == 2


# ---------------------------------------------------------------- lists


def test_pages_hold_each_job_once_whatever_happens_between_them(catalog: Catalog) -> None:
    rows = [make(catalog) for _ in range(12)]
    seen: list[str] = []
    before = None
    while page := catalog.index.page(before=before, limit=5):
        seen += ids(page)
        before = page[-1].seq
        make(catalog)
        if len(seen) == 5:
            catalog.index.write(lambda: catalog.index.delete(rows[0].job_id, rows[-1].job_id))
    assert seen == ids(rows)[:0:-1]


@pytest.mark.parametrize(
    "ask",
    [
        lambda index: index.get("0" * 32),
        lambda index: index.with_prefix("abcd", 2),
        lambda index: index.with_key("w", "k"),
        lambda index: index.page(workspace="w"),
        lambda index: index.page(workspace="w", before=5),
        lambda index: index.page(state="done"),
        lambda index: index.page(state="done", before=5),
        lambda index: index.page(workspace="w", state="done"),
        lambda index: index.page(workspace="w", labels=[("a", "b")]),
        lambda index: index.page(labels=[("a", "b"), ("c", "d")], state="done", before=5),
        lambda index: index.owners(),
        lambda index: index.unfinished(owner="o"),
        lambda index: index.page(state="running"),
        lambda index: index.page(workspace="w", state="running"),
        lambda index: index.unfinished(),
        lambda index: index.expired(1, 10),
        lambda index: index.count("w"),
        lambda index: index.write(lambda: index.evict("w", 0)),
        lambda index: index.write(lambda: index.delete("0" * 32)),
        lambda index: index.write(lambda: index.set_launched("0" * 32, Launched(pid=2, started_ns=1))),
    ],
)
def test_nothing_that_is_asked_often_reads_the_whole_table(catalog: Catalog, ask: Callable[[Index], object]) -> None:
    statements: list[str] = []
    catalog.index._db.set_trace_callback(statements.append)
    ask(catalog.index)
    catalog.index._db.set_trace_callback(None)
    asked = [each for each in statements if "jobs" in each]
    assert asked
    for statement in asked:
        plan = [row[3] for row in catalog.index._db.execute(f"EXPLAIN QUERY PLAN {statement}")]
        assert not [step for step in plan if step.startswith("SCAN jobs")], (statement, plan)


@pytest.mark.parametrize(
    "filters",
    [
        {},
        {"workspace": "w"},
        {"state": "done"},
        {"state": "running"},
        {"workspace": "w", "state": "done"},
        {"labels": [("a", "b"), ("c", "d")], "workspace": "w"},
    ],
)
def test_a_page_is_read_in_order_and_not_sorted(catalog: Catalog, filters: dict[str, Any]) -> None:
    statements: list[str] = []
    catalog.index._db.set_trace_callback(statements.append)
    catalog.index.page(**filters)
    catalog.index._db.set_trace_callback(None)
    plan = [row[3] for row in catalog.index._db.execute(f"EXPLAIN QUERY PLAN {statements[-1]}")]
    assert plan
    assert not [step for step in plan if "B-TREE" in step], plan


def test_jobs_are_found_by_all_of_their_labels(catalog: Catalog) -> None:
    rows = [make(catalog, labels={"number": str(number % 3), "even": str(number % 2)}) for number in range(12)]
    other = make(catalog, workspace="/elsewhere", labels={"number": "0", "even": "0"})
    make(catalog)
    wanted = [("number", "0"), ("even", "0")]
    assert ids(catalog.index.page(labels=wanted)) == [other.job_id, rows[6].job_id, rows[0].job_id]
    assert ids(catalog.index.page(labels=wanted, workspace=rows[0].workspace_key, limit=1)) == [rows[6].job_id]
    assert ids(catalog.index.page(labels=wanted, before=rows[6].seq)) == [rows[0].job_id]
    catalog.index.write(lambda: catalog.index.delete(rows[0].job_id, other.job_id))
    assert ids(catalog.index.page(labels=wanted)) == [rows[6].job_id]
    assert catalog.index._db.execute("SELECT count(*) FROM labels").fetchone() == (2 * 11,)


def test_a_connection_is_tuned_when_it_first_writes(open_catalog: Callable[..., Catalog]) -> None:
    def tuned(catalog: Catalog) -> bool:
        database = catalog.index._db
        found = [database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("synchronous", "wal_autocheckpoint")]
        return found == [1, 0]

    row = make(open_catalog())
    catalog, single, moving = open_catalog(), open_catalog(), open_catalog()
    for each in (catalog, single, moving):
        assert each.index.get(row.job_id) is not None
        assert not tuned(each)
    catalog.index.write(lambda: catalog.index.set_fetched(row.job_id))
    single.index.write(lambda: single.index.set_fetched(row.job_id), single=True)
    moving.index.checkpoint()
    assert tuned(catalog)
    assert tuned(single)
    assert tuned(moving)
    for path in Path(catalog.layout.root).glob("registry.db*"):
        path.rename(path.with_name(f"aside-{path.name}"))
    assert open_catalog().index.get(row.job_id) is not None  # made anew
    assert catalog.index.get(row.job_id) is not None
    assert not tuned(catalog)
    catalog.index.write(lambda: catalog.index.set_fetched(row.job_id))
    assert tuned(catalog)


def test_two_indexes_may_share_what_they_remember(open_catalog: Callable[..., Catalog]) -> None:
    catalog, other = open_catalog(), open_catalog()
    other.index.share_rows(catalog.index)
    row = make(catalog)
    seen = catalog.index.get(row.job_id)
    assert other.index.get(row.job_id) is seen
    other.index.write(lambda: other.index.set_launched(row.job_id, Launched(pid=5, started_ns=7)))
    now = catalog.index.get(row.job_id)
    assert now is not None
    assert now.pid == 5
    assert other.index.get(row.job_id) is now


def test_a_row_that_is_remembered_is_the_row_that_stands_there(open_catalog: Callable[..., Catalog]) -> None:
    catalog, other = open_catalog(), open_catalog()
    row = make(catalog, ended=0)
    before = catalog.index.get(row.job_id)
    assert catalog.index.page()[0] is before
    other.index.write(lambda: other.index.set_fetched(row.job_id))
    after = catalog.index.get(row.job_id)
    assert after is not None
    assert (after.fetched, row.fetched) == (1, 0)
    live = make(catalog)
    seen = catalog.index.get(live.job_id)
    assert catalog.index.get(live.job_id) is seen
    other.index.write(lambda: other.index.set_launched(live.job_id, Launched(pid=2, started_ns=3)))
    now = catalog.index.get(live.job_id)
    assert now is not None
    assert (now.pid, now.started_ns) == (2, 3)
    for _ in range(3):
        catalog.index._known |= dict.fromkeys(map(str, range(queries._MAX_REMEMBERED)), ((), after))
        make(catalog, ended=0)
        assert len(catalog.index._known) < 3


@pytest.mark.parametrize("other_first", [False, True])
def test_the_row_of_an_end_is_not_parsed_again_unless_it_differs(
    open_catalog: Callable[..., Catalog], *, other_first: bool
) -> None:
    catalog, other = open_catalog(), open_catalog()
    row = catalog.index.get(make(catalog).job_id)
    assert row is not None
    if other_first:
        other.index.write(lambda: other.index.set_launched(row.job_id, Launched(pid=2, started_ns=3)))
    outcome = JobOutcome(state=State.DONE, reason=Reason.EXITED, exit=Exit(exit_code=0, ended_ns=time.time_ns()))
    ended = row.with_outcome(outcome)
    assert catalog.index.write(lambda: catalog.index.finish(ended))
    now = catalog.index.get(row.job_id)
    assert now is not None
    assert (now is ended, now.pid) == ((False, 2) if other_first else (True, row.pid))


# ---------------------------------------------------------------- several at once


def test_a_lock_of_somebody_else_is_waited_for_as_long_as_told(open_catalog: Callable[..., Catalog]) -> None:
    impatient, patient, holder = open_catalog(wait_seconds=0), open_catalog(wait_seconds=10), open_catalog()
    row = make(holder)
    holder.index._db.execute("BEGIN IMMEDIATE")
    before = time.monotonic()
    with pytest.raises(StateBusy) as raised:
        impatient.index.write(lambda: impatient.index.set_fetched(row.job_id))
    assert time.monotonic() - before < 1
    assert raised.value.retryable
    assert impatient.index.get(row.job_id) == row  # readers block no writer
    releasing = threading.Event()

    def release() -> None:
        releasing.wait()
        other.rollback()

    other = sqlite3.connect(holder.layout.index_path, check_same_thread=False, isolation_level=None)
    holder.index._db.execute("ROLLBACK")
    other.execute("BEGIN IMMEDIATE")
    thread = threading.Thread(target=release)
    thread.start()
    releasing.set()
    patient.index.write(lambda: patient.index.set_fetched(row.job_id))
    thread.join()
    other.close()
    impatient.index.write(lambda: impatient.index.set_fetched(row.job_id))


def test_writes_of_others_are_noticed(open_catalog: Callable[..., Catalog]) -> None:
    mine, theirs = open_catalog(), open_catalog()
    mine.index.changed()
    assert not mine.index.changed()
    make(mine)
    assert not mine.index.changed()
    make(theirs)
    assert mine.index.changed()
    assert not mine.index.changed()


def test_a_snapshot_sees_one_state_and_ends_with_the_question(open_catalog: Callable[..., Catalog]) -> None:
    one, other = open_catalog(), open_catalog()
    make(one)

    def count_twice() -> tuple[int, int]:
        before = one.index.row_count()
        make(other)
        return before, one.index.row_count()

    assert one.index.read(count_twice, snapshot=True) == (1, 1)
    assert one.index.read(count_twice) == (2, 3)
    with pytest.raises(ZeroDivisionError):
        one.index.read(lambda: 1 // 0, snapshot=True)
    assert one.index.read(lambda: one.index.read(one.index.row_count, snapshot=True), snapshot=True) == 3
    make(one)  # no transaction is left open
    assert other.index.row_count() == 4


def test_a_write_of_ones_own_does_not_hide_one_of_another_process(open_catalog: Callable[..., Catalog]) -> None:
    mine, theirs = open_catalog(), open_catalog()
    mine.index.changed()
    make(theirs)
    make(mine)
    assert mine.index.changed()
    assert not mine.index.changed()


CREATOR = """
    import sys
    from pathlib import Path
    from supervisor.jobs.catalog import Catalog
    from supervisor.settings import Settings
    from supervisor.store.state_root import new_job_id
    from supervisor.store.rows import dump, row_of_record

    sys.stdin.readline()
    with Catalog(Settings(state_dir=Path(sys.argv[1]))) as catalog:
        for number in range(25):
            record = {"v": 1, "job_id": new_job_id(), "kind": "raw", "argv": ["x"], "workspace": "/", "labels": {},
                      "created_ns": 1, "deadline_seconds": None, "ttl_seconds": 60, "digest": "d", "owner": "nobody",
                      "idempotency_key": f"key-{number}" if sys.argv[2] == "same" else None}
            text = dump(record)
            row = row_of_record("root-0123456789ab", record, text)
            catalog.layout.make_job(row.workspace_key, row.job_id, text.encode())
            if catalog.index.write(lambda: catalog.index.insert(row)):
                print(row.job_id)
"""


@pytest.mark.parametrize("keys", ["none", "same"])
def test_many_processes_that_create_at_once_lose_nothing(
    open_catalog: Callable[..., Catalog],
    state_dir: Path,
    keys: str,
) -> None:
    command = [sys.executable, "-c", textwrap.dedent(CREATOR), str(state_dir), keys]
    creators = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(12)
    ]
    for creator in creators:
        assert creator.stdin is not None
        creator.stdin.write("\n")
        creator.stdin.flush()
    told = [creator.communicate() for creator in creators]
    assert [complaint for _, complaint in told if complaint] == []
    made = [job_id for output, _ in told for job_id in output.split()]
    assert len(made) == (300 if keys == "none" else 25)
    assert sorted(ids(open_catalog().index.page(limit=1000))) == sorted(made)


def test_many_threads_that_open_a_new_root_at_once_find_it_ready(open_catalog: Callable[..., Catalog]) -> None:
    together = threading.Barrier(8)
    problems: list[Exception] = []

    def work() -> None:
        together.wait()
        try:
            catalog = open_catalog(any_thread=True, wait_seconds=0)
            catalog.index.row_count()
        except Exception as problem:  # noqa: BLE001
            problems.append(problem)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


@pytest.mark.parametrize(
    "damage",
    [
        "state = 'Done!'",
        "state = 'failed'",
        "state = x'ff'",
        "spec = '{'",
        "spec = '[]'",
        "spec = replace(spec, 'argv', 'argw')",
        "created_ns = 'x'",
        "created_ns = created_ns + 1",
        "kind = 'rbw'",
        "fetched = 0.5",
        "job_id = 'x'",
        "outcome = '[]'",
        "outcome = replace(outcome, 'exited', 'lost')",
        "outcome = replace(outcome, 'exit_code', 'exit_codf')",
        "completed_ns = NULL",
        "owner = x'ff'",
    ],
)
def test_a_row_that_nobody_can_have_written_has_the_registry_rebuilt(
    open_catalog: Callable[..., Catalog],
    damage: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    catalog = open_catalog()
    jobs = [make(catalog, ended=0), make(catalog, ended=0)]
    with sqlite3.connect(catalog.layout.index_path) as writer:
        # Without its constraints, as a flipped bit knows none.
        writer.execute("PRAGMA ignore_check_constraints = ON")
        writer.execute(f"UPDATE jobs SET {damage} WHERE job_id = ?", (jobs[0].job_id,))
    writer.close()
    fresh = open_catalog()
    assert {job.job_id: job.status for job in fresh.list().jobs} == {row.job_id: "done" for row in jobs}
    assert fresh.index.set_aside is not None
    assert os.path.exists(fresh.index.set_aside)
    (told,) = [record for record in caplog.records if record.message == "registry_rebuilt"]
    assert (vars(told)["kept_as"], vars(told)["jobs"]) == (fresh.index.set_aside, 2)


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
@pytest.mark.parametrize("what", ["directory", "full", "fifo", "dangling"])
def test_what_stands_in_the_place_of_files_of_sqlite_is_set_aside(
    open_catalog: Callable[..., Catalog],
    suffix: str,
    what: str,
) -> None:
    catalog = open_catalog()
    row = make(catalog, ended=0)
    catalog.close()
    path = Path(catalog.layout.index_path + suffix)
    path.unlink(missing_ok=True)
    if what == "fifo":
        os.mkfifo(path)
    elif what == "dangling":
        path.symlink_to("nowhere")
    else:
        path.mkdir()
        if what == "full":
            (path / "x").touch()
    fresh = open_catalog()
    assert fresh.status(row.job_id).status == "done"
    fresh.prune()
    assert fresh.status(row.job_id).status == "done"


def test_odd_things_in_the_trash_are_swept_away(catalog: Catalog) -> None:
    for name in ("\udcff", "x", "0" * 32, "../x".replace("/", ".")):
        Path(catalog.layout.root, ".trash", name).touch()
    catalog.prune()
    assert os.listdir(f"{catalog.layout.root}/.trash") == []


def test_jobs_that_wait_for_a_supervisor_that_lives_and_known_ones_are_not_parsed(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = catalog.index
    first, second, timed = (make(catalog).job_id for _ in range(3))
    make(catalog, ended=0)
    index.write(lambda: index.set_launched(timed, Launched(pid=2, started_ns=3, deadline_boot_ns=4)))
    with monkeypatch.context() as patch:
        patch.setattr(queries, "parse", lambda columns: pytest.fail(f"it has read {columns[1]}"))
        assert index.adoptable([], {timed}) == []
    assert [row.job_id for row in index.adoptable([], {})] == [timed]
    assert [row.job_id for row in index.adoptable(["nobody"], {first})] == [second, timed]
