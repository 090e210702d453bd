"""What can be asked of the queue in the index: where a job stands and why, and how many jobs there are."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from itertools import islice
from typing import Final, NamedTuple

from supervisor.store import ranks
from supervisor.store.later import Later, Obstacle
from supervisor.store.order import Order, head_of
from supervisor.store.tickets import Moment
from supervisor.store.usage import FOR_EVER_NS, held_in, lanes_of, usage_of

__all__ = ["Counts", "End", "Place", "QueueQueries"]

_AT_ONCE: Final = 500
"""Values of one statement."""

_APART: Final = 100
"""So many waiting jobs are counted one by one in the time in which the position of one is found."""


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


class QueueQueries:
    """The questions to the queue. Every method runs within a transaction of the caller, and changes nothing.

    Args:
        connection: to the index.
    """

    __slots__ = ("_db", "_later", "_order")

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Work on this connection."""
        self._db = connection
        self._order = Order(connection)
        self._later = Later(connection, self.obstacles, self._order.rank)

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

    def waits(self, seq: int) -> bool:
        """Whether a job waits, and is not about to end without a launch."""
        statement = "SELECT 1 FROM waiting WHERE seq = ? UNION ALL SELECT 1 FROM later WHERE seq = ? AND why IS NULL"
        return self._db.execute(statement, (seq, seq)).fetchone() is not None

    def holds(self, job_id: str) -> bool:
        """Whether a job holds its slots."""
        statement = "SELECT 1 FROM jobs JOIN held USING (seq) WHERE job_id = ?"
        return self._db.execute(statement, (job_id,)).fetchone() is not None

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
            rooms[name] = usage[name].room(now)
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

        It will, unless it is on hold, one of its groups is closed, unknown, or paused until it is resumed, or it waits
        for a job of which that is true.
        """
        lanes = lanes_of(self._db)
        found = self._db.execute("SELECT name FROM groups WHERE paused_until_ns < ? AND most IS NOT 0", (FOR_EVER_NS,))
        opens = {name for (name,) in found}.__contains__
        closed = [lane for lane, names in lanes.items() if not all(map(opens, names))]
        if any(head_of(self._db, lane) is not None for lane in lanes.keys() - closed):
            return True
        return self._later.can_go_on(closed)
