"""Ends the process trees of jobs that are stopped: sends signals until no process is left.

A process is signalled only after its identity was read again. A tree counts as gone only after all processes
could be read, or when its control group is empty (see ``Stop.tree``).
"""

from __future__ import annotations

import os
import signal

from supervisor.keeper.job_processes import JobProcesses, JobTree
from supervisor.system import processes
from supervisor.system.observing import NotKnown, not_known
from supervisor.system.process_table import in_portions, pass_by

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from typing import Final

    from supervisor.keeper.job_processes import Snapshot
    from supervisor.system import cgroups

__all__ = ["Stop", "TreeKiller", "members_of", "thaw"]

_STOPPED: Final = frozenset("Tt")


class Stop(JobTree):
    """One tree that is being ended.

    ``first_signal`` is sent first; when the leader has ended, what is left of the tree gets SIGTERM, as a background
    process of a shell ignores SIGINT.

    ``on_signal`` records the stop on disk. It is called with the boot-clock time, right before the first signal; if it
    raises ``NotKnown``, it is called again later. ``is_child``: the leader is a child of this process and was not
    reaped yet, so that no other process can have its pid.

    ``tree`` is the control group that holds the processes, if there is one. It makes searches for them superfluous, but
    for processes that have left it. So all processes are searched before the first signal, unless the leader has no
    children, and again before SIGKILL. Once one is found outside, the search goes on until the end.

    When the stop is complete:

    * ``natural``: the leader has ended, and no signal has reached the tree.
    * ``refused``: the leader lives, and this process may signal no process that is left.
    * ``survivors``: the pids of the processes that are left because this process may not signal them.
    """

    def __init__(
        self,
        job_id: str,
        pid: int,
        start: int,
        grace_seconds: float,
        on_signal: Callable[[int], object],
        *,
        signalled_ns: int | None = None,
        ended_ns: int | None = None,
        is_child: bool = False,
        tree: cgroups.TreeGroup | None = None,
        first_signal: int | None = None,
    ) -> None:
        """Describe the tree; ``signalled_ns`` continues a stop that another process has begun."""
        super().__init__(job_id, pid, start, ended_ns)
        self.grace_ns = int(grace_seconds * 1e9)
        self.on_signal = on_signal
        self.signalled_ns = signalled_ns
        self.is_child = is_child
        self.first_signal = signal.SIGTERM if first_signal is None else first_signal
        self.natural = self.refused = False
        self.reached = signalled_ns is not None  # the process that has begun it may have reached it
        self.terminated: set[tuple[int, int]] = set()
        self.denied: set[int] = set()
        self.survivors: list[int] = []
        self.next_ns = 0
        self.delay_ns = 0
        self.tree = tree
        self._searched = self._searched_to_kill = False

    @property
    def kill_ns(self) -> int | None:
        """When SIGKILL is due; ``None`` before the first signal."""
        return None if self.signalled_ns is None else self.signalled_ns + self.grace_ns

    def spare_search(self) -> None:
        """Trust the control group as long as SIGKILL is not due: the leader has no children, and gets its signal."""
        self._searched = self.tree is not None

    def needs_search(self, now: int) -> bool:
        """Whether all processes have to be searched for those of the tree."""
        return self.tree is None or not self._searched or (self.kills(now) and not self._searched_to_kill)

    def kills(self, now: int) -> bool:
        """Whether SIGKILL is due."""
        return self.kill_ns is not None and self.kill_ns <= now

    def was_searched(self, now: int, outside: int) -> None:
        """Note that ``outside`` processes of the tree are not in its control group."""
        self._searched = outside == 0
        self._searched_to_kill = outside == 0 and self.kills(now)

    def ended_at(self, boot_ns: int) -> None:
        """Record when the leader ended and was reaped: a process born before then proves whose session it is in."""
        self.is_child = False
        self.ended = boot_ns // processes.TICK_NS

    @property
    def ended_untouched(self) -> bool:
        """Whether this user was not allowed to signal the leader, which is gone, so that it ended by itself.

        It is not enough that no signal of this process has reached it: another process may have stopped it just then.
        """
        return not self.reached and self.pid in self.denied


_FIRST_DELAY_NS: Final = 2_000_000
_LONGEST_DELAY_NS: Final = 200_000_000
_STUCK_NS: Final = 5_000_000_000
"""A process that lives so long after SIGKILL is frozen or hangs in the kernel: checks become rarer."""
_STUCK_DELAY_NS: Final = 2_000_000_000


class TreeKiller:
    """Ends any number of trees side by side; one snapshot of the processes serves all of them.

    Nothing here waits: call ``tick`` when ``next_ns`` has come, until it is ``None``.

    ``children``: the pids of leaders that are children of this process and were not reaped yet. Each leads a
    session of its own and belongs to no other tree, so it is not read for other trees.
    """

    def __init__(self, children: Collection[int] = ()) -> None:
        self._processes = JobProcesses()
        self._children = children
        self._not_before = 0
        self._soonest = 0
        self.stops: list[Stop] = []

    @property
    def next_ns(self) -> int | None:
        """The boot-clock time of the next tick that is due, or ``None``."""
        if not self.stops:
            return None
        return max(self._not_before, self._soonest)

    @property
    def incomplete(self) -> NotKnown | None:
        """Why the last tick may have missed processes or failed to record a first signal; ``None`` if it did not."""
        return self._processes.incomplete

    def add(self, stop: Stop) -> None:
        """Begin with ``stop`` at the next tick."""
        self._soonest = min(self._soonest, stop.next_ns) if self.stops else stop.next_ns
        self.stops.append(stop)

    def hurry(self, stop: Stop) -> None:
        """Continue a stop at the next tick: the leader of this tree has just ended."""
        stop.next_ns = stop.delay_ns = self._soonest = 0

    def signal_leader(self, stop: Stop) -> bool:
        """Send the first signal to the leader right now, ahead of the first snapshot; ``False`` if it has ended.

        Only for a stop that is recorded as signalled, and a leader without children. With many processes a snapshot
        takes longer than a deadline should overshoot. A leader with children needs the snapshot first: a child that
        only its parent identifies must be found before the parent ends.
        """
        try:
            leader = processes.read_process(stop.pid)
        except NotKnown:
            return True  # the first snapshot will find it
        if leader is None or leader.start != stop.start or leader.dead:
            return False
        stop.reached = False
        self._terminate(stop, [leader])
        thaw(stop)
        stop.next_ns = processes.boottime_ns() + _FIRST_DELAY_NS
        return True

    def tick(self, pause: Callable[[], object] = pass_by) -> list[Stop]:
        """Take a snapshot, signal what has to be signalled, and return the stops that are complete.

        Snapshots take no more than half of the time. ``pause`` is called at intervals, for work that
        cannot wait for the whole tick; the stops that it adds begin at the next tick.
        """
        begun = processes.boottime_ns()
        paused = 0

        def interrupt() -> None:
            nonlocal paused
            since = processes.boottime_ns()
            pause()
            paused += processes.boottime_ns() - since

        due = [stop for stop in self.stops if stop.next_ns <= begun]
        snapshot: Snapshot | None = None
        if any(stop.needs_search(begun) for stop in due):
            without = {*self._children}.difference(stop.pid for stop in due)
            snapshot = self._processes.snapshot({stop.mark for stop in due}, interrupt, without)
        else:
            self._processes.incomplete = None
        now = processes.boottime_ns()
        self._not_before = now + (now - begun - paused)
        finished: list[Stop] = []
        for stop in in_portions(due, pause):
            try:
                if self._advance(stop, snapshot):
                    finished.append(stop)
            except NotKnown as error:
                self._processes.incomplete = error
                _put_off(stop)
        if finished:
            over = set(finished)
            self.stops = [stop for stop in self.stops if stop not in over]
        self._soonest = min((stop.next_ns for stop in self.stops), default=0)
        return finished

    def _advance(self, stop: Stop, snapshot: Snapshot | None) -> bool:
        if stop.signalled_ns is None:
            if not processes.is_alive(stop.pid, stop.start):
                stop.natural = True
                return True
            now = processes.boottime_ns()
            stop.on_signal(now)
            stop.signalled_ns = now
        members = self._members(stop, snapshot)
        if not members and self.incomplete is None:
            stop.natural = stop.ended_untouched
            return True
        now = processes.boottime_ns()
        kill_ns = stop.signalled_ns + stop.grace_ns
        if now < kill_ns:
            if stop.first_signal != signal.SIGTERM and all(each.pid != stop.pid for each in members):
                stop.first_signal = signal.SIGTERM
                stop.terminated.clear()
            self._terminate(stop, members)
            thaw(stop)
        else:
            if stop.tree is not None:
                members = self._kill_in(stop, stop.tree, members)
            else:
                _kill(stop, members)
            if members and self.incomplete is None and stop.denied.issuperset(each.pid for each in members):
                stop.survivors = sorted(process.pid for process in members)
                stop.refused = any((process.pid, process.start) == (stop.pid, stop.start) for process in members)
                stop.natural = not stop.refused and stop.ended_untouched
                return True
        now = _put_off(stop, _LONGEST_DELAY_NS if now < kill_ns + _STUCK_NS else _STUCK_DELAY_NS)
        if now < kill_ns < stop.next_ns:
            stop.next_ns, stop.delay_ns = kill_ns, 0
        return False

    def _members(self, stop: Stop, snapshot: Snapshot | None) -> list[processes.Process]:
        """Return the processes of a tree: those in its control group, and those that the search finds."""
        if stop.tree is None:
            assert snapshot is not None  # noqa: S101  # such a stop needs the search
            return snapshot.members(stop)
        inside = self._inside(stop, stop.tree)
        if snapshot is None:
            leader = None if inside else processes.read_process(stop.pid)
            if leader is None or leader.start != stop.start or leader.dead:
                return inside
            stop.was_searched(0, 1)  # the leader has left it
            return [leader]
        pids = {process.pid for process in inside}
        outside = [process for process in snapshot.members(stop) if process.pid not in pids]
        if self.incomplete is None:
            outside = [each for each in outside if processes.is_alive(each.pid, each.start)]
            stop.was_searched(processes.boottime_ns(), len(outside))
        return inside + outside

    def _inside(self, stop: Stop, tree: cgroups.TreeGroup) -> list[processes.Process]:
        """Return the processes in a control group that may be signalled.

        Those that leave it while they are read, so that another process may have their pids, are left out.
        """
        try:
            if tree.is_empty():
                return []
            found = [processes.read_process(pid) for pid in tree.pids() if pid != os.getpid()]
            still = {*tree.pids()}
        except OSError as error:
            raise not_known(error, tree.directory) from error
        return [
            process
            for process in found
            if process is not None
            and process.pid in still
            and not process.dead
            and process.start >= stop.start
            and not self._processes.is_keeper(process)
        ]

    def _kill_in(
        self, stop: Stop, tree: cgroups.TreeGroup, members: list[processes.Process]
    ) -> list[processes.Process]:
        """Send SIGKILL to all processes of a tree, and return those that this may not have reached.

        The kernel ends those in the control group at once, unless another keeper is among them. Where it cannot do that
        they stand still meanwhile, so that none is missed.
        """
        try:
            inside = {*tree.pids()}
            if not tree.has_keepers() and inside <= {process.pid for process in members} and tree.kill():
                stop.reached = True
                stop.denied -= inside
                members = [process for process in members if process.pid not in inside]
                _kill(stop, members)
            else:
                tree.freeze()
                try:
                    members += [each for each in self._inside(stop, tree) if each.pid not in inside]
                    _kill(stop, members)
                finally:
                    tree.thaw()
        except OSError as error:
            raise not_known(error, tree.directory) from error
        return members

    @staticmethod
    def _terminate(stop: Stop, members: Iterable[processes.Process]) -> None:
        for process in members:
            key = (process.pid, process.start)
            if key in stop.terminated:
                continue
            stop.terminated.add(key)  # once each: for many programs a second SIGTERM means something else
            try:
                if stop.is_child and process.pid == stop.pid:
                    os.kill(process.pid, stop.first_signal)
                    stop.reached = True
                    if process.state in _STOPPED:
                        os.kill(process.pid, signal.SIGCONT)
                elif processes.send_signal(*key, stop.first_signal):
                    stop.reached = True
                    if process.state in _STOPPED:
                        processes.send_signal(*key, signal.SIGCONT)
            except NotKnown:
                stop.terminated.discard(key)
            except PermissionError:
                stop.denied.add(process.pid)


def thaw(stop: Stop) -> None:
    """Have a tree that a pause has frozen go on, with the signals that it has got: their handlers run first."""
    if stop.tree is None or stop.tree.version == 1:  # where no pause freezes
        return
    try:
        stop.tree.thaw()
    except OSError as error:
        raise not_known(error, stop.tree.directory) from error


def _put_off(stop: Stop, longest: int = _LONGEST_DELAY_NS) -> int:
    """Delay the next step of a stop, by twice the last delay; return the current time."""
    now = processes.boottime_ns()
    stop.delay_ns = min(max(2 * stop.delay_ns, _FIRST_DELAY_NS), longest)
    stop.next_ns = now + stop.delay_ns
    return now


def _kill(stop: Stop, members: Iterable[processes.Process]) -> None:
    groups: set[int] = set()
    for process in members:
        try:
            if (
                process.pid == process.group
                and process.group not in groups
                and processes.is_alive(process.pid, process.start)
            ):
                # The whole group in one go: a tree that forks faster than snapshots are taken cannot outrun it.
                groups.add(process.group)
                os.killpg(process.group, signal.SIGKILL)
                stop.reached = True
            elif processes.send_signal(process.pid, process.start, signal.SIGKILL):
                stop.reached = True
            stop.denied.discard(process.pid)
        except (ProcessLookupError, NotKnown):
            pass  # the next snapshot decides
        except PermissionError:
            stop.denied.add(process.pid)


def members_of(stop: Stop) -> list[processes.Process]:
    """Return every live process of a tree, from a snapshot of its own.

    Raises:
        NotKnown: not all processes can be read now.
    """
    held = JobProcesses()
    members = held.snapshot({stop.mark}).members(stop)
    if held.incomplete is not None:
        raise held.incomplete
    return members
