"""Ending trees of processes from a Trio program, for jobs that have no keeper to do it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

import trio

from supervisor import log
from supervisor.engines.local import reconcile, stopping
from supervisor.jobdir import validation
from supervisor.keeper import tree_killer
from supervisor.system import processes
from supervisor.system.backoff import until_known
from supervisor.system.observing import NotKnown

__all__ = ["Trees"]


class Trees:
    """Ends trees from this process; one read of the process table, in a thread, serves all of them."""

    def __init__(self) -> None:
        self._killer = tree_killer.TreeKiller()
        self._added: list[tree_killer.Stop] = []
        self._waiting: dict[tree_killer.Stop, Callable[[], None]] = {}
        self._wake = trio.Event()

    async def stop(self, directory: str, why: str, by: str) -> None:
        """Record the stop of a job, and end its tree if a process of it can be found."""
        try:
            request = await until_known(directory, lambda: stopping.request_stop(directory, why, by), only=NotKnown)
        except OSError as error:  # a full disk must not keep a job alive
            log.warning("stop_not_recorded", job_id=os.path.basename(directory), error=str(error))
            request = {"why": why}
        process = await until_known(directory, lambda: validation.process(directory))
        if not process:
            await until_known(directory, lambda: reconcile.adopt_marked(directory), in_thread=True)
            process = await until_known(directory, lambda: validation.process(directory))
        if process:
            await self.end(stopping.Tree(directory, process, request))

    async def end(self, tree: stopping.Tree) -> None:
        """End one tree, record that, and return once the end of its leader is recorded too."""
        stop = await until_known(tree.directory, lambda: stopping.make_stop(tree))
        gone = trio.Event()
        self._waiting[stop] = gone.set
        self._added.append(stop)
        self._wake.set()
        await gone.wait()
        with contextlib.suppress(OSError):  # a full disk
            await until_known(tree.directory, lambda: stopping.note_gone(tree, stop), only=NotKnown)
        give_up = trio.current_time() + stopping.NOTED_SOON_SECONDS
        while not stopping.is_noted(tree, patience_is_over=trio.current_time() > give_up):  # noqa: ASYNC110  # another process is waited for, maybe in vain
            await trio.sleep(stopping.NOTED_SOON_SECONDS / 100)

    async def serve(self) -> None:
        """End trees, until cancelled."""
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
