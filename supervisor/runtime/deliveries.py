"""Whether a supervisor has anything to deliver; ``delivering`` does it, and is imported only then."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import trio

from supervisor.model import Job, JobSpec
from supervisor.settings import Settings
from supervisor.store import Row
from supervisor.system.observing import NotKnown, is_there

if TYPE_CHECKING:
    from supervisor.runtime.delivering import Deliverer

__all__ = ["Deliveries"]


class Deliveries:
    """Delivers the ends of the jobs of a state root, from the first one that there is.

    Args:
        root: the state root.
        settings: of the supervisor.
        start: starts a job.
        wait: waits for the end of a job.
        wall_ns: returns the time by the wall clock.
    """

    def __init__(
        self,
        root: str,
        settings: Settings,
        start: Callable[[JobSpec], Awaitable[Job]],
        wait: Callable[[str], Awaitable[Job]],
        wall_ns: Callable[[], int],
    ) -> None:
        """Have nothing to deliver."""
        self._root = root
        self._of = settings, start, wait, wall_ns
        self._deliverer: Deliverer | None = None
        self._needed = trio.Event()

    @property
    def is_busy(self) -> bool:
        """Whether this process is the one that delivers, and there is anything to deliver."""
        return self._deliverer is not None and self._deliverer.is_busy

    def ended(self, row: Row) -> None:
        """Look for deliveries soon if the end of this job is delivered: this process has just recorded it."""
        if row.has_deliveries:
            self._needed.set()
            if self._deliverer is not None:
                self._deliverer.wake()

    def tick(self) -> None:
        """Look for deliveries soon if there may be any that are due; in a few microseconds if not."""
        if self._deliverer is not None:
            self._deliverer.tick()
            return
        try:
            found = is_there(f"{self._root}/deliveries")
        except NotKnown:
            found = False  # the next tick looks again
        if found:
            self._needed.set()

    async def run(self) -> None:
        """Deliver until cancelled."""
        await self._needed.wait()
        from supervisor.runtime.delivering import Deliverer  # few supervisors need it, and what it imports

        self._deliverer = Deliverer(self._root, *self._of)
        self._deliverer.wake()
        await self._deliverer.run()
