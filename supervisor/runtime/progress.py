"""The progress actor: reads the output of running jobs and publishes their progress.

There is one task for each job whose kind reports progress. While a stream is idle its task waits for inotify. A busy
stream is read a few times a second, and not watched in between. Each read has a bound on bytes and on processor time,
and runs in slices between which other tasks run; the progress of a job that writes more is behind its output.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import trio

from supervisor import log
from supervisor.interpret import ProgressReader
from supervisor.jobdir.output import Output
from supervisor.jobs.progress import reader_of, snapshot_of
from supervisor.runtime.entry import Entry
from supervisor.system.inotify import MODIFIED
from supervisor.system.notifier import Notifier

__all__ = ["Follower"]

_BETWEEN_READS_SECONDS: Final = 0.25
_POLL_SECONDS: Final = 1.0
_MAX_CHUNKS: Final = 16
_MAX_CPU_SECONDS: Final = 0.025
_SLICE_BYTES: Final = 1024
_SLICE_SECONDS: Final = 0.002


class Follower:
    """Follows the progress of jobs for as long as its nursery is open.

    Args:
        nursery: where its tasks run.
        publish: called after ``entry.progress`` has changed.
        notifier: reports what is written in job directories.
    """

    def __init__(self, nursery: trio.Nursery, publish: Callable[[Entry], None], notifier: Notifier) -> None:
        """Run the tasks in ``nursery``."""
        self._nursery = nursery
        self._publish = publish
        self._notifier = notifier

    def attend(self, entry: Entry) -> None:
        """Follow a job to its end, if its kind reports progress."""
        reader = reader_of(entry.row.kind)
        if reader is not None:
            self._nursery.start_soon(self._attend, entry, reader)

    async def _attend(self, entry: Entry, reader: ProgressReader) -> None:
        await entry.started.wait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow, entry, reader)
            await entry.finished.wait()
            nursery.cancel_scope.cancel()

    async def _follow(self, entry: Entry, reader: ProgressReader) -> None:
        output = Output(entry.directory, "stdout", limit=entry.row.output_limit)
        next_read = trio.current_time()
        try:
            while True:
                await self._growth(output, entry.directory)
                await trio.sleep_until(next_read)
                next_read = trio.current_time() + _BETWEEN_READS_SECONDS
                changed = await _read(output, reader)
                if changed and not entry.finished.is_set():
                    entry.progress = snapshot_of(reader, partial=False)
                    self._publish(entry)
        except Exception as error:  # noqa: BLE001  # a reader of another package, no descriptor: the job goes on
            log.warning("progress_failed", job_id=entry.row.job_id, error=repr(error))
        finally:
            output.close()

    async def _growth(self, output: Output, directory: str) -> None:
        """Wait until there may be something to read."""
        grown = trio.Event()
        with self._notifier.watching(directory, MODIFIED, grown.set) as watched:
            if output.left():
                await trio.lowlevel.checkpoint()
                return
            with trio.move_on_after(float("inf") if watched else _POLL_SECONDS):
                await grown.wait()


async def _read(output: Output, reader: ProgressReader) -> bool:
    """Read on within the bounds of one read; return whether the snapshot has changed."""
    changed = False
    used = 0.0
    for _ in range(_MAX_CHUNKS):
        chunk = output.read()
        begun = time.perf_counter()
        for start in range(0, len(chunk), _SLICE_BYTES):
            if used > _MAX_CPU_SECONDS:
                output.seek(output.offset - (len(chunk) - start))
                break
            changed |= reader.feed(chunk[start : start + _SLICE_BYTES])
            taken = time.perf_counter() - begun
            if taken > _SLICE_SECONDS:
                used += taken
                await trio.lowlevel.checkpoint()
                begun = time.perf_counter()
        used += time.perf_counter() - begun
        await trio.lowlevel.checkpoint()
        if not chunk or used > _MAX_CPU_SECONDS:
            break
    return changed
