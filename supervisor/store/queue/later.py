"""The jobs in the index that are not ready to be admitted: on hold, before their time, or after other jobs.

A job that becomes ready moves to ``waiting``. So admission compares only jobs that may run. A job that can never be
ready, or is not launched in time, is marked with the reason; the caller of the turn ends it.

``times`` says when to look at a job again. A trigger enters a job on which others depend, with the time -1, in the
transaction that changes its row: so no change is missed, whichever version makes it. The next reviews look at its
dependents in portions, as there may be thousands.

A dependency that holds stays in ``deps`` until the dependent has its slots: as long as it is there, the job that it is
about is not forgotten. A rebuilt index looks the dependency up again, so the job that it names must still be there.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from supervisor.store.queue.ranks import set_rank
from supervisor.store.tickets import CONDITIONS, WALL, Moment, Ticket, holds, ticket_of

__all__ = ["SCHEMA", "Later", "Obstacle"]

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
        how TEXT NOT NULL,
        seq INTEGER NOT NULL,
        cause TEXT NOT NULL,
        PRIMARY KEY (on_seq, how, seq)
    ) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS deps_seq ON deps (seq);
    CREATE INDEX IF NOT EXISTS later_ends ON later (seq) WHERE why IS NOT NULL;
    CREATE TRIGGER IF NOT EXISTS later_changed AFTER UPDATE OF state ON jobs
    WHEN EXISTS (SELECT 1 FROM deps) OR EXISTS (SELECT 1 FROM later WHERE seq = NEW.seq)
    BEGIN
        INSERT OR IGNORE INTO times SELECT '', -1, NEW.seq WHERE EXISTS (SELECT 1 FROM deps WHERE on_seq = NEW.seq);
        DELETE FROM deps WHERE seq = NEW.seq AND NEW.completed_ns IS NOT NULL;
        DELETE FROM later WHERE seq = NEW.seq AND NEW.completed_ns IS NOT NULL;
    END;
    CREATE TRIGGER IF NOT EXISTS later_gone AFTER DELETE ON jobs
    WHEN EXISTS (SELECT 1 FROM deps) OR EXISTS (SELECT 1 FROM later WHERE seq = OLD.seq)
    BEGIN
        DELETE FROM deps WHERE on_seq = OLD.seq AND how = 'met';
        INSERT OR IGNORE INTO times SELECT '', 0, seq FROM deps WHERE on_seq = OLD.seq;
        UPDATE OR REPLACE deps SET how = 'never' WHERE on_seq = OLD.seq;
        DELETE FROM deps WHERE seq = OLD.seq;
        DELETE FROM later WHERE seq = OLD.seq;
    END;
"""

_NEVER: Final = "never"
"""``deps.how`` of a dependency that can no longer hold."""
_MET: Final = "met"
"""``deps.how`` of a dependency that holds."""
_CHANGED_NS: Final = -1
"""``times.at_ns`` of a job on which others depend, and whose row has changed."""
_MAX_NAMED: Final = 10
_MAX_OBSTACLES: Final = 1000
# Each part is a range of the primary key.
_DUE: Final = """
    SELECT * FROM times WHERE clock = '' AND at_ns <= :wall_ns
    UNION ALL SELECT * FROM times WHERE clock = :boot AND at_ns <= :boot_ns
    UNION ALL SELECT * FROM times WHERE clock > '' AND clock < :boot
    UNION ALL SELECT * FROM times WHERE clock > :boot
    LIMIT :most"""
# A time is to come, a job is to end, or one is neither on hold nor behind a job that is, or that is in a closed lane.
_GOES_ON: Final = """
    WITH RECURSIVE stuck (seq) AS (
        SELECT seq FROM later WHERE held = 1
        UNION SELECT seq FROM waiting WHERE lane IN (SELECT value FROM json_each(:closed))
        UNION SELECT deps.seq FROM deps JOIN stuck ON on_seq = stuck.seq WHERE how NOT IN ('met', 'never')
    )
    SELECT 1 FROM times WHERE clock = '' AND at_ns < 0
    UNION ALL SELECT 1 FROM times JOIN later USING (seq)
    UNION ALL SELECT 1 FROM later WHERE why IS NOT NULL
    UNION ALL SELECT 1 FROM later WHERE held = 0 AND seq NOT IN stuck LIMIT 1"""
_OTHER_BOOT: Final = """
    SELECT 1 FROM times WHERE clock > '' AND clock < :boot
    UNION ALL SELECT 1 FROM times WHERE clock > :boot LIMIT 1"""


class Obstacle(NamedTuple):
    """One of the reasons why a job is not launched.

    Attributes:
        reason: as in ``queue_reason``.
        names: of the groups, or of the jobs that it waits for.
        until_ns: when it ends, by the wall clock, where that is known.
    """

    reason: str
    names: tuple[str, ...] = ()
    until_ns: int | None = None


class _Standing(NamedTuple):
    seq: int
    state: str
    started_ns: int | None
    completed_ns: int | None
    outcome: str | None


class Later:
    """The jobs that are not ready. Every method runs within a transaction of the caller.

    Args:
        connection: to the index.
        obstacles: returns why a job is not launched, whether or not it is ready.
        rank: returns the rank of a job that is ready now.
    """

    __slots__ = ("_db", "_obstacles", "_rank")

    def __init__(
        self,
        connection: sqlite3.Connection,
        obstacles: Callable[[int, Moment], Sequence[Obstacle]],
        rank: Callable[[int, Ticket, Moment], int],
    ) -> None:
        """Work on this connection."""
        self._db = connection
        self._obstacles = obstacles
        self._rank = rank

    def enter(self, seq: int, order: tuple[int, int, int], ticket: Ticket, now: Moment) -> None:
        """Insert a job, with its (lane, rank, weight); the next review looks at it."""
        values = (seq, *order, ticket.hold)
        self._db.execute("INSERT OR IGNORE INTO later (seq, lane, rank, weight, held) VALUES (?, ?, ?, ?, ?)", values)
        for job_id, how in ticket.after:
            self._depend(seq, job_id, how)
        self._look_again(seq, ticket, now)
        self._look_at(seq, WALL, 0)

    def _depend(self, seq: int, job_id: str, how: str) -> None:
        """Enter a dependency as it stands; on a series, one on its last attempt."""
        _, found = self._deciding(job_id, how)
        on_seq, now = (0, _NEVER) if found is None else (found.seq, _standing(how, *found[1:4]))
        self._db.execute("INSERT OR IGNORE INTO deps VALUES (?, ?, ?, ?)", (on_seq, now, seq, job_id))

    def _deciding(self, job_id: str, how: str | None) -> tuple[str, _Standing | None]:
        """Return the job that decides a dependency: of a series its last attempt, or the one that was launched."""
        statement = "SELECT seq, state, started_ns, completed_ns, outcome FROM jobs WHERE job_id = ?"
        while True:
            columns = self._db.execute(statement, (job_id,)).fetchone()
            if columns is None:
                return job_id, None
            found = _Standing(*columns)
            following = None if found.outcome is None else json.loads(found.outcome).get("retried_by")
            if following is None or (how == "start" and found.started_ns is not None):
                return job_id, found
            job_id = following

    def depend_on_next(self, seq: int, next_seq: int, *, launched: bool) -> None:
        """Move the dependencies on an attempt to the next one, before the first has ended."""
        self._db.execute(
            "UPDATE OR REPLACE deps SET on_seq = ? WHERE on_seq = ? AND how NOT IN (?, ?, ?)",
            (next_seq, seq, _MET, _NEVER, "start" if launched else _MET),
        )

    def note_expiry(self, seq: int, ticket: Ticket, now: Moment) -> None:
        """Have a job looked at when it is too late to launch it."""
        expiry = ticket.expiry(now)
        if expiry is not None:
            self._look_at(seq, *expiry)

    def _look_at(self, seq: int, clock: str, at_ns: int) -> None:
        self._db.execute("INSERT OR IGNORE INTO times VALUES (?, ?, ?)", (clock, at_ns, seq))

    def ready(self, seq: int) -> None:
        """Move a job to ``waiting``; what it has waited for is kept until it has its slots."""
        self._db.execute(
            "INSERT OR IGNORE INTO waiting (lane, rank, seq, weight) SELECT lane, rank, seq, weight FROM later"
            " WHERE seq = ?",
            (seq,),
        )
        self._db.execute("DELETE FROM later WHERE seq = ?", (seq,))

    def admitted(self, seq: int) -> None:
        """Forget what a job that has its slots has waited for."""
        self._db.execute("DELETE FROM deps WHERE seq = ?", (seq,))

    def were_met(self, seq: int, ticket: Ticket) -> None:
        """Note that the dependencies of a job did hold, as it was admitted once: it does not wait for them again."""
        self.admitted(seq)
        note = "INSERT OR IGNORE INTO deps SELECT seq, ?, ?, job_id FROM jobs WHERE job_id = ?"
        self._db.executemany(note, [(_MET, seq, job_id) for job_id, _ in ticket.after])

    def is_awaited(self, seq: int) -> bool:
        """Whether a job that has no slots yet depends on this one."""
        return self._db.execute("SELECT 1 FROM deps WHERE on_seq = ? LIMIT 1", (seq,)).fetchone() is not None

    def awaiting(self, seq: int, most: int) -> list[str]:
        """Return the ids of up to ``most`` jobs that have no slots yet and depend on this one."""
        statement = "SELECT DISTINCT job_id FROM deps JOIN jobs USING (seq) WHERE on_seq = ? LIMIT ?"
        return [job_id for (job_id,) in self._db.execute(statement, (seq, most))]

    def change(self, seq: int, lane: int, rank: int, *, hold: bool, now: Moment) -> None:
        """Give a job that is not ready a place, and hold or release it; it may be ready then."""
        self._db.execute("UPDATE later SET lane = ?, rank = ?, held = ? WHERE seq = ?", (lane, rank, hold, seq))
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
        """Look at jobs whose time has come or whose dependencies have changed; return how many, about ``most``.

        A time by the boot clock of another boot has come: what the job still waits for is entered by the wall clock.
        """
        due = self._db.execute(_DUE, {**now._asdict(), "most": most}).fetchall()
        for each in due:
            self._db.execute("DELETE FROM times WHERE clock = ? AND at_ns = ? AND seq = ?", each)
        seqs: dict[int, None] = {}
        for clock, at_ns, seq in due:
            if (clock, at_ns) != (WALL, _CHANGED_NS):
                seqs[seq] = None
            elif len(seqs) >= most:
                self._look_at(seq, WALL, _CHANGED_NS)
            else:
                seqs |= dict.fromkeys(self._follow(seq, most))
        for seq in seqs:
            self._review(seq, now)
        return max(len(due), len(seqs))

    def _follow(self, on_seq: int, most: int) -> list[int]:
        """Follow a change of a job in up to ``most`` dependencies on it; return the dependents."""
        facts = self._db.execute("SELECT state, started_ns, completed_ns FROM jobs WHERE seq = ?", (on_seq,)).fetchone()
        if facts is None:  # the trigger has seen to that
            return []
        changed: list[int] = []
        for how in CONDITIONS:
            now = _standing(how, *facts)
            if now != how:
                statement = "SELECT seq FROM deps WHERE on_seq = ? AND how = ? LIMIT ?"
                found = self._db.execute(statement, (on_seq, how, most - len(changed))).fetchall()
                for (seq,) in found:
                    change = "UPDATE OR REPLACE deps SET how = ? WHERE on_seq = ? AND how = ? AND seq = ?"
                    self._db.execute(change, (now, on_seq, how, seq))
                    changed.append(seq)
        if len(changed) >= most:
            self._look_at(on_seq, WALL, _CHANGED_NS)
        return changed

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
            self._end(seq, "dependency_failed", self._failure(ticket, never[0]))
        elif ticket.has_expired(now):
            first = next(iter(self._obstacles(seq, now)), Obstacle("launching"))
            waited = {"start_within_ns": ticket.start_within_ns, "waited_ns": now.wall_ns - ticket.created.wall_ns}
            cause = {**waited, "queue_reason": first.reason, "names": first.names[:_MAX_NAMED]}
            self._end(seq, "start_expired", cause)
        elif held == 0 and ticket.is_due(now) and not self._depends(seq):
            self.ready(seq)
            set_rank(self._db, seq, self._rank(seq, ticket, now))
        else:
            self._look_again(seq, ticket, now)

    def _failure(self, ticket: Ticket, job_id: str) -> dict[str, Any]:
        """Return the dependency of a job that can no longer hold, and how the job that it is about has ended."""
        wanted = [how for each, how in ticket.after if each == job_id]
        job_id, found = self._deciding(job_id, None)
        if found is None:
            return {"job_id": job_id, "when": next(iter(wanted), None), "status": None, "reason": None}
        failed = [how for how in wanted if _standing(how, *found[1:4]) == _NEVER]
        reason = None if found.outcome is None else json.loads(found.outcome)["reason"]
        return {"job_id": job_id, "when": next(iter(failed or wanted), None), "status": found.state, "reason": reason}

    def _depends(self, seq: int) -> bool:
        statement = "SELECT 1 FROM deps WHERE seq = ? AND how <> ? LIMIT 1"
        return self._db.execute(statement, (seq, _MET)).fetchone() is not None

    def _look_again(self, seq: int, ticket: Ticket, now: Moment) -> None:
        """Enter the times of a job that are to come: the clock was set back, or this is another boot."""
        for clock, at_ns in ticket.due(now):
            if at_ns > (now.by(clock) or 0):
                self._look_at(seq, clock, at_ns)
        self.note_expiry(seq, ticket, now)

    def _end(self, seq: int, why: str, cause: dict[str, Any]) -> None:
        """Mark a job that is to end without a launch; it is not admitted any more."""
        self.put_back(seq)
        self._db.execute("UPDATE later SET why = ?, cause = ? WHERE seq = ?", (why, json.dumps(cause), seq))

    def end_all(self, lane: int, why: str, cause: dict[str, Any]) -> None:
        """Mark all jobs of a lane that have no slots to end without a launch."""
        self._db.execute(
            "INSERT OR IGNORE INTO later (seq, lane, rank, weight, held) SELECT seq, lane, rank, weight, 0 FROM waiting"
            " WHERE lane = ?",
            (lane,),
        )
        self._db.execute("DELETE FROM waiting WHERE lane = ?", (lane,))
        self._db.execute(
            "UPDATE later SET why = ?, cause = ? WHERE lane = ? AND why IS NULL", (why, json.dumps(cause), lane)
        )

    def ends(self, most: int) -> list[tuple[str, str, str]]:
        """Return (job id, reason, cause) of jobs that are to end without a launch."""
        statement = "SELECT job_id, why, cause FROM later JOIN jobs USING (seq) WHERE why IS NOT NULL LIMIT ?"
        return self._db.execute(statement, (most,)).fetchall()

    def end_of(self, job_id: str) -> tuple[str, str, str] | None:
        """Return (job id, reason, cause) of a job if it is to end without a launch."""
        statement = "SELECT job_id, why, cause FROM jobs JOIN later USING (seq) WHERE job_id = ? AND why IS NOT NULL"
        found: tuple[str, str, str] | None = self._db.execute(statement, (job_id,)).fetchone()
        return found

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

    def can_go_on(self, closed: Sequence[int]) -> bool:
        """Whether a job will be ready, or is to end, without another command; nothing is admitted in ``closed`` lanes.

        One on hold has a time only if it ends then, or if its dependencies were not looked at yet.
        """
        if self._db.execute("SELECT 1 FROM later LIMIT 1").fetchone() is None:
            return False
        return self._db.execute(_GOES_ON, {"closed": json.dumps(closed)}).fetchone() is not None

    def reason(self, job_id: str) -> str | None:
        """Return why a job is not ready; ``None`` for a job that is not here."""
        found = self._db.execute(
            """SELECT later.held, EXISTS (SELECT 1 FROM deps WHERE deps.seq = later.seq AND how <> 'met'),
            spec LIKE '%"retry_of":"%' FROM later JOIN jobs USING (seq) WHERE job_id = ?""",
            (job_id,),
        ).fetchone()
        if found is None:
            return None
        held, depends, again = found
        return "held" if held else "dependency" if depends else "retry" if again else "not_before"

    def obstacles(self, seq: int, now: Moment) -> list[Obstacle]:
        """Return all that keeps a job from being ready, nothing for a job that is not here."""
        statement = "SELECT spec, later.held FROM later JOIN jobs USING (seq) WHERE seq = ?"
        spec, held = self._db.execute(statement, (seq,)).fetchone() or (None, 0)
        if spec is None:
            return []
        found = [Obstacle("held")] if held else []
        statement = "SELECT DISTINCT cause FROM deps WHERE seq = ? AND how <> ? ORDER BY on_seq LIMIT ?"
        jobs = tuple(job_id for (job_id,) in self._db.execute(statement, (seq, _MET, _MAX_OBSTACLES)))
        if jobs:
            found.append(Obstacle("dependency", jobs))
        left_ns = [at_ns - (now.by(clock) or 0) for clock, at_ns in (ticket_of(json.loads(spec)) or Ticket()).due(now)]
        if max(left_ns, default=0) > 0:
            reason = "retry" if "retry_of" in json.loads(spec) else "not_before"
            found.append(Obstacle(reason, until_ns=now.wall_ns + max(left_ns)))
        return found


def _standing(how: str, state: str, started_ns: int | None, completed_ns: int | None) -> str:
    """Return a condition on a job that is in this state: itself, or that it holds, or can no longer hold."""
    held = holds(how, state, started=started_ns is not None, ended=completed_ns is not None)
    return how if held is None else _MET if held else _NEVER
