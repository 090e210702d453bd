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

import math
import sqlite3
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, Final, NamedTuple

from supervisor.store import ranks
from supervisor.store.flows import Flows
from supervisor.store.later import Later, Obstacle
from supervisor.store.order import Order, fair_pace, head_of
from supervisor.store.pacing import NO_SETTINGS, Pacing, Settings
from supervisor.store.ranks import set_rank
from supervisor.store.tickets import Moment, Ticket
from supervisor.store.usage import FOR_EVER_NS, held_in, lanes_of, usage_of

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

_AT_ONCE: Final = 500
"""Values of one statement."""

_APART: Final = 100
"""So many waiting jobs are counted one by one in the time in which the position of one is found."""

_LONG_AGO: Final = Moment(0, 0, "")


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
        closed: the groups that do not admit it now, each with why: ``paused``, ``limit``, or ``rate``.
    """

    position: int
    closed: tuple[tuple[str, str], ...]


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


class Queue:
    """The queue in one index. Every method runs within a transaction of the caller.

    Args:
        connection: to the index.
    """

    __slots__ = ("_db", "_flows", "_later", "_order", "_pacing")

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Work on this connection."""
        self._db = connection
        self._order = Order(connection)
        self._later = Later(connection, self.obstacles, self._order.rank)
        self._flows = Flows(connection)
        self._pacing = Pacing(connection)

    # ------------------------------------------------------------ groups

    def set_group(
        self,
        name: str,
        *,
        limit: int | None,
        paused_until_ns: int,
        aging_ns: int,
        settings: Settings = NO_SETTINGS,
        now: Moment = _LONG_AGO,
        empty: bool = False,
    ) -> None:
        """Insert or change a group; its running jobs go on. ``empty``: it has no token now, if it is new here."""
        self._order.forget()
        self._pacing.set(name, settings, now, empty=empty)
        self._db.execute("INSERT OR REPLACE INTO groups VALUES (?, ?, ?, ?)", (name, limit, paused_until_ns, aging_ns))

    @property
    def pacing(self) -> Pacing:
        """How fast the groups may start jobs, and their failures."""
        return self._pacing

    def pause(self, name: str, until_ns: int) -> None:
        """Pause a group until a time, unless it is paused for longer."""
        self._db.execute("UPDATE groups SET paused_until_ns = max(paused_until_ns, ?) WHERE name = ?", (until_ns, name))

    def end_waiting(self, name: str, why: str, cause: dict[str, Any]) -> None:
        """Mark all waiting jobs of a group to end without a launch."""
        for lane, names in lanes_of(self._db).items():
            if name in names:
                self._later.end_all(lane, why, cause)

    def remove_group(self, name: str) -> None:
        """Remove a group, and its lanes in which there is no job; others admit nothing until it is there again."""
        self._order.forget()
        self._db.execute("DELETE FROM groups WHERE name = ?", (name,))
        self._pacing.remove(name)
        self._flows.begin_anew(name)
        empty = " AND ".join(
            f"NOT EXISTS (SELECT 1 FROM {table} WHERE {table}.lane = lanes.lane)"  # noqa: S608  # our own names
            for table in ("waiting", "held", "later")
        )
        for lane, names in lanes_of(self._db).items():
            if name in names:
                self._db.execute(f"DELETE FROM lanes WHERE lane = ? AND {empty}", (lane,))  # noqa: S608  # our own names

    def groups(self) -> set[str]:
        """Return the names of all groups."""
        return {name for (name,) in self._db.execute("SELECT name FROM groups")}

    def counts(self, name: str) -> Counts:
        """Return the counts of a group; zeros for an unknown one."""
        lanes = [lane for lane, names in lanes_of(self._db).items() if name in names]
        waiting = 0
        oldest: list[int] = []
        for lane in lanes:
            waiting += ranks.count(self._db, lane)
            waiting += self._db.execute("SELECT count(*) FROM later WHERE lane = ?", (lane,)).fetchone()[0]
            for table in ("waiting", "later"):
                # The plus keeps SQLite from reading the whole lane.
                first = f"SELECT created_ns FROM {table} JOIN jobs USING (seq) WHERE +lane = ? ORDER BY seq LIMIT 1"  # noqa: S608  # our own names
                oldest += [each for (each,) in self._db.execute(first, (lane,))]
        return Counts(sum(held_in(self._db, lane) for lane in lanes), waiting, min(oldest, default=None))

    def heaviest(self, name: str) -> int:
        """Return the largest weight of a waiting job of a group, 0 for none."""
        statement = (
            "SELECT coalesce(max(weight), 0) FROM (SELECT weight FROM waiting WHERE lane = :lane"
            " UNION ALL SELECT weight FROM later WHERE lane = :lane)"
        )
        lanes = [lane for lane, names in lanes_of(self._db).items() if name in names]
        return max((self._db.execute(statement, {"lane": lane}).fetchone()[0] for lane in lanes), default=0)

    def clear(self) -> None:
        """Delete everything."""
        self._order.forget()
        tables = ("groups", "lanes", "waiting", "ranks", "held", "later", "times", "deps", "pacing", "flows", "noticed")
        for table in tables:
            self._db.execute(f"DELETE FROM {table}")  # noqa: S608  # our own names

    # ------------------------------------------------------------ jobs

    def enter(self, seq: int, ticket: Ticket, now: Moment) -> None:
        """Insert a waiting job."""
        lane = self._order.lane(ticket, now)
        if ticket.must_wait:
            order = (lane, self._order.unready_rank(ticket, now), ticket.weight)
            self._later.enter(seq, order, ticket, now)
            return
        self._wait(seq, lane, self._order.rank(seq, ticket, now), ticket.weight)
        self._later.note_expiry(seq, ticket, now)

    def _wait(self, seq: int, lane: int, rank: int, weight: int) -> None:
        values = (lane, rank, seq, weight)
        self._db.execute("INSERT OR IGNORE INTO waiting (lane, rank, seq, weight) VALUES (?, ?, ?, ?)", values)

    def waits(self, seq: int) -> bool:
        """Whether a job waits, and is not about to end without a launch."""
        statement = "SELECT 1 FROM waiting WHERE seq = ? UNION ALL SELECT 1 FROM later WHERE seq = ? AND why IS NULL"
        return self._db.execute(statement, (seq, seq)).fetchone() is not None

    def change(self, seq: int, ticket: Ticket, before: Ticket, now: Moment) -> None:
        """Follow a change of the ticket of a waiting job: whether it is held, its groups, and its rank."""
        lane = self._order.lane(ticket, now)
        rank = self._order.changed_rank(seq, ticket, before, now)
        if ticket.hold:
            self._later.put_back(seq)
        set_rank(self._db, seq, rank, lane)
        self._later.change(seq, lane, self._order.unready_rank(ticket, now), hold=ticket.hold, now=now)

    def before_all(self, seq: int) -> int:
        """Return a rank before all others of the lane of a waiting job."""
        ranks = self._db.execute(
            "WITH lane AS (SELECT lane FROM waiting WHERE seq = :seq UNION ALL SELECT lane FROM later WHERE seq = :seq)"
            " SELECT min(rank) FROM waiting WHERE lane IN lane"
            " UNION ALL SELECT min(rank) FROM later WHERE lane IN lane",
            {"seq": seq},
        )
        return min((rank for (rank,) in ranks if rank is not None), default=0) - 1

    def depend_on_next(self, seq: int, next_seq: int, *, launched: bool) -> None:
        """Have the jobs that wait for an attempt wait for the next one; those that wait for a launch, if it was not."""
        self._later.depend_on_next(seq, next_seq, launched=launched)

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
        lanes = lanes_of(self._db)
        groups = usage_of(self._db, lanes, _LONG_AGO)
        limits = ((group.running, group.most) for name in lanes[lane] if (group := groups.get(name)) is not None)
        has_room = all(most is None or running + weight <= most for running, most in limits)
        if has_room:
            self.hold(seq)
        return has_room

    def put_back(self, seq: int, ticket: Ticket, now: Moment) -> None:
        """Take its slots from a job that was admitted and never launched: it waits again, and for room only."""
        if self._db.execute("DELETE FROM held WHERE seq = ?", (seq,)).rowcount == 1:
            self._wait(seq, self._order.lane(ticket, now), self._order.front(ticket, now), ticket.weight)
        self._later.were_met(seq, ticket)

    def holds(self, job_id: str) -> bool:
        """Whether a job holds its slots."""
        statement = "SELECT 1 FROM jobs JOIN held USING (seq) WHERE job_id = ?"
        return self._db.execute(statement, (job_id,)).fetchone() is not None

    def turn(self, now: Moment, most: int = TURN) -> Turn:
        """Look at the jobs whose time has come or whose dependencies have changed, then admit waiting jobs."""
        reviewed = self._later.review(now, most)
        grants = self.admit(now, most)
        ends = [End(*each) for each in self._later.ends(most)]
        return Turn(grants, ends, more=reviewed > 0 or len(grants) == most)

    def is_due(self, clock: Callable[[], Moment], *, freed: bool = True) -> bool:
        """Whether a turn may have something to decide; ``freed``: there may be more room than in the last turn."""
        statement = "SELECT EXISTS (SELECT 1 FROM waiting), EXISTS (SELECT 1 FROM later)"
        waits, later = self._db.execute(statement).fetchone()  # 3 us, of the 25 of all questions
        if not (waits or later) or (freed and waits):
            return bool(waits)
        now = clock()
        return self._later.is_due(now) or self._pacing.noticed().get("boot", now.boot) != now.boot

    def admit(self, now: Moment, most: int = TURN) -> list[Grant]:
        """Give free slots to waiting jobs, by rank over all lanes; return up to ``most`` jobs that got theirs.

        A lane whose first job does not fit is left out for the rest of the call.
        """
        if not self.any_waits():
            return []
        self._order.forget()  # their virtual time advances
        lanes = lanes_of(self._db)
        groups = usage_of(self._db, lanes, now)
        heads = {lane: head for lane in lanes if (head := head_of(self._db, lane)) is not None}
        fair = {lane: pace for lane in heads if (pace := fair_pace(groups, lanes[lane])) is not None}
        changed = {name: pace for name, group in groups.items() if (pace := group.pace) is not None and pace.moved}
        granted: list[Grant] = []
        while heads and len(granted) < most:
            lane = self._order.first(heads, fair)
            rank, seq, weight = heads[lane]
            if any(name not in groups or groups[name].closed_by(weight, now) for name in lanes[lane]):
                del heads[lane]
                continue
            self._take(seq, lane, weight)
            for name in lanes[lane]:
                groups[name].running += weight
                if (pace := groups[name].pace) is not None:
                    pace.take()
                    changed[name] = pace
            if lane in fair:
                self._flows.note_admission(fair[lane], rank, weight)
            job = self._db.execute("SELECT job_id, owner, workspace_key FROM jobs WHERE seq = ?", (seq,)).fetchone()
            granted.append(Grant(*job))
            head = head_of(self._db, lane)
            if head is None:
                del heads[lane]
            else:
                heads[lane] = head
        for pace in changed.values():
            self._pacing.save(pace, now)
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

    def place(self, job_id: str, now: Moment) -> Place | None:
        """Return where a waiting job stands, ``None`` for a job that does not wait."""
        found = self._db.execute(
            "SELECT seq, lane, rank, weight FROM jobs JOIN waiting USING (seq) WHERE job_id = ?", (job_id,)
        ).fetchone()
        if found is None:
            return None
        seq, lane, rank, weight = found
        ahead = ranks.ahead(self._db, lane, rank, seq)
        return Place(ahead + 1, self._closed(lane, weight, now))

    def _closed(self, lane: int, weight: int, now: Moment) -> tuple[tuple[str, str], ...]:
        """Return the groups of a lane that do not admit a job of this weight now, each with why."""
        lanes = lanes_of(self._db)
        groups = usage_of(self._db, lanes, now)
        why = {name: groups[name].closed_by(weight, now) if name in groups else "paused" for name in lanes[lane]}
        return tuple((name, each) for name, each in why.items() if each is not None)

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
        closed = self._closed(lane, weight, now)
        paused = tuple(name for name, why in closed if why == "paused")
        full = tuple(name for name, why in closed if why != "paused")
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

    def rooms(self, groups: Iterable[str], now: Moment) -> dict[str, float]:
        """Return how much weight each group has room for now, if no job waits for it."""
        lanes = lanes_of(self._db)
        awaited = {name for lane, names in lanes.items() if head_of(self._db, lane) is not None for name in names}
        usage, rooms = usage_of(self._db, lanes, now), dict.fromkeys(groups, 0.0)
        for name in rooms.keys() & usage.keys() - awaited:
            group = usage[name]
            if group.closed_by(1, now) is None:
                rooms[name] = math.inf if group.most is None else group.most - group.running
        return rooms

    def positions(self, seqs: Iterable[int]) -> dict[int, int]:
        """Return the positions of waiting jobs by their ``seq``; many in a row take little longer than one."""
        lanes: dict[int, list[tuple[int, int]]] = {}
        left = iter(seqs)
        while asked := list(islice(left, _AT_ONCE)):
            marks = ", ".join("?" * len(asked))
            statement = f"SELECT lane, rank, seq FROM waiting WHERE seq IN ({marks})"  # noqa: S608  # question marks
            for lane, rank, seq in self._db.execute(statement, asked):
                lanes.setdefault(lane, []).append((rank, seq))
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

    def standing(self, job_id: str, now: Moment) -> tuple[str | None, int | None]:
        """Return (``queue_reason``, ``queue_position``) of a job in groups that has not been launched."""
        place = self.place(job_id, now)
        if place is None:
            return ("launching" if self.holds(job_id) else self._later.reason(job_id)), None
        return ("paused" if any(why == "paused" for _, why in place.closed) else "limit"), place.position

    def granted_to(self, owner: str) -> list[str]:
        """Return the jobs of a supervisor that hold slots and have not been launched, according to the rows."""
        statement = "SELECT job_id FROM held JOIN jobs USING (seq) WHERE owner = ? AND started_ns IS NULL"
        return [job_id for (job_id,) in self._db.execute(statement, (owner,))]

    def next_seconds(self, now: Moment) -> float | None:
        """Return after how many seconds a turn may have something to decide; ``None`` for not without a change."""
        lanes = lanes_of(self._db)
        groups = usage_of(self._db, lanes, now)
        names = {name for lane, names in lanes.items() if head_of(self._db, lane) is not None for name in names}
        seconds = [groups[name].wait_seconds(now) for name in names & groups.keys()]
        return min((each for each in (*seconds, self._later.next_seconds(now)) if each is not None), default=None)

    def unlaunched(self) -> list[str]:
        """Return the jobs that have their slots and are not launched, according to the rows."""
        statement = "SELECT job_id FROM held JOIN jobs USING (seq) WHERE started_ns IS NULL"
        return [job_id for (job_id,) in self._db.execute(statement)]

    def may_be_retried(self) -> list[tuple[str, str]]:
        """Return (workspace key, job id) of the launched jobs that may be tried again after their end."""
        statement = """SELECT workspace_key, job_id FROM held JOIN jobs USING (seq)
            WHERE started_ns IS NOT NULL AND spec LIKE '%"retry":{%'"""
        return self._db.execute(statement).fetchall()

    def can_go_on(self) -> bool:
        """Whether a waiting job will get its slots without another command.

        It will, unless one of its groups is closed, unknown, or paused until it is resumed.
        """
        if self._later.can_go_on():
            return True
        if not self.any_waits():
            return False
        lanes = lanes_of(self._db)
        found = self._db.execute("SELECT name FROM groups WHERE paused_until_ns < ? AND most IS NOT 0", (FOR_EVER_NS,))
        opens = {name for (name,) in found}.__contains__
        return any(head_of(self._db, lane) is not None and all(map(opens, names)) for lane, names in lanes.items())
