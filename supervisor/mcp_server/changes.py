"""Whether what was read of the state root may be out of date: groups, and places in their queues.

Each commit to the index, of any process, writes to a file in the state root, and inotify tells. A supervisor that is
open publishes no event for that: its events are about jobs.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncGenerator, Generator
from typing import TYPE_CHECKING, Final

import trio

from supervisor.settings import Settings
from supervisor.store import Layout

if TYPE_CHECKING:
    from supervisor.system.notifier import Notifier

__all__ = ["Changes", "Watch"]

_COMMIT_SECONDS: Final = 0.02
"""A commit is visible a moment after its write is."""
_AGAIN_SECONDS: Final = 1.0
"""Until one more look, and between two looks where inotify is missing."""


class Watch:
    """The commits for one reader."""

    def __init__(self) -> None:
        """Begin without a commit; ``sees``: whether inotify tells of them."""
        self.sees = False
        self.changed_at = trio.current_time()
        """When the last commit was seen, or a look is due for another reason."""
        self._woken = trio.Event()
        self._again = True  # a commit may have been written, and not been visible, before this began

    def wake(self) -> None:
        """Have the reader look."""
        self.changed_at = trio.current_time()
        self._woken.set()

    async def next(self, until: float = math.inf) -> None:
        """Wait until there may be news since the last call, or for the time ``until``.

        A process may be interrupted between the write of a commit, which wakes this, and the moment from which others
        see it. So a call that was woken is followed by one more a second later.
        """
        seconds = _AGAIN_SECONDS if self._again or not self.sees else math.inf
        with trio.move_on_at(min(until, trio.current_time() + seconds)) as waiting:
            await self._woken.wait()
        self._again = not waiting.cancelled_caught
        if self._again:
            await trio.sleep(_COMMIT_SECONDS)
        else:
            self.changed_at = trio.current_time()
        self._woken = trio.Event()

    async def next_or(self, event: trio.Event, until: float = math.inf) -> None:
        """Wait as ``next`` does, or until ``event`` is set."""

        async def end() -> None:
            await event.wait()
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(end)
            await self.next(until)
            nursery.cancel_scope.cancel()


class Changes:
    """Wakes watches at each commit; without a watch, it does nothing.

    Args:
        settings: of the state root.
    """

    def __init__(self, settings: Settings) -> None:
        self._state_dir = settings.state_dir
        self._root = ""  # not known before a supervisor is open: the state root may be unusable until then
        self._notifier: Notifier | None = None

    @contextlib.asynccontextmanager
    async def attached(self, _: object) -> AsyncGenerator[None]:
        """Serve watches for as long as a supervisor is open."""
        from supervisor.system.notifier import Notifier  # an open supervisor has it, and it delays the first answer

        self._root = Layout(self._state_dir).root
        notifier = Notifier()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(notifier.serve)
            self._notifier = notifier
            try:
                yield
            finally:
                self._notifier = None
                nursery.cancel_scope.cancel()

    @contextlib.contextmanager
    def watching(self) -> Generator[Watch]:
        """Give a watch."""
        watch = Watch()
        with contextlib.ExitStack() as stack:
            if self._notifier is not None:
                from supervisor.system.inotify import MODIFIED

                watch.sees = stack.enter_context(self._notifier.watching(self._root, MODIFIED, watch.wake))
            yield watch
