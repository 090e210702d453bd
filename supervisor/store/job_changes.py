"""What happens to a job, in its row and with all that belongs to it: it is inserted, launched, finished, forgotten.

All of it runs inside ``write``, so in one transaction.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from operator import attrgetter
from typing import Any, Final

from supervisor.jobdir import records
from supervisor.jobdir.facts import Launched
from supervisor.store import grants, series
from supervisor.store.eviction import victims_of
from supervisor.store.order_files import drop_orders
from supervisor.store.owners import is_of_another_boot
from supervisor.store.queries import ALL, UNFINISHED, parse
from supervisor.store.rows import COLUMNS, Row, columns_of
from supervisor.store.state_errors import state_error
from supervisor.store.state_root import Layout
from supervisor.store.tickets import Ticket, groups_of, ticket_of
from supervisor.store.turns import Turns
from supervisor.store.usage_limits import is_limited
from supervisor.system.observing import NotKnown, is_there

__all__ = ["JobChanges"]

_VALUES_OF: Final = attrgetter(*COLUMNS[1:])
_END_OF: Final = attrgetter(
    *("state", "completed_ns", "outcome", "expires_ns", "started_ns", "pid", "deadline_boot_ns", "job_id")
)
_INSERT: Final = f"INSERT OR IGNORE INTO jobs ({', '.join(COLUMNS[1:])}) VALUES ({', '.join('?' * (len(COLUMNS) - 1))})"  # noqa: S608


class JobChanges(Turns):
    """A connection to the index that writes the rows of jobs."""

    def __init__(self, layout: Layout, *, wait_seconds: float, any_thread: bool) -> None:
        """Open the index; first create, migrate or rebuild it if necessary."""
        self._kept: dict[str, int] = {}
        self._booked: frozenset[str] = frozenset()
        """The jobs that are in the ledger, while the index is made anew."""
        self._continued: frozenset[str] | None = None
        """The attempts that have a next one on disk, while the index is made anew."""
        super().__init__(layout, wait_seconds=wait_seconds, any_thread=any_thread)

    def invalidate(self) -> None:
        """Drop the counts of kept jobs."""
        self._kept.clear()

    def insert_all(self, rows: Iterable[Row]) -> None:
        """Insert new jobs with keys that no other job holds."""
        queue, now = self.queue, self.layout.clock.moment()
        for row in rows:
            ticket = ticket_of(row.request)
            if self._insert_row(row) and ticket is not None:
                queue.enter(row.seq, ticket, now)

    def insert(self, row: Row) -> bool:
        """Insert a new job; ``False`` when another job holds its idempotency key."""
        if self._insert_row(row):
            self._enter_queue(row)
            return True
        # A rebuild of the index since the directory was made has inserted the job already.
        there = self._db.execute("SELECT seq FROM jobs WHERE job_id = ?", (row.job_id,)).fetchone()
        if there is not None:
            row.seq = there[0]
        return there is not None

    def _insert_row(self, row: Row) -> bool:
        cursor = self._db.execute(_INSERT, _VALUES_OF(row))
        row.seq = (cursor.lastrowid or 0) if cursor.rowcount == 1 else 0
        return cursor.rowcount == 1

    def set_launched(self, job_id: str, launched: Launched) -> None:
        """Record that a job runs, unless it has ended already."""
        self._db.execute(
            "UPDATE jobs SET state = 'running', started_ns = ?, pid = ?, deadline_boot_ns = ?"  # noqa: S608
            f" WHERE job_id = ? AND state IN {UNFINISHED}",
            (launched.started_ns, launched.pid, launched.deadline_boot_ns, job_id),
        )

    def finish(self, row: Row) -> bool:
        """Record how a job ended; ``False`` when another process was first, or the row is gone.

        Nothing is recorded of a job of a newer version, which may have more to do at the end of the job. Until that
        version does it, each reader derives the end from the evidence.
        """
        if row.is_newer:
            return True
        if row.may_be_retried:
            return self._finish_attempt(row)
        if ticket_of(row.request) is not None:
            self._drop_orders(row)
        return self._record_end(row)

    def _finish_attempt(self, row: Row) -> bool:
        """Record how an attempt ended, and insert the next one if there is to be one."""
        statement = f"SELECT seq, owner FROM jobs WHERE job_id = ? AND state IN {UNFINISHED}"  # noqa: S608
        found = self._db.execute(statement, (row.job_id,)).fetchone()
        if found is None:
            return False
        seq, owner = found
        following = series.following(self.layout, row, owner)
        if following is not None:
            self.insert(following)
            self.queue.depend_on_next(seq, following.seq, launched=row.started_ns is not None)
            self._drop_orders(row)  # what has not moved
            return self._record_end(row.with_next(following))
        ends = [(row.expires_ns, job_id) for job_id in series.earlier_ids(row)]
        self._db.executemany("UPDATE jobs SET expires_ns = ? WHERE job_id = ? AND completed_ns IS NOT NULL", ends)
        self._drop_orders(row)
        return self._record_end(row)

    def _record_end(self, row: Row) -> bool:
        found = self._db.execute(
            "UPDATE jobs SET state = ?, completed_ns = ?, outcome = ?, expires_ns = ?,"  # noqa: S608  # our own names
            " started_ns = coalesce(started_ns, ?), pid = coalesce(pid, ?),"
            " deadline_boot_ns = coalesce(deadline_boot_ns, ?)"
            f" WHERE job_id = ? AND state IN {UNFINISHED}",
            _END_OF(row),
        )
        if found.rowcount != 1:
            return False
        if row.has_deliveries:
            self._announce(row)
        self.journal.prune(row.job_id)
        if row.workspace_key in self._kept:
            self._kept[row.workspace_key] += 1
        if "groups" in row.request:
            # Another process may have moved the job to other groups since this row was read.
            statement = "SELECT spec, started_ns, seq FROM jobs WHERE job_id = ?"
            spec, started_ns, seq = self._db.execute(statement, (row.job_id,)).fetchone()
            names = groups_of(json.loads(spec))
            if not self._is_known_end(row):
                self.group_files.note_end(row, names, started_ns)
            self._book(row, seq, names, started_ns)
        elif row.has_figures:
            self._book(row, row.seq, (), row.started_ns)
        # Who asks for its result gets this row, unless the columns differ: parsing it is a tenth of a `run`.
        self._remember(columns_of(row), row)
        return True

    def _is_known_end(self, row: Row) -> bool:
        """Whether an end was recorded in an index that is lost: then the files have the pauses that it has made.

        Of these, one that was ended must not begin anew. A usage limit is news if no next attempt was made.
        """
        if self._continued is None:
            return False
        return row.job_id in self._continued or not is_limited((row.ended or {}).get("error"))

    def _book(self, row: Row, seq: int, names: Iterable[str], started_ns: int | None) -> None:
        if row.job_id not in self._booked:
            self.queue.spending.book(self.layout.root, row, seq, names, started_ns, self.layout.clock.moment())

    def _announce(self, row: Row) -> None:
        from supervisor.store import outbox  # few jobs need it, and what it imports

        try:
            now_ns = self.layout.clock.wall_ns()
            outbox.add(self.layout.root, self.layout.job(row.workspace_key, row.job_id), row, now_ns)
        except OSError as error:
            raise state_error(error, f"cannot make the deliveries of job {row.job_id}") from error

    def note_limit(self, row: Row, limit: Mapping[str, Any]) -> None:
        """Have the groups of a running job wait for a usage limit, by what its output says: ``Progress.limit``."""
        found = self._db.execute("SELECT spec, started_ns FROM jobs WHERE job_id = ?", (row.job_id,)).fetchone()
        if found is not None:
            started_ns = found[1] or row.started_ns or self.layout.clock.wall_ns()
            self.group_files.note_news(limit, row.job_id, groups_of(json.loads(found[0])), started_ns)

    def _drop_orders(self, row: Row) -> None:
        """Delete what the directory of a job in the state root has for its launch; a shared one may be slow."""
        own = self.layout.job(row.workspace_key, row.job_id)
        drop_orders(own)
        grants.take_back(own)

    def is_unconfirmed(self, row: Row) -> bool:
        """Whether a job is the next attempt of one that has not ended: the process that made it may have been killed.

        Then the end of that one inserts it, or discards it.
        """
        before = row.request.get("retry_of")
        if before is None or series.is_claimed(self.layout, row):
            return False
        statement = f"SELECT 1 FROM jobs WHERE job_id = ? AND state IN {UNFINISHED}"  # noqa: S608  # our own names
        return self.read(lambda: self._db.execute(statement, (before,)).fetchone()) is not None

    def last_attempt(self, row: Row) -> Row | None:
        """Return the last attempt of the series of a job, so far; ``None`` if it was forgotten."""
        last: Row | None = row
        while last is not None and last.retried_by is not None:
            last = self.get(last.retried_by)
        return last

    def set_owner(self, job_id: str, owner: str, previous: str) -> bool:
        """Take an unfinished job over from a supervisor that is not alive.

        A job that was admitted before this boot and has no claim waits again: its groups may be paused by now. A job of
        a cluster keeps its slots: it may be in the queue of the cluster.
        """
        cursor = self._db.execute(
            f"UPDATE jobs SET owner = ? WHERE job_id = ? AND owner = ? AND state IN {UNFINISHED}",  # noqa: S608
            (owner, job_id, previous),
        )
        if cursor.rowcount == 1 and is_of_another_boot(previous):
            row = parse(self._db.execute(f"SELECT {ALL} FROM jobs WHERE job_id = ?", (job_id,)).fetchone())  # noqa: S608
            granted = self._was_granted_before_boot(row, previous)
            if granted and row.started_ns is None and not self._has_claim(row):
                self.queue.put_back(row.seq, ticket_of(row.request) or Ticket(), self.layout.clock.moment())
                self.revoke(row)
        return cursor.rowcount == 1

    def set_fetched(self, job_id: str) -> None:
        """Record that the result was fetched: the job may be evicted first."""
        self._db.execute("UPDATE jobs SET fetched = 1 WHERE job_id = ? AND fetched = 0", (job_id,))

    def release_key(self, job_id: str) -> None:
        """Remove the idempotency key from a job that provably never ran."""
        self._db.execute("UPDATE jobs SET idempotency_key = NULL WHERE job_id = ?", (job_id,))

    def delete(self, *job_ids: str) -> None:
        """Delete the rows of jobs whose directories are discarded."""
        self._db.executemany("DELETE FROM jobs WHERE job_id = ?", [(job_id,) for job_id in job_ids])
        self._kept.clear()

    def evict(self, workspace: str, most: int, spared: Iterable[str] = ()) -> list[str]:
        """Forget finished jobs of ``workspace`` beyond ``most``, see ``victims_of``; return their ids."""
        kept = self._kept.get(workspace)
        if kept is None:
            kept = self._db.execute(
                "SELECT count(*) FROM jobs WHERE workspace_key = ? AND completed_ns IS NOT NULL",
                (workspace,),
            ).fetchone()[0]
            self._kept[workspace] = kept
        if kept <= most:
            return []
        now_ns = self.layout.clock.now_ns()
        victims = victims_of(self._db, workspace, kept, most, spared=spared, now_ns=now_ns)
        for job_id in victims:
            self.layout.discard(workspace, job_id)
            self._db.execute("DELETE FROM jobs WHERE job_id = ?", (job_id,))
        self._kept[workspace] = kept - len(victims)
        return victims

    @staticmethod
    def _was_granted_before_boot(row: Row, owner: str) -> bool:
        return "directory" not in row.request and is_of_another_boot(owner)

    def _has_claim(self, row: Row) -> bool:
        return ticket_of(row.request) is not None and self._may_have_run(row)[0]

    def _may_have_run(self, row: Row) -> tuple[bool, int]:
        shared = row.request.get("directory")
        try:
            claim = records.read_claim(shared or self.layout.job(row.workspace_key, row.job_id))
            if claim is None and shared:  # what a cluster has in its queue it runs without asking anyone
                return is_there(f"{shared}/{records.SUBMISSION}"), row.created_ns
        except NotKnown as error:
            if shared:  # the state root is in order without it; a job that was admitted has its slots by its grant
                return False, row.created_ns
            raise state_error(error, "cannot read a claim") from error
        return claim not in {None, records.NOBODY}, row.created_ns
