"""The index: SQLite over the job directories, shared by every process on the state root.

Each module adds to the connection of the one before: ``sqlite`` opens, repairs and writes the file; ``queries`` reads
the rows of jobs, and ``standings`` their places in the queue; ``turns`` changes these places, and ``job_changes`` the
rows; this module checks the tables, and fills them from the directories.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from supervisor.jobdir import records
from supervisor.jobdir.facts import Launched
from supervisor.store import grants, series
from supervisor.store.changes import MEMBER, read_changes
from supervisor.store.job_changes import JobChanges
from supervisor.store.order_files import drop_orders
from supervisor.store.queries import ALL, UNFINISHED, parse
from supervisor.store.rows import COLUMNS, JobOutcome, Row, dump, row_of_record
from supervisor.store.schema import TABLES
from supervisor.store.sqlite import Damaged
from supervisor.store.state_errors import state_error
from supervisor.store.state_root import Layout
from supervisor.store.tickets import Ticket, has_ticket, ticket_of
from supervisor.store.version import VERSION
from supervisor.system.observing import NotKnown

__all__ = ["Index"]


class Index(JobChanges):
    """The index of one state root.

    Args:
        layout: the state root.
        judge: returns how a job was launched and how it ended, as far as that is known; for a rebuild of the index.
        wait_seconds: how long to wait for a lock of another process.
        any_thread: whether more than one thread uses it, one at a time.
    """

    def __init__(
        self,
        layout: Layout,
        judge: Callable[[Row], tuple[Launched | None, JobOutcome | None]],
        *,
        wait_seconds: float = 5,
        any_thread: bool = False,
    ) -> None:
        """Open the index; first create, migrate or rebuild it if necessary."""
        self._judge = judge
        super().__init__(layout, wait_seconds=wait_seconds, any_thread=any_thread)

    @staticmethod
    def check_rows(connection: sqlite3.Connection, version: int) -> None:
        """Raise ``Damaged`` for a table or a row that no version writes; a newer version may write any row."""
        tables: dict[str, frozenset[str]] = {"jobs": frozenset(COLUMNS)}
        for added in TABLES[:version]:
            tables |= added
        for table, wanted in tables.items():
            found = {each[1] for each in connection.execute(f"PRAGMA table_info({table})")}
            if (found or version) and not wanted <= found:
                message = f"the table {table} has no {', '.join(sorted(wanted - found))}"
                raise Damaged(message)
        if 0 < version <= VERSION:
            for columns in connection.execute(f"SELECT {ALL} FROM jobs"):  # noqa: S608  # our own names
                parse(columns)

    def import_queue(self) -> None:
        """Enter the groups of the state root and the jobs that wait or hold slots, in place of all that is entered."""
        self.queue.clear()
        self.queue.spending.import_ledger(self.layout.root)
        self.group_files.import_all(self.layout.clock.moment())
        rows = self._select(f"WHERE state IN {UNFINISHED} ORDER BY seq")
        for row in rows:
            self._enter_queue(row)
            if row.started_ns is not None or self._has_claim(row):
                self._hold(row)
        self._import_grants(rows)

    def import_spending(self) -> None:
        """Enter what the ledger says, the budgets of the groups, and the reservations of the jobs that hold slots."""
        self.queue.spending.import_ledger(self.layout.root)
        self.group_files.import_budgets()
        for row in self._select("WHERE seq IN (SELECT seq FROM held)"):
            self._restore_reservation(row)

    def _hold(self, row: Row) -> None:
        self.queue.hold(row.seq)
        self._restore_reservation(row)

    def _restore_reservation(self, row: Row) -> None:
        if "groups" in row.request:
            try:
                record = records.read(self.layout.job(row.workspace_key, row.job_id), records.RESERVED)
            except NotKnown as error:
                raise state_error(error, "cannot read what a job has reserved") from error
            self.queue.spending.restore(row.seq, record)

    def _import_grants(self, rows: Sequence[Row]) -> None:
        """Give their slots to the jobs that were admitted and have no claim, the last admitted first, if there is room.

        Only the file of a process that was killed before its commit can be one too many, and is older than the others.
        A job that was admitted before this boot waits again, unless a cluster may have it in its queue.
        """
        granted: list[tuple[int, Row]] = []
        for row in rows:
            if ticket_of(row.request) is not None:
                admitted_ns = grants.granted_ns(self.layout.job(row.workspace_key, row.job_id))
                if admitted_ns is not None:
                    granted.append((admitted_ns, row))
        for _, row in sorted(granted, key=lambda each: -each[0]):
            if not self._was_granted_before_boot(row, row.owner) and self.queue.hold_if_room(row.seq):
                self._restore_reservation(row)
            else:
                self.queue.put_back(row.seq, ticket_of(row.request) or Ticket(), self.layout.clock.moment())
                self.revoke(row)

    def import_all(self) -> None:
        """Insert every job directory into an empty index, oldest first, each with its end."""
        self.group_files.import_all(self.layout.clock.moment())
        self._booked = self.queue.spending.import_ledger(self.layout.root)
        rows = sorted(
            filter(None, (self.read_job(workspace, job_id) for workspace, job_id in self.layout.jobs())),
            key=lambda row: row.created_ns,
        )
        holders: dict[tuple[str, str], Row] = {}
        for row in sorted(rows, key=self._may_have_run):
            if row.idempotency_key is not None:
                holders[row.workspace_key, row.idempotency_key] = row
        there = {row.job_id for row in rows}
        unconfirmed: list[Row] = []
        for row in rows[:]:
            if row.request.get("retry_of") in there and not series.is_claimed(self.layout, row):
                unconfirmed.append(row)  # the end of the attempt before inserts it
                rows.remove(row)
        for row in rows:
            if row.idempotency_key is not None and holders[row.workspace_key, row.idempotency_key] is not row:
                row.idempotency_key = None  # of two jobs with one key, one was refused or never ran
                if ticket_of(row.request) is not None:
                    self._drop_orders(row)  # and no process launches it
                    if "directory" in row.request:
                        drop_orders(row.request["directory"])
            self._insert_row(row)
        for row in rows:  # a job may depend on one with a later creation time, if the clock was set back
            self._enter_queue(row)
        self._continued = frozenset(str(row.request.get("retry_of")) for row in [*rows, *unconfirmed])
        for row in rows:
            launched, outcome = self._judge(row)
            if launched is not None or self._has_claim(row):
                self._hold(row)
            if launched is not None:
                self.set_launched(row.job_id, launched)
                row = row.with_launch(launched)  # noqa: PLW2901  # the same job
            if outcome is not None:
                self.finish(row.with_outcome(outcome))
        self._import_grants([*rows, *filter(self._is_entered, unconfirmed)])
        self._booked, self._continued = frozenset(), None
        self.journal.begin()

    def _is_entered(self, row: Row) -> bool:
        """Whether the end of the attempt before has inserted an attempt; note its place."""
        found = self._db.execute("SELECT seq FROM jobs WHERE job_id = ?", (row.job_id,)).fetchone()
        row.seq = 0 if found is None else found[0]
        return found is not None

    def read_job(self, workspace: str, job_id: str) -> Row | None:
        """Return a new row for the ``job.json`` of a job, ``None`` if that is missing or damaged.

        Raises:
            StateBusy: it cannot be read now.
        """
        try:
            record = records.read(self.layout.job(workspace, job_id), records.JOB, newer=True)
        except NotKnown as error:
            raise state_error(error, "cannot read a record") from error
        if not record or record.get("job_id") != job_id:
            return None
        if has_ticket(record) and (changes := self.changes(workspace, job_id)):
            record[MEMBER] = changes
        try:
            return row_of_record(workspace, record, dump(record))
        except (KeyError, ValueError, RecursionError):
            return None

    def changes(self, workspace: str, job_id: str) -> dict[str, Any]:
        """Return what was changed about a waiting job, with the members that only a newer version knows.

        Raises:
            StateBusy: it cannot be read now.
        """
        try:
            return read_changes(self.layout.job(workspace, job_id))
        except NotKnown as error:
            raise state_error(error, "cannot read what was changed about a job") from error
