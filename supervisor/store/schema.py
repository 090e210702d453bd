"""The tables of the index, as migrations: a newer version only adds to them, or uses another file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Final

from supervisor.store import journal, pacing, queue, schedules, spending, triggers
from supervisor.store.queue import flows, later, ranks
from supervisor.store.version import VERSION

__all__ = ["MIGRATIONS", "QUEUE_VERSION", "SPENDING_VERSION", "TABLES", "statements"]

MIGRATIONS: Final = (
    """
    CREATE TABLE IF NOT EXISTS jobs (
        seq INTEGER PRIMARY KEY,
        job_id TEXT NOT NULL UNIQUE,
        workspace_key TEXT NOT NULL,
        kind TEXT NOT NULL,
        state TEXT NOT NULL,
        created_ns INTEGER NOT NULL,
        started_ns INTEGER,
        completed_ns INTEGER,
        expires_ns INTEGER,
        idempotency_key TEXT,
        digest TEXT NOT NULL,
        owner TEXT NOT NULL,
        fetched INTEGER NOT NULL DEFAULT 0,
        pid INTEGER,
        deadline_boot_ns INTEGER,
        spec TEXT NOT NULL,
        outcome TEXT
    );
    CREATE UNIQUE INDEX IF NOT EXISTS jobs_key ON jobs (workspace_key, idempotency_key)
        WHERE idempotency_key IS NOT NULL;
    CREATE INDEX IF NOT EXISTS jobs_workspace ON jobs (workspace_key);
    CREATE INDEX IF NOT EXISTS jobs_state ON jobs (state);
    CREATE INDEX IF NOT EXISTS jobs_workspace_state ON jobs (workspace_key, state);
    CREATE INDEX IF NOT EXISTS jobs_kept ON jobs (workspace_key, fetched) WHERE completed_ns IS NOT NULL;
    CREATE INDEX IF NOT EXISTS jobs_expiry ON jobs (expires_ns) WHERE expires_ns IS NOT NULL;
    """,
    # Triggers maintain this table, so an older version that does not know it maintains it as well.
    # SQLite cuts a JSON text at its first NUL, and rejects Infinity, which Python reads and writes.
    """
    CREATE TABLE IF NOT EXISTS labels (
        name BLOB NOT NULL,
        value BLOB NOT NULL,
        seq INTEGER NOT NULL,
        PRIMARY KEY (name, value, seq)
    ) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS labels_seq ON labels (seq);
    CREATE TRIGGER IF NOT EXISTS labels_given AFTER INSERT ON jobs
    WHEN CASE WHEN json_valid(NEW.spec) THEN json_extract(NEW.spec, '$.labels') <> '{}' ELSE 0 END
    BEGIN
        INSERT OR IGNORE INTO labels
            SELECT CAST(key AS BLOB), CAST(value AS BLOB), NEW.seq FROM json_each(NEW.spec, '$.labels');
    END;
    CREATE TRIGGER IF NOT EXISTS labels_gone AFTER DELETE ON jobs
    BEGIN
        DELETE FROM labels WHERE seq = OLD.seq;
    END;
    INSERT OR IGNORE INTO labels
        SELECT CAST(given.key AS BLOB), CAST(given.value AS BLOB), jobs.seq
        FROM jobs, json_each(CASE WHEN json_valid(jobs.spec) THEN jobs.spec ELSE '{}' END, '$.labels') AS given;
    """,
    queue.SCHEMA,
    later.SCHEMA + pacing.SCHEMA + flows.SCHEMA,
    ranks.SCHEMA,
    triggers.SCHEMA,
    journal.SCHEMA,
    spending.SCHEMA,
    schedules.SCHEMA,
)
if len(MIGRATIONS) != VERSION:
    _MESSAGE = f"`VERSION` in `store/version.py` is {VERSION}, and there are {len(MIGRATIONS)} migrations"
    raise AssertionError(_MESSAGE)

TABLES: Final[tuple[dict[str, frozenset[str]], ...]] = (
    {},  # `jobs` has the columns of `Row`
    {"labels": frozenset({"name", "value", "seq"})},
    {
        "groups": frozenset({"name", "most", "aging_ns"}),
        "lanes": frozenset({"lane", "names"}),
        "waiting": frozenset({"seq", "lane", "rank"}),
        "held": frozenset({"seq", "lane", "weight"}),
    },
    {
        "pacing": frozenset({"name", "interval_ns", "failures"}),
        "flows": frozenset({"name", "tag"}),
        "noticed": frozenset({"what"}),
        "later": frozenset({"seq", "lane", "rank", "why"}),
        "times": frozenset({"at_ns", "seq"}),
        "deps": frozenset({"on_seq", "seq"}),
    },
    {"ranks": frozenset({"lane", "size", "range", "jobs"})},
    {},  # triggers
    {"journal": frozenset({"number", "type", "job_id", "state", "at_ns"})},
    {
        "reserved": frozenset({"name", "seq", "usd"}),
        "spent": frozenset({"name", "at", "usd"}),
        "sessions": frozenset({"session_id", "usd"}),
    },
    {"schedules": frozenset({"name", "due_ns", "looked_ns", "state"})},
)
"""For each migration the tables that it adds, with columns that they must have: an index without them is damaged."""
QUEUE_VERSION: Final = 5
"""The first version of the index that has the whole queue."""
SPENDING_VERSION: Final = MIGRATIONS.index(spending.SCHEMA) + 1
"""The first version of the index that has the budgets of groups, and what their jobs have spent."""


def statements(script: str) -> Iterator[str]:
    """Yield the statements of a script one by one; a trigger contains statements, and is one."""
    begun = ""
    for part in script.split(";"):
        begun += part + ";"
        if sqlite3.complete_statement(begun):
            yield begun
            begun = ""
    if begun.strip(" \n;"):
        yield begun
