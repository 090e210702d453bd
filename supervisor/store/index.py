"""The index: SQLite over the job directories, shared by every process on the state root.

``sqlite`` opens, repairs and writes the file; ``queries`` reads the rows of jobs, and ``standings`` their places in the
queue; this module has what changes them.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final, TypeVar

from supervisor.errors import StateBusy
from supervisor.jobdir import records
from supervisor.jobdir.facts import Launched
from supervisor.store import grants, series
from supervisor.store.changes import MEMBER, read_changes, write_changes
from supervisor.store.eviction import victims_of
from supervisor.store.group_files import GroupFiles
from supervisor.store.order_files import drop_orders
from supervisor.store.owners import is_of_another_boot
from supervisor.store.queries import ALL, UNFINISHED, parse
from supervisor.store.queue import TURN, Queue, Turn
from supervisor.store.rows import COLUMNS, JobOutcome, Row, columns_of, dump, row_of_record
from supervisor.store.schema import MIGRATIONS
from supervisor.store.sqlite import Damaged
from supervisor.store.standings import Standings
from supervisor.store.state_errors import state_error
from supervisor.store.state_root import Layout
from supervisor.store.tickets import Moment, Ticket, groups_of, has_ticket, ticket_of
from supervisor.system.observing import NotKnown, is_there

__all__ = ["Index"]

_T = TypeVar("_T")

_FOLLOW_NS: Final = 50_000_000
"""How long the files of the groups are not looked at again."""

_VALUES_OF: Final = attrgetter(*COLUMNS[1:])
_END_OF: Final = attrgetter(
    *("state", "completed_ns", "outcome", "expires_ns", "started_ns", "pid", "deadline_boot_ns", "job_id")
)
_INSERT: Final = f"INSERT OR IGNORE INTO jobs ({', '.join(COLUMNS[1:])}) VALUES ({', '.join('?' * (len(COLUMNS) - 1))})"  # noqa: S608


class Index(Standings):
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
        self._kept: dict[str, int] = {}
        self._grants = grants.Grants(layout)
        self._followed_ns = -_FOLLOW_NS
        super().__init__(layout, wait_seconds=wait_seconds, any_thread=any_thread)

    def invalidate(self) -> None:
        """Drop the counts of kept jobs."""
        self._kept.clear()

    # ------------------------------------------------------------ rebuilding

    @staticmethod
    def check_rows(connection: sqlite3.Connection, version: int) -> None:
        """Raise ``Damaged`` for a table or a row that no version writes; a newer version may write any row."""
        tables = {"jobs": set(COLUMNS)}
        if version > 1:
            tables["labels"] = {"name", "value", "seq"}
        if version > 2:
            tables |= {"groups": {"name", "most", "aging_ns"}, "lanes": {"lane", "names"}}
            tables |= {"waiting": {"seq", "lane", "rank"}, "held": {"seq", "lane", "weight"}}
        if version > 3:
            tables |= {"pacing": {"name", "interval_ns", "failures"}, "flows": {"name", "tag"}, "noticed": {"what"}}
            tables |= {"later": {"seq", "lane", "rank", "why"}, "times": {"at_ns", "seq"}, "deps": {"on_seq", "seq"}}
        if version > 4:
            tables["ranks"] = {"lane", "size", "range", "jobs"}
        for table, wanted in tables.items():
            found = {each[1] for each in connection.execute(f"PRAGMA table_info({table})")}
            if (found or version) and not wanted <= found:
                message = f"the table {table} has no {', '.join(sorted(wanted - found))}"
                raise Damaged(message)
        if 0 < version <= len(MIGRATIONS):
            for columns in connection.execute(f"SELECT {ALL} FROM jobs"):  # noqa: S608  # our own names
                parse(columns)

    def import_queue(self) -> None:
        """Enter the groups of the state root and the jobs that wait or hold slots, in place of all that is entered."""
        self.queue.clear()
        self.group_files.import_all(self.layout.clock.moment())
        rows = self._select(f"WHERE state IN {UNFINISHED} ORDER BY seq")
        for row in rows:
            self._enter_queue(row)
            if row.started_ns is not None or self._has_claim(row):
                self.queue.hold(row.seq)
        self._import_grants(rows)

    @staticmethod
    def _was_granted_before_boot(row: Row, owner: str) -> bool:
        return "directory" not in row.request and is_of_another_boot(owner)

    def _has_claim(self, row: Row) -> bool:
        return ticket_of(row.request) is not None and self._may_have_run(row)[0]

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
            if self._was_granted_before_boot(row, row.owner) or not self.queue.hold_if_room(row.seq):
                self.queue.put_back(row.seq, ticket_of(row.request) or Ticket(), self.layout.clock.moment())
                self.revoke(row)

    def _enter_queue(self, row: Row) -> None:
        ticket = ticket_of(row.request)
        if ticket is not None:
            self.queue.enter(row.seq, ticket, self.layout.clock.moment())
            for job_id, _ in ticket.after:
                self._note_awaited(job_id)

    def _note_awaited(self, job_id: str) -> None:
        """Have the keeper of an unfinished job know that another job waits for it."""
        unfinished = "SELECT workspace_key FROM jobs WHERE job_id = ? AND completed_ns IS NULL"
        for (workspace,) in self._db.execute(unfinished, (job_id,)).fetchall():
            path = f"{self.layout.job(workspace, job_id)}/{records.AWAITED}"
            with contextlib.suppress(OSError):  # a supervisor sees the end anyway
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))

    def import_all(self) -> None:
        """Insert every job directory into an empty index, oldest first, each with its end."""
        self.group_files.import_all(self.layout.clock.moment())
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
        for row in rows:
            launched, outcome = self._judge(row)
            if launched is not None or self._has_claim(row):
                self.queue.hold(row.seq)
            if launched is not None:
                self.set_launched(row.job_id, launched)
                row = row.with_launch(launched)  # noqa: PLW2901  # the same job
            if outcome is not None:
                self.finish(row.with_outcome(outcome))
        self._import_grants([*rows, *filter(self._is_entered, unconfirmed)])

    def _is_entered(self, row: Row) -> bool:
        """Whether the end of the attempt before has inserted an attempt; note its place."""
        found = self._db.execute("SELECT seq FROM jobs WHERE job_id = ?", (row.job_id,)).fetchone()
        row.seq = 0 if found is None else found[0]
        return found is not None

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

    # ------------------------------------------------------------ changes, inside ``write``

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

    def change_waiting(self, row: Row, changes: dict[str, Any]) -> None:
        """Change the place of a waiting job: on disk, in its row, and in the queue."""
        try:
            write_changes(self.layout.job(row.workspace_key, row.job_id), changes)
        except OSError as error:
            raise state_error(error, "cannot record the change of a job") from error
        request = {**row.request, MEMBER: changes}
        self._db.execute("UPDATE jobs SET spec = ? WHERE seq = ?", (dump(request), row.seq))
        before, ticket = ticket_of(row.request) or Ticket(), ticket_of(request) or Ticket()
        self.queue.change(row.seq, ticket, before, self.layout.clock.moment())

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
        if row.workspace_key in self._kept:
            self._kept[row.workspace_key] += 1
        if "groups" in row.request:
            # Another process may have moved the job to other groups since this row was read.
            found = self._db.execute("SELECT spec, started_ns FROM jobs WHERE job_id = ?", (row.job_id,)).fetchone()
            self.group_files.note_end(row, groups_of(json.loads(found[0])), found[1])
        # Who asks for its result gets this row, unless the columns differ: parsing it is a tenth of a `run`.
        self._remember(columns_of(row), row)
        return True

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

    def take_turn(self, most: int = TURN) -> Turn:
        """Decide which waiting jobs get their slots, up to ``most``, and which end unlaunched, inside ``write``.

        A process that launches a job asks once more whether it holds its slots: this may be an index that was replaced.
        """
        now, queue = self.layout.clock.moment(), self.queue
        self._follow_files(queue, now)
        turn = queue.turn(now, most)
        self._grants.add(turn.grants)
        return turn

    def _follow_files(self, queue: Queue, now: Moment) -> None:
        """Follow the files of the groups, unless the last turn was a moment ago: that takes a sixth of a turn.

        A change that its process could not copy, as it was killed, counts that much later.
        """
        at_ns = time.monotonic_ns()
        if at_ns - self._followed_ns > _FOLLOW_NS:
            GroupFiles(self.layout, queue).follow(now)
            self._followed_ns = at_ns

    @property
    def group_files(self) -> GroupFiles:
        """The files of the groups; its methods run inside ``write``."""
        return GroupFiles(self.layout, self.queue)

    def follow_files(self) -> None:
        """Copy the files of the groups if they have changed: a process may have been killed before it did so."""
        if self.read_queue(lambda queue: GroupFiles(self.layout, queue).have_changed()):
            with contextlib.suppress(StateBusy):  # the next turn does it
                self.write(lambda: self.group_files.follow(self.layout.clock.moment()))

    def write(self, action: Callable[[], _T], *, single: bool = False) -> _T:
        """Do ``action`` in a transaction, and tell other supervisors of their jobs that it has admitted."""

        def attempt() -> _T:
            self._grants.take_back()
            return action()

        try:
            result = super().write(attempt, single=single)
        except BaseException:
            self._grants.take_back()
            raise
        self._grants.committed()
        return result

    def revoke(self, row: Row) -> None:
        """Take back the file of a job that holds no slots in this index."""
        grants.take_back(self.layout.job(row.workspace_key, row.job_id))

    def take_turns(self) -> Turn:
        """Take turns in transactions of their own as long as they decide anything; return all decisions."""
        turn = self.take_due_turn()
        while turn.more:
            taken = self.write(self.take_turn)
            turn = taken._replace(grants=turn.grants + taken.grants)
        return turn

    def take_due_turn(self, most: int = TURN) -> Turn:
        """Take one turn in a transaction of its own, if it may have something to decide."""
        if not self.read_queue(lambda queue: queue.is_due(self.layout.clock.moment)):
            return Turn([], [], more=False)
        return self.write(lambda: self.take_turn(most))
