"""The gate of a supervisor: open until it is closed, and one at a time into the thread that may wait for the disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import trio

from supervisor.errors import StateBusy, SupervisorClosed
from supervisor.jobs.catalog import Catalog
from supervisor.system.fork_safety import forked_error, tell_in_child

__all__ = ["Gate"]

_T = TypeVar("_T")
_PATIENCE_SECONDS: Final = 5


class Gate:
    """Lets calls through while its supervisor is open, in the process that opened it.

    Args:
        catalog: the jobs over a connection that never waits, for the event loop.
        foreign: the same over one that may, for a thread.
    """

    def __init__(self, catalog: Catalog, foreign: Catalog) -> None:
        """Be open."""
        self._catalog = catalog
        self._foreign = foreign
        self._lock = trio.Lock()
        self.closed = False
        self.forked = False
        tell_in_child(self)

    @property
    def waiting(self) -> int:
        """How many calls wait for their turn in the thread."""
        return self._lock.statistics().tasks_waiting

    def in_child(self) -> None:
        """Refuse every call from now on: this is a forked child."""
        self.forked = True

    def check_open(self) -> None:
        """Raise ``SupervisorClosed`` unless it is open."""
        if self.forked:
            raise forked_error()
        if self.closed:
            message = "the supervisor is closed"
            raise SupervisorClosed(message)

    async def ask(self, question: Callable[[Catalog], _T]) -> _T:
        """Ask what the registry answers in microseconds, here and now; in a thread while somebody else holds its lock.

        That is for moments only: the registry is being rebuilt, or its log recovered after a crash.
        """
        try:
            return question(self._catalog)
        except StateBusy:
            return await self.in_thread(question)

    async def in_thread(self, action: Callable[[Catalog], _T]) -> _T:
        """Do something that may wait for the disk, in a thread, one at a time."""
        async with self._lock:
            self.check_open()
            return await trio.to_thread.run_sync(action, self._foreign)

    async def finish_threads(self) -> None:
        """Wait, but not for long, for what is under way in a thread; whoever is next in line is refused."""
        with trio.move_on_after(_PATIENCE_SECONDS, shield=True):
            async with self._lock:
                pass
