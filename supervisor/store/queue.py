"""The waiting jobs in the index: which groups they are in, their order, and the slots that admitted jobs hold.

Admission is one transaction, and any process that causes a change runs it: SQLite's single writer decides every race.
A **lane** is one distinct set of groups. Its waiting jobs are admitted by rank, and only while each of its groups has
room, so a heavy job at the head blocks its lane and is never starved.

A job that has more to wait for than room is in ``later``, see ``later``.

A slot belongs to a job, not to a process. An SQL trigger frees it in the transaction that ends or deletes the row of
the job, so no version of the package can leave that out, and no kill can fall in between. The slots in use are summed
over the jobs that hold them, so there is no counter that could differ from the rows.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from supervisor.store import ranks
from supervisor.store.later import Later, Obstacle
from supervisor.store.tickets import Moment, Ticket

__all__ = ["FOR_EVER_NS", "SCHEMA", "TURN", "Counts", "End", "Grant", "Place", "Queue", "Turn"]

# A new connection reads the whole schema: each table, index and trigger costs it 2 to 6 us. So there are no tables and
# triggers for counters. The sums are short: groups and lanes are few, and the limits bound the jobs that hold slots.
SCHEMA: Final = """
    CREATE TABLE IF NOT EXISTS groups (
        name TEXT PRIMARY KEY,
        most INTEGER,
        paused_until_ns INTEGER NOT NULL DEFAULT 0,
        aging_ns INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS lanes (
        lane INTEGER PRIMARY KEY,
        names TEXT NOT NULL
    );
    CREATE TABLE IF NOT EXISTS waiting (
        lane INTEGER NOT NULL,
        rank INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        weight INTEGER NOT NULL,
        PRIMARY KEY (lane, rank, seq)
    ) WITHOUT ROWID;
    CREATE UNIQUE INDEX IF NOT EXISTS waiting_seq ON waiting (seq);
    CREATE TABLE IF NOT EXISTS held (
        seq INTEGER PRIMARY KEY,
        lane INTEGER NOT NULL,
        weight INTEGER NOT NULL
    );
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

TURN: Final = 64
"""How many jobs a turn admits, and how many it looks at: some milliseconds. The next turn goes on."""

_APART: Final = 100
"""So many waiting jobs are counted one by one in the time in which the position of one is found."""

FOR_EVER_NS: Final = 2**63 - 1
"""``paused_until_ns`` of a group that is paused until it is resumed."""


class Grant(NamedTuple):
    """A job that was admitted, and the supervisor that is to launch it."""

    job_id: str
    owner: str
    workspace_key: str


class End(NamedTuple):
    """A job that is to end without a launch.

    Attributes:
        job_id: of the job.
        why: the reason.
        cause: JSON: the dependency that failed, or how long it waited and for what.
    """

    job_id: str
    why: str
    cause: str


class Turn(NamedTuple):
    """What a turn has decided, for the caller to carry out after the commit.

    Attributes:
        grants: the jobs that got their slots.
        ends: jobs that are to end without a launch; later turns return them again until their rows have ended.
        more: whether there is more to decide at once.
    """

    grants: list[Grant]
    ends: list[End]
    more: bool


class Place(NamedTuple):
    """Where a waiting job stands.

    Attributes:
        position: 1 is the next of its lane.
        closed: the groups that have no room for it, each with whether it is paused.
    """

    position: int
    closed: tuple[tuple[str, bool], ...]


class Counts(NamedTuple):
    """The jobs of a group at one moment.

    Attributes:
        running: the weights of the jobs that hold a slot, summed.
        waiting: how many jobs wait, in all of its lanes.
        oldest_ns: when the oldest of them was created, by the wall clock; ``None`` for no job.
    """

    running: int
    waiting: int
    oldest_ns: int | None


class _Group(NamedTuple):
    most: int | None
    paused_until_ns: int
    running: int


class Queue:
    """The queue in one index. Every method runs within a transaction of the caller.

    Args:
        connection: to the index.
    """

    __slots__ = ("_db", "_later", "_orders")

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Work on this connection."""
        self._db = connection
        self._later = Later(connection, self.obstacles)
        self._orders: dict[tuple[str, ...], tuple[int, int]] = {}
        """The lane and the aging time of each set of groups that jobs were entered with."""

    # ------------------------------------------------------------ groups

    def set_group(self, name: str, *, limit: int | None, paused_until_ns: int, aging_ns: int) -> None:
        """Insert or change a group; its running jobs go on."""
        self._orders.clear()
        self._db.execute("INSERT OR REPLACE INTO groups VALUES (?, ?, ?, ?)", (name, limit, paused_until_ns, aging_ns))

    def remove_group(self, name: str) -> None:
        """Remove a group without unfinished jobs, and its lanes."""
        self._orders.clear()
        self._db.execute("DELETE FROM groups WHERE name = ?", (name,))
        for lane, names in self._lanes().items():
            if name in names:
                self._db.execute("DELETE FROM lanes WHERE lane = ?", (lane,))

    def groups(self) -> set[str]:
        """Return the names of all groups."""
        return {name for (name,) in self._db.execute("SELECT name FROM groups")}

    def _lanes(self) -> dict[int, list[str]]:
        """Return the groups of each lane."""
        return {lane: json.loads(names) for lane, names in self._db.execute("SELECT lane, names FROM lanes")}

    def _usage(self, lanes: Mapping[int, list[str]]) -> dict[str, _Group]:
        """Return the limit, the pause and, where there is a limit, the slots in use of each group.

        Without a limit, any number of jobs may hold slots, and they need not be counted.
        """
        found = self._db.execute("SELECT name, most, paused_until_ns FROM groups").fetchall()
        limited = {name for name, most, _ in found if most is not None}
        running = dict.fromkeys(limited, 0)
        for lane, names in lanes.items():
            if not limited.isdisjoint(names):
                weight = self._held_in(lane)
                for name in limited.intersection(names):
                    running[name] += weight
        return {name: _Group(most, until_ns, running.get(name, 0)) for name, most, until_ns in found}

    def _held_in(self, lane: int) -> int:
        """Return the weight of the jobs of a lane that hold slots."""
        statement = "SELECT coalesce(sum(weight), 0) FROM held WHERE lane = ?"
        return int(self._db.execute(statement, (lane,)).fetchone()[0])

    def counts(self, name: str) -> Counts:
        """Return the counts of a group; zeros for an unknown one."""
        lanes = [lane for lane, names in self._lanes().items() if name in names]
        waiting = 0
        oldest: list[int] = []
        for lane in lanes:
            waiting += ranks.count(self._db, lane)
            waiting += self._db.execute("SELECT count(*) FROM later WHERE lane = ?", (lane,)).fetchone()[0]
            for table in ("waiting", "later"):
                # The plus keeps SQLite from reading the whole lane.
                first = f"SELECT created_ns FROM {table} JOIN jobs USING (seq) WHERE +lane = ? ORDER BY seq LIMIT 1"  # noqa: S608  # our own names
                oldest += [each for (each,) in self._db.execute(first, (lane,))]
        return Counts(sum(map(self._held_in, lanes)), waiting, min(oldest, default=None))

    def heaviest(self, name: str) -> int:
        """Return the largest weight of a waiting job of a group, 0 for none."""
        lanes = [lane for lane, names in self._lanes().items() if name in names]
        statements = [f"SELECT coalesce(max(weight), 0) FROM {table} WHERE lane = ?" for table in ("waiting", "later")]  # noqa: S608
        return max((self._db.execute(each, (lane,)).fetchone()[0] for each in statements for lane in lanes), default=0)

    def clear(self) -> None:
        """Delete everything."""
        self._orders.clear()
        for table in ("groups", "lanes", "waiting", "ranks", "held", "later", "times", "deps"):
            self._db.execute(f"DELETE FROM {table}")  # noqa: S608  # our own names

    # ------------------------------------------------------------ jobs

    def enter(self, seq: int, ticket: Ticket, now: Moment) -> None:
        """Insert a waiting job. Its rank is fixed now: creation less priority times the longest aging of its groups."""
        lane, rank = self._order(ticket)
        if ticket.must_wait:
            self._later.enter(seq, (lane, rank, ticket.weight), ticket, now)
            return
        self._wait(seq, lane, rank, ticket.weight)
        self._later.note_expiry(seq, ticket, now)

    def _order(self, ticket: Ticket) -> tuple[int, int]:
        """Return the lane and the rank of a job."""
        if ticket.groups not in self._orders:
            self._orders[ticket.groups] = self._lane(list(ticket.groups)), self._aging(ticket.groups)
        lane, aging = self._orders[ticket.groups]
        return lane, ticket.rank(aging)

    def _wait(self, seq: int, lane: int, rank: int, weight: int) -> None:
        values = (lane, rank, seq, weight)
        self._db.execute("INSERT OR IGNORE INTO waiting (lane, rank, seq, weight) VALUES (?, ?, ?, ?)", values)

    def _aging(self, groups: tuple[str, ...]) -> int:
        """Return the longest aging time of these groups."""
        marks = ", ".join("?" * len(groups))
        statement = f"SELECT max(aging_ns) FROM groups WHERE name IN ({marks})"  # noqa: S608  # question marks
        return self._db.execute(statement, groups).fetchone()[0] or 0

    def _lane(self, groups: list[str]) -> int:
        for lane, names in self._lanes().items():
            if names == groups:
                return lane
        return self._db.execute("INSERT INTO lanes (names) VALUES (?)", (json.dumps(groups),)).lastrowid or 0

    def waits(self, seq: int) -> bool:
        """Whether a job waits, and is not about to end without a launch."""
        statement = "SELECT 1 FROM waiting WHERE seq = ? UNION ALL SELECT 1 FROM later WHERE seq = ? AND why IS NULL"
        return self._db.execute(statement, (seq, seq)).fetchone() is not None

    def change(self, seq: int, ticket: Ticket, now: Moment) -> None:
        """Follow a change of the ticket of a waiting job: whether it is held, and its rank."""
        self._later.put_back(seq)  # a ready one comes back at once, and is counted by its new rank
        self._later.change(seq, ticket.rank(self._aging(ticket.groups)), hold=ticket.hold, now=now)

    def before_all(self, seq: int) -> int:
        """Return a rank before all others of the lane of a waiting job."""
        ranks = self._db.execute(
            "WITH lane AS (SELECT lane FROM waiting WHERE seq = :seq UNION ALL SELECT lane FROM later WHERE seq = :seq)"
            " SELECT min(rank) FROM waiting WHERE lane IN lane"
            " UNION ALL SELECT min(rank) FROM later WHERE lane IN lane",
            {"seq": seq},
        )
        return min((rank for (rank,) in ranks if rank is not None), default=0) - 1

    def unfit(self, ticket: Ticket) -> str | None:
        """Return a group in which a job could wait for ever: it is not there, or its limit is below the weight."""
        for name in ticket.groups:
            found = self._db.execute("SELECT coalesce(most >= ?, 1) FROM groups WHERE name = ?", (ticket.weight, name))
            if found.fetchone() != (1,):
                return name
        return None

    def hold(self, seq: int) -> None:
        """Give a waiting job its slots without a check: the caller has checked, or the job had them before."""
        self._later.ready(seq)
        found = self._db.execute("SELECT lane, weight FROM waiting WHERE seq = ?", (seq,)).fetchone()
        if found is not None:
            self._take(seq, *found)

    def _take(self, seq: int, lane: int, weight: int) -> None:
        self._db.execute("DELETE FROM waiting WHERE seq = ?", (seq,))
        self._db.execute("INSERT INTO held VALUES (?, ?, ?)", (seq, lane, weight))
        self._later.admitted(seq)

    def hold_if_room(self, seq: int) -> bool:
        """Give a job that was admitted its slots again, unless that exceeds a limit; return whether it has them."""
        waits = (
            "SELECT lane, weight FROM waiting WHERE seq = ?1 UNION ALL SELECT lane, weight FROM later WHERE seq = ?1"
        )
        found = self._db.execute(waits, (seq,)).fetchone()
        if found is None:
            return True
        lane, weight = found
        lanes = self._lanes()
        groups = self._usage(lanes)
        limits = ((group.running, group.most) for name in lanes[lane] if (group := groups.get(name)) is not None)
        has_room = all(most is None or running + weight <= most for running, most in limits)
        if has_room:
            self.hold(seq)
        return has_room

    def put_back(self, seq: int, ticket: Ticket) -> None:
        """Take its slots from a job that was admitted and never launched: it waits again, and is ready."""
        if self._db.execute("DELETE FROM held WHERE seq = ?", (seq,)).rowcount == 1:
            self._wait(seq, *self._order(ticket), ticket.weight)

    def holds(self, job_id: str) -> bool:
        """Whether a job holds its slots."""
        statement = "SELECT 1 FROM jobs JOIN held USING (seq) WHERE job_id = ?"
        return self._db.execute(statement, (job_id,)).fetchone() is not None

    def turn(self, now: Moment, most: int = TURN) -> Turn:
        """Look at the jobs whose time has come or whose dependencies have changed, then admit waiting jobs."""
        reviewed = self._later.review(now, most)
        grants = self.admit(now.wall_ns, most)
        ends = [End(*each) for each in self._later.ends(most)]
        return Turn(grants, ends, more=reviewed > 0 or len(grants) == most)

    def is_due(self, clock: Callable[[], Moment], *, freed: bool = True) -> bool:
        """Whether a turn may have something to decide; ``freed``: there may be more room than in the last turn."""
        statement = "SELECT EXISTS (SELECT 1 FROM waiting), EXISTS (SELECT 1 FROM later)"
        waits, later = self._db.execute(statement).fetchone()  # 3 us, of the 25 of all questions
        return bool(freed and waits) or (bool(waits or later) and self._later.is_due(clock()))

    def admit(self, now_ns: int, most: int = TURN) -> list[Grant]:
        """Give free slots to waiting jobs, by rank over all lanes; return up to ``most`` jobs that got theirs.

        A lane whose first job does not fit is left out for the rest of the call.
        """
        if not self.any_waits():
            return []
        lanes = self._lanes()
        groups = self._usage(lanes)
        heads = {lane: head for lane in lanes if (head := self._head(lane)) is not None}
        granted: list[Grant] = []
        while heads and len(granted) < most:
            lane = min(heads, key=lambda each: heads[each][:2])
            _, seq, weight = heads[lane]
            if any(not _fits(groups.get(name), weight, now_ns) for name in lanes[lane]):
                del heads[lane]
                continue
            self._take(seq, lane, weight)
            for name in lanes[lane]:
                groups[name] = groups[name]._replace(running=groups[name].running + weight)
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
        return any(
            self._db.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone() is not None  # noqa: S608  # our own names
            for table in ("held", "waiting", "later")
        )

    def count_unlaunched(self) -> int:
        """Return how many jobs wait, or have their slots and are not launched, according to the rows."""
        parts = ("waiting", "later WHERE held = 0", "held JOIN jobs USING (seq) WHERE started_ns IS NULL")
        return sum(self._db.execute(f"SELECT count(*) FROM {part}").fetchone()[0] for part in parts)  # noqa: S608

    def any_waits(self) -> bool:
        """Whether any job waits to be admitted."""
        return self._db.execute("SELECT 1 FROM waiting LIMIT 1").fetchone() is not None

    def _head(self, lane: int) -> tuple[int, int, int] | None:
        """Return (rank, seq, weight) of the next job of a lane."""
        statement = "SELECT rank, seq, weight FROM waiting WHERE lane = ? ORDER BY rank, seq LIMIT 1"
        found: tuple[int, int, int] | None = self._db.execute(statement, (lane,)).fetchone()
        return found

    def place(self, job_id: str, now_ns: int) -> Place | None:
        """Return where a waiting job stands, ``None`` for a job that does not wait."""
        found = self._db.execute(
            "SELECT seq, lane, rank, weight FROM jobs JOIN waiting USING (seq) WHERE job_id = ?", (job_id,)
        ).fetchone()
        if found is None:
            return None
        seq, lane, rank, weight = found
        ahead = ranks.ahead(self._db, lane, rank, seq)
        return Place(ahead + 1, self._closed(lane, weight, now_ns))

    def _closed(self, lane: int, weight: int, now_ns: int) -> tuple[tuple[str, bool], ...]:
        """Return the groups of a lane that have no room for a weight, each with whether it is paused."""
        lanes = self._lanes()
        groups = self._usage(lanes)
        return tuple(
            (name, group is None or group.paused_until_ns > now_ns)
            for name in lanes[lane]
            if not _fits(group := groups.get(name), weight, now_ns)
        )

    def obstacles(self, seq: int, now: Moment) -> list[Obstacle]:
        """Return all that keeps a job from being launched, in the order of ``queue_reason``; nothing if it runs."""
        found = self._later.obstacles(seq, now)
        lane, weight, is_ready = self._db.execute(
            "SELECT lane, weight, 1 FROM waiting WHERE seq = ?1"
            " UNION ALL SELECT lane, weight, 0 FROM later WHERE seq = ?1",
            (seq,),
        ).fetchone() or (None, 0, 0)
        if lane is None:
            holds = "SELECT 1 FROM held JOIN jobs USING (seq) WHERE seq = ? AND started_ns IS NULL"
            return [] if self._db.execute(holds, (seq,)).fetchone() is None else [Obstacle("launching")]
        closed = self._closed(lane, weight, now.wall_ns)
        paused = tuple(name for name, is_paused in closed if is_paused)
        full = tuple(name for name, is_paused in closed if not is_paused)
        if paused:
            found.append(Obstacle("paused", paused))
        if full or (is_ready and not paused):  # without names: others of its lane are before it
            found.append(Obstacle("limit", full))
        return found

    def end_of(self, job_id: str) -> End | None:
        """Return the end of a job that is to end without a launch."""
        found = self._later.end_of(job_id)
        return None if found is None else End(*found)

    def is_awaited(self, seq: int) -> bool:
        """Whether a job that has no slots yet depends on this one, so that this one must not be forgotten."""
        return self._later.is_awaited(seq)

    def awaiting(self, seq: int, most: int) -> list[str]:
        """Return the ids of up to ``most`` jobs that have no slots yet and depend on this one."""
        return self._later.awaiting(seq, most)

    def rooms(self, groups: Iterable[str], now_ns: int) -> dict[str, float]:
        """Return how much weight each group has room for now, if no job waits for it."""
        lanes = self._lanes()
        awaited = {name for lane, names in lanes.items() if self._head(lane) is not None for name in names}
        usage, rooms = self._usage(lanes), dict.fromkeys(groups, 0.0)
        for name in rooms.keys() & usage.keys() - awaited:
            group = usage[name]
            if group.paused_until_ns <= now_ns:
                rooms[name] = math.inf if group.most is None else group.most - group.running
        return rooms

    def positions(self, seqs: Iterable[int]) -> dict[int, int]:
        """Return the positions of waiting jobs by their ``seq``; many in a row take little longer than one."""
        lanes: dict[int, list[tuple[int, int]]] = {}
        for seq in seqs:
            found = self._db.execute("SELECT lane, rank, seq FROM waiting WHERE seq = ?", (seq,)).fetchone()
            if found is not None:
                lanes.setdefault(found[0], []).append(found[1:])
        positions: dict[int, int] = {}
        for lane, places in lanes.items():
            first, last = min(places), max(places)
            ahead, most = ranks.ahead(self._db, lane, *first), ranks.ahead(self._db, lane, *last)
            if most - ahead > _APART * len(places):
                positions |= {seq: ranks.ahead(self._db, lane, rank, seq) + 1 for rank, seq in places}
                continue
            between = (
                "SELECT seq FROM waiting WHERE lane = ? AND (rank, seq) >= (?, ?) AND (rank, seq) <= (?, ?)"
                " ORDER BY rank, seq"
            )
            in_order = enumerate(self._db.execute(between, (lane, *first, *last)), ahead + 1)
            positions |= {seq: position for position, (seq,) in in_order}
        return positions

    def standing(self, job_id: str, now_ns: int) -> tuple[str | None, int | None]:
        """Return (``queue_reason``, ``queue_position``) of a job in groups that has not been launched."""
        place = self.place(job_id, now_ns)
        if place is None:
            return ("launching" if self.holds(job_id) else self._later.reason(job_id)), None
        return ("paused" if any(paused for _, paused in place.closed) else "limit"), place.position

    def granted_to(self, owner: str) -> list[str]:
        """Return the jobs of a supervisor that hold slots and have not been launched, according to the rows."""
        statement = "SELECT job_id FROM held JOIN jobs USING (seq) WHERE owner = ? AND started_ns IS NULL"
        return [job_id for (job_id,) in self._db.execute(statement, (owner,))]

    def next_seconds(self, now: Moment) -> float | None:
        """Return after how many seconds a turn may have something to decide; ``None`` for not without a change."""
        lanes = self._lanes()
        groups = self._usage(lanes)
        names = {name for lane, names in lanes.items() if self._head(lane) is not None for name in names}
        ends = (groups[name].paused_until_ns for name in names & groups.keys())
        waits = [(end - now.wall_ns) / 1e9 for end in ends if now.wall_ns < end < FOR_EVER_NS]
        next_look = self._later.next_seconds(now)
        return min(waits if next_look is None else [*waits, next_look], default=None)

    def unlaunched(self) -> list[str]:
        """Return the jobs that have their slots and are not launched, according to the rows."""
        statement = "SELECT job_id FROM held JOIN jobs USING (seq) WHERE started_ns IS NULL"
        return [job_id for (job_id,) in self._db.execute(statement)]

    def can_go_on(self) -> bool:
        """Whether a waiting job will get its slots without another command.

        It will, unless one of its groups is closed, unknown, or paused until it is resumed.
        """
        if self._later.can_go_on():
            return True
        if not self.any_waits():
            return False
        lanes = self._lanes()
        groups = self._usage(lanes)

        def opens(name: str) -> bool:
            group = groups.get(name)
            return group is not None and group.paused_until_ns < FOR_EVER_NS and group.most != 0

        return any(self._head(lane) is not None and all(map(opens, names)) for lane, names in lanes.items())


def _fits(group: _Group | None, weight: int, now_ns: int) -> bool:
    """Whether a group has room for a weight now; one that is not known has none."""
    if group is None or group.paused_until_ns > now_ns:
        return False
    return group.most is None or group.running + weight <= group.most
