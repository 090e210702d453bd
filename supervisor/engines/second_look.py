"""Looking again at jobs in the care of their keepers, for no more than what may have changed since.

That such a job runs is told by its records and by its keeper, which lives and has not written down an
end. The records are names in the job directory, and the kernel gives a directory another time of change
with every name that comes or goes; a keeper is held by a pidfd, which tells its end and no stranger's
life. So of a job that was looked at before, two system calls tell whether all of that still holds: one
that everybody who asks makes anyway, to see that the directory is there and ours, and a poll.
"""

from __future__ import annotations

import os
import select
import time
from typing import Final

from supervisor.engines import Observation, evidence, processes, records

__all__ = ["SecondLook", "Unended"]

_SETTLED_NS: Final = 2_000_000_000
"""Older than that, a directory gets another time by its next change, however coarsely the file system counts."""
_MOST_JOBS: Final = 4096
_MOST_KEEPERS: Final = 64


class SecondLook:
    """Says of a job that it runs in the care of its keeper, and remembers for that what cannot change.

    To be used by one thread at a time, and closed.
    """

    def __init__(self) -> None:
        """Know nothing yet."""
        self._jobs: dict[str, tuple[tuple[int, int], _Keeper, Observation]] = {}
        self._keepers: dict[tuple[int, int], _Keeper] = {}
        self._asked_about: _Keeper | None = None

    def close(self) -> None:
        """Let go of the keepers."""
        self._jobs.clear()
        while self._keepers:
            self._keepers.popitem()[1].close()

    def look(self, directory: str, found: os.stat_result) -> Observation | None:
        """Return what ``evidence.resolve`` would of a job in the care of its keeper; ``None`` for any other.

        ``found`` is the job directory as it was a moment ago: since the call that has asked this.
        """
        stamp = found.st_ino, found.st_ctime_ns
        known = self._jobs.get(directory)
        if known is not None:
            # Whoever lives now lived when the directory was looked at, and no end was on record there.
            if known[0] == stamp and known[1].lives():
                return known[2]
            del self._jobs[directory]
        self._asked_about = None
        seen = evidence.resolve_kept(directory, self._lives)
        keeper = self._asked_about
        # A stop is written on in place, which leaves the directory as it was.
        is_plain = seen is not None and seen.stop_requested is None and seen.damage is None
        if seen is not None and is_plain and keeper is not None and _is_settled(found):
            if len(self._jobs) >= _MOST_JOBS:
                self._jobs.clear()
            self._jobs[directory] = stamp, keeper, seen
        return seen

    def _lives(self, pid: int, start: int) -> bool:
        """Whether a keeper lives; who is asked about a second time is held from then on."""
        keeper = self._keepers.get((pid, start))
        if keeper is None:
            while len(self._keepers) >= _MOST_KEEPERS:
                self._forget(next(iter(self._keepers)))
            keeper = self._keepers[pid, start] = _Keeper(pid, start)
        self._asked_about = keeper
        if keeper.lives():
            return True
        self._forget((pid, start))
        return False

    def _forget(self, identity: tuple[int, int]) -> None:
        keeper = self._keepers.pop(identity)
        keeper.close()
        self._jobs = {directory: known for directory, known in self._jobs.items() if known[1] is not keeper}


def _is_settled(found: os.stat_result) -> bool:
    return time.time_ns() - found.st_ctime_ns > _SETTLED_NS


class Unended:
    """Says of a job that no end of it is on record, so that nobody can have settled it."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._stamps: dict[str, tuple[int, int]] = {}

    def is_unended(self, directory: str) -> bool:
        """Whether a job directory is there, without an exit record; ``False`` where it may have one."""
        known = self._stamps.get(directory)
        try:
            found = os.lstat(directory)
            if known == (found.st_ino, found.st_ctime_ns):
                return True
            if os.path.lexists(f"{directory}/{records.EXIT}"):
                return False
            os.lstat(directory)  # in the trash by now, the record would not have been found either
        except OSError:
            return False
        if _is_settled(found):
            if len(self._stamps) >= _MOST_JOBS:
                self._stamps.clear()
            self._stamps[directory] = found.st_ino, found.st_ctime_ns
        return True


class _Keeper:
    """A keeper: looked up in the process table at first, and by its pidfd once it is asked about again."""

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
        if self._asked and (descriptor := processes.open_pidfd(*self._identity)) is not None:
            self._descriptor, self._poll = descriptor, select.poll()
            self._poll.register(descriptor, select.POLLIN)
            return not self._poll.poll(0)
        self._asked = True
        return processes.is_alive(*self._identity)

    def close(self) -> None:
        """Let go of it."""
        self._poll = None
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
