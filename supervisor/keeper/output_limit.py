"""How the keeper finds that a job has written more than it may.

It checks the sizes of the output files at intervals: of a busy job when half of the rest could be used up, of a
quiet one less and less often. With many jobs, inotify reports when a quiet one writes again, and checks become rare.
With few, checks cost less than inotify.
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
    except ImportError:  # a Python without ctypes
        inotify = None

__all__ = ["Output", "Outputs"]

_SECOND: Final = 1_000_000_000
_FIRST_CHECK_NS: Final = _SECOND // 2
_SHORTEST_NS: Final = _SECOND // 10
_QUIET_NS: Final = _SECOND
"""inotify watches a job that has not written for so long; many end before that."""
_LONGEST_NS: Final = 8 * _SECOND
_REPORTED_NS: Final = 128 * _SECOND
"""For a job that inotify watches; some ways to write may come that it does not report."""
_MANY: Final = 64


class Output:
    """The output of one job."""

    def __init__(self, token: int, directory: str, limit: int, now: int) -> None:
        """``limit`` is how many bytes of stdout or of stderr are allowed."""
        self.token = token
        self.directory = directory
        self.limit = limit
        self.largest = 0
        self.checked = now
        self.gap = _FIRST_CHECK_NS
        self.due = 0
        self.watch: int | None = None
        self.group: int | None = None
        """The process group of a leader that has ended: only processes that it left behind may write on."""
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
        """Note whether a stream was truncated since the last check.

        It was if it is shorter now. It also was if it has changed and is not longer, unless a write is under way, which
        sets the time before the size. ``final``: no write is under way.
        """
        for number, now in enumerate(changes):
            before = self.changes[number]
            if now is None:
                continue
            if before is not None and before[0] > 0:
                rewritten = final and now[0] == before[0] and now[1] != before[1]
                self.truncated |= now[0] < before[0] or rewritten
            if before is None or now[0] != before[0]:  # else the end decides whether it was truncated
                self.changes[number] = now


class Outputs:
    """The output of all jobs of a keeper."""

    def __init__(self) -> None:
        self._outputs: dict[int, Output] = {}
        self._checks: list[tuple[int, int]] = []
        self._notify: inotify.Inotify | None = None
        self._watched: dict[int, Output] = {}
        self._has_inotify = True
        self._quiet: list[int] = []

    @property
    def next_ns(self) -> int | None:
        """When to call ``check`` again, on the boot clock."""
        return self._checks[0][0] if self._checks else None

    @property
    def descriptor(self) -> int:
        """A descriptor that is readable when ``handle_events`` has work; below 0 as long as there is none."""
        return -1 if self._notify is None else self._notify.descriptor

    def add(self, token: int, directory: str, limit: int, now: int) -> None:
        """Check the output of a job from now on."""
        output = self._outputs[token] = Output(token, directory, limit, now)
        self._check_at(output, now + output.gap)

    def end(self, token: int, directory: str, group: int, *, watch: bool) -> tuple[dict[str, object], bool]:
        """Return the sizes of the output of a job whose leader has ended, and whether leftovers may write on.

        If so, and if ``watch`` asks for it, checks go on.
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

    def take_quiet(self) -> list[int]:
        """Return the tokens of ended jobs whose output has no writer any more."""
        quiet, self._quiet = self._quiet, []
        return quiet

    def drop(self, token: int) -> None:
        """Stop checking the output of a job."""
        output = self._outputs.pop(token, None)
        if output is not None:
            self._unwatch(output)

    def check(self) -> list[int]:
        """Check the jobs that are due, and return the tokens of those that have written too much."""
        over: list[int] = []
        now = processes.boottime_ns()
        while self._checks and self._checks[0][0] <= now:
            due, token = heappop(self._checks)
            output = self._outputs.get(token)
            if output is None or output.due != due:
                continue
            try:
                if self._is_over(output, now):
                    over.append(token)
            except (OSError, MemoryError):  # not known now: the limit holds on
                self._check_at(output, now + _SECOND)
        return over

    def handle_events(self) -> None:
        """Check the jobs that inotify reports as writing."""
        if self._notify is None:
            return
        now = processes.boottime_ns()
        numbers = self._notify.read()
        if inotify.OVERFLOWN in numbers:  # the kernel has reported some writes only
            numbers |= self._watched.keys()
        for number in numbers:
            output = self._watched.get(number)
            if output is not None:
                self._unwatch(output)
                output.checked = now - _SHORTEST_NS  # it may be fast
                self._check_at(output, now)

    def _check_at(self, output: Output, due: int) -> None:
        output.due = due
        heappush(self._checks, (due, output.token))

    def _is_over(self, output: Output, now: int) -> bool:
        largest = output.size()
        if largest > output.limit:
            return True
        if output.group is not None:
            _, _, writers = measures.sizes_and_writers(output.directory)
            if not (has_members(output.group) if writers is None else writers):
                self.drop(output.token)
                self._quiet.append(output.token)
                return False
        grown = largest - output.largest
        if grown > 0:  # check again when half of the rest could be used up
            until_full = (output.limit - largest) * (now - output.checked) // (2 * grown)
            output.gap = min(max(until_full, _SHORTEST_NS), _SECOND)
        elif output.gap >= _QUIET_NS and self._watch(output) and output.size() == largest:
            output.gap = _REPORTED_NS  # a write before inotify began shows in the size
        else:
            output.gap = min(2 * output.gap, _LONGEST_NS)
        output.largest, output.checked = largest, now
        due = now + output.gap
        if output.gap >= _SECOND:  # on the full second, so that a thousand quiet jobs wake the keeper once
            due += -due % _SECOND
        self._check_at(output, due)
        return False

    def _watch(self, output: Output) -> bool:
        if output.watch is not None:
            return True
        if not self._has_inotify or len(self._outputs) < _MANY:
            return False
        if self._notify is None:
            self._notify = _open_inotify()
            self._has_inotify = self._notify is not None
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
    except AttributeError:  # the module is missing, see above
        return None
