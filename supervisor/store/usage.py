"""The groups in the index at one moment: what they have in use, and whether they admit a job now."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from typing import Final

import attrs

from supervisor.store.pacing import Pace, Pacing
from supervisor.store.tickets import Moment

__all__ = ["FOR_EVER_NS", "Usage", "held_in", "lanes_of", "usage_of"]

FOR_EVER_NS: Final = 2**63 - 1
"""``paused_until_ns`` of a group that is paused until it is resumed."""


@attrs.define(slots=True)
class Usage:
    """A group, and the slots in use.

    Attributes:
        most: its limit; ``None`` for none.
        paused_until_ns: by the wall clock.
        running: the slots in use, if it has a limit.
        pace: of a group that has one.
    """

    most: int | None
    paused_until_ns: int
    running: int
    pace: Pace | None

    def closed_by(self, weight: int, now: Moment) -> str | None:
        """Return why it admits no job of a weight now: ``paused``, ``limit`` or ``rate``."""
        if self.paused_until_ns > now.wall_ns:
            return "paused"
        if self.most is not None and self.running + weight > self.most:
            return "limit"
        return "rate" if self.pace is not None and self.pace.wait_ns > 0 else None

    def wait_seconds(self, now: Moment) -> float | None:
        """Return after how many seconds it may admit a job without a change: its pause ends, or it has a token."""
        if now.wall_ns < self.paused_until_ns:
            return None if self.paused_until_ns == FOR_EVER_NS else (self.paused_until_ns - now.wall_ns) / 1e9
        return self.pace.wait_ns / 1e9 if self.pace is not None and self.pace.wait_ns > 0 else None


def lanes_of(connection: sqlite3.Connection) -> dict[int, list[str]]:
    """Return the groups of each lane."""
    return {lane: json.loads(names) for lane, names in connection.execute("SELECT lane, names FROM lanes")}


def held_in(connection: sqlite3.Connection, lane: int) -> int:
    """Return the weight of the jobs of a lane that hold slots."""
    statement = "SELECT coalesce(sum(weight), 0) FROM held WHERE lane = ?"
    return int(connection.execute(statement, (lane,)).fetchone()[0])


def usage_of(connection: sqlite3.Connection, lanes: Mapping[int, Iterable[str]], now: Moment) -> dict[str, Usage]:
    """Return all groups by their names.

    Without a limit, any number of jobs may hold slots, and they are not counted.
    """
    found = connection.execute("SELECT name, most, paused_until_ns FROM groups").fetchall()
    limited = {name for name, most, _ in found if most is not None}
    running = dict.fromkeys(limited, 0)
    for lane, names in lanes.items():
        if not limited.isdisjoint(names):
            weight = held_in(connection, lane)
            for name in limited.intersection(names):
                running[name] += weight
    paces = Pacing(connection).load(now)
    return {name: Usage(most, until_ns, running.get(name, 0), paces.get(name)) for name, most, until_ns in found}
