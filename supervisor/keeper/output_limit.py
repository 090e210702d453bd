"""How the keeper sees that a job has written more than it may.

Standard library only: the keeper runs this file, outside the package.

Sizes are looked at, at intervals: a busy job again when half of what is left could be used up, a quiet one less
and less often. When there are many, the kernel is asked to tell when a quiet one writes again, and looks become
rare; for a few, looking costs less than loading what can ask for that.
"""

from __future__ import annotations

import os

from supervisor.jobdir import measures, records
from supervisor.system import processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from heapq import heappop, heappush
    from typing import Final

    from supervisor.system import inotify
else:
    from _heapq import heappop, heappush

    try:
        from supervisor.system import inotify
    except ImportError:  # a Python without ctypes: the keeper reads the sizes in intervals instead
        inotify = None

__all__ = ["Output", "Outputs"]

_SECOND: Final = 1_000_000_000
_FIRST_LOOK_NS: Final = _SECOND // 2
_SHORTEST_LOOK_NS: Final = _SECOND // 10
_QUIET_NS: Final = _SECOND
"""The kernel is asked to tell about one that has not written for so long; many end before that."""
_LONGEST_LOOK_NS: Final = 8 * _SECOND
_TOLD_LOOK_NS: Final = 128 * _SECOND
"""For one that the kernel tells about; some ways to write may come that it does not tell about."""
_MANY: Final = 64


class Output:
    """What a job has written so far."""

    __slots__ = (
        "changes",
        "directory",
        "due",
        "gap",
        "group",
        "limit",
        "looked",
        "seen",
        "token",
        "truncated",
        "watch",
    )

    def __init__(self, token: int, directory: str, limit: int, now: int) -> None:
        """Nothing yet; ``limit`` is how many bytes of stdout or of stderr are too many."""
        self.token = token
        self.directory = directory
        self.limit = limit
        self.seen = 0
        self.looked = now
        self.gap = _FIRST_LOOK_NS
        self.due = 0
        self.watch: int | None = None
        self.group: int | None = None
        """The process group of a leader that has ended: only what it left behind may write on."""
        self.changes: list[tuple[int, int] | None] = [None, None]
        self.truncated = False

    def size(self) -> int:
        """Return the size of the larger of its streams."""
        changes: list[tuple[int, int] | None] = []
        for name in (records.STDOUT, records.STDERR):
            try:
                status = os.stat(f"{self.directory}/{name}")
            except OSError:
                changes.append(None)
            else:
                changes.append((status.st_size, status.st_mtime_ns))
        self.compare(changes, final=False)
        return max(each[0] if each is not None else 0 for each in changes)

    def compare(self, changes: list[tuple[int, int] | None], *, final: bool) -> None:
        """Note whether a stream was truncated since the last look.

        It was if it is shorter now; and if it has changed and is not longer, unless a write is on its way: that sets
        the time before the size. ``final``: none is.
        """
        for number, now in enumerate(changes):
            before = self.changes[number]
            if now is None:
                continue
            if before is not None and before[0] > 0:
                rewritten = final and now[0] == before[0] and now[1] != before[1]
                self.truncated |= now[0] < before[0] or rewritten
            if before is None or now[0] != before[0]:  # else what may be a truncation stays to be seen at the end
                self.changes[number] = now


class Outputs:
    """What all jobs of a keeper write."""

    def __init__(self) -> None:
        """Watch nothing yet."""
        self._outputs: dict[int, Output] = {}
        self._looks: list[tuple[int, int]] = []
        self._notify: inotify.Inotify | None = None
        self._watched: dict[int, Output] = {}
        self._may_be_told = True
        self._quitted: list[int] = []

    @property
    def next_ns(self) -> int | None:
        """When to look again, on the boot clock."""
        return self._looks[0][0] if self._looks else None

    @property
    def descriptor(self) -> int:
        """What is readable when ``heard`` is to be called; below 0 as long as there is nothing."""
        return -1 if self._notify is None else self._notify.descriptor

    def add(self, token: int, directory: str, limit: int, now: int) -> None:
        """Watch the output of a job."""
        output = self._outputs[token] = Output(token, directory, limit, now)
        self._look_at(output, now + output.gap)

    def end(self, token: int, directory: str, group: int, *, watch: bool) -> tuple[dict[str, object], bool]:
        """Return what a job has written whose leader has ended, for its record, and whether something may write on.

        Only then, and if ``watch`` asks for it, is it watched on.
        """
        found, changes, writers = measures.sizes_and_writers(directory)
        may_grow = has_members(group) if writers is None else writers
        output = self._outputs.get(token)
        if output is not None:
            output.compare(changes, final=not may_grow)
            if output.truncated:
                found["truncated"] = True
        if may_grow and watch and output is not None:
            output.group = group
        else:
            self.drop(token)
        if may_grow:
            found["may_grow"] = True
        return found, may_grow

    def quitted(self) -> list[int]:
        """Return the tokens of ended jobs that nothing writes to any more."""
        quitted, self._quitted = self._quitted, []
        return quitted

    def drop(self, token: int) -> None:
        """Watch the output of a job no more."""
        output = self._outputs.pop(token, None)
        if output is not None:
            self._unwatch(output)

    def look(self) -> list[int]:
        """Look at what is due, and return the tokens of those that have written too much."""
        over: list[int] = []
        now = processes.boottime_ns()
        while self._looks and self._looks[0][0] <= now:
            due, token = heappop(self._looks)
            output = self._outputs.get(token)
            if output is None or output.due != due:
                continue
            try:
                if self._is_over(output, now):
                    over.append(token)
            except (OSError, MemoryError):  # not known now: the limit holds on
                self._look_at(output, now + _SECOND)
        return over

    def heard(self) -> None:
        """Take up those that the kernel says are writing."""
        if self._notify is None:
            return
        now = processes.boottime_ns()
        numbers = self._notify.read()
        if inotify.OVERFLOWN in numbers:  # the kernel has told of some writes only
            numbers |= self._watched.keys()
        for number in numbers:
            output = self._watched.get(number)
            if output is not None:
                self._unwatch(output)
                output.looked = now - _SHORTEST_LOOK_NS  # it has begun just now: it may be fast
                self._look_at(output, now)

    def _look_at(self, output: Output, due: int) -> None:
        output.due = due
        heappush(self._looks, (due, output.token))

    def _is_over(self, output: Output, now: int) -> bool:
        largest = output.size()
        if largest > output.limit:
            return True
        if output.group is not None:
            _, _, writers = measures.sizes_and_writers(output.directory)
            if not (has_members(output.group) if writers is None else writers):
                self.drop(output.token)
                self._quitted.append(output.token)
                return False
        grown = largest - output.seen
        if grown > 0:  # look again when half of what is left could be used up
            until_full = (output.limit - largest) * (now - output.looked) // (2 * grown)
            output.gap = min(max(until_full, _SHORTEST_LOOK_NS), _SECOND)
        elif output.gap >= _QUIET_NS and self._watch(output) and output.size() == largest:
            output.gap = _TOLD_LOOK_NS  # what was written before the kernel looked would have shown in the size
        else:
            output.gap = min(2 * output.gap, _LONGEST_LOOK_NS)
        output.seen, output.looked = largest, now
        due = now + output.gap
        if output.gap >= _SECOND:  # on the full second, so that a thousand quiet jobs cost one waking, not each its own
            due += -due % _SECOND
        self._look_at(output, due)
        return False

    def _watch(self, output: Output) -> bool:
        if output.watch is not None:
            return True
        if not self._may_be_told or len(self._outputs) < _MANY:
            return False
        if self._notify is None:
            self._notify = _open_inotify()
            self._may_be_told = self._notify is not None
        number = None if self._notify is None else self._notify.watch(output.directory, _WRITTEN)
        if number is None:
            return False
        output.watch = number
        self._watched[number] = output
        return True

    def _unwatch(self, output: Output) -> None:
        if output.watch is not None and self._notify is not None:
            del self._watched[output.watch]
            output.watch = None
            self._notify.unwatch(output.directory)


def has_members(group: int) -> bool:
    """Whether there is any process in a process group."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


_WRITTEN: Final = 0x2  # IN_MODIFY


def _open_inotify() -> inotify.Inotify | None:
    try:
        return inotify.Inotify.open()
    except AttributeError:  # there is no such module here
        return None
