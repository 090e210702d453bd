"""What a supervisor counts: plain numbers while it works, one frozen value when somebody asks.

A job costs a handful of additions here, whether anybody ever asks or not. What can be had by
looking (who runs now, who waits) is looked at when somebody asks, and costs a job nothing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from datetime import datetime
from typing import Final

import attrs

from supervisor.states import State

__all__ = ["Counters", "Histogram", "Metrics"]

_BOUNDS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


@attrs.frozen(slots=True, kw_only=True)
class Histogram:
    """How long something took, each time.

    Attributes:
        bounds: upper bounds of the buckets in seconds, each of them included.
        counts: how many fell into each bucket, and last, how many took longer than every bound.
        total_seconds: the sum of all.
        longest_seconds: the longest; 0 when there was none.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total_seconds: float
    longest_seconds: float

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self.counts)

    @property
    def mean_seconds(self) -> float:
        """The mean; 0 when there was none."""
        return self.total_seconds / self.count if self.count else 0.0


@attrs.frozen(slots=True, kw_only=True)
class Metrics:
    """What one supervisor has done since it was opened, and what it is at now.

    It speaks of jobs in this supervisor's care: those that it started or adopted. What others on
    the same state root do is in theirs.

    Attributes:
        since: when it was opened; every count begins there.
        jobs: by state. ``queued`` and ``running`` are those in its care now, the terminal states those
            that have ended in its care.
        launches: commands that were spawned.
        launch_failures: commands that could not be.
        adoptions: jobs of others that were taken into care.
        launch_seconds: from a job's creation until its command was spawned.
        stop_seconds: from a stop (a cancel, a deadline) that began here until nothing of the job was left.
        deadline_overshoot_seconds: from a deadline until nothing of the job was left; the grace
            that a stubborn command is given is part of it.
        uncommitted: messages that wait for the registry actor to commit them.
        unnoted_launches: launches that the registry actor writes down a little later, together.
        waiting_for_disk: calls that wait for the thread in which the disk is read.
        subscribers: iterators of ``events`` that are open.
        unread_events: what these hold together and nobody has fetched.
    """

    since: datetime
    jobs: Mapping[State, int]
    launches: int
    launch_failures: int
    adoptions: int
    launch_seconds: Histogram
    stop_seconds: Histogram
    deadline_overshoot_seconds: Histogram
    uncommitted: int
    unnoted_launches: int
    waiting_for_disk: int
    subscribers: int
    unread_events: int


class Times:
    """A histogram that still grows."""

    __slots__ = ("_counts", "_longest", "_total")

    def __init__(self) -> None:
        """Begin with nothing."""
        self._counts = [0] * (len(_BOUNDS) + 1)
        self._total = 0.0
        self._longest = 0.0

    def add(self, seconds: float) -> None:
        """Count one; a clock that was set back counts as no time at all."""
        seconds = max(seconds, 0.0)
        self._counts[bisect_left(_BOUNDS, seconds)] += 1
        self._total += seconds
        self._longest = max(self._longest, seconds)

    def so_far(self) -> Histogram:
        """Return what was counted."""
        return Histogram(
            bounds=_BOUNDS,
            counts=tuple(self._counts),
            total_seconds=self._total,
            longest_seconds=self._longest,
        )


class Counters:
    """The counters of one supervisor. Whoever sees something happen adds to them."""

    __slots__ = ("adoptions", "ended", "launch_failures", "launches", "overshoots", "stops")

    def __init__(self) -> None:
        """Begin with nothing."""
        self.launches = Times()
        self.launch_failures = 0
        self.adoptions = 0
        self.stops = Times()
        self.overshoots = Times()
        self.ended = {state.value: 0 for state in State if state.terminal}
