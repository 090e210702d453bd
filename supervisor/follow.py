"""Reading what a job writes while it writes it."""

from __future__ import annotations

import os
from typing import Final

import trio

from supervisor.engines import records
from supervisor.engines.inotify import MODIFIED
from supervisor.engines.notify import Notifier

__all__ = ["Chunks"]

_CHUNK: Final = 65536
_LOOK_BLINDLY_SECONDS: Final = 0.1


class Chunks:
    """An async iterator of the bytes of a stream, to its end. Made by ``Supervisor.follow``."""

    def __init__(self, directory: str, stream: str, finished: trio.Event) -> None:
        """Follow a stream of the job in ``directory`` until ``finished`` is set and all is read."""
        self._directory = directory
        self._name = records.STDOUT if stream == "stdout" else records.STDERR
        self._finished = finished
        self._changed = trio.Event()
        self._descriptor: int | None = None
        self._told = False
        self._serving = trio.CancelScope()
        self._failure: Exception | None = None

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen for writes until cancelled."""
        notifier = Notifier()
        with self._serving:
            await self._listen(notifier, task_status)

    async def _listen(self, notifier: Notifier, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(notifier.serve)
            with notifier.watching(self._directory, MODIFIED, self._poke) as told:
                self._told = told
                task_status.started()
                await self._finished.wait()
                self._poke()
                await trio.sleep_forever()

    def _poke(self) -> None:
        self._changed.set()

    def fail(self, error: Exception) -> None:
        """Have ``error`` raised to whoever reads."""
        self._failure = error
        self._poke()

    def close(self) -> None:
        """Close the file and stop listening."""
        self._serving.cancel()
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __aiter__(self) -> Chunks:
        """Return itself."""
        return self

    async def __anext__(self) -> bytes:
        """Return what was written next, waiting for it if need be."""
        await trio.lowlevel.checkpoint()
        while True:
            if self._failure is not None:
                raise self._failure
            # In this order: what was written before the end was noticed is read after it.
            finished = self._finished.is_set()
            self._changed = trio.Event()
            data = self._read()
            if data:
                return data
            if finished:
                raise StopAsyncIteration
            with trio.move_on_after(float("inf") if self._told else _LOOK_BLINDLY_SECONDS):
                await self._changed.wait()

    def _read(self) -> bytes:
        if self._descriptor is None:
            try:
                path = f"{self._directory}/{self._name}"
                self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            except OSError:
                return b""
        return os.read(self._descriptor, _CHUNK)
