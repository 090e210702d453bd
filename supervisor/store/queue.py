"""The waiting jobs in the index: which groups they are in, their order, and the slots that admitted jobs hold.

Admission is one transaction, and any process that causes a change runs it: SQLite's single writer decides every race.
A **lane** is one distinct set of groups. Its waiting jobs are admitted by rank, and only while each of its groups has
room, so a heavy job at the head blocks its lane and is never starved.

A slot belongs to a job, not to a process. Triggers free it in the transaction in which the row of the job ends or
goes, and they count the slots and the waiting jobs. So the counters cannot differ from the rows, whichever version
writes a row and whatever process is killed.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

__all__ = ["SCHEMA", "Counts", "Grant", "Place", "Queue", "Ticket", "ticket_of"]

SCHEMA: Final = """
    CREATE TABLE IF NOT EXISTS groups (
        name TEXT PRIMARY KEY,
        most INTEGER,
        paused_until_ns INTEGER NOT NULL DEFAULT 0,
        aging_ns INTEGER NOT NULL,
        running INTEGER NOT NULL DEFAULT 0
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS lanes (
        lane INTEGER PRIMARY KEY,
        names TEXT NOT NULL UNIQUE,
        waiting INTEGER NOT NULL DEFAULT 0
    );
    CREATE INDEX IF NOT EXISTS lanes_waiting ON lanes (lane) WHERE waiting > 0;
    CREATE TABLE IF NOT EXISTS members (
        name TEXT NOT NULL,
        lane INTEGER NOT NULL,
        PRIMARY KEY (name, lane)
    ) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS members_lane ON members (lane);
    CREATE TABLE IF NOT EXISTS waiting (
        seq INTEGER PRIMARY KEY,
        lane INTEGER NOT NULL,
        rank INTEGER NOT NULL,
        weight INTEGER NOT NULL
    );
    CREATE INDEX IF NOT EXISTS waiting_order ON waiting (lane, rank, seq);
    CREATE INDEX IF NOT EXISTS waiting_age ON waiting (lane);
    CREATE TABLE IF NOT EXISTS held (
        seq INTEGER PRIMARY KEY,
        lane INTEGER NOT NULL,
        weight INTEGER NOT NULL
    );
    CREATE TRIGGER IF NOT EXISTS waiting_begins AFTER INSERT ON waiting
    BEGIN
        UPDATE lanes SET waiting = waiting + 1 WHERE lane = NEW.lane;
    END;
    CREATE TRIGGER IF NOT EXISTS waiting_ends AFTER DELETE ON waiting
    BEGIN
        UPDATE lanes SET waiting = waiting - 1 WHERE lane = OLD.lane;
    END;
    CREATE TRIGGER IF NOT EXISTS slot_taken AFTER INSERT ON held
    BEGIN
        UPDATE groups SET running = running + NEW.weight
            WHERE name IN (SELECT name FROM members WHERE lane = NEW.lane);
    END;
    CREATE TRIGGER IF NOT EXISTS slot_freed AFTER DELETE ON held
    BEGIN
        UPDATE groups SET running = running - OLD.weight
            WHERE name IN (SELECT name FROM members WHERE lane = OLD.lane);
    END;
    CREATE TRIGGER IF NOT EXISTS admission_ended AFTER UPDATE OF completed_ns ON jobs
    WHEN NEW.completed_ns IS NOT NULL AND OLD.completed_ns IS NULL
    BEGIN
        DELETE FROM waiting WHERE seq = NEW.seq;
        DELETE FROM held WHERE seq = NEW.seq;
    END;
    CREATE TRIGGER IF NOT EXISTS admission_gone AFTER DELETE ON jobs
    BEGIN
        DELETE FROM waiting WHERE seq = OLD.seq;
        DELETE FROM held WHERE seq = OLD.seq;
    END;
"""

FOR_EVER_NS: Final = 2**63 - 1
"""``paused_until_ns`` of a group that is paused until it is resumed."""


class Ticket(NamedTuple):
    """What a request says about its admission: its groups, sorted; its priority; the slots that it takes of each."""

    groups: tuple[str, ...]
    priority: int
    weight: int


class Grant(NamedTuple):
    """A job that was admitted, and the supervisor that is to launch it."""

    job_id: str
    owner: str
    workspace_key: str


class Place(NamedTuple):
    """Where a waiting job stands.

    Attributes:
        position: 1 is the next of its lane.
        closed: the groups that have no room for it, each with whether it is paused.
    """

    position: int
    closed: tuple[tuple[str, bool], ...]


class Counts(NamedTuple):
    """What a group has at one moment.

    Attributes:
        running: the weights of the jobs that hold a slot, summed.
        waiting: how many jobs wait in any lane of it.
        oldest_ns: when the oldest of them was created, by the wall clock; ``None`` for no job.
    """

    running: int
    waiting: int
    oldest_ns: int | None


def ticket_of(request: Mapping[str, Any]) -> Ticket | None:
    """Return what ``job.json`` says about admission, ``None`` for a job in no group."""
    groups = request.get("groups")
    if not groups:
        return None
    return Ticket(tuple(sorted(set(groups))), request.get("priority", 0), request.get("weight", 1))


class Queue:
    """The queue in one index. Every method runs within a transaction of the caller.

    Args:
        connection: to the index.
    """

    __slots__ = ("_db",)

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Work on this connection."""
        self._db = connection

    # ------------------------------------------------------------ groups

    def set_group(self, name: str, *, limit: int | None, paused_until_ns: int, aging_ns: int) -> None:
        """Enter a group, or change it; what it runs now is not touched."""
        self._db.execute(
            """INSERT INTO groups (name, most, paused_until_ns, aging_ns) VALUES (?, ?, ?, ?)
               ON CONFLICT (name) DO UPDATE SET most = excluded.most, paused_until_ns = excluded.paused_until_ns,
               aging_ns = excluded.aging_ns""",
            (name, limit, paused_until_ns, aging_ns),
        )

    def remove_group(self, name: str) -> None:
        """Remove a group that no unfinished job is in."""
        self._db.execute("DELETE FROM groups WHERE name = ?", (name,))
        self._db.execute(
            """DELETE FROM lanes WHERE lane IN (SELECT lane FROM members WHERE name = ?)
               AND NOT EXISTS (SELECT 1 FROM waiting WHERE waiting.lane = lanes.lane)
               AND NOT EXISTS (SELECT 1 FROM held WHERE held.lane = lanes.lane)""",
            (name,),
        )
        self._db.execute("DELETE FROM members WHERE lane NOT IN (SELECT lane FROM lanes)")

    def groups(self) -> set[str]:
        """Return the names of all groups."""
        return {name for (name,) in self._db.execute("SELECT name FROM groups")}

    def counts(self, name: str) -> Counts:
        """Return what a group runs and has waiting; zeros for an unknown one."""
        found = self._db.execute("SELECT running FROM groups WHERE name = ?", (name,)).fetchone()
        waiting = self._db.execute(
            "SELECT coalesce(sum(waiting), 0) FROM lanes JOIN members USING (lane) WHERE name = ?", (name,)
        ).fetchone()[0]
        oldest = None
        if waiting:
            oldest = self._db.execute(
                """SELECT min(created_ns) FROM jobs WHERE seq IN
                   (SELECT (SELECT min(seq) FROM waiting WHERE waiting.lane = members.lane) FROM members WHERE name = ?)
                """,
                (name,),
            ).fetchone()[0]
        return Counts(found[0] if found else 0, waiting, oldest)

    def heaviest(self, name: str) -> int:
        """Return the largest weight that waits in a group, 0 for none."""
        statement = "SELECT coalesce(max(weight), 0) FROM waiting JOIN members USING (lane) WHERE name = ?"
        return int(self._db.execute(statement, (name,)).fetchone()[0])

    # ------------------------------------------------------------ jobs

    def enter(self, seq: int, created_ns: int, ticket: Ticket) -> None:
        """Have a job wait. Its rank is fixed now: a point of priority is worth the aging time of its groups."""
        lane = self._lane(ticket.groups)
        marks = ", ".join("?" * len(ticket.groups))
        aging = self._db.execute(
            f"SELECT max(aging_ns) FROM groups WHERE name IN ({marks})",  # noqa: S608  # question marks
            ticket.groups,
        ).fetchone()[0]
        rank = created_ns - ticket.priority * (aging or 0)
        self._db.execute("INSERT OR IGNORE INTO waiting VALUES (?, ?, ?, ?)", (seq, lane, rank, ticket.weight))

    def _lane(self, groups: Sequence[str]) -> int:
        names = json.dumps(groups)
        found = self._db.execute("SELECT lane FROM lanes WHERE names = ?", (names,)).fetchone()
        if found is not None:
            return int(found[0])
        lane = self._db.execute("INSERT INTO lanes (names) VALUES (?)", (names,)).lastrowid or 0
        self._db.executemany("INSERT INTO members (name, lane) VALUES (?, ?)", [(name, lane) for name in groups])
        return lane

    def hold(self, seq: int) -> None:
        """Give a waiting job its slots, whatever room there is: it has been launched, or is to be."""
        found = self._db.execute("SELECT lane, weight FROM waiting WHERE seq = ?", (seq,)).fetchone()
        if found is not None:
            self._db.execute("DELETE FROM waiting WHERE seq = ?", (seq,))
            self._db.execute("INSERT INTO held VALUES (?, ?, ?)", (seq, *found))

    def waits(self, job_id: str) -> bool:
        """Whether a job waits to be admitted."""
        statement = "SELECT 1 FROM jobs JOIN waiting USING (seq) WHERE job_id = ?"
        return self._db.execute(statement, (job_id,)).fetchone() is not None

    def holds(self, job_id: str) -> bool:
        """Whether a job holds its slots."""
        statement = "SELECT 1 FROM jobs JOIN held USING (seq) WHERE job_id = ?"
        return self._db.execute(statement, (job_id,)).fetchone() is not None

    def admit(self, now_ns: int, most: int = 64) -> list[Grant]:
        """Give free slots to waiting jobs, by rank over all lanes; return up to ``most`` jobs that got theirs.

        A lane whose first job does not fit is passed over until one of its groups has room again.
        """
        lanes = [lane for (lane,) in self._db.execute("SELECT lane FROM lanes WHERE waiting > 0")]
        if not lanes:
            return []
        heads = {lane: head for lane in lanes if (head := self._head(lane)) is not None}
        granted: list[Grant] = []
        while heads and len(granted) < most:
            lane = min(heads, key=lambda each: heads[each][:2])
            _, seq, weight = heads[lane]
            room = self._room(lane, now_ns)
            if room is not None and room < weight:
                del heads[lane]
                continue
            self.hold(seq)
            job = self._db.execute("SELECT job_id, owner, workspace_key FROM jobs WHERE seq = ?", (seq,)).fetchone()
            granted.append(Grant(*job))
            head = self._head(lane)
            if head is None:
                del heads[lane]
            else:
                heads[lane] = head
        return granted

    def in_use(self) -> bool:
        """Whether any job waits or holds slots."""
        statement = "SELECT EXISTS (SELECT 1 FROM held) OR EXISTS (SELECT 1 FROM waiting)"
        return bool(self._db.execute(statement).fetchone()[0])

    def any_waits(self) -> bool:
        """Whether any job waits to be admitted."""
        return self._db.execute("SELECT 1 FROM lanes WHERE waiting > 0 LIMIT 1").fetchone() is not None

    def _head(self, lane: int) -> tuple[int, int, int] | None:
        """Return (rank, seq, weight) of the next job of a lane."""
        statement = "SELECT rank, seq, weight FROM waiting WHERE lane = ? ORDER BY rank, seq LIMIT 1"
        found: tuple[int, int, int] | None = self._db.execute(statement, (lane,)).fetchone()
        return found

    def _room(self, lane: int, now_ns: int) -> int | None:
        """Return how many slots every group of a lane has; ``None`` for any number, below 1 for a pause."""
        room: int | None = None
        found = 0
        for most, running, until_ns in self._db.execute(
            "SELECT most, running, paused_until_ns FROM groups JOIN members USING (name) WHERE lane = ?", (lane,)
        ):
            found += 1
            if until_ns > now_ns:
                return 0
            if most is not None:
                room = most - running if room is None else min(room, most - running)
        return room if found else 0  # a lane whose groups are not known admits none

    def place(self, job_id: str, now_ns: int) -> Place | None:
        """Return where a waiting job stands, ``None`` for a job that does not wait."""
        found = self._db.execute(
            "SELECT seq, lane, rank, weight FROM jobs JOIN waiting USING (seq) WHERE job_id = ?", (job_id,)
        ).fetchone()
        if found is None:
            return None
        seq, lane, rank, weight = found
        ahead = self._db.execute(
            "SELECT count(*) FROM waiting WHERE lane = ? AND (rank, seq) < (?, ?)", (lane, rank, seq)
        ).fetchone()[0]
        groups = self._db.execute(
            "SELECT name, most - running, paused_until_ns FROM groups JOIN members USING (name) WHERE lane = ?", (lane,)
        )
        closed = tuple(
            (name, until_ns > now_ns)
            for name, room, until_ns in groups
            if until_ns > now_ns or (room is not None and room < weight)
        )
        return Place(ahead + 1, closed)

    def standing(self, job_id: str, now_ns: int) -> tuple[str | None, int | None]:
        """Return (``queue_reason``, ``queue_position``) of a job in groups that has not been launched."""
        place = self.place(job_id, now_ns)
        if place is None:
            return ("launching" if self.holds(job_id) else None), None
        return ("paused" if any(paused for _, paused in place.closed) else "limit"), place.position

    def granted_to(self, owner: str) -> list[str]:
        """Return the jobs of a supervisor that hold slots and have not been launched, as far as the rows tell."""
        statement = "SELECT job_id FROM held JOIN jobs USING (seq) WHERE owner = ? AND started_ns IS NULL"
        return [job_id for (job_id,) in self._db.execute(statement, (owner,))]

    def next_ns(self, now_ns: int) -> int | None:
        """Return when the next pause of a group with waiting jobs ends, by the wall clock; ``None`` for never."""
        found = self._db.execute(
            """SELECT min(paused_until_ns) FROM groups JOIN members USING (name) JOIN lanes USING (lane)
               WHERE waiting > 0 AND paused_until_ns > ? AND paused_until_ns < ?""",
            (now_ns, FOR_EVER_NS),
        ).fetchone()
        return None if found is None else found[0]

    def can_go_on(self, now_ns: int) -> bool:
        """Tell whether a waiting job gets its slots without a further change by a process, or has them already.

        It does if there is room for it, if a job holds slots that it will free, or if a pause has an end.
        """
        if self._db.execute(
            """SELECT 1 FROM held JOIN jobs USING (seq) WHERE started_ns IS NULL AND completed_ns IS NULL LIMIT 1"""
        ).fetchone():
            return True
        if not self.any_waits():
            return False
        if self.next_ns(now_ns) is not None:
            return True
        open_lanes = """SELECT lane FROM lanes WHERE waiting > 0 AND NOT EXISTS (
            SELECT 1 FROM members JOIN groups USING (name)
            WHERE members.lane = lanes.lane AND (paused_until_ns > ? OR most = 0))"""
        return self._db.execute(open_lanes + " LIMIT 1", (now_ns,)).fetchone() is not None
