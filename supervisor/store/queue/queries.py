"""What can be asked of the queue in the index: where a job stands and why, and how many jobs there are."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Final, NamedTuple

from supervisor.store.budgets import Budget
from supervisor.store.pacing import Pacing
from supervisor.store.queue import ranks
from supervisor.store.queue.later import Later, Obstacle
from supervisor.store.queue.order import Order, head_of
from supervisor.store.queue.usage import FOR_EVER_NS, Usage, held_in, lanes_of, usage_of
from supervisor.store.spending import Spending
from supervisor.store.tickets import Moment

__all__ = ["Counts", "End", "Place", "QueueQueries"]

_LONG_AGO: Final = Moment(0, 0, "")
_BY_GROUPS: Final = ("paused", "rate_limited", "budget")
"""Reasons to wait that groups have, in the order in which they are looked for; ``limit`` is the last."""
_AT_ONCE: Final = 500
"""Values of one statement."""

_APART: Final = 100
"""So many waiting jobs are counted one by one in the time in which the position of one is found."""


class End(NamedTuple):
    """A job that is to end: without a launch, or stopped as its group has spent too much.

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
        closed: the groups that do not admit it now, each with why: ``paused``, ``rate_limited``, ``budget``, ``limit``
            or ``rate``.
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

    def is_of(self, connection: sqlite3.Connection) -> bool:
        """Whether it works on this connection."""
        return self._db is connection

    def forget(self) -> None:
        """Read the groups anew: they may have changed."""
        self._order.forget()

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

    def spec_of_held(self, job_id: str) -> str | None:
        """Return the request of a job that holds its slots, as its row has it; ``None`` for a job that holds none."""
        statement = "SELECT spec FROM jobs JOIN held USING (seq) WHERE job_id = ?"
        found: tuple[str] | None = self._db.execute(statement, (job_id,)).fetchone()
        return None if found is None else found[0]

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
        return Place(ahead + 1, self._closed(seq, lane, weight, now))

    def _closed(self, seq: int, lane: int, weight: int, now: Moment) -> tuple[tuple[str, str], ...]:
        """Return the groups of a lane that do not admit a job of this weight now, each with why."""
        lanes = lanes_of(self._db)
        groups = usage_of(self._db, lanes, now)
        own = self._own_ask(seq, lanes[lane], groups)
        why = {name: groups[name].closed_by(weight, now, own) if name in groups else "paused" for name in lanes[lane]}
        return tuple((name, each) for name, each in why.items() if each is not None)

    def _own_ask(self, seq: int, names: Iterable[str], groups: Mapping[str, Usage]) -> int | None:
        """Return how much money a job itself asks for, if one of its groups has budgets."""
        has_budgets = any(name in groups and groups[name].budgets for name in names)
        return self.spending.own_ask(seq) if has_budgets else None

    @property
    def spending(self) -> Spending:
        """What the jobs of the groups have spent and may spend."""
        return Spending(self._db)

    def budgets(self, name: str, now: Moment) -> Sequence[Budget]:
        """Return the budgets of a group as they are now."""
        held = Pacing(self._db).budgets_of(name)
        return () if held is None else self.spending.budgets_of(name, held, now)

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
        closed = self._closed(seq, lane, weight, now)
        for reason in _BY_GROUPS:
            if names := tuple(name for name, why in closed if why == reason):
                until_ns = self.limit_end_ns(names, now) if reason == "rate_limited" else None
                found.append(Obstacle(reason, names, until_ns))
        full = tuple(name for name, why in closed if why in {"limit", "rate"})
        if full or (is_ready and not closed):  # without names: others of its lane are before it
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
        whys = {why for _, why in place.closed}
        return next((why for why in _BY_GROUPS if why in whys), "limit"), place.position

    def limit_end_ns(self, groups: Iterable[str], now: Moment) -> int | None:
        """Return when the last pause of these groups for a usage limit ends, by the wall clock; ``None`` for none."""
        usage = usage_of(self._db, {}, now)
        ends = (usage[name].limit_end_ns(now) for name in groups if name in usage)
        return max((end_ns for end_ns in ends if end_ns is not None), default=None)

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

    def with_more_at_the_end(self) -> list[tuple[str, str]]:
        """Return (workspace key, job id) of unfinished jobs that may be tried again, or whose ends are delivered."""
        statement = """SELECT workspace_key, job_id FROM jobs WHERE state IN ('queued', 'running')
            AND (spec LIKE '%"retry":{%' OR spec LIKE '%"on_end":[%' OR spec LIKE '%"webhook":"%')"""
        return self._db.execute(statement).fetchall()

    def can_go_on(self) -> bool:
        """Whether a waiting job will get its slots without another command.

        It will, unless it is on hold, one of its groups is closed, unknown, paused until it is resumed, or has a budget
        that is too small in any window, or it waits for a job of which that is true.
        """
        lanes = lanes_of(self._db)
        found = self._db.execute("SELECT name FROM groups WHERE paused_until_ns < ? AND most IS NOT 0", (FOR_EVER_NS,))
        opens = {name for (name,) in found}.__contains__
        closed = [lane for lane, names in lanes.items() if not all(map(opens, names)) or self._is_spent(lane, names)]
        if any(head_of(self._db, lane) is not None for lane in lanes.keys() - closed):
            return True
        return self._later.can_go_on(closed)

    def to_stop(self, now: Moment) -> tuple[list[End], float | None]:
        """Return the running jobs of groups that have spent more than a budget allows, where the group stops them then.

        Also return after how many seconds there may be others; ``None`` for not by time alone.
        """
        exceeded, seconds = self.spending.stops(now)
        if not exceeded:
            return [], seconds
        ends: dict[str, End] = {}
        running = "SELECT job_id FROM held JOIN jobs USING (seq) WHERE lane = ? AND started_ns IS NOT NULL"
        lanes = lanes_of(self._db).items()
        for name, setting in exceeded:
            cause = json.dumps({"group": name, "budget": setting.text})
            for job_id in (job_id for lane, names in lanes if name in names for job_id in self._ids(running, lane)):
                ends.setdefault(job_id, End(job_id, "budget", cause))
        return list(ends.values()), seconds

    def _ids(self, statement: str, value: object) -> list[str]:
        return [job_id for (job_id,) in self._db.execute(statement, (value,))]

    def _is_spent(self, lane: int, names: Iterable[str]) -> bool:
        """Whether the next job of a lane is not admitted before a budget is changed."""
        head = head_of(self._db, lane)
        budgets = [] if head is None else [each for name in names for each in self.budgets(name, _LONG_AGO)]
        if head is None or not budgets:
            return False
        own = self.spending.own_ask(head[1])
        return any(budget.is_hopeless(own) for budget in budgets)
