"""Where waiting jobs stand, and what has happened to jobs: a connection that reads the queue and the journal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Sequence
from operator import attrgetter
from typing import TypeVar

from supervisor.errors import SupervisorError
from supervisor.store.budgets import own_ask
from supervisor.store.journal import Journal, Page, Position
from supervisor.store.queries import Queries
from supervisor.store.queue import Queue
from supervisor.store.queue.usage import lanes_of
from supervisor.store.rows import Row
from supervisor.store.schedules import ScheduleRows
from supervisor.store.state_root import Layout
from supervisor.store.tickets import groups_of, has_ticket

__all__ = ["Standings"]

_T = TypeVar("_T")


class Standings(Queries):
    """A connection to the index that reads the rows of jobs, and where they stand in the queue."""

    def __init__(self, layout: Layout, *, wait_seconds: float, any_thread: bool) -> None:
        """Open the index; first create, migrate or rebuild it if necessary."""
        self._standings: dict[int, tuple[str | None, int | None]] = {}
        self._queue: Queue | None = None
        super().__init__(layout, wait_seconds=wait_seconds, any_thread=any_thread)

    @property
    def queue(self) -> Queue:
        """The waiting jobs and the slots; its methods run inside ``write`` or ``read``."""
        connection = self._db  # another one after the index was replaced
        if self._queue is None or not self._queue.is_of(connection):
            self._queue = Queue(connection)  # its parts refer to each other: 3 % of an admission, and garbage
        self._queue.forget()
        return self._queue

    @property
    def schedules(self) -> ScheduleRows:
        """The rows of the schedules; its methods run inside ``write`` or ``read``."""
        return ScheduleRows(self.layout.root, self._db, durable=self.layout.durable)

    def read_queue(self, question: Callable[[Queue], _T], *, snapshot: bool = False) -> _T:
        """Return what the queue answers; ``snapshot``: to a question that takes several statements, see ``read``."""
        return self.read(lambda: question(self.queue), snapshot=snapshot)

    def read_schedules(self, question: Callable[[ScheduleRows], _T]) -> _T:
        """Return what the rows of the schedules answer, outside a transaction."""
        return self.read(lambda: question(self.schedules))

    def standing(self, row: Row) -> tuple[str | None, int | None]:
        """Return (``queue_reason``, ``queue_position``) of a job; ``None`` for both where that is not known now."""
        if row.seq in self._standings:
            return self._standings[row.seq]
        if row.started_ns is not None or row.finished or not has_ticket(row.request):
            return None, None
        try:
            return self.read_queue(lambda queue: queue.standing(row.job_id, self.layout.clock.moment()), snapshot=True)
        except SupervisorError:
            return None, None

    def limit_end_ns(self, row: Row) -> int | None:
        """Return when a usage limit ends that a waiting job waits out, by the wall clock; ``None`` if not known now."""
        names, now = groups_of(row.request), self.layout.clock.moment()
        try:
            return self.read_queue(lambda queue: queue.limit_end_ns(names, now), snapshot=True)
        except SupervisorError:
            return None

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
        positions = self.read_queue(lambda queue: queue.positions(row.seq for row in rows), snapshot=True)
        reasons: dict[str, str | None] = {}
        standings: list[tuple[str | None, int | None]] = []
        for row in rows:
            position = positions.get(row.seq)
            if position is None:
                standings.append(self.standing(row))
                continue
            alike = f"{groups_of(row.request)} {row.request['weight']} {own_ask(row.request['argv'])}"
            if alike not in reasons:
                reasons[alike] = self.standing(row)[0]
            standings.append((reasons[alike], position))
        return standings

    def waiting_in(self, group: str) -> list[Row]:
        """Return all jobs that wait in a group, also those that are not ready, in the order of their creation."""
        waiting = (
            "WHERE seq IN (SELECT seq FROM waiting WHERE lane = ?1 UNION ALL SELECT seq FROM later WHERE lane = ?1)"
        )
        lanes = [lane for lane, names in lanes_of(self._db).items() if group in names]
        return sorted((row for lane in lanes for row in self._select(waiting, (lane,))), key=attrgetter("seq"))

    @property
    def journal(self) -> Journal:
        """The journal; its methods run inside ``write`` or ``read``."""
        return Journal(self._db)

    def read_after(self, position: Position | None, limit: int = 100) -> Page:
        """Return up to ``limit`` events of the journal after a position; ``None``: no events, and the last position.

        Raises:
            SupervisorError: the index cannot be read now.
        """

        def question() -> Page:
            if position is None:
                return Page([], self.journal.end(), is_reset=False)
            return self.journal.read_after(position, limit)

        return self.read(question)
