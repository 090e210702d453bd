"""Watching commands of other supervisors' keepers: any number of them, by one task.

A keeper that lives records the ends of its jobs, and the kernel reports when it writes, and when it ends. So with both
reports nothing is polled, and no job needs a task. All other cases (the keeper is gone, an end is recorded, the kernel
reports nothing) are handed over to ``Watcher``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Final

import trio

from supervisor.engines.local.liveness_cache import observe_again
from supervisor.engines.local.watching import Watched
from supervisor.jobdir.facts import Launched
from supervisor.system import pidfd, processes
from supervisor.system.inotify import CHANGED
from supervisor.system.notifier import Notifier
from supervisor.system.observing import NotKnown

__all__ = ["AdoptedJobs"]

_MAX_INLINE: Final = 8
"""An observation takes some 60 us; a thread costs as much as a few of them."""


class AdoptedJobs:
    """The adopted commands whose keepers live.

    Args:
        notifier: reports changes in job directories.
        hand_over: called with a command that needs more than this, maybe more than once.
    """

    def __init__(self, notifier: Notifier, hand_over: Callable[[Watched], None]) -> None:
        self._notifier = notifier
        self._hand_over = hand_over
        self._to_observe: dict[Watched, None] = {}
        self._keepers: dict[tuple[int, int], _Keeper] = {}
        self._wake = trio.Event()

    def add(self, kept: Watched) -> None:
        """Watch a command, or have it handed over."""
        kept.unwatch = self._notifier.watch(kept.directory, CHANGED, lambda: self._observe_again(kept))
        self._observe_again(kept)

    def _observe_again(self, kept: Watched) -> None:
        self._to_observe[kept] = None
        self._wake.set()

    async def serve(self) -> None:
        """Observe the jobs that have changed, until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                while True:
                    await self._wake.wait()
                    self._wake = trio.Event()
                    jobs, self._to_observe = list(self._to_observe), {}
                    directories = [kept.directory for kept in jobs]
                    if len(directories) <= _MAX_INLINE:
                        found = self._keepers_of(directories)
                    else:
                        found = await trio.to_thread.run_sync(self._keepers_of, directories)
                    for keeper in self._keepers.values():
                        if not keeper.watched:
                            keeper.watched = True
                            nursery.start_soon(self._until_keeper_ends, keeper)
                    for kept, seen in zip(jobs, found, strict=True):
                        self._observed(kept, seen)
        finally:
            for keeper in self._keepers.values():
                keeper.close()

    def _observed(self, kept: Watched, seen: tuple[_Keeper, Launched] | None) -> None:
        if kept.unwatch is None or seen is None:
            for keeper in self._keepers.values():
                keeper.jobs.discard(kept)
            if kept.unwatch is not None:
                kept.unwatch()
                kept.unwatch = None
            self._hand_over(kept)
        else:
            keeper, launched = seen
            keeper.jobs.add(kept)
            kept.set_launched(launched, hold=True)
            if keeper.ended:
                self._observe_again(kept)

    def _keepers_of(self, directories: Iterable[str]) -> list[tuple[_Keeper, Launched] | None]:
        """Return for each job its keeper and its launch; in a thread, if there are many."""
        return [self._keeper_of(directory) for directory in directories]

    def _keeper_of(self, directory: str) -> tuple[_Keeper, Launched] | None:
        keeper: _Keeper | None = None

        def lives(pid: int, start: int) -> bool:
            nonlocal keeper
            keeper = self._keepers.get((pid, start))
            if keeper is None:
                descriptor = pidfd.open_of(pid, start)
                if descriptor is None:
                    return False
                try:
                    alive = processes.is_alive(pid, start)
                except NotKnown:
                    os.close(descriptor)
                    raise
                if not alive:  # a zombie, which may never be reaped
                    os.close(descriptor)
                    return False
                keeper = self._keepers[pid, start] = _Keeper((pid, start), descriptor)
            # If it has ended meanwhile its pidfd reports that, and all its jobs are observed again.
            return not keeper.ended

        try:
            seen = observe_again(directory, os.lstat(directory), lives)
        except OSError:  # the watcher that takes over waits until it is known
            return None
        if seen is None or seen.launched is None or keeper is None:
            return None
        return keeper, seen.launched

    async def _until_keeper_ends(self, keeper: _Keeper) -> None:
        await trio.lowlevel.wait_readable(keeper.descriptor)
        keeper.ended = True
        del self._keepers[keeper.identity]
        keeper.close()
        for kept in keeper.jobs:
            self._observe_again(kept)


class _Keeper:
    """A keeper of some of the jobs, held by its pidfd."""

    __slots__ = ("descriptor", "ended", "identity", "jobs", "watched")

    def __init__(self, identity: tuple[int, int], descriptor: int) -> None:
        self.identity = identity
        self.descriptor = descriptor
        self.jobs: set[Watched] = set()
        self.watched = False
        self.ended = False

    def close(self) -> None:
        os.close(self.descriptor)
