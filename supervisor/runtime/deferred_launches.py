"""Launches that are committed a little later, and not at all if the job has ended by then.

Readers of an unfinished job observe the evidence, so the delay hides nothing from them.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from supervisor.runtime.entry import Entry
from supervisor.runtime.messages import NoteLaunch

__all__ = ["DeferredLaunches"]

_NOTE_AFTER_SECONDS: Final = 0.05


class DeferredLaunches:
    """Sends a message for each launch after a short delay."""

    def __init__(self, send: Callable[[NoteLaunch], Awaitable[None]]) -> None:
        """Give the messages to ``send``."""
        self._send = send
        self._launches: deque[tuple[float, Entry]] = deque()
        self._launched = trio.Event()

    def __len__(self) -> int:
        """Return how many launches are not committed yet."""
        return len(self._launches)

    def add(self, entry: Entry) -> None:
        """Have the launch of a job committed."""
        self._launches.append((trio.current_time() + _NOTE_AFTER_SECONDS, entry))
        self._launched.set()

    def messages(self) -> list[NoteLaunch]:
        """Return the messages that were not sent yet."""
        return [NoteLaunch(entry) for _, entry in self._launches if not entry.row.finished]

    async def serve(self) -> None:
        """Send the messages until cancelled."""
        with contextlib.suppress(trio.ClosedResourceError):  # the last commit takes the remaining launches
            while True:
                await self._launched.wait()
                self._launched = trio.Event()
                while self._launches:
                    due, entry = self._launches[0]
                    if not entry.row.finished and due > trio.current_time():
                        await trio.sleep_until(due)
                    if not entry.row.finished:
                        await self._send(NoteLaunch(entry))
                    self._launches.popleft()
