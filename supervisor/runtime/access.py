"""Every public call of a supervisor passes here: its way to the store, as long as the supervisor is open."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import trio

from supervisor.errors import StateBusy, SupervisorClosed
from supervisor.jobs.catalog import Catalog
from supervisor.system.fork_safety import forked_error, tell_in_child

__all__ = ["StoreAccess"]

_T = TypeVar("_T")
_CLOSE_SECONDS: Final = 5


class StoreAccess:
    """Guards every public call: rejects it on a closed or forked supervisor; runs blocking access on one worker thread.

    Args:
        catalog: the jobs over a connection that never waits, for the event loop.
        patient: the same over one that may wait, for the worker thread.
    """

    def __init__(self, catalog: Catalog, patient: Catalog) -> None:
        self._catalog = catalog
        self._patient = patient
        self._lock = trio.Lock()
        self.closed = False
        self.forked = False
        tell_in_child(self)

    @property
    def waiting(self) -> int:
        """How many calls wait for the worker thread."""
        return self._lock.statistics().tasks_waiting

    def in_child(self) -> None:
        """Reject every call from now on: this is a forked child."""
        self.forked = True

    def check_open(self) -> None:
        """Raise ``SupervisorClosed`` unless it is open."""
        if self.forked:
            raise forked_error()
        if self.closed:
            message = "the supervisor is closed"
            raise SupervisorClosed(message)

    async def query(self, question: Callable[[Catalog], _T]) -> _T:
        """Run a fast read-only query on the event loop; fall back to the worker thread if the index is locked.

        It is locked for moments only: while another process rebuilds it, or recovers its log after a crash.
        """
        try:
            return question(self._catalog)
        except StateBusy:
            return await self.in_thread(question)

    async def in_thread(self, action: Callable[[Catalog], _T]) -> _T:
        """Run an action that may wait for the disk on the worker thread, one at a time."""
        async with self._lock:
            self.check_open()
            return await trio.to_thread.run_sync(action, self._patient)

    async def finish(self) -> None:
        """Wait some seconds for the action on the worker thread; later ones are rejected."""
        with trio.move_on_after(_CLOSE_SECONDS, shield=True):
            async with self._lock:
                pass
