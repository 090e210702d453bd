"""Subscriptions to the events of jobs: bounded memory, and a slow reader delays no other task."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import attrs
import trio

from supervisor.model import JobEvent

__all__ = ["Subscription"]

_MAX_EVENTS: Final = 256
_MAX_IN_A_ROW: Final = 16
"""Events that a reader takes before other tasks run. With 1, a hundred readers would miss most events."""


class Subscription:
    """An async iterator of ``JobEvent``. When it is full, the oldest event is dropped and counted.

    For each job only the latest progress event is held, and a progress event never displaces another event.
    """

    def __init__(self, job_id: str | None) -> None:
        """Subscribe to the events of one job, or of all."""
        self.job_id = job_id
        self._events: OrderedDict[object, JobEvent] = OrderedDict()
        self._lagged = 0
        self._readers = trio.lowlevel.ParkingLot()
        self._in_a_row = 0
        self._closed = False

    @property
    def unread(self) -> int:
        """How many events it holds."""
        return len(self._events)

    def put(self, event: JobEvent) -> None:
        """Add an event; drop the oldest one when there are too many."""
        job = event.job
        if self.job_id is not None and self.job_id != job.job_id:
            return
        events = self._events
        progress = event.is_progress
        key: object = job.job_id if progress else object()
        if progress:
            events.pop(key, None)
        if len(events) >= _MAX_EVENTS:
            self._lagged += 1
            if progress:
                return
            events.popitem(last=False)
        events[key] = event
        if self._readers:
            self._readers.unpark_all()

    def close(self) -> None:
        """End the iteration after the events that are held."""
        self._closed = True
        self._readers.unpark_all()

    def __aiter__(self) -> Subscription:
        """Return itself."""
        return self

    async def __anext__(self) -> JobEvent:
        """Return the next event; its ``lagged`` says how many were dropped before it.

        Every call is a cancel point; a cancelled call loses no event. A call is a schedule point if there is no event,
        and at least once in ``_MAX_IN_A_ROW`` events.
        """
        if self._events and self._in_a_row < _MAX_IN_A_ROW:
            self._in_a_row += 1
            await trio.lowlevel.checkpoint_if_cancelled()
        elif self._events or self._closed:
            self._in_a_row = 1
            await trio.lowlevel.checkpoint()
        while not self._events:
            if self._closed:
                raise StopAsyncIteration
            self._in_a_row = 0
            await self._readers.park()
        _, event = self._events.popitem(last=False)
        if self._lagged:
            event = attrs.evolve(event, lagged=self._lagged)
            self._lagged = 0
        return event
