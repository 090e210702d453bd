"""Reading the output of a job while the job writes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from supervisor.jobdir.output import Output
from supervisor.system.inotify import MODIFIED
from supervisor.system.notifier import Notifier
from supervisor.system.observing import LONGEST_DELAY_SECONDS, NotKnown

__all__ = ["Chunks"]

_POLL_SECONDS: Final = 0.1


class Chunks:
    """An async iterator of the bytes of a stream, to its end; ``Supervisor.follow`` makes it."""

    def __init__(
        self,
        directory: str,
        stream: str,
        finished: trio.Event,
        end: Callable[[], int | None],
        limit: int | None = None,
        *,
        made: bool = False,
        offset: int = 0,
    ) -> None:
        """Follow a stream of the job in ``directory`` from a byte on, until ``finished`` is set and all is read.

        ``end`` then returns how many bytes belong to the job.
        """
        self._directory = directory
        self._finished = finished
        self._end = end
        self._output = Output(directory, stream, limit=limit)
        self._output.made = made
        self._output.seek(offset)
        self._changed = trio.Event()
        self._watched = False
        self._serving = trio.CancelScope()
        self._failure: Exception | None = None

    async def serve(self, notifier: Notifier, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch for writes until cancelled. All readers share one notifier: a user may have few inotify instances."""
        with self._serving, notifier.watching(self._directory, MODIFIED, self._wake) as watched:
            self._watched = watched
            task_status.started()
            await self._finished.wait()
            self._wake()
            await trio.sleep_forever()

    def _wake(self) -> None:
        self._changed.set()

    def fail(self, error: Exception) -> None:
        """Raise ``error`` from the iterator."""
        self._failure = error
        self._wake()

    def close(self) -> None:
        """Close the file and stop listening."""
        self._serving.cancel()
        self._output.close()

    @property
    def restarts(self) -> int:
        """How often the output was found truncated, so that reading started over."""
        return self._output.restarts

    def __aiter__(self) -> Chunks:
        """Return itself."""
        return self

    async def __anext__(self) -> bytes:
        """Return the next bytes; wait until there are some."""
        await trio.lowlevel.checkpoint()
        while True:
            if self._failure is not None:
                raise self._failure
            # In this order: bytes written before ``finished`` was set are read after it.
            finished = self._finished.is_set()
            self._changed = trio.Event()
            if finished:
                self._output.end = self._end()
            patience = float("inf") if self._watched else _POLL_SECONDS
            try:
                data = self._output.read()
            except NotKnown:
                patience = LONGEST_DELAY_SECONDS
            else:
                if data:
                    return data
                if finished:
                    raise StopAsyncIteration
            with trio.move_on_after(patience):
                await self._changed.wait()
