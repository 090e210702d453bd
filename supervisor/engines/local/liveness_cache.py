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
from collections.abc import Callable
from typing import Final

from supervisor.engines.interface import Observation
from supervisor.engines.local import reconcile
from supervisor.jobdir import records
from supervisor.system import pidfd, processes
from supervisor.system.file_systems import has_settled
from supervisor.system.observing import is_there

__all__ = ["LivenessCache", "UnendedCache", "look_again"]

_MAX_JOBS: Final = 4096
_MAX_KEEPERS: Final = 16

_known: dict[str, tuple[tuple[int, int], tuple[int, int], Observation]] = {}
"""By job directory: its stamp, its keeper, and what was seen. Of this process, whoever in it looks, in any thread."""


def look_again(directory: str, found: os.stat_result, lives: Callable[[int, int], bool]) -> Observation | None:
    """Return what ``evidence.resolve_kept`` would, without reading again what cannot have changed.

    ``found`` is the job directory as it was a moment ago: since the call that has asked this.

    Raises:
        NotKnown: it cannot be looked at now.
    """
    stamp = found.st_ino, found.st_ctime_ns
    known = _known.get(directory)
    if known is not None:
        # Whoever lives now lived when the directory was looked at, and no end was on record there.
        if known[0] == stamp and lives(*known[1]):
            return known[2]
        _known.pop(directory, None)
    settled = has_settled(found)  # before anything is read: what changes from now on changes the stamp as well
    keepers: list[tuple[int, int]] = []

    def asked(pid: int, start: int) -> bool:
        keepers.append((pid, start))
        return lives(pid, start)

    observation = reconcile.resolve_kept(directory, asked)
    # A stop is written on in place, which leaves the directory as it was.
    if settled and observation is not None and observation.stop_requested is None and observation.damage is None:
        if len(_known) >= _MAX_JOBS:
            _known.clear()
        _known[directory] = stamp, keepers[0], observation
    return observation


class LivenessCache:
    """Says of jobs that they run in the care of their keepers, which it holds on to.

    To be used by one thread at a time, and closed.
    """

    def __init__(self) -> None:
        """Hold nobody yet."""
        self._keepers: dict[tuple[int, int], _Keeper] = {}

    def close(self) -> None:
        """Let go of the keepers."""
        while self._keepers:
            self._keepers.popitem()[1].close()

    def look(self, directory: str, found: os.stat_result) -> Observation | None:
        """Return what ``evidence.resolve`` would of a job in the care of its keeper; ``None`` for any other.

        ``found`` is as for ``look_again``.
        """
        return look_again(directory, found, self._lives)

    def _lives(self, pid: int, start: int) -> bool:
        """Whether a keeper lives; who is asked about a second time is held from then on."""
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
    """Says of a job that no end of it is on record, so that no process can have settled it, and what stop is."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._stamps: dict[str, tuple[int, int]] = {}
        self._stops: dict[str, str] = {}

    def stop_requested(self, directory: str) -> str | None:
        """Return why the job was asked to stop, as ``is_unended`` has seen it last."""
        return self._stops.get(directory)

    def is_unended(self, directory: str) -> bool:
        """Whether a job directory is there, without an exit record; ``False`` where it may have one."""
        known = self._stamps.get(directory)
        try:
            found = os.lstat(directory)
            if known == (found.st_ino, found.st_ctime_ns):
                return True
            settled = has_settled(found)  # as above
            if is_there(f"{directory}/{records.EXIT}"):
                return False
            stop = records.read_stop(directory)
            os.lstat(directory)  # in the trash by now, the records would not have been found either
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
        if self._asked and (descriptor := pidfd.open_of(*self._identity)) is not None:
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
