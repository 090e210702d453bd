"""What a supervisor publishes of its jobs: events for subscriptions, and counts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from supervisor.errors import SupervisorError
from supervisor.metrics import Counters
from supervisor.model import JobEvent
from supervisor.runtime import metering
from supervisor.runtime.entry import LAUNCHING, Entry
from supervisor.runtime.events import Subscription
from supervisor.states import State
from supervisor.store import Index, Row
from supervisor.store.tickets import groups_of

__all__ = ["Publisher"]


class Publisher:
    """Publishes events about jobs, and counts them.

    Attributes:
        entries: the jobs that this supervisor supervises, by id.
        subscriptions: the open iterators of events.
        counters: of this supervisor.
    """

    def __init__(self, index: Index) -> None:
        """Read what is to be published from ``index``, which must not wait for locks."""
        self._index = index
        self.entries: dict[str, Entry] = {}
        self.subscriptions: set[Subscription] = set()
        self.counters = Counters()
        self._ends_ns: dict[str, int] = {}  # of the last job of each group, among those of this batch

    def publish_pause(self, entry: Entry) -> None:
        """Publish that a job is paused, or runs again."""
        self._publish(entry, State(entry.row.state))

    def _read(self, job_id: str) -> Row | None:
        try:
            return self._index.get(job_id)
        except SupervisorError:
            return None

    def begin_admitted(self, entry: Entry, *, is_current: bool = False) -> None:
        """Start the actor of a job that has its slots, to launch it; publish that.

        ``is_current``: the request in its row is that of the entry. Else it is read: another process may have moved it.
        """
        if entry.pending is not None and entry.queue_reason != LAUNCHING:
            self._publish(entry, State.QUEUED)
        entry.queue_reason = LAUNCHING
        if entry.pending is not None and "groups" in entry.row.request:
            row = None if is_current else self._read(entry.row.job_id)
            if row is not None and not row.finished:
                entry.row = row
            self._count_admission(entry, groups_of(entry.row.request))
        entry.begin(launch=True)

    def _count_admission(self, entry: Entry, names: Iterable[str]) -> None:
        for counters in (counted := self.counters.of_groups(names)).values():
            counters.admissions += 1
        metering.admitted(counted)
        ends = [self._ends_ns[name] for name in names if name in self._ends_ns]
        if ends and max(ends) >= entry.row.created_ns:
            entry.slot_free_ns = max(ends)

    def publish_reasons(self, entries: Sequence[Entry]) -> None:
        """Publish for which of these jobs, which wait, ``queue_reason`` has changed since the last event.

        Raises:
            SupervisorError: the index cannot be read now.
        """
        if self.subscriptions and entries:
            standings = self._index.standings([entry.row for entry in entries])
            for entry, (reason, _) in zip(entries, standings, strict=True):
                if reason is None or entry.queue_reason == reason:
                    continue
                if entry.queue_reason is None:  # the first look
                    entry.queue_reason = reason
                else:
                    self._publish(entry, State.QUEUED)

    def _publish(self, entry: Entry, previous: State | None) -> None:
        if self.subscriptions:
            before, job = entry.queue_reason, entry.job()
            entry.queue_reason = job.queue_reason
            before = before if previous is State.QUEUED else None
            paused, entry.paused = entry.paused, job.paused
            event = JobEvent(job=job, previous=previous, previous_queue_reason=before, previous_paused=paused)
            for subscription in self.subscriptions:
                subscription.put(event)
