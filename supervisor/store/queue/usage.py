"""The groups in the index at one moment: what they have in use, and whether they admit a job now."""

from __future__ import annotations

import functools
import json
import math
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import attrs

from supervisor.store.budgets import Budget
from supervisor.store.pacing import Pace, Pacing
from supervisor.store.spending import Spending
from supervisor.store.tickets import Moment
from supervisor.store.usage_limits import LimitState

__all__ = ["FOR_EVER_NS", "Usage", "held_in", "lanes_of", "usage_of"]

FOR_EVER_NS: Final = 2**63 - 1
"""``paused_until_ns`` of a group that is paused until it is resumed."""


@attrs.define(slots=True)
class Usage:
    """A group, and the slots in use.

    Attributes:
        most: its limit; ``None`` for none.
        paused_until_ns: by the wall clock.
        running: the slots in use, if it has a limit of its own or has met one.
        pace: of a group that has one.
        limit: the usage limit that its jobs have met, until one of them has succeeded since.
        budgets: what its jobs may spend.
    """

    most: int | None
    paused_until_ns: int
    running: int
    pace: Pace | None
    limit: LimitState | None = None
    budgets: Sequence[Budget] = ()

    def closed_by(self, weight: int, now: Moment, own_ask: int | None = None) -> str | None:
        """Return why it admits no job of a weight now: ``paused``, ``rate_limited``, ``budget``, ``limit`` or ``rate``.

        ``own_ask`` is how much money the command of the job says that it spends at most.
        """
        if self._other_pause_ns(now) > 0:
            return "paused"
        if self.limit is not None and self.limit.left_ns(now) > 0:
            return "rate_limited"
        if self.budgets and any(budget.blocks(own_ask) for budget in self.budgets):
            return "budget"
        if self.most is not None and self.running + weight > self.most:
            return "limit"
        if self.running and self.limit is not None and self.running + weight > self._slots(now):
            return "rate_limited"
        return "rate" if self.pace is not None and self.pace.wait_ns > 0 else None

    def room(self, now: Moment) -> float:
        """Return the weight that it has room for now."""
        if self.closed_by(1, now) is not None:
            return 0.0
        if self.budgets:
            return 1.0
        most = math.inf if self.most is None else self.most
        return max(1, min(most, self._slots(now)) - self.running)

    def _slots(self, now: Moment) -> float:
        slots = None if self.limit is None else self.limit.slots(self.most, now)
        return math.inf if slots is None else slots

    def _pause_ns(self, now: Moment) -> int:
        """Return after which time its pauses end."""
        other_ns = self._other_pause_ns(now)
        return other_ns if self.limit is None else max(self.limit.left_ns(now), other_ns)

    def _other_pause_ns(self, now: Moment) -> int:
        """Return after which time its pauses end that are not for a usage limit."""
        only_limit = self.limit is not None and self.paused_until_ns == self.limit.until_ns
        return 0 if only_limit else self.paused_until_ns - now.wall_ns

    def limit_end_ns(self, now: Moment) -> int | None:
        """Return when its pause for a usage limit ends, by the wall clock; ``None`` for no such pause."""
        left_ns = 0 if self.limit is None else self.limit.left_ns(now)
        return now.wall_ns + left_ns if left_ns > 0 else None

    def wait_seconds(self, now: Moment) -> float | None:
        """Return after how many seconds it may admit a job without a change: its pause ends, or it has a token."""
        if (pause_ns := self._pause_ns(now)) > 0:
            return None if self.paused_until_ns == FOR_EVER_NS else pause_ns / 1e9
        step_ns = None if self.limit is None else self.limit.step_ns(self.most, now)
        token_ns = self.pace.wait_ns if self.pace is not None and self.pace.wait_ns > 0 else None
        windows_ns = [each.end_ns - now.wall_ns for each in self.budgets if each.end_ns is not None]
        waits = [each for each in (step_ns, token_ns, *windows_ns) if each is not None]
        return min(waits) / 1e9 if waits else None


@functools.lru_cache(256)
def _names(text: str) -> tuple[str, ...]:
    return tuple(json.loads(text))


def lanes_of(connection: sqlite3.Connection) -> dict[int, tuple[str, ...]]:
    """Return the groups of each lane."""
    return {lane: _names(names) for lane, names in connection.execute("SELECT lane, names FROM lanes")}


def held_in(connection: sqlite3.Connection, lane: int) -> int:
    """Return the weight of the jobs of a lane that hold slots."""
    statement = "SELECT coalesce(sum(weight), 0) FROM held WHERE lane = ?"
    return int(connection.execute(statement, (lane,)).fetchone()[0])


def usage_of(connection: sqlite3.Connection, lanes: Mapping[int, Iterable[str]], now: Moment) -> dict[str, Usage]:
    """Return all groups by their names.

    Without a limit, any number of jobs may hold slots, and they are not counted.
    """
    found = connection.execute(
        "SELECT name, most, paused_until_ns, held FROM groups LEFT JOIN noticed ON what = 'limit:' || name"
    ).fetchall()
    limited = {name for name, most, _, met in found if most is not None or met is not None}
    running = dict.fromkeys(limited, 0)
    for lane, names in lanes.items():
        if not limited.isdisjoint(names):
            weight = held_in(connection, lane)
            for name in limited.intersection(names):
                running[name] += weight
    pacing = Pacing(connection)
    paces = pacing.load(now)
    groups = {
        name: Usage(most, until_ns, running.get(name, 0), paces.get(name), LimitState.decode(met))
        for name, most, until_ns, met in found
    }
    for name, held in pacing.all_budgets():
        if name in groups:
            groups[name].budgets = Spending(connection).budgets_of(name, held, now)
    return groups
