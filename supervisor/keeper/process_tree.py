"""What belongs to a job, and how a whole tree of processes is ended.

Standard library only, no import from the package: the keeper runs this file too, in an
interpreter started with ``-I -S``.

A member of a tree is known by the leader's session and group, by descent, by the mark in its environment, by the
tag in its limits (see ``job_marks``), or by having been seen in it once. Signals go out only after the identity of each
process was read again.

What could not be looked at (see ``observing``) may belong to any tree: those that are found are signalled, and no
tree is taken for gone before a look has seen all there is.
"""

from __future__ import annotations

import os
import signal
from errno import EACCES, EPERM

from supervisor.jobdir import job_marks, records
from supervisor.system import processes
from supervisor.system.observing import ABSENT, NotKnown, not_known

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing costs the keeper 5 ms
    from collections.abc import Callable, Collection, Container, Iterable
    from typing import Final

__all__ = ["ProcessTable", "Stop", "TreeKiller", "is_keeper", "mark_of", "members_of", "tag_of"]

_KERNEL_THREAD: Final = 0x0020_0000  # PF_KTHREAD, include/linux/sched.h
_STOPPED: Final = frozenset("Tt")
_YOUNG_TICKS: Final = 200  # a process younger than this may still be about to exec


_PORTION: Final = 32


def _go_on() -> None:
    """Do nothing in between."""


class ProcessTable:
    """Looks at all processes, and remembers between looks what cannot change.

    ``unseen`` says why the last look could not see all of them, ``None`` when it has. Processes that another user
    hides (``hidepid``) are not missed: this process could not signal them.
    """

    def __init__(self) -> None:
        """Remember nothing yet."""
        self.unseen: NotKnown | None = None
        self._marks: dict[tuple[int, int], bytes] = {}
        self._tags: dict[tuple[int, int], int] = {}
        self._keepers: dict[tuple[int, int], bool] = {}

    def look(
        self,
        pause: Callable[[], object] = _go_on,
        without: Container[int] = (),
    ) -> dict[int, processes.Process]:
        """Return every process that is alive (zombies left out), by pid; ``pause`` is called now and then.

        ``without`` are processes that need not be looked at.
        """
        self.unseen = None
        table: dict[int, processes.Process] = {}
        try:
            names = os.listdir("/proc") if processes.HAVE_PROC else []
            if not processes.HAVE_PROC:
                table = {pid: found for pid, found in processes.look_by_ps().items() if not found.dead}
        except OSError as error:
            self.unseen = not_known(error, "/proc")
            return table
        for number, name in enumerate(names):
            if not number % _PORTION:
                pause()
            if name[0] in "123456789":
                pid = int(name)
                if pid in without:
                    continue
                try:
                    found = processes.read_process(pid)
                except NotKnown as error:
                    if error.errno not in _REFUSED or not _is_of_another_user(pid):
                        self.unseen = error
                    continue
                if found is not None and not found.dead and not found.flags & _KERNEL_THREAD:
                    table[pid] = found
        if self.unseen is None:
            for remembered in (self._marks, self._tags, self._keepers):
                for key in [key for key in remembered if key[0] not in table or table[key[0]].start != key[1]]:
                    del remembered[key]
        return table

    def marks(
        self,
        table: dict[int, processes.Process],
        pause: Callable[[], object] = _go_on,
    ) -> dict[int, bytes]:
        """Return the job id that each process of ``table`` carries in its environment, by pid."""
        if not processes.HAVE_PROC:
            try:
                return self._marks_by_ps(table)
            except NotKnown as error:
                self.unseen = error
                return {}
        young = processes.boottime_ns() // processes.TICK_NS - _YOUNG_TICKS
        found: dict[int, bytes] = {}
        for number, (pid, process) in enumerate(table.items()):
            if not number % _PORTION:
                pause()
            key = (pid, process.start)
            mark = self._marks.get(key)
            if mark is None:
                try:
                    mark = mark_of(pid)
                except NotKnown as error:
                    if error.errno not in _REFUSED or not _may_read_environments():
                        self.unseen = error
                        continue
                    mark = b""  # the kernel keeps it from us, as it does with what holds more rights than we do
                # Having no mark is final only for a process that can no longer be between fork
                # and exec; having one is final, even if an exec scrubs the environment later.
                if mark or process.start < young:
                    self._marks[key] = mark
            if mark:
                found[pid] = mark
        return found

    def tags(
        self,
        table: dict[int, processes.Process],
        marks: dict[int, bytes],
        of_stops: Container[bytes],
        pause: Callable[[], object] = _go_on,
    ) -> dict[int, int]:
        """Return the tag of each process of ``table`` that has one and does not carry a mark in ``of_stops``."""
        found: dict[int, int] = {}
        for number, (pid, process) in enumerate(table.items() if processes.HAVE_PROC else ()):
            if not number % _PORTION:
                pause()
            if marks.get(pid, b"") not in of_stops:
                key = (pid, process.start)
                tag = self._tags.get(key)
                if tag is None:
                    try:
                        tag = self._tags[key] = tag_of(pid)
                    except NotKnown as error:
                        if error.errno not in _REFUSED or not _is_of_another_user(pid):
                            self.unseen = error
                        continue
                if tag:
                    found[pid] = tag
        return found

    @staticmethod
    def _marks_by_ps(table: dict[int, processes.Process]) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        for line in processes.ask("ps", "-axEww", "-o", "pid=,command=").splitlines():
            pid, _, rest = line.strip().partition(" ")
            _, there, value = rest.rpartition(f" {processes.MARK.decode()}=")
            if there and pid.isdigit() and int(pid) in table:
                found[int(pid)] = value.split(" ", 1)[0].encode()
        return found

    def is_keeper(self, process: processes.Process) -> bool:
        """Whether this is a keeper, which is never part of a job's tree; also where that cannot be seen now."""
        key = (process.pid, process.start)
        known = self._keepers.get(key)
        if known is None:
            try:
                boot, namespace = processes.boot_id(), processes.pid_namespace()
                known = is_keeper(process.pid, records.keeper_claim(*key, boot, namespace))
            except NotKnown as error:
                self.unseen = error
                return True
            if known or process.start < processes.boottime_ns() // processes.TICK_NS - _YOUNG_TICKS:
                self._keepers[key] = known
        return known


_REFUSED: Final = frozenset({EACCES, EPERM})


def _is_of_another_user(pid: int) -> bool:
    """Whether a process is not ours, or hides itself from us as if it were not."""
    try:
        return os.stat(f"/proc/{pid}").st_uid != os.geteuid()
    except ABSENT:
        return True
    except OSError as error:
        return error.errno in _REFUSED


def _may_read_environments() -> bool:
    """Whether the environment of a process can be read at all: our own."""
    try:
        processes.slurp("/proc/self/environ")
    except OSError:
        return False
    return True


def _read(pid: int, name: str) -> bytes:
    """Return a file of a process, nothing when the process is gone."""
    path = f"/proc/{pid}/{name}"
    try:
        return processes.slurp(path)
    except ABSENT:
        return b""
    except OSError as error:
        raise not_known(error, path) from error


def mark_of(pid: int) -> bytes:
    """Return the job id that a process carries in its environment, empty for none.

    Raises:
        NotKnown: that cannot be seen now, or not by this user.
    """
    environment = b"\0" + _read(pid, "environ")
    found = environment.find(b"\0" + processes.MARK + b"=")
    if found < 0:
        return b""
    begin = found + len(processes.MARK) + 2
    return environment[begin : environment.find(b"\0", begin) if b"\0" in environment[begin:] else None]


def tag_of(pid: int) -> int:
    """Return the tag that a process has in its limits, 0 for none.

    Raises:
        NotKnown: that cannot be seen now, or not by this user.
    """
    return job_marks.tag_in(_read(pid, "limits"))


def is_keeper(pid: int, claim: str) -> bool:
    """Whether a process is the keeper that makes this claim.

    Raises:
        NotKnown: that cannot be seen now.
    """
    words = _read(pid, "cmdline").split(b"\0") if processes.HAVE_PROC else _command_words(pid)
    words.append(b"/proc/%d/cwd" % pid)  # the state root, also after that was renamed
    try:
        return job_marks.is_registered(words, claim)
    except OSError as error:
        raise not_known(error, f"/proc/{pid}/cmdline") from error


def _command_words(pid: int) -> list[bytes]:
    return processes.ask("ps", "-ww", "-p", str(pid), "-o", "command=").encode().split()


# ---------------------------------------------------------------- ending a tree


class Stop:
    """One tree that is being ended.

    ``on_signal`` is called right before the first signal, with the boot-clock time: what it records is on
    disk before anything is signalled. It is called once, and again later only if it raises ``NotKnown``.
    ``is_child`` says that the leader is a child of this process and was not reaped yet, so that its pid is its own.

    Once it is complete: ``natural`` says that no signal has reached any process of the tree and the leader has ended
    all the same; ``refused``, that the leader lives and is not ours to signal, and neither is what else is left;
    ``survivors`` are those that are left because they are not ours to signal.
    """

    __slots__ = (
        "born",
        "delay_ns",
        "denied",
        "ended",
        "grace_ns",
        "is_child",
        "mark",
        "natural",
        "next_ns",
        "on_signal",
        "pid",
        "reached",
        "refused",
        "seen",
        "session_seen",
        "signalled_ns",
        "start",
        "survivors",
        "tag",
        "termed",
    )

    def __init__(
        self,
        mark: str,
        pid: int,
        start: int,
        grace_seconds: float,
        on_signal: Callable[[int], object],
        *,
        signalled_ns: int | None = None,
        ended_ns: int | None = None,
        is_child: bool = False,
    ) -> None:
        """Describe the tree; ``signalled_ns`` continues a stop that somebody else has begun."""
        self.mark = mark.encode("ascii")
        self.tag = job_marks.tag_of_job(mark)
        self.pid = pid
        self.start = start
        self.born = start
        self.ended = None if ended_ns is None else ended_ns // processes.TICK_NS
        self.grace_ns = int(grace_seconds * 1e9)
        self.on_signal = on_signal
        self.signalled_ns = signalled_ns
        self.is_child = is_child
        self.natural = self.refused = False
        self.reached = signalled_ns is not None  # the process that has begun it may have reached it
        self.seen: set[tuple[int, int]] = set()
        self.termed: set[tuple[int, int]] = set()
        self.denied: set[int] = set()
        self.session_seen: set[tuple[int, int]] = set()
        self.survivors: list[int] = []
        self.next_ns = 0
        self.delay_ns = 0

    def ended_at(self, boot_ns: int) -> None:
        """Note when the leader ended and was reaped: its session is known by those who were born before."""
        self.is_child = False
        self.ended = boot_ns // processes.TICK_NS

    @property
    def ended_untouched(self) -> bool:
        """Whether the leader, which is gone, was refused to us and to every other process of this user.

        That none of our signals has reached it says less: another process may have stopped it just then.
        """
        return not self.reached and self.pid in self.denied


_FIRST_DELAY_NS: Final = 2_000_000
_LONGEST_DELAY_NS: Final = 200_000_000
_STUCK_NS: Final = 5_000_000_000
"""What lives so long after SIGKILL is frozen or hangs in the kernel: no need to look for its end that often."""
_STUCK_DELAY_NS: Final = 2_000_000_000


class TreeKiller:
    """Ends any number of trees side by side; one look at the processes serves all of them.

    Nothing here waits: call ``tick`` when ``next_ns`` has come, until it has nothing left.

    ``children`` are leaders of other trees, by pid, that are children of this process and were not reaped
    yet: they lead sessions of their own and belong to no other tree, so they need not be looked at.
    """

    def __init__(self, children: Collection[int] = ()) -> None:
        """Have nothing to end yet."""
        self._table = ProcessTable()
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
    def unseen(self) -> NotKnown | None:
        """Why the last look could not see all processes, ``None`` when it has."""
        return self._table.unseen

    def add(self, stop: Stop) -> None:
        """Begin with ``stop`` at the next tick."""
        self._soonest = min(self._soonest, stop.next_ns) if self.stops else stop.next_ns
        self.stops.append(stop)

    def hurry(self, stop: Stop) -> None:
        """Look again at once: the leader of this tree has just ended."""
        stop.next_ns = stop.delay_ns = self._soonest = 0

    def signal_leader(self, stop: Stop) -> bool:
        """Send SIGTERM to the leader right now, ahead of the first look; ``False`` if it has ended already.

        Only for a stop that is on record as signalled, and a leader without children: a look where there
        are many processes takes longer than a deadline should overshoot, but one that is known only by
        its parent has to be known before that is gone.
        """
        try:
            leader = processes.read_process(stop.pid)
        except NotKnown:
            return True  # the first look will find it
        if leader is None or leader.start != stop.start or leader.dead:
            return False
        stop.reached = False
        self._terminate(stop, [leader])
        stop.next_ns = processes.boottime_ns() + _FIRST_DELAY_NS
        return True

    def tick(self, pause: Callable[[], object] = _go_on) -> list[Stop]:
        """Look once, signal what has to be signalled, and return the stops that are complete.

        No more than half of the time goes into looking. ``pause`` is called every now and then, for what
        cannot wait so long; it may add stops, which have their turn at the next tick.
        """
        begun = processes.boottime_ns()
        paused = 0

        def interrupt() -> None:
            nonlocal paused
            since = processes.boottime_ns()
            pause()
            paused += processes.boottime_ns() - since

        due = [stop for stop in self.stops if stop.next_ns <= begun]
        table = self._table.look(interrupt, {*self._children}.difference(stop.pid for stop in due))
        marks = self._table.marks(table, interrupt)
        tags = self._table.tags(table, marks, {stop.mark for stop in due}, interrupt)
        view = _View(table, marks, tags, self._table.is_keeper)
        now = processes.boottime_ns()
        self._not_before = now + (now - begun - paused)
        finished: list[Stop] = []
        for number, stop in enumerate(due):
            if not number % _PORTION:
                pause()
            try:
                if self._advance(stop, view):
                    finished.append(stop)
            except NotKnown:
                _put_off(stop)
        if finished:
            over = set(finished)
            self.stops = [stop for stop in self.stops if stop not in over]
        self._soonest = min((stop.next_ns for stop in self.stops), default=0)
        return finished

    def _advance(self, stop: Stop, view: _View) -> bool:
        if stop.signalled_ns is None:
            if not processes.is_alive(stop.pid, stop.start):
                stop.natural = True
                return True
            now = processes.boottime_ns()
            stop.on_signal(now)
            stop.signalled_ns = now
        members = view.members(stop)
        if not members and self._table.unseen is None:
            stop.natural = stop.ended_untouched
            return True
        now = processes.boottime_ns()
        kill_ns = stop.signalled_ns + stop.grace_ns
        if now < kill_ns:
            self._terminate(stop, members)
        else:
            _kill(stop, members)
            if members and self._table.unseen is None and stop.denied.issuperset(each.pid for each in members):
                stop.survivors = sorted(process.pid for process in members)
                stop.refused = any((process.pid, process.start) == (stop.pid, stop.start) for process in members)
                stop.natural = not stop.refused and stop.ended_untouched
                return True
        now = _put_off(stop, _LONGEST_DELAY_NS if now < kill_ns + _STUCK_NS else _STUCK_DELAY_NS)
        if now < kill_ns < stop.next_ns:
            stop.next_ns, stop.delay_ns = kill_ns, 0
        return False

    @staticmethod
    def _terminate(stop: Stop, members: Iterable[processes.Process]) -> None:
        for process in members:
            key = (process.pid, process.start)
            if key in stop.termed:
                continue
            stop.termed.add(key)  # once each: for many programs a second SIGTERM means something else
            try:
                if stop.is_child and process.pid == stop.pid:
                    os.kill(process.pid, signal.SIGTERM)
                    stop.reached = True
                    if process.state in _STOPPED:
                        os.kill(process.pid, signal.SIGCONT)
                elif processes.send_signal(*key, signal.SIGTERM):
                    stop.reached = True
                    if process.state in _STOPPED:
                        processes.send_signal(*key, signal.SIGCONT)
            except NotKnown:
                stop.termed.discard(key)
            except PermissionError:
                stop.denied.add(process.pid)


def _put_off(stop: Stop, longest: int = _LONGEST_DELAY_NS) -> int:
    """Have a stop go on a little later than the last time; return the time."""
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
                # The whole group in one go: a tree that forks faster than we look cannot outrun it.
                groups.add(process.group)
                os.killpg(process.group, signal.SIGKILL)
                stop.reached = True
            elif processes.send_signal(process.pid, process.start, signal.SIGKILL):
                stop.reached = True
            stop.denied.discard(process.pid)
        except (ProcessLookupError, NotKnown):
            pass  # the next look tells
        except PermissionError:
            stop.denied.add(process.pid)


def members_of(stop: Stop) -> list[processes.Process]:
    """Return every live process of a tree, from a look of its own.

    Raises:
        NotKnown: not all processes can be looked at now.
    """
    looks = ProcessTable()
    table = looks.look()
    marks = looks.marks(table)
    members = _View(table, marks, looks.tags(table, marks, {stop.mark}), looks.is_keeper).members(stop)
    if looks.unseen is not None:
        raise looks.unseen
    return members


class _View:
    """The processes of one look, indexed by what makes one a member of a tree."""

    def __init__(
        self,
        table: dict[int, processes.Process],
        marks: dict[int, bytes],
        tags: dict[int, int],
        is_keeper: Callable[[processes.Process], bool],
    ) -> None:
        self.table = table
        self.tags = tags
        self.is_keeper = is_keeper
        self.by_mark: dict[bytes, list[processes.Process]] = {}
        self.by_tag: dict[int, list[processes.Process]] = {}
        self.by_session: dict[int, list[processes.Process]] = {}
        self.by_group: dict[int, list[processes.Process]] = {}
        self.children: dict[int, list[processes.Process]] = {}
        for pid, process in table.items():
            self.by_session.setdefault(process.session, []).append(process)
            self.by_group.setdefault(process.group, []).append(process)
            self.children.setdefault(process.parent, []).append(process)
            mark = marks.get(pid)
            if mark is not None:
                self.by_mark.setdefault(mark, []).append(process)
            tag = tags.get(pid)
            if tag is not None:
                self.by_tag.setdefault(tag, []).append(process)

    def members(self, stop: Stop) -> list[processes.Process]:
        """Return every live process of the tree of ``stop`` that may be signalled."""
        leader = self.table.get(stop.pid)
        leads = leader is not None and leader.start == stop.start
        found: dict[int, processes.Process] = {}
        ways: list[processes.Process] = []
        if leader is not None and leads:
            ways.append(leader)
        ways += self._session(stop, leads=leads)
        ways += self.by_mark.get(stop.mark, ())
        ways += self.by_tag.get(stop.tag, ())
        # Whatever one of them was known by may be gone: its parent by our own SIGTERM, its session by its own doing.
        for pid, start in stop.seen:
            process = self.table.get(pid)
            if process is not None and process.start == start:
                ways.append(process)
        own = os.getpid()
        while ways:
            process = ways.pop()
            if process.pid in found or process.start < stop.born or process.pid == own or self.is_keeper(process):
                continue
            found[process.pid] = process
            # A child that carries another job's tag belongs to that job, wherever it hangs. A mark says nothing of
            # that: any process can change its own.
            ways += [child for child in self.children.get(process.pid, ()) if self._may_be(stop, child)]
        stop.seen.update((process.pid, process.start) for process in found.values())
        return list(found.values())

    def _may_be(self, stop: Stop, process: processes.Process) -> bool:
        tag = self.tags.get(process.pid)
        return tag is None or tag == stop.tag

    # Born in the same tick as the end counts as before: no pid is given out twice within 10 ms.
    def _session(self, stop: Stop, *, leads: bool) -> list[processes.Process]:
        """Return the members of the leader's session and group, if it provably still is that one.

        The number of a session is not given out again while anybody is in it. So it is ours as long
        as the leader lives, or somebody in it was born before the leader ended, or was seen in it at
        the last look.
        """
        members = self.by_session.get(stop.pid, []) + self.by_group.get(stop.pid, [])
        keys = {(process.pid, process.start) for process in members}
        ours = (
            leads
            or bool(keys & stop.session_seen)
            or (stop.ended is not None and any(stop.born <= process.start <= stop.ended for process in members))
        )
        if not ours:
            return []
        stop.session_seen = keys
        return members
