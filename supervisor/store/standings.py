"""Where waiting jobs stand: a connection to the index that answers from the queue, outside a transaction."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import TypeVar

from supervisor.errors import SupervisorError
from supervisor.store.queries import Queries
from supervisor.store.queue import Queue
from supervisor.store.rows import Row
from supervisor.store.state_root import Layout
from supervisor.store.tickets import groups_of, has_ticket

__all__ = ["Standings"]

_T = TypeVar("_T")


class Standings(Queries):
    """A connection to the index that reads the rows of jobs, and where they stand in the queue."""

    def __init__(self, layout: Layout, *, wait_seconds: float, any_thread: bool) -> None:
        """Open the index; first create, migrate or rebuild it if necessary."""
        self._standings: dict[int, tuple[str | None, int | None]] = {}
        super().__init__(layout, wait_seconds=wait_seconds, any_thread=any_thread)

    @property
    def queue(self) -> Queue:
        """The waiting jobs and the slots; its methods run inside ``write`` or ``read``."""
        return Queue(self._db)

    def read_queue(self, question: Callable[[Queue], _T]) -> _T:
        """Return what the queue answers, outside a transaction."""
        return self.read(lambda: question(self.queue))

    def standing(self, row: Row) -> tuple[str | None, int | None]:
        """Return (``queue_reason``, ``queue_position``) of a job; ``None`` for both where that is not known now."""
        if row.seq in self._standings:
            return self._standings[row.seq]
        if row.started_ns is not None or row.finished or not has_ticket(row.request):
            return None, None
        try:
            return self.read_queue(lambda queue: queue.standing(row.job_id, self.layout.clock.moment()))
        except SupervisorError:
            return None, None

    @contextlib.contextmanager
    def standings_of(self, rows: Iterable[Row]) -> Generator[None]:
        """Find the standings of the waiting ones of many jobs at once, for the calls of ``standing`` meanwhile."""
        waiting = [row for row in rows if row.started_ns is None and not row.finished and has_ticket(row.request)]
        if waiting:
            with contextlib.suppress(SupervisorError):
                found = self.standings(waiting)
                self._standings = {row.seq: standing for row, standing in zip(waiting, found, strict=True)}
        try:
            yield
        finally:
            self._standings = {}

    def standings(self, rows: Sequence[Row]) -> list[tuple[str | None, int | None]]:
        """Return what ``standing`` does for many new jobs, in little more time than for one."""
        positions = self.read_queue(lambda queue: queue.positions(row.seq for row in rows))
        reasons: dict[str, str | None] = {}
        standings: list[tuple[str | None, int | None]] = []
        for row in rows:
            position = positions.get(row.seq)
            if position is None:
                standings.append(self.standing(row))
                continue
            lane = f"{groups_of(row.request)} {row.request['weight']}"
            if lane not in reasons:
                reasons[lane] = self.standing(row)[0]
            standings.append((reasons[lane], position))
        return standings

    def may_wait(self) -> bool:
        """Whether jobs in groups wait or are about to be launched; ``True`` also where that is not known now."""
        try:
            return self.read_queue(Queue.in_use)
        except SupervisorError:
            return True
