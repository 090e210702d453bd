"""The queries of the index: which jobs there are, by id, key, state, label and owner.

A row is parsed and checked only once while its columns stay the same.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from operator import attrgetter
from typing import Any, Final

from supervisor import log
from supervisor.errors import StateCorrupt
from supervisor.store.rows import COLUMNS, Row, check_row
from supervisor.store.sqlite import Connection, Damaged
from supervisor.store.state_root import Layout
from supervisor.store.usage import lanes_of

__all__ = ["ALL", "UNAWAITED", "UNFINISHED", "Queries", "parse"]

UNFINISHED: Final = "('queued', 'running')"
UNAWAITED: Final = "NOT EXISTS (SELECT 1 FROM deps WHERE on_seq = jobs.seq)"
"""True of a job that no waiting job depends on."""
_WAITS: Final = "(seq IN (SELECT seq FROM waiting) OR seq IN (SELECT seq FROM later))"
_UNFINISHED_STATES: Final = ("queued", "running")
_MAX_REMEMBERED: Final = 1024

ALL: Final = ", ".join(COLUMNS)


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

    def waiting_in(self, group: str) -> list[Row]:
        """Return all jobs that wait in a group, also those that are not ready, in the order of their creation."""
        waiting = (
            "WHERE seq IN (SELECT seq FROM waiting WHERE lane = ?1 UNION ALL SELECT seq FROM later WHERE lane = ?1)"
        )
        lanes = [lane for lane, names in lanes_of(self._db).items() if group in names]
        return sorted((row for lane in lanes for row in self._select(waiting, (lane,))), key=attrgetter("seq"))

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
        before: int | None = None,
        limit: int = 50,
        now_ns: int | None = None,
    ) -> list[Row]:
        """Return up to ``limit`` jobs, newest first; ``before`` is the ``seq`` of the last one returned before.

        Labels are compared up to their first NUL.
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

    def begun(self, most: int) -> list[Row]:
        """Return unfinished jobs that do not wait in the queue, the newest first."""
        return self._select(f"WHERE state IN {UNFINISHED} AND NOT {_WAITS} ORDER BY seq DESC LIMIT ?", (most,))

    def waiting(self, most: int) -> list[Row]:
        """Return jobs that wait in the queue, the oldest first."""
        return self._select(f"WHERE state IN {UNFINISHED} AND {_WAITS} ORDER BY seq LIMIT ?", (most,))

    def last_ended(self, most: int) -> list[Row]:
        """Return ended jobs that have not expired, the one that ended last first."""
        kept = "SELECT seq FROM jobs WHERE completed_ns IS NOT NULL AND (expires_ns IS NULL OR expires_ns > ?)"
        clause = f"WHERE seq IN ({kept} ORDER BY completed_ns DESC LIMIT ?) ORDER BY completed_ns DESC"
        return self._select(clause, (self.layout.clock.now_ns(), most))

    def counts(self) -> dict[str, int]:
        """Return how many jobs run, wait and have ended, as far as that is recorded."""
        statement = f"""
            SELECT (SELECT count(*) FROM jobs WHERE state IN {UNFINISHED}),
                (SELECT count(*) FROM waiting) + (SELECT count(*) FROM later), (SELECT count(*) FROM jobs)
        """  # noqa: S608  # our own names
        unfinished, waiting, kept = self.read(lambda: self._db.execute(statement).fetchone())
        return {"running": max(0, unfinished - waiting), "waiting": waiting, "ended": kept - unfinished}

    def unfinished(self, after: int = 0, *, owner: str | None = None) -> list[Row]:
        """Return every unfinished job of all workspaces, the oldest first; of one owner if given."""
        if owner is None:
            return self._select(f"WHERE state IN {UNFINISHED} AND seq > ? ORDER BY seq", (after,))
        return self._select(f"WHERE state IN {UNFINISHED} AND owner = ? AND seq > ? ORDER BY seq", (owner, after))

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


def _as_label(text: str) -> bytes:
    """Return a name or value of a label as SQLite extracts it from JSON: with half surrogate pairs, cut at a NUL."""
    return text.partition("\0")[0].encode("utf-8", "surrogatepass")


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
