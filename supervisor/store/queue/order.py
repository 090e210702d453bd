"""The order of the waiting jobs: their lanes and ranks, and which of several lanes is next.

A rank is the creation less priority times the longest aging of the groups of the job. In a group that is shared fairly
it is what ``flows`` says.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from supervisor.store.pacing import Pace, Pacing
from supervisor.store.queue.flows import Flows
from supervisor.store.queue.usage import Usage, lanes_of
from supervisor.store.tickets import Moment, Ticket

__all__ = ["Head", "Order", "fair_pace", "head_of"]

Head = tuple[int, int, int]
"""(rank, seq, weight) of the next job of a lane."""


class _Place(NamedTuple):
    """What jobs with the same groups have in common."""

    lane: int
    aging_ns: int
    pace: Pace | None


def head_of(connection: sqlite3.Connection, lane: int) -> Head | None:
    """Return the next job of a lane."""
    statement = "SELECT rank, seq, weight FROM waiting WHERE lane = ? ORDER BY rank, seq LIMIT 1"
    found: Head | None = connection.execute(statement, (lane,)).fetchone()
    return found


def fair_pace(groups: Mapping[str, Usage], names: Iterable[str]) -> Pace | None:
    """Return the fair order of a lane: that of its first group that has one."""
    paces = (groups[name].pace for name in names if name in groups)
    return next((pace for pace in paces if pace is not None and pace.settings.fair_by is not None), None)


class Order:
    """The order in one index. Every method runs within a transaction of the caller.

    Args:
        connection: to the index.
    """

    __slots__ = ("_db", "_flows", "_pacing", "_places")

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Work on this connection."""
        self._db = connection
        self._flows = Flows(connection)
        self._pacing = Pacing(connection)
        self._places: dict[tuple[str, ...], _Place] = {}

    def forget(self) -> None:
        """Read the groups anew: they have changed, or jobs were admitted."""
        self._places.clear()

    def lane(self, ticket: Ticket, now: Moment) -> int:
        """Return the lane of a job, a new one if need be."""
        return self._place(ticket, now).lane

    def unready_rank(self, ticket: Ticket, now: Moment) -> int:
        """Return the rank of a job until it is ready."""
        return ticket.rank(self._place(ticket, now).aging_ns)

    def rank(self, seq: int, ticket: Ticket, now: Moment) -> int:
        """Return the rank of a job that is ready."""
        _, aging_ns, pace = self._place(ticket, now)
        if pace is None or ticket.first_ns is not None:
            return ticket.rank(aging_ns)
        return self._flows.rank(seq, ticket, pace, aging_ns)

    def changed_rank(self, seq: int, ticket: Ticket, before: Ticket, now: Moment) -> int:
        """Return the rank of a job that is ready, and whose place was changed."""
        _, aging_ns, pace = self._place(ticket, now)
        found = self._db.execute("SELECT rank FROM waiting WHERE seq = ?", (seq,)).fetchone()
        if pace is None or ticket.first_ns is not None or found is None:  # its flow is charged when it is ready
            return ticket.rank(aging_ns)
        if before.first_ns is not None or before.groups != ticket.groups:
            return self.rank(seq, ticket, now)
        return int(found[0]) + (before.priority - ticket.priority) * aging_ns

    def front(self, ticket: Ticket, now: Moment) -> int:
        """Return the rank of a job that was admitted, and waits again."""
        _, aging_ns, pace = self._place(ticket, now)
        return ticket.rank(aging_ns) if pace is None else pace.virtual_ns

    def first(self, heads: Mapping[int, Head], fair: Mapping[int, Pace]) -> int:
        """Return the lane whose first job is next.

        Ranks of different fair orders cannot be compared; between those, the job that was created first is next.
        """
        if not fair:
            return min(heads, key=lambda lane: heads[lane][:2])
        firsts: dict[str, int] = {}
        for lane in sorted(heads, key=lambda lane: heads[lane][:2], reverse=True):
            firsts[fair[lane].name if lane in fair else ""] = lane
        return min(firsts.values(), key=lambda lane: self._arrival(heads[lane], is_fair=lane in fair))

    def _arrival(self, head: Head, *, is_fair: bool) -> int:
        if not is_fair:
            return head[0]
        return int(self._db.execute("SELECT created_ns FROM jobs WHERE seq = ?", (head[1],)).fetchone()[0])

    def _place(self, ticket: Ticket, now: Moment) -> _Place:
        place = self._places.get(ticket.groups)
        if place is None:
            paces = self._pacing.load(now)
            fair = (pace for name in ticket.groups if (pace := paces.get(name)) and pace.settings.fair_by)
            pace = self._begun(next(fair, None), ticket, now)
            place = self._places[ticket.groups] = _Place(self._lane(ticket.groups), self._aging(ticket), pace)
        return place

    def _begun(self, pace: Pace | None, ticket: Ticket, now: Moment) -> Pace | None:
        """Return a fair order; if no job waits in it, it begins anew now."""
        for place in self._places.values():
            if place.pace is not None and pace is not None and place.pace.name == pace.name:
                return place.pace
        if pace is not None and (pace.virtual_ns == 0 or not self._awaits(pace.name)):
            self._flows.begin_anew(pace.name)
            pace.virtual_ns, pace.advance_ns = ticket.created.wall_ns, 0
            self._pacing.save(pace, now)
        return pace

    def _awaits(self, name: str) -> bool:
        """Whether a job is ready and waits for room in a group."""
        lanes = lanes_of(self._db).items()
        return any(name in names and head_of(self._db, lane) is not None for lane, names in lanes)

    def _aging(self, ticket: Ticket) -> int:
        """Return the longest aging time of the groups of a job."""
        marks = ", ".join("?" * len(ticket.groups))
        statement = f"SELECT max(aging_ns) FROM groups WHERE name IN ({marks})"  # noqa: S608  # question marks
        return self._db.execute(statement, ticket.groups).fetchone()[0] or 0

    def _lane(self, groups: tuple[str, ...]) -> int:
        for lane, names in lanes_of(self._db).items():
            if names == groups:
                return lane
        return self._db.execute("INSERT INTO lanes (names) VALUES (?)", (json.dumps(groups),)).lastrowid or 0
