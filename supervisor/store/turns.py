"""Turns of the queue, and what else changes the places of waiting jobs: a connection to the index that writes them."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from supervisor.errors import StateBusy, SupervisorError
from supervisor.jobdir import records
from supervisor.store import grants
from supervisor.store.changes import MEMBER, write_changes
from supervisor.store.group_files import GroupFiles
from supervisor.store.queue import TURN, Queue, Turn
from supervisor.store.rows import Row, dump
from supervisor.store.standings import Standings
from supervisor.store.state_errors import state_error
from supervisor.store.state_root import Layout
from supervisor.store.tickets import Moment, Ticket, ticket_of

__all__ = ["Turns"]

_T = TypeVar("_T")

_FOLLOW_NS: Final = 50_000_000
"""How long the files of the groups are not looked at again."""


class Turns(Standings):
    """A connection to the index that enters jobs into the queue, moves them there, and admits them."""

    def __init__(self, layout: Layout, *, wait_seconds: float, any_thread: bool) -> None:
        """Open the index; first create, migrate or rebuild it if necessary."""
        self._grants = grants.Grants(layout)
        self._followed_ns = -_FOLLOW_NS
        super().__init__(layout, wait_seconds=wait_seconds, any_thread=any_thread)

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

    def change_waiting(self, row: Row, changes: dict[str, Any]) -> None:
        """Change the place of a waiting job: on disk, in its row, and in the queue."""
        try:
            write_changes(self.layout.job(row.workspace_key, row.job_id), changes, durable=row.is_durable)
        except OSError as error:
            raise state_error(error, "cannot record the change of a job") from error
        request = {**row.request, MEMBER: changes}
        self._db.execute("UPDATE jobs SET spec = ? WHERE seq = ?", (dump(request), row.seq))
        before, ticket = ticket_of(row.request) or Ticket(), ticket_of(request) or Ticket()
        self.queue.change(row.seq, ticket, before, self.layout.clock.moment())

    def take_turn(self, most: int = TURN) -> Turn:
        """Decide which waiting jobs get their slots, up to ``most``, and which end unlaunched, inside ``write``.

        A process that launches a job asks once more whether it holds its slots: this may be an index that was replaced.
        """
        now, queue = self.layout.clock.moment(), self.queue
        self._follow_files(queue, now)
        turn = queue.turn(now, most)
        self._grants.add(turn.grants)
        return turn

    def try_turn(self, most: int) -> Turn | None:
        """Take a turn in a transaction that is to be committed also if the turn fails; return ``None`` then.

        A file that cannot be written must not keep the end of a job from being recorded.
        """
        self._db.execute("SAVEPOINT turn")
        try:
            turn = self.take_turn(most)
        except (SupervisorError, OSError):
            self._grants.take_back()
            self._db.execute("ROLLBACK TO turn")
            return None
        self._db.execute("RELEASE turn")
        return turn

    def _follow_files(self, queue: Queue, now: Moment) -> None:
        """Follow the files of the groups, unless the last turn was a moment ago: that takes a sixth of a turn.

        A change that its process could not copy, as it was killed, counts that much later.
        """
        at_ns = time.monotonic_ns()
        if at_ns - self._followed_ns > _FOLLOW_NS:
            GroupFiles(self.layout, queue).follow(now)
            self.schedules.follow()
            self._followed_ns = at_ns

    @property
    def group_files(self) -> GroupFiles:
        """The files of the groups; its methods run inside ``write``."""
        return GroupFiles(self.layout, self.queue)

    def follow_files(self) -> None:
        """Copy the files of the groups and schedules if they have changed.

        A process may have been killed before it did so.
        """

        def follow() -> None:
            self.group_files.follow(self.layout.clock.moment())
            self.schedules.follow()

        if self.read_queue(
            lambda queue: GroupFiles(self.layout, queue).have_changed() or self.schedules.have_changed()
        ):
            with contextlib.suppress(StateBusy):  # the next turn does it
                self.write(follow)

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
