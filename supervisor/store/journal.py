"""The journal: the starts and ends of jobs as one sequence, for readers that continue where they stopped.

Triggers write it in the transaction that changes the row of the job. So each end is in it exactly once, whichever
process, and whichever version of the package, records that end, and no kill can fall in between.

A reader keeps a ``Position``: the epoch of the journal and the number of the last event that it has handled. A rebuilt
index knows the jobs but not what was read, so its journal is empty and has a new epoch. A reader with a position of
another epoch, or of events that were deleted meanwhile, gets ``Page.is_reset``: it reads the jobs themselves and goes
on from ``Page.position``.

The row with the number 0 holds the epoch: a table more would cost each new connection 5 us.
"""

from __future__ import annotations

import re
import sqlite3
from typing import Final, NamedTuple, Self

from supervisor.store import triggers

__all__ = ["ENDED", "KEPT", "SCHEMA", "STARTED", "Journal", "JournalEvent", "Page", "Position"]

STARTED: Final = "job.started"
ENDED: Final = "job.ended"
KEPT: Final = 65_536
"""How many events are kept: some MiB."""
_PRUNED_BY: Final = "00"
"""The end of the id of every 256th job. Many rows at once cost less than one at a time, each in another page."""

_BEGIN: Final = "INSERT OR IGNORE INTO journal VALUES (0, 'epoch', lower(hex(randomblob(4))), '', 0)"
# The numbers of deleted events are never used again, as the last one is never deleted. Each statement of a trigger
# costs a new connection 5 us.
SCHEMA: Final = f"""
    CREATE TABLE IF NOT EXISTS journal (
        number INTEGER PRIMARY KEY,
        type TEXT NOT NULL,
        job_id TEXT NOT NULL,
        state TEXT NOT NULL,
        at_ns INTEGER NOT NULL
    );
    {_BEGIN};
    DROP TRIGGER IF EXISTS jobs_changed;
    CREATE TRIGGER IF NOT EXISTS jobs_changed AFTER UPDATE OF state ON jobs
    BEGIN
        {triggers.CHANGED}
        INSERT INTO journal SELECT NULL, '{STARTED}', NEW.job_id, 'running', NEW.started_ns
            WHERE NEW.started_ns NOTNULL AND OLD.started_ns ISNULL;
        INSERT INTO journal SELECT NULL, '{ENDED}', NEW.job_id, NEW.state, NEW.completed_ns
            WHERE NEW.completed_ns NOTNULL AND OLD.completed_ns ISNULL;
    END;
"""
_POSITION: Final = re.compile(r"([0-9a-f]{8})-(0|[1-9][0-9]{0,17})")


class Position(NamedTuple):
    """A place in a journal; ``str`` gives what ``parse`` reads.

    Attributes:
        epoch: of the journal, 8 hexadecimal digits.
        number: of the last event before this place; 0 for the beginning.
    """

    epoch: str
    number: int

    def __str__(self) -> str:
        """Return the text of this position, such as ``3fa94c01-1234``: the id of the event before it."""
        return f"{self.epoch}-{self.number}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Return the position of a text, ``None`` if the text is no position."""
        found = _POSITION.fullmatch(text)
        return None if found is None else cls(found[1], int(found[2]))


class JournalEvent(NamedTuple):
    """One start or end of a job.

    Attributes:
        number: the next event has a higher one, usually the next.
        type: ``job.started`` or ``job.ended``; readers pass over any other.
        job_id: of the job, which may have been forgotten since.
        state: in which it is since then.
        at_ns: when its command was launched or had ended, in ns since the epoch of Unix. It may be before that of the
            event before: an end is recorded when a process sees it.
    """

    number: int
    type: str
    job_id: str
    state: str
    at_ns: int


class Page(NamedTuple):
    """Events of the journal, in their order.

    Attributes:
        events: those after the position that was asked for, up to the limit; none after a reset.
        position: from which to go on reading.
        is_reset: the journal does not have all events since the position that was asked for.
    """

    events: list[JournalEvent]
    position: Position
    is_reset: bool


class Journal:
    """The journal of one index. Each method runs inside ``read`` or ``write`` of the index.

    Args:
        connection: to the index.
    """

    __slots__ = ("_db",)

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Work on this connection."""
        self._db = connection

    def begin(self) -> None:
        """Begin an empty journal, with another epoch."""
        self._db.execute("DELETE FROM journal")
        self._db.execute(_BEGIN)

    def prune(self, job_id: str) -> None:
        """Delete the oldest events beyond ``KEPT``, at the end of one job in 256."""
        if job_id.endswith(_PRUNED_BY):
            statement = "DELETE FROM journal WHERE number BETWEEN 1 AND (SELECT max(number) FROM journal) - ?"
            self._db.execute(statement, (KEPT,))

    def end(self) -> Position:
        """Return the position after all events so far."""
        found = self._db.execute("SELECT job_id, (SELECT max(number) FROM journal) FROM journal WHERE number = 0")
        return Position(*found.fetchone())

    def read_after(self, position: Position, limit: int = 100) -> Page:
        """Return up to ``limit`` events after a position."""
        select = "SELECT number, type, job_id, state, at_ns FROM journal WHERE number > ? ORDER BY number LIMIT ?"
        events = [JournalEvent(*each) for each in self._db.execute(select, (position.number, limit))]
        # After the events: a deletion between the two statements is noticed, too.
        end = self.end()
        (first,) = self._db.execute("SELECT min(number) FROM journal WHERE number > 0").fetchone()
        is_there = first is None or first <= position.number + 1
        if position.epoch != end.epoch or position.number > end.number or not is_there:
            return Page([], end, is_reset=True)
        return Page(events, position._replace(number=events[-1].number) if events else position, is_reset=False)
