"""Waits, without an event loop, for changes to jobs whose directories and keepers are on this machine."""

from __future__ import annotations

import os
import resource
import select
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from typing import Any, Final, Self

from supervisor.jobdir import records
from supervisor.system import pidfd, processes
from supervisor.system.inotify import CHANGED, OVERFLOWN, Inotify
from supervisor.system.observing import LONGEST_DELAY_SECONDS, NotKnown

__all__ = ["Change"]


class Change:
    """Waits until some of several jobs may have changed. A context manager.

    Without inotify or pidfds it returns all jobs at intervals.
    """

    _LOOK_AGAIN: Final = 0.1
    _LONGEST: Final = 30.0

    def __init__(
        self,
        directories: Iterable[str],
        mask: int = CHANGED,
        is_relevant: Callable[[str], bool] = lambda _: True,
        wakers: Iterable[int] = (),
    ) -> None:
        """Watch these job directories and the processes that they name.

        ``is_relevant`` says of a directory in which something was written whether its job may have changed.
        ``wakers`` are descriptors: a wait ends when one of them can be read. It reads nothing from them.
        """
        self._all = frozenset(directories)
        self._is_relevant = is_relevant
        self._poll = select.poll()
        self._wakers = frozenset(wakers)
        for waker in self._wakers:
            self._poll.register(waker, select.POLLIN)
        self._notify = Inotify.open()
        self._blind = self._notify is None
        if self._notify is not None:
            self._poll.register(self._notify.descriptor, select.POLLIN)
        # The rest of what this process can open is for the registry, records and output.
        self._max_pidfds = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4
        self._by_pidfd: dict[int, set[str]] = {}
        self._by_keeper: dict[tuple[int, int], set[str]] = {}
        self._by_watch: dict[int, str] = {}
        self._unseen: set[str] = set(self._all)
        self._to_try_again = False
        self._again = self._LOOK_AGAIN
        if self._notify is not None:
            for directory in self._all:
                number = self._notify.watch(directory, mask)
                if number is None:
                    self._blind = True
                else:
                    self._by_watch[number] = directory

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close every descriptor."""
        for descriptor in self._by_pidfd:
            os.close(descriptor)
        if self._notify is not None:
            self._notify.close()

    def _watch_processes(self) -> set[str]:
        """Watch the keepers, which record the ends of their jobs, and the leaders of the jobs without a keeper.

        Returns the jobs without a keeper: it may have ended between their last observation and this call.
        """
        unkept: set[str] = set()
        for directory in list(self._unseen):
            try:
                process = records.read(directory, records.PROCESS)
                if not process:
                    continue
                keeper = process.get("keeper_pid"), process.get("keeper_start")
                if not self._watch_process(self._by_keeper, keeper, directory):
                    unkept.add(directory)
                    self._watch_process({}, (process.get("pid"), process.get("start")), directory)
            except NotKnown:
                self._to_try_again = True
            else:
                self._unseen.discard(directory)
        return unkept

    def _watch_process(self, known: dict[tuple[int, int], set[str]], identity: tuple[Any, Any], directory: str) -> bool:
        """Watch for the end of a process, if a descriptor is free; return ``False`` if it has ended already."""
        pid, start = identity
        if not isinstance(pid, int) or not isinstance(start, int):
            return False
        if (pid, start) in known:
            known[pid, start].add(directory)
            return True
        if not processes.is_alive(pid, start):
            return False
        if len(self._by_pidfd) < self._max_pidfds or self._max_pidfds <= 0:
            descriptor = pidfd.open_of(pid, start)
            if descriptor is not None:
                self._by_pidfd[descriptor] = known[pid, start] = {directory}
                self._poll.register(descriptor, select.POLLIN)
        return True

    def wait(self, seconds: float | None) -> AbstractSet[str]:
        """Wait for a change, for ``seconds`` at most, and return the jobs that may have changed.

        The jobs are named by their directories. All of them are returned where the kernel does not say which. The call
        may return early without a change.
        """
        self._to_try_again = False
        changed = self._watch_processes()
        # Jobs whose records cannot be read now are tried again after longer and longer pauses.
        self._again = min(2 * self._again, LONGEST_DELAY_SECONDS) if self._to_try_again else self._LOOK_AGAIN
        longest = self._again if self._blind or self._to_try_again else self._LONGEST
        limit = longest if seconds is None else max(0.0, min(seconds, longest))
        ready = self._poll.poll(0 if changed else -(-int(limit * 1e6) // 1000))
        for descriptor, _ in ready:
            if self._notify is not None and descriptor == self._notify.descriptor:
                numbers = self._notify.read()
                if OVERFLOWN in numbers:
                    return self._all
                changed.update(filter(self._is_relevant, map(self._by_watch.__getitem__, numbers)))
            elif descriptor not in self._wakers:
                # It stays readable for ever; the next change is a write into the directory.
                self._poll.unregister(descriptor)
                ended = self._by_pidfd[descriptor]
                changed |= ended
                for keeper in [each for each, kept in self._by_keeper.items() if kept is ended]:
                    del self._by_keeper[keeper]
                    self._unseen |= ended  # their leaders are to be watched from here on
        return self._all if self._blind or (not ready and limit == longest) else changed
