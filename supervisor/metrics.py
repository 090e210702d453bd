"""The metrics of a supervisor: plain counters while it works, one frozen value for each call of ``metrics()``.

A job costs a few additions. The numbers of running and waiting jobs are computed when ``metrics()`` is called, and cost
a job nothing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final

import attrs

from supervisor.states import State

__all__ = ["MAX_GROUPS", "Counters", "GroupMetrics", "Histogram", "Metrics"]

MAX_GROUPS: Final = 100
"""The groups that metrics tell apart: the first by their names, and the first in which jobs were admitted."""

_BOUNDS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


@attrs.frozen(slots=True, kw_only=True)
class Histogram:
    """Durations, counted in buckets.

    Attributes:
        bounds: upper bounds of the buckets in seconds, each of them included.
        counts: the number of durations in each bucket; the last one counts those above every bound.
        total_seconds: the sum of all.
        longest_seconds: the longest; 0 if there is none.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total_seconds: float
    longest_seconds: float

    @property
    def count(self) -> int:
        """The number of durations."""
        return sum(self.counts)

    @property
    def mean_seconds(self) -> float:
        """The mean; 0 if there is no duration."""
        return self.total_seconds / self.count if self.count else 0.0


@attrs.frozen(slots=True, kw_only=True)
class GroupMetrics:
    """A group of the state root.

    Attributes:
        limit: its slots; ``None`` is unlimited, 0 is closed.
        running: the slots in use, by jobs of all supervisors.
        waiting: its waiting jobs, of all supervisors.
        oldest_wait_seconds: how long the oldest of them has waited; ``None`` if none waits.
        admissions: its jobs that this supervisor has launched, or is about to launch, since it was opened.
        slot_to_launch_seconds: from the end of a job to the launch of the next one in its place, where this supervisor
            recorded the end and launched the next job at once.
    """

    limit: int | None
    running: int
    waiting: int
    oldest_wait_seconds: float | None
    admissions: int
    slot_to_launch_seconds: Histogram


@attrs.frozen(slots=True, kw_only=True)
class Metrics:
    """What one supervisor has done since it was opened, and its current load.

    All values but ``groups`` are about the jobs that this supervisor started or adopted.

    Attributes:
        since: when the supervisor was opened; every count begins there.
        jobs: their number by state. ``queued`` and ``running`` count its jobs that are unfinished now; each terminal
            state counts the jobs that have ended since ``since``.
        launches: commands that were launched.
        launch_failures: commands that could not be launched.
        adoptions: jobs of other supervisors that were adopted.
        launch_seconds: from the creation of a job to its launch.
        stop_seconds: from a stop (a cancel, a deadline) that this supervisor began to the end of the last process.
        deadline_overshoot_seconds: from a deadline to the end of the last process, the grace included.
        uncommitted: messages that wait for the registry actor to commit them.
        unnoted_launches: launches that the registry actor has not committed yet; it commits several at once.
        waiting_for_disk: calls that wait for the thread that reads the disk.
        subscribers: open iterators of ``events``.
        unread_events: events that these iterators hold.
        groups: the groups of the state root by name, at most 100; empty if they cannot be read now.
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
    groups: Mapping[str, GroupMetrics] = attrs.field(factory=dict[str, GroupMetrics])


class Times:
    """A histogram that grows."""

    __slots__ = ("_counts", "_longest", "_total")

    def __init__(self) -> None:
        """Begin at zero."""
        self._counts = [0] * (len(_BOUNDS) + 1)
        self._total = 0.0
        self._longest = 0.0

    def add(self, seconds: float) -> None:
        """Count one duration; a negative one, of a clock that was set back, counts as zero."""
        seconds = max(seconds, 0.0)
        self._counts[bisect_left(_BOUNDS, seconds)] += 1
        self._total += seconds
        self._longest = max(self._longest, seconds)

    def so_far(self) -> Histogram:
        """Return the histogram."""
        return Histogram(
            bounds=_BOUNDS,
            counts=tuple(self._counts),
            total_seconds=self._total,
            longest_seconds=self._longest,
        )


class GroupCounters:
    """The counters of one group in one supervisor."""

    __slots__ = ("admissions", "slot_to_launch")

    def __init__(self) -> None:
        """Begin at zero."""
        self.admissions = 0
        self.slot_to_launch = Times()


class Counters:
    """The counters of one supervisor."""

    __slots__ = ("_groups", "adoptions", "ended", "launch_failures", "launches", "overshoots", "stops")

    def __init__(self) -> None:
        """Begin at zero."""
        self.launches = Times()
        self.launch_failures = 0
        self.adoptions = 0
        self.stops = Times()
        self.overshoots = Times()
        self.ended = Counter({state.value: 0 for state in State if state.terminal})
        self._groups: dict[str, GroupCounters] = {}

    def of_groups(self, names: Iterable[str]) -> dict[str, GroupCounters]:
        """Return the counters of these groups; those beyond ``MAX_GROUPS`` have none."""
        found: dict[str, GroupCounters] = {}
        for name in names:
            if name not in self._groups and len(self._groups) < MAX_GROUPS:
                self._groups[name] = GroupCounters()
            if name in self._groups:
                found[name] = self._groups[name]
        return found

    def group(self, name: str) -> GroupCounters:
        """Return the counters of one group, zeros for one without any."""
        return self._groups.get(name) or GroupCounters()
