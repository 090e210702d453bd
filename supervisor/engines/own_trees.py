"""Ending trees of processes from a Trio program, for jobs that have no keeper to do it."""

from __future__ import annotations

from collections.abc import Callable

import trio

from supervisor.engines import processes, stopping, trees

__all__ = ["Trees"]


class Trees:
    """Ends trees from this process; one look at the process table, in a thread, serves all of them."""

    def __init__(self) -> None:
        """End nothing until ``serve``."""
        self._killer = trees.TreeKiller()
        self._added: list[trees.Stop] = []
        self._waiting: dict[trees.Stop, Callable[[], None]] = {}
        self._wake = trio.Event()

    async def end(self, tree: stopping.Tree) -> None:
        """End one tree, note that it is gone, and return."""
        stop = stopping.make_stop(tree)
        gone = trio.Event()
        self._waiting[stop] = gone.set
        self._added.append(stop)
        self._wake.set()
        await gone.wait()
        stopping.note_gone(tree, stop)

    async def serve(self) -> None:
        """End what is asked for, until cancelled."""
        while True:
            while self._added:
                self._killer.add(self._added.pop())
            due = self._killer.next_ns
            if due is None:
                await self._wake.wait()
                self._wake = trio.Event()
                continue
            with trio.move_on_after(max(0, due - processes.boottime_ns()) / 1e9):
                await self._wake.wait()
                self._wake = trio.Event()
                continue
            for stop in await trio.to_thread.run_sync(self._killer.tick):
                self._waiting.pop(stop)()
