"""The queries of the index: which jobs there are, by id, key, state, label and owner.

A row is parsed and checked only once while its columns stay the same.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Container, Iterable, Sequence
from functools import cache
from operator import attrgetter
from typing import Any, Final, TypeAlias

from supervisor import log
from supervisor.errors import StateCorrupt, SupervisorError
from supervisor.store.rows import COLUMNS, Row, check_row
from supervisor.store.sqlite import Connection, Damaged
from supervisor.store.state_root import Layout

__all__ = ["ALL", "UNAWAITED", "UNFINISHED", "Queries", "parse"]

UNFINISHED: Final = "('queued', 'running')"
UNAWAITED: Final = "NOT EXISTS (SELECT 1 FROM deps WHERE on_seq = jobs.seq)"
"""True of a job that no waiting job depends on."""
_WAITS: Final = "(seq IN (SELECT seq FROM waiting) OR seq IN (SELECT seq FROM later))"
_UNFINISHED_STATES: Final = ("queued", "running")
_ENDED_BADLY: Final = "('failed', 'timeout')"
_IN_USE: Final = ("held", "waiting", "later", "schedules WHERE due_ns NOTNULL")
_MAX_REMEMBERED: Final = 1024

ALL: Final = ", ".join(COLUMNS)

Label: TypeAlias = tuple[str, str]


class Queries(Connection):
    """A connection to the index that reads the rows of jobs."""

    def __init__(self, layout: Layout, *, wait_seconds: float, any_thread: bool) -> None:
        """Open the index; first create, migrate or rebuild it if necessary."""
        self._known: dict[str, tuple[tuple[Any, ...], Row]] = {}
        super().__init__(layout, wait_seconds=wait_seconds, any_thread=any_thread)

    def share_rows(self, other: Queries) -> None:
        """Share the parsed rows with another connection to the same index, which may be in another thread."""
        self._known = other._known

    def _select(self, clause: str, values: Sequence[Any] = (), *, source: str = "jobs") -> list[Row]:
        statement = f"SELECT {ALL} FROM {source} {clause}"  # noqa: S608  # our own names
        return self.read(lambda: [*filter(None, map(self._understood, self._db.execute(statement, values)))])

    def _understood(self, columns: tuple[Any, ...]) -> Row | None:
        """Return a row; ``None`` for an invalid one in an index that a newer version has written."""
        try:
            return self._remembered(columns)
        except Damaged as error:
            if not self.is_newer:
                raise
            log.warning("row_not_understood", job_id=str(columns[1])[:40], error=str(error))
            return None

    def _remembered(self, columns: tuple[Any, ...]) -> Row:
        """Return the row of these columns; parse and check it only once while they stay the same."""
        known = self._known.get(columns[1])
        if known is not None and known[0] == columns:
            return known[1]
        return self._remember(columns, parse(columns))

    def _remember(self, columns: tuple[Any, ...], row: Row) -> Row:
        if len(self._known) >= _MAX_REMEMBERED:
            self._known.clear()
        self._known[row.job_id] = columns, row
        return row

    def get(self, job_id: str) -> Row | None:
        """Return the row of a job.

        Raises:
            StateCorrupt: a newer version has written the row, and this version cannot read it.
        """
        rows = self._select("WHERE job_id = ?", (job_id,))
        if not rows and self.is_newer and self._holds(job_id):
            message = f"job {job_id} was recorded by a newer version of this package"
            raise StateCorrupt(message, repair="Use the version that has written it, or a newer one.")
        return rows[0] if rows else None

    def _holds(self, job_id: str) -> bool:
        statement = "SELECT 1 FROM jobs WHERE job_id = ?"
        return self.read(lambda: self._db.execute(statement, (job_id,)).fetchone()) is not None

    def with_prefix(self, prefix: str, most: int) -> list[Row]:
        """Return up to ``most`` jobs whose ids begin with ``prefix``, by their ids."""
        where = "WHERE job_id >= ? AND job_id < ? ORDER BY job_id LIMIT ?"
        return self._select(where, (prefix, prefix + "g", most))

    def with_key(self, workspace: str, key: str) -> Row | None:
        """Return the job that holds an idempotency key."""
        rows = self._select("WHERE workspace_key = ? AND idempotency_key = ?", (workspace, key))
        return rows[0] if rows else None

    def page(
        self,
        *,
        workspace: str | None = None,
        state: str | None = None,
        labels: Iterable[tuple[str, str]] = (),
        group: str | None = None,
        before: int | None = None,
        limit: int = 50,
        now_ns: int | None = None,
    ) -> list[Row]:
        """Return up to ``limit`` jobs, newest first; ``before`` is the ``seq`` of the last one returned before.

        With some releases of SQLite labels are compared up to their first NUL. Of a ``group`` are the jobs with that
        name anywhere in their requests: callers look at each.
        """
        wanted_labels = list(labels)
        seq = "seq"
        clauses: list[str] = []
        parameters: list[Any] = []
        source = "jobs"
        if wanted_labels:  # the jobs with a label are adjacent in that table, in order
            source, seq = "labels CROSS JOIN jobs USING (seq)", "labels.seq"
            clauses.append("labels.name = ? AND labels.value = ?")
            parameters += map(_as_label, wanted_labels[0])
        clauses.append(f"(expires_ns IS NULL OR expires_ns > ? OR NOT {UNAWAITED})")
        parameters.append(now_ns or self.layout.clock.now_ns())
        if workspace is not None:
            clauses.append("workspace_key = ?")
            parameters.append(workspace)
        if group is not None:  # a name needs no escape in JSON
            clauses.append("instr(spec, ?)")
            parameters.append(f'"{group}"')
        if before is not None:
            clauses.append(f"{seq} < ?")
            parameters.append(before)
        for name, value in wanted_labels[1:]:
            clauses.append("EXISTS (SELECT 1 FROM labels AS more WHERE name = ? AND value = ? AND more.seq = jobs.seq)")
            parameters += [_as_label(name), _as_label(value)]
        # The row of a running job may still say "queued".
        states = _UNFINISHED_STATES if state in _UNFINISHED_STATES else (state,)
        found: list[Row] = []
        for each in states:
            wanted, given = (clauses, parameters) if each is None else ([*clauses, "state = ?"], [*parameters, each])
            tail = f"WHERE {' AND '.join(wanted)} ORDER BY {seq} DESC LIMIT ?"
            found += self._select(tail, [*given, limit], source=source)
        if len(states) > 1:  # one query each, so that an index of SQLite returns the rows in order
            found.sort(key=attrgetter("seq"), reverse=True)
        return found[:limit]

    def begun(self, most: int, *, label: Label | None = None) -> list[Row]:
        """Return unfinished jobs that do not wait in the queue, the newest first; ``label``: only those with it."""
        return self._among(f"state IN {UNFINISHED} AND NOT {_WAITS}", "seq DESC", most, label)

    def waiting(self, most: int, *, label: Label | None = None) -> list[Row]:
        """Return jobs that wait in the queue, the oldest first."""
        return self._among(f"state IN {UNFINISHED} AND {_WAITS}", "seq", most, label)

    def last_ended(self, most: int, *, label: Label | None = None) -> list[Row]:
        """Return ended jobs that have not expired, the one that ended last first."""
        return self._among(f"completed_ns IS NOT NULL AND {self._unexpired()}", "completed_ns DESC", most, label)

    def unread_failures(self, most: int, since_ns: int, *, label: Label | None = None) -> list[Row]:
        """Return jobs that ended badly, whose results were not fetched and that are not tried again; the last first."""
        return self._among(self._unread(since_ns), "completed_ns DESC", most, label)

    def _among(self, where: str, order: str, most: int, label: Label | None) -> list[Row]:
        """Return the first of the jobs that fulfil a condition. Only their rows are read whole."""
        labelled, values = _with_label(label)
        chosen = f"SELECT seq FROM jobs WHERE {where}{labelled} ORDER BY {order} LIMIT ?"  # noqa: S608  # our own names
        return self._select(f"WHERE seq IN ({chosen}) ORDER BY {order}", (*values, most))

    def _unexpired(self) -> str:
        return f"(expires_ns IS NULL OR expires_ns > {self.layout.clock.now_ns():d})"

    def _unread(self, since_ns: int) -> str:
        bad = f"state IN {_ENDED_BADLY} AND fetched = 0 AND completed_ns > {since_ns:d} AND {self._unexpired()}"
        return f"""{bad} AND outcome NOT LIKE '%"retried_by":"%'"""

    def counts(self, since_ns: int | None = None, *, label: Label | None = None) -> dict[str, int]:
        """Return how many jobs run, wait and have ended, as far as that is recorded.

        With ``since_ns``, also how many are ``failed``: unread failures since then.
        """
        labelled, values = _with_label(label)
        kept = "SELECT count(*) FROM jobs WHERE 1"
        parts = [f"({kept} AND state IN {UNFINISHED}{labelled})", f"({kept}{labelled})"]
        queued = [
            f"(SELECT count(*) FROM {table} WHERE 1{labelled})"  # noqa: S608  # our own names
            for table in ("waiting", "later")
        ]
        parts.append(" + ".join(queued))
        parts.append("0" if since_ns is None else f"({kept} AND {self._unread(since_ns)}{labelled})")
        statement = f"SELECT {', '.join(parts)}"
        repeated = values * (5 if since_ns is not None else 4)
        unfinished, all_, waiting, failed = self.read(lambda: self._db.execute(statement, repeated).fetchone())
        found = {"running": max(0, unfinished - waiting), "waiting": waiting, "ended": all_ - unfinished}
        return found if since_ns is None else {**found, "failed": failed}

    def ends(self, since_ns: int, bucket_ns: int, *, label: Label | None = None) -> list[tuple[int, bool, int]]:
        """Return how many kept jobs have ended since a time: (bucket, whether they are done, count), by the bucket.

        A bucket is a time divided by ``bucket_ns``.
        """
        labelled, values = _with_label(label)
        statement = (
            f"SELECT completed_ns / {bucket_ns:d} AS bucket, state = 'done' AS well, count(*) FROM jobs"  # noqa: S608  # our own names
            f" WHERE completed_ns > {since_ns:d}{labelled} GROUP BY bucket, well ORDER BY bucket"
        )
        found = self.read(lambda: self._db.execute(statement, values).fetchall())
        return [(bucket, bool(well), count) for bucket, well, count in found]

    def unfinished(self, after: int = 0, *, owner: str | None = None) -> list[Row]:
        """Return every unfinished job of all workspaces, the oldest first; of one owner if given."""
        if owner is None:
            return self._select(f"WHERE state IN {UNFINISHED} AND seq > ? ORDER BY seq", (after,))
        return self._select(f"WHERE state IN {UNFINISHED} AND owner = ? AND seq > ? ORDER BY seq", (owner, after))

    def of_schedule(self, name: str) -> list[Row]:
        """Return the unfinished jobs of a schedule, the oldest first."""
        clause = f"WHERE state IN {UNFINISHED} AND instr(spec, ?) ORDER BY seq"
        rows = self._select(clause, (f'"schedule":"{name}"',))
        return [row for row in rows if row.request.get("schedule") == name]

    def adoptable(self, owners: Sequence[str], own: Container[str]) -> list[Row]:
        """Return the unfinished jobs of these supervisors and those with a deadline, but for ``own``; the oldest first.

        Rows of jobs that wait for a supervisor that lives are not parsed: there may be 100,000 of them.
        """
        marks = ", ".join("?" * len(owners))
        statement = (
            f"SELECT {ALL} FROM jobs WHERE state IN {UNFINISHED}"  # noqa: S608  # our own names
            f" AND (deadline_boot_ns IS NOT NULL OR owner IN ({marks})) ORDER BY seq"
        )

        def select() -> list[Row]:
            found = (columns for columns in self._db.execute(statement, owners) if columns[1] not in own)
            return [*filter(None, map(self._understood, found))]

        return self.read(select)

    def owners(self) -> list[str]:
        """Return the supervisors that own unfinished jobs."""
        statement = f"SELECT DISTINCT owner FROM jobs WHERE state IN {UNFINISHED}"  # noqa: S608  # our own names
        return self.read(lambda: [owner for (owner,) in self._db.execute(statement)])

    def expired(self, now_ns: int, limit: int, workspace: str | None = None) -> list[Row]:
        """Return expired jobs, of one workspace or of all. A job that another one waits for does not expire."""
        if workspace is None:
            clause = f"WHERE expires_ns <= ? AND {UNAWAITED} ORDER BY expires_ns LIMIT ?"
            return self._select(clause, (now_ns, limit))
        clause = f"WHERE expires_ns <= ? AND workspace_key = ? AND {UNAWAITED} ORDER BY expires_ns LIMIT ?"
        return self._select(clause, (now_ns, workspace, limit))

    def count(self, workspace: str | None = None) -> int:
        """Return how many jobs are kept, in one workspace or in all."""
        clause, values = ("", ()) if workspace is None else ("WHERE workspace_key = ?", (workspace,))
        statement = f"SELECT count(*) FROM jobs {clause}"  # noqa: S608  # our own names
        return int(self.read(lambda: self._db.execute(statement, values).fetchone()[0]))

    def count_elsewhere(self, workspace: str, now_ns: int) -> int:
        """Return how many jobs are kept in all workspaces but one, without those that have expired."""
        count = self.count() - self.count(workspace)
        over = self.expired(now_ns, count) if count else []
        return count - sum(row.workspace_key != workspace for row in over)

    def may_wait(self) -> bool:
        """Whether jobs wait or are about to be launched, or a schedule fires; ``True`` also if that is not known."""
        statement = f"SELECT {' OR '.join(f'EXISTS (SELECT 1 FROM {table})' for table in _IN_USE)}"  # noqa: S608
        try:
            return bool(self.read(lambda: self._db.execute(statement).fetchone()[0]))
        except SupervisorError:
            return True


def _with_label(label: Label | None) -> tuple[str, tuple[bytes, ...]]:
    """Return the condition that a job has a label, and its parameters; nothing for no label."""
    if label is None:
        return "", ()
    return " AND seq IN (SELECT seq FROM labels WHERE name = ? AND value = ?)", (
        _as_label(label[0]),
        _as_label(label[1]),
    )


def _as_label(text: str) -> bytes:
    """Return a name or value of a label as SQLite extracts it from JSON: with half surrogate pairs."""
    shown = text.partition("\0")[0] if "\0" in text and _cuts_at_nul() else text
    return shown.encode("utf-8", "surrogatepass")


@cache
def _cuts_at_nul() -> bool:
    """Whether SQLite cuts a text of JSON at its first NUL, as its earlier releases do."""
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        (found,) = connection.execute("""SELECT json_extract('["\\u0000"]', '$[0]')""").fetchone()
    return not found


def parse(columns: Sequence[Any]) -> Row:
    """Return the row of these columns, checked.

    Raises:
        Damaged: no version writes such a row.
    """
    row = Row(*columns)
    try:
        check_row(row)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        message = f"the row of job {columns[1]!r:.80} is damaged: {error}"
        raise Damaged(message) from error
    return row
