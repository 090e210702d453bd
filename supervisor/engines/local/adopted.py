"""Watching commands that somebody else's keeper cares for: any number of them, by one task.

A keeper that lives writes down how its jobs end, and the kernel tells when it has written, or has ended
itself. So as long as both can be had nothing is looked at again and again, and there is no task for each
job. Whatever is more than that (the keeper is gone, an end is on record, nothing tells of changes) is
handed over to whoever can deal with it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Final

import trio

from supervisor.engines.local.liveness_cache import look_again
from supervisor.engines.local.watching import Watched
from supervisor.jobdir.facts import Launched
from supervisor.system import pidfd, processes
from supervisor.system.inotify import CHANGED
from supervisor.system.notifier import Notifier
from supervisor.system.observing import NotKnown

__all__ = ["AdoptedJobs"]

_MAX_INLINE: Final = 8
"""A look takes some 60 us; going to a thread and back takes as long as a few."""


class AdoptedJobs:
    """The commands that are in the care of keepers which are not ours.

    Args:
        notifier: tells of changes in job directories.
        hand_over: called with a command that needs more than watching; for one that just was, maybe again.
    """

    def __init__(self, notifier: Notifier, hand_over: Callable[[Watched], None]) -> None:
        """Watch nothing until ``serve``."""
        self._notifier = notifier
        self._hand_over = hand_over
        self._to_look_at: dict[Watched, None] = {}
        self._keepers: dict[tuple[int, int], _Keeper] = {}
        self._wake = trio.Event()

    def add(self, kept: Watched) -> None:
        """Watch a command, or have it handed over."""
        kept.unwatch = self._notifier.watch(kept.directory, CHANGED, lambda: self._look_again(kept))
        self._look_again(kept)

    def _look_again(self, kept: Watched) -> None:
        self._to_look_at[kept] = None
        self._wake.set()

    async def serve(self) -> None:
        """Look at what has changed, until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                while True:
                    await self._wake.wait()
                    self._wake = trio.Event()
                    jobs, self._to_look_at = list(self._to_look_at), {}
                    directories = [kept.directory for kept in jobs]
                    if len(directories) <= _MAX_INLINE:
                        found = self._look(directories)
                    else:
                        found = await trio.to_thread.run_sync(self._look, directories)
                    for keeper in self._keepers.values():
                        if not keeper.watched:
                            keeper.watched = True
                            nursery.start_soon(self._until_keeper_ends, keeper)
                    for kept, seen in zip(jobs, found, strict=True):
                        self._looked(kept, seen)
        finally:
            for keeper in self._keepers.values():
                keeper.close()

    def _looked(self, kept: Watched, seen: tuple[_Keeper, Launched] | None) -> None:
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
                self._look_again(kept)

    def _look(self, directories: Iterable[str]) -> list[tuple[_Keeper, Launched] | None]:
        """Say of each job whose care it is in, and how it was launched; for a thread, if there are many."""
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
            # If it has ended in the meantime its pidfd will say so, and all its jobs are looked at again.
            return not keeper.ended

        try:
            seen = look_again(directory, os.lstat(directory), lives)
        except OSError:  # the watcher that takes over looks until it is known
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
            self._look_again(kept)


class _Keeper:
    """A keeper that cares for some of the jobs, held by its pidfd."""

    __slots__ = ("descriptor", "ended", "identity", "jobs", "watched")

    def __init__(self, identity: tuple[int, int], descriptor: int) -> None:
        self.identity = identity
        self.descriptor = descriptor
        self.jobs: set[Watched] = set()
        self.watched = False
        self.ended = False

    def close(self) -> None:
        os.close(self.descriptor)
