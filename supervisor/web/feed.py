"""The events of the journal, read once for all clients that listen.

A client is a position in the journal, and no queue: what it has not read yet is in the journal. So a slow client
costs no memory, one that was away goes on where it stopped, and so does each client after a kill of the server.

After each commit to the index, of any process, the events since then are read, and their jobs with them; the last ones
are kept, ready to be sent. Where many events come, they are read and sent a batch at a time, with pauses, so that the
jobs keep nearly all of the machine.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import Any, Final

import attrs
import trio

from supervisor import log
from supervisor.errors import SupervisorError
from supervisor.http.guard import Caller
from supervisor.jobs.catalog import Catalog
from supervisor.mcp_server.access.principals import PRINCIPAL_LABEL
from supervisor.mcp_server.changes import Changes
from supervisor.mcp_server.lazy import LazySupervisor
from supervisor.mcp_server.tools.answers import dump
from supervisor.model import from_ns, to_json
from supervisor.model.job_json import time_to_json
from supervisor.settings import Settings
from supervisor.store.journal import JournalEvent, Page, Position

__all__ = ["Feed", "Part"]

_PAGE: Final = 100
_KEPT: Final = 2000
"""How many events are kept ready: some 2 MB."""
_FIRST_PAUSE_SECONDS: Final = 1.0
_MAX_PAUSE_SECONDS: Final = 30.0
"""Between two attempts while the state root cannot be read."""
_SEND_SECONDS: Final = 0.0001
"""What one more client costs for each batch."""
_SHARE: Final = 0.05
"""Of the time of the process for events, in the mean."""
_MAX_CREDIT_SECONDS: Final = 0.5
"""What was not used of that share, so that single events are sent at once."""


@attrs.frozen(slots=True)
class _Ready:
    """An event that is ready to be sent: its number, the job and the principal of the job, and its text."""

    number: int
    job_id: str
    principal: str | None
    is_known: bool
    text: bytes

    def may_go_to(self, caller: Caller, job_id: str | None) -> bool:
        """Whether a caller may see it and wants it."""
        if job_id is not None and self.job_id != job_id:
            return False
        return caller.principal is None or (self.is_known and self.principal == caller.principal)


@attrs.frozen(slots=True)
class Part:
    """The next events of a client: their text, and the position after them.

    ``is_reset``: some events between are gone, and the client has to read the jobs themselves.
    """

    text: bytes
    position: Position
    is_reset: bool = False


class Feed:
    """The events for the clients of one server; ``run`` has to run."""

    def __init__(self, lazy: LazySupervisor, settings: Settings) -> None:
        self._lazy = lazy
        self._changes = Changes(settings)
        self._ready: list[_Ready] = []
        self._begin: Position | None = None
        self._end: Position | None = None
        self._more = trio.Event()
        self._same: tuple[Position, Part] | None = None
        self.closed = False
        """Whether the server is about to end."""
        self.listening = 0
        """How many clients listen."""

    async def run(self) -> None:
        """Read events as they come, until cancelled."""
        async with self._changes.attached(None), trio.open_nursery() as nursery:
            nursery.start_soon(self._close_in_time)
            with self._changes.watching() as watch:
                credit, last, pause = 0.0, trio.current_time(), 0.0
                while True:
                    begun, found = trio.current_time(), 0
                    try:
                        found = await self._read()
                        pause = 0.0
                    except Exception as error:  # noqa: BLE001  # a defect with one event must not end the server
                        if not isinstance(error, SupervisorError):  # the state root cannot be read now
                            log.warning("events_not_read", error=repr(error))
                        # It may go away without an event of the state root.
                        pause = min(_MAX_PAUSE_SECONDS, 2 * pause or _FIRST_PAUSE_SECONDS)
                        await trio.sleep(pause)
                        continue
                    if found:
                        now = trio.current_time()
                        credit = min(_MAX_CREDIT_SECONDS, credit + _SHARE * (now - last))
                        credit -= now - begun + _SEND_SECONDS * self.listening
                        last = now
                        await trio.sleep(max(0, -credit / _SHARE))
                    if found < _PAGE:
                        await watch.next()

    async def _close_in_time(self) -> None:
        await self._lazy.ending.wait()
        self.closed = True
        self._more.set()

    async def _read(self) -> int:
        """Read the next events, and wake the clients; return how many there were."""
        supervisor = await self._lazy.supervisor()
        end = self._end
        page, ready = await supervisor.access.in_thread(lambda catalog: _page(catalog, end))
        if end is None or page.is_reset:
            self._begin, self._ready = page.position, []
        self._end = page.position
        self._ready += ready
        if len(self._ready) > 2 * _KEPT:
            gone = self._ready[-_KEPT - 1]
            self._begin = Position(page.position.epoch, gone.number)
            self._ready = self._ready[-_KEPT:]
        if ready or page.is_reset:
            self._same = None
            more, self._more = self._more, trio.Event()
            more.set()
        return len(ready)

    async def end(self) -> Position:
        """Return the position after all events so far.

        Raises:
            SupervisorError: the state root cannot be read now.
        """
        if self._end is not None:
            return self._end
        supervisor = await self._lazy.supervisor()
        page = await supervisor.access.in_thread(lambda catalog: catalog.index.read_after(None))
        return page.position

    async def after(self, position: Position, caller: Caller, job_id: str | None = None) -> Part:
        """Return the next events of a client after a position: some, or none that it may see.

        Raises:
            SupervisorError: the state root cannot be read now.
        """
        if self._begin is None or self._end is None or not _is_between(self._begin, position, self._end):
            return await self._from_journal(position, caller, job_id)
        if position == self._end:
            return Part(b"", position)
        sees_all = caller.principal is None and job_id is None
        if sees_all and self._same is not None and self._same[0] == position:
            return self._same[1]
        first = bisect_right(self._ready, position.number, key=lambda each: each.number)
        events = self._ready[first : first + _PAGE]
        part = Part(
            _text_of(events, caller, job_id),
            Position(position.epoch, events[-1].number) if events else self._end,
        )
        if sees_all:
            self._same = (position, part)
        return part

    async def _from_journal(self, position: Position, caller: Caller, job_id: str | None) -> Part:
        supervisor = await self._lazy.supervisor()
        page, ready = await supervisor.access.in_thread(lambda catalog: _page(catalog, position))
        return Part(_text_of(ready, caller, job_id), page.position, page.is_reset)

    async def wait(self, position: Position) -> None:
        """Wait until there may be events after a position, or the server is about to end."""
        if not self.closed and position == self._end:
            await self._more.wait()


def _is_between(begin: Position, position: Position, end: Position) -> bool:
    return begin.epoch == position.epoch and begin.number <= position.number <= end.number


def _text_of(events: Iterable[_Ready], caller: Caller, job_id: str | None) -> bytes:
    return b"".join(each.text for each in events if each.may_go_to(caller, job_id))


def _page(catalog: Catalog, position: Position | None) -> tuple[Page, list[_Ready]]:
    page = catalog.index.read_after(position, _PAGE)
    epoch = page.position.epoch
    return page, [_ready(catalog, epoch, event) for event in page.events]


def _ready(catalog: Catalog, epoch: str, event: JournalEvent) -> _Ready:
    shape: dict[str, Any] = {"job_id": event.job_id, "status": event.state}
    principal, is_known = None, False
    try:
        job = catalog.status(event.job_id, progress=False)
        shape = to_json(job)
        principal, is_known = job.labels.get(PRINCIPAL_LABEL), True
    except SupervisorError:  # it was forgotten, or its record cannot be read now
        pass
    data = dump({"type": event.type, "timestamp": time_to_json(from_ns(event.at_ns)), "data": shape})
    text = f"id: {Position(epoch, event.number)}\nevent: {event.type}\ndata: {data}\n\n"
    return _Ready(event.number, event.job_id, principal, is_known, text.encode(errors="replace"))
