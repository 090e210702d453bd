"""The jobs in the index that are not ready to be admitted: on hold, before their time, or after other jobs.

A job that becomes ready moves to ``waiting``. So admission compares only jobs that may run. A job that can never be
ready, or is not launched in time, is marked with the reason; the caller of the turn ends it.

``times`` says when to look at a job again. A trigger enters the jobs whose dependencies have changed, with the time 0,
in the transaction that changes the row of the dependency: so no change is missed, whichever version makes it.
"""

from __future__ import annotations

import json
import sqlite3
from typing import Final

from supervisor.store.tickets import WALL, Moment, Ticket, holds, ticket_of

__all__ = ["SCHEMA", "Later"]

SCHEMA: Final = """
    CREATE TABLE IF NOT EXISTS later (
        seq INTEGER PRIMARY KEY,
        lane INTEGER NOT NULL,
        rank INTEGER NOT NULL,
        weight INTEGER NOT NULL,
        held INTEGER NOT NULL,
        why TEXT,
        cause TEXT
    );
    CREATE TABLE IF NOT EXISTS times (
        clock TEXT NOT NULL,
        at_ns INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        PRIMARY KEY (clock, at_ns, seq)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS deps (
        on_seq INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        how TEXT NOT NULL,
        cause TEXT NOT NULL,
        PRIMARY KEY (on_seq, seq, how)
    ) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS deps_seq ON deps (seq);
    CREATE TRIGGER IF NOT EXISTS later_changed AFTER UPDATE OF state ON jobs
    WHEN EXISTS (SELECT 1 FROM deps WHERE on_seq = NEW.seq) OR EXISTS (SELECT 1 FROM later WHERE seq = NEW.seq)
    BEGIN
        INSERT OR IGNORE INTO times SELECT '', 0, seq FROM deps WHERE on_seq = NEW.seq;
        DELETE FROM deps WHERE on_seq = NEW.seq AND CASE how
            WHEN 'start' THEN NEW.started_ns IS NOT NULL
            WHEN 'any' THEN NEW.completed_ns IS NOT NULL
            WHEN 'ok' THEN NEW.completed_ns IS NOT NULL AND NEW.state = 'done'
            WHEN 'failed' THEN NEW.completed_ns IS NOT NULL AND NEW.state <> 'done'
            ELSE 0 END;
        UPDATE OR REPLACE deps SET how = 'never' WHERE on_seq = NEW.seq AND NEW.completed_ns IS NOT NULL;
        DELETE FROM deps WHERE seq = NEW.seq AND NEW.completed_ns IS NOT NULL;
        DELETE FROM later WHERE seq = NEW.seq AND NEW.completed_ns IS NOT NULL;
    END;
    CREATE TRIGGER IF NOT EXISTS later_gone AFTER DELETE ON jobs
    WHEN EXISTS (SELECT 1 FROM deps WHERE on_seq = OLD.seq) OR EXISTS (SELECT 1 FROM later WHERE seq = OLD.seq)
    BEGIN
        INSERT OR IGNORE INTO times SELECT '', 0, seq FROM deps WHERE on_seq = OLD.seq;
        UPDATE OR REPLACE deps SET how = 'never' WHERE on_seq = OLD.seq;
        DELETE FROM deps WHERE seq = OLD.seq;
        DELETE FROM later WHERE seq = OLD.seq;
    END;
"""

_NEVER: Final = "never"
"""``deps.how`` of a dependency that can no longer hold."""
# Each part is a range of the primary key.
_DUE: Final = """
    SELECT * FROM times WHERE clock = '' AND at_ns <= :wall_ns
    UNION ALL SELECT * FROM times WHERE clock = :boot AND at_ns <= :boot_ns
    UNION ALL SELECT * FROM times WHERE clock > '' AND clock < :boot
    UNION ALL SELECT * FROM times WHERE clock > :boot
    LIMIT :most"""
_OTHER_BOOT: Final = """
    SELECT 1 FROM times WHERE clock > '' AND clock < :boot
    UNION ALL SELECT 1 FROM times WHERE clock > :boot LIMIT 1"""


class Later:
    """The jobs that are not ready. Every method runs within a transaction of the caller.

    Args:
        connection: to the index.
    """

    __slots__ = ("_db",)

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Work on this connection."""
        self._db = connection

    def enter(self, seq: int, order: tuple[int, int, int], ticket: Ticket, now: Moment) -> None:
        """Insert a job, with its (lane, rank, weight); the next review looks at it."""
        values = (seq, *order, ticket.hold)
        self._db.execute("INSERT OR IGNORE INTO later (seq, lane, rank, weight, held) VALUES (?, ?, ?, ?, ?)", values)
        for job_id, how in ticket.after:
            self._depend(seq, job_id, how)
        self._look_again(seq, ticket, now)
        self._look_at(seq, WALL, 0)

    def _depend(self, seq: int, job_id: str, how: str) -> None:
        """Enter a dependency, unless it holds already."""
        statement = "SELECT seq, state, started_ns, completed_ns FROM jobs WHERE job_id = ?"
        on_seq, state, started_ns, completed_ns = self._db.execute(statement, (job_id,)).fetchone() or (0, "", None, 0)
        held = on_seq > 0 and holds(how, state, started=started_ns is not None, ended=completed_ns is not None)
        if held:
            return
        if held is False:
            how = _NEVER
        self._db.execute("INSERT OR IGNORE INTO deps VALUES (?, ?, ?, ?)", (on_seq, seq, how, job_id))

    def note_expiry(self, seq: int, ticket: Ticket, now: Moment) -> None:
        """Have a job looked at when it is too late to launch it."""
        expiry = ticket.expiry(now)
        if expiry is not None:
            self._look_at(seq, *expiry)

    def _look_at(self, seq: int, clock: str, at_ns: int) -> None:
        self._db.execute("INSERT OR IGNORE INTO times VALUES (?, ?, ?)", (clock, at_ns, seq))

    def ready(self, seq: int) -> None:
        """Move a job to ``waiting``."""
        self._db.execute(
            "INSERT OR IGNORE INTO waiting (lane, rank, seq, weight) SELECT lane, rank, seq, weight FROM later"
            " WHERE seq = ?",
            (seq,),
        )
        self._db.execute("DELETE FROM later WHERE seq = ?", (seq,))
        self._db.execute("DELETE FROM deps WHERE seq = ?", (seq,))

    def change(self, seq: int, rank: int, *, hold: bool, now: Moment) -> None:
        """Give a job that is not ready a rank, and hold or release it; it may be ready then."""
        self._db.execute("UPDATE later SET rank = ?, held = ? WHERE seq = ?", (rank, hold, seq))
        self._review(seq, now)

    def put_back(self, seq: int) -> None:
        """Take a job from ``waiting``: it is not ready any more."""
        self._db.execute(
            "INSERT OR IGNORE INTO later (seq, lane, rank, weight, held) SELECT seq, lane, rank, weight, 0 FROM waiting"
            " WHERE seq = ?",
            (seq,),
        )
        self._db.execute("DELETE FROM waiting WHERE seq = ?", (seq,))

    def review(self, now: Moment, most: int) -> int:
        """Look at jobs whose time has come or whose dependencies have changed; return how many, at most ``most``.

        A time by the boot clock of another boot has come: what the job still waits for is entered by the wall clock.
        """
        due = self._db.execute(_DUE, {**now._asdict(), "most": most}).fetchall()
        for each in due:
            self._db.execute("DELETE FROM times WHERE clock = ? AND at_ns = ? AND seq = ?", each)
        for seq in dict.fromkeys(seq for _, _, seq in due):
            self._review(seq, now)
        return len(due)

    def _review(self, seq: int, now: Moment) -> None:
        found = self._db.execute(
            "SELECT spec, later.held, why FROM jobs LEFT JOIN later USING (seq) LEFT JOIN waiting USING (seq)"
            " WHERE jobs.seq = ? AND coalesce(later.seq, waiting.seq) IS NOT NULL",
            (seq,),
        ).fetchone()
        if found is None:  # it was launched, or has ended
            return
        spec, held, why = found
        ticket = ticket_of(json.loads(spec)) or Ticket()
        never = self._db.execute("SELECT cause FROM deps WHERE seq = ? AND how = ?", (seq, _NEVER)).fetchone()
        if why is not None:
            pass
        elif never is not None:
            self._end(seq, "dependency_failed", never[0])
        elif ticket.has_expired(now):
            self._end(seq, "start_expired", "start_within")
        elif held == 0 and ticket.is_due(now) and not self._depends(seq):
            self.ready(seq)
        else:
            self._look_again(seq, ticket, now)

    def _depends(self, seq: int) -> bool:
        return self._db.execute("SELECT 1 FROM deps WHERE seq = ? LIMIT 1", (seq,)).fetchone() is not None

    def _look_again(self, seq: int, ticket: Ticket, now: Moment) -> None:
        """Enter the times of a job that are to come: the clock was set back, or this is another boot."""
        for clock, at_ns in ticket.due(now):
            if at_ns > (now.by(clock) or 0):
                self._look_at(seq, clock, at_ns)
        self.note_expiry(seq, ticket, now)

    def _end(self, seq: int, why: str, cause: str) -> None:
        """Mark a job that is to end without a launch; it is not admitted any more."""
        self.put_back(seq)
        self._db.execute("UPDATE later SET why = ?, cause = ? WHERE seq = ?", (why, cause, seq))

    def ends(self, most: int) -> list[tuple[str, str, str]]:
        """Return (job id, reason, cause) of jobs that are to end without a launch."""
        statement = "SELECT job_id, why, cause FROM later JOIN jobs USING (seq) WHERE why IS NOT NULL LIMIT ?"
        return self._db.execute(statement, (most,)).fetchall()

    def is_due(self, now: Moment) -> bool:
        """Whether a review has something to look at, or a job is to end."""
        seconds = self.next_seconds(now)
        if seconds is not None and seconds <= 0:
            return True
        return self._db.execute("SELECT 1 FROM later WHERE why IS NOT NULL LIMIT 1").fetchone() is not None

    def next_seconds(self, now: Moment) -> float | None:
        """Return after how many seconds the next review is due; ``None`` if no job waits for a time."""
        if self._db.execute(_OTHER_BOOT, now._asdict()).fetchone() is not None:
            return 0.0
        first = "SELECT min(at_ns) FROM times WHERE clock = ?"
        times = [(self._db.execute(first, (clock,)).fetchone()[0], clock) for clock in {WALL, now.boot}]
        waits = [(at_ns - (now.by(clock) or 0)) / 1e9 for at_ns, clock in times if at_ns is not None]
        return min(waits, default=None)

    def can_go_on(self) -> bool:
        """Whether a job will be ready, or is to end, without another command."""
        return self._db.execute("SELECT 1 FROM later WHERE held = 0 OR why IS NOT NULL LIMIT 1").fetchone() is not None

    def reason(self, job_id: str) -> str | None:
        """Return why a job is not ready; ``None`` for a job that is not here."""
        found = self._db.execute(
            "SELECT later.held, EXISTS (SELECT 1 FROM deps WHERE deps.seq = later.seq) FROM later JOIN jobs USING (seq)"
            " WHERE job_id = ?",
            (job_id,),
        ).fetchone()
        if found is None:
            return None
        held, depends = found
        return "held" if held else "dependency" if depends else "not_before"
