"""Being told, in a Trio program, when something happens in a directory; one inotify instance for all."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator

import trio

from supervisor.engines.inotify import Inotify

__all__ = ["Notifier"]


class Notifier:
    """Calls back when a watched directory changes. Its ``serve`` has to run for that."""

    def __init__(self) -> None:
        """Watch nothing yet."""
        self._notify: Inotify | None = None
        self._wanted = trio.Event()
        self._callbacks: dict[int, list[Callable[[], None]]] = {}

    async def serve(self) -> None:
        """Pass on what happens, until cancelled."""
        await self._wanted.wait()
        if self._notify is None:
            return
        try:
            while True:
                await trio.lowlevel.wait_readable(self._notify.descriptor)
                for number in self._notify.read():
                    for callback in tuple(self._callbacks.get(number, ())):
                        callback()
        finally:
            self._notify.close()
            self._notify = None

    @contextlib.contextmanager
    def watching(self, directory: str, mask: int, callback: Callable[[], None]) -> Generator[bool]:
        """Have ``callback`` called at every change; gives ``False`` where that cannot be had."""
        if self._notify is None and not self._wanted.is_set():
            self._notify = Inotify.open()
            self._wanted.set()
        number = None if self._notify is None else self._notify.watch(directory, mask)
        if self._notify is None or number is None:
            yield False
            return
        self._callbacks.setdefault(number, []).append(callback)
        try:
            yield True
        finally:
            left = self._callbacks[number]
            left.remove(callback)
            if not left:
                del self._callbacks[number]
            if self._notify is not None:
                self._notify.unwatch(directory)
