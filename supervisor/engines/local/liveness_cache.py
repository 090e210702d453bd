"""Caches "running" observations, validated by the ctime of the job directory and the pidfd of the keeper.

A job runs while its keeper lives and has recorded no end. Records are names in the job directory, whose ctime changes
with every name that is added or removed; a pidfd reports the end of exactly one keeper. So two system calls validate
an observation: an ``lstat`` that each caller makes anyway, to check that the directory is there, and a poll.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from typing import Final

from supervisor.engines.interface import Observation
from supervisor.engines.local import reconcile
from supervisor.jobdir import records, stops
from supervisor.system import pidfd, processes
from supervisor.system.file_systems import has_settled
from supervisor.system.observing import is_there

__all__ = ["LivenessCache", "UnendedCache", "observe_again"]

_MAX_JOBS: Final = 4096
_MAX_KEEPERS: Final = 16

_known: dict[str, tuple[tuple[int, int], tuple[int, int], Observation]] = {}
"""By job directory: its stamp, its keeper, and the observation; 4096 of them take some 2 MB. Shared by all threads."""


def observe_again(directory: str, found: os.stat_result, lives: Callable[[int, int], bool]) -> Observation | None:
    """Return what ``reconcile.resolve_kept`` returns, without reading again what cannot have changed.

    ``found`` is the status of the job directory since the caller was asked.

    Raises:
        NotKnown: the evidence cannot be read now.
    """
    stamp = found.st_ino, found.st_ctime_ns
    known = _known.get(directory)
    if known is not None:
        # A keeper that lives now lived when ``found`` was read, without a recorded end.
        if known[0] == stamp and lives(*known[1]):
            return known[2]
        _known.pop(directory, None)
    settled = has_settled(found)  # before anything is read: later changes change the stamp as well
    keepers: list[tuple[int, int]] = []

    def asked(pid: int, start: int) -> bool:
        keepers.append((pid, start))
        return lives(pid, start)

    observation = reconcile.resolve_kept(directory, asked)
    # A stop is updated in place, which does not change the ctime of the directory.
    if settled and observation is not None and observation.stop_requested is None and observation.damage is None:
        if len(_known) >= _MAX_JOBS:
            _known.clear()
        _known[directory] = stamp, keepers[0], observation
    return observation


class LivenessCache:
    """Observes running jobs, holding their keepers by pidfds. For one thread at a time; close it."""

    def __init__(self) -> None:
        self._keepers: dict[tuple[int, int], _Keeper] = {}

    def close(self) -> None:
        """Close the pidfds."""
        while self._keepers:
            self._keepers.popitem()[1].close()

    def look(self, directory: str, found: os.stat_result) -> Observation | None:
        """Return what ``reconcile.resolve`` returns for a job whose keeper lives; ``None`` for any other.

        ``found`` is as for ``observe_again``.
        """
        return observe_again(directory, found, self._lives)

    def _lives(self, pid: int, start: int) -> bool:
        """Return whether a keeper lives; it is held from the second question on."""
        keeper = self._keepers.get((pid, start))
        if keeper is None:
            while len(self._keepers) >= _MAX_KEEPERS:
                self._keepers.pop(next(iter(self._keepers))).close()
            keeper = self._keepers[pid, start] = _Keeper(pid, start)
        if keeper.lives():
            return True
        self._keepers.pop((pid, start)).close()
        return False


class UnendedCache:
    """Caches that jobs have no recorded end, so that no process can have finished them, and their stop requests."""

    def __init__(self) -> None:
        self._stamps: dict[str, tuple[int, int]] = {}
        self._stops: dict[str, str] = {}

    def stop_requested(self, directory: str) -> str | None:
        """Return why the job was asked to stop, as ``is_unended`` has read it."""
        return self._stops.get(directory)

    def is_unended(self, directory: str) -> bool:
        """Return whether a job directory is there, without an exit record; ``False`` where it may have one."""
        known = self._stamps.get(directory)
        try:
            found = os.lstat(directory)
            if known == (found.st_ino, found.st_ctime_ns):
                return True
            settled = has_settled(found)  # as above
            if is_there(f"{directory}/{records.EXIT}"):
                return False
            stop = stops.read_stop(directory)
            os.lstat(directory)  # if it was moved to the trash meanwhile, its records were not found for that reason
        except OSError:
            return False
        if len(self._stamps) + len(self._stops) >= _MAX_JOBS:
            self._stamps.clear()
            self._stops.clear()
        if stop:
            self._stops[directory] = stop["why"]
        if settled:
            self._stamps[directory] = found.st_ino, found.st_ctime_ns
        return True


class _Keeper:
    """A keeper: looked up in the process table first, and by its pidfd from the second question on."""

    __slots__ = ("_asked", "_descriptor", "_identity", "_poll")

    def __init__(self, pid: int, start: int) -> None:
        self._identity = pid, start
        self._asked = False
        self._descriptor: int | None = None
        self._poll: select.poll | None = None

    def lives(self) -> bool:
        """Whether it has not ended; a zombie has."""
        if self._poll is not None:
            return not self._poll.poll(0)
        if self._asked and (descriptor := pidfd.open_of(*self._identity)) is not None:
            self._descriptor, self._poll = descriptor, select.poll()
            self._poll.register(descriptor, select.POLLIN)
            return not self._poll.poll(0)
        self._asked = True
        return processes.is_alive(*self._identity)

    def close(self) -> None:
        """Close its pidfd."""
        self._poll = None
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
