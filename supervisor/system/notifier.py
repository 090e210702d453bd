"""Calls back, in a Trio program, at changes in directories; one inotify instance for all."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator

import trio

from supervisor.system.inotify import OVERFLOWN, Inotify

__all__ = ["Notifier"]


class Notifier:
    """Calls back when a watched directory changes. Its ``serve`` has to run for that."""

    def __init__(self) -> None:
        self._notify: Inotify | None = None
        self._wanted = trio.Event()
        self._callbacks: dict[int, list[Callable[[], None]]] = {}

    async def serve(self) -> None:
        """Call back at changes, until cancelled."""
        await self._wanted.wait()
        assert self._notify is not None  # noqa: S101  # set before the event
        try:
            while True:
                await trio.lowlevel.wait_readable(self._notify.descriptor)
                numbers = self._notify.read()
                if OVERFLOWN in numbers:
                    numbers |= self._callbacks.keys()
                for number in numbers:
                    for callback in tuple(self._callbacks.get(number, ())):
                        callback()
        finally:
            self._notify.close()
            self._notify = None

    @contextlib.contextmanager
    def watching(self, directory: str, mask: int, callback: Callable[[], None]) -> Generator[bool]:
        """Have ``callback`` called at every change; gives ``False`` where inotify is missing."""
        unwatch = self.watch(directory, mask, callback)
        try:
            yield unwatch is not None
        finally:
            if unwatch is not None:
                unwatch()

    def watch(self, directory: str, mask: int, callback: Callable[[], None]) -> Callable[[], None] | None:
        """Do as ``watching`` until the returned function is called; ``None`` where inotify is missing."""
        if self._notify is None and not self._wanted.is_set():
            self._notify = Inotify.open()
            if self._notify is not None:  # otherwise the next call tries again
                self._wanted.set()
        number = None if self._notify is None else self._notify.watch(directory, mask)
        if number is None:
            return None
        self._callbacks.setdefault(number, []).append(callback)

        def unwatch() -> None:
            left = self._callbacks[number]
            left.remove(callback)
            if not left:
                del self._callbacks[number]
            if self._notify is not None:
                self._notify.unwatch(directory)

        return unwatch
