"""Which process is which, what belongs to a job, and how a whole tree of processes is ended.

Standard library only, no import from the package: the keeper runs this file too, in an
interpreter started with ``-I -S``.

A process is known by (boot, pid namespace, pid, start time). The start time is in kernel clock
ticks since boot (proc(5), field 22 of ``/proc/PID/stat``), so a recycled pid differs in it. A
signal goes out only after that identity was read again, through a pidfd where there is one, so
that the process which was checked is the process which gets it.

Without ``/proc`` (macOS) ``ps`` answers the same questions, more slowly.
"""

from __future__ import annotations

import os
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing costs the keeper 5 ms
    from collections.abc import Callable, Iterable
    from typing import Final

__all__ = [
    "MARK",
    "Process",
    "Stop",
    "TreeKiller",
    "boot_id",
    "boottime_ns",
    "exit_status_of_pidfd",
    "exit_status_of_zombie",
    "host_id",
    "is_alive",
    "open_pidfd",
    "own_identity",
    "pid_namespace",
    "read_process",
    "send_signal",
    "start_from_boottime",
]

MARK: Final = b"SUPERVISOR_JOB_ID"
HAVE_PROC: Final = sys.platform.startswith("linux") and os.path.exists("/proc/self/stat")

_BOOT_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_TICK_NS: Final = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_KERNEL_THREAD: Final = 0x0020_0000  # PF_KTHREAD, include/linux/sched.h
_DEAD: Final = frozenset("ZXx")
_STOPPED: Final = frozenset("Tt")
_YOUNG_TICKS: Final = 200  # a process younger than this may still be about to exec


def boottime_ns() -> int:
    """Return nanoseconds since boot, suspended time included: what deadlines are counted in."""
    return time.clock_gettime_ns(_BOOT_CLOCK)


def start_from_boottime(before_ns: int, after_ns: int) -> int | None:
    """Return the start tick of a process spawned between two readings, if they leave only one."""
    tick = before_ns // _TICK_NS
    return tick if HAVE_PROC and tick == after_ns // _TICK_NS else None


def ticks_to_ns(ticks: int) -> int:
    """Return the boot-clock time at which start tick ``ticks`` began."""
    return ticks * _TICK_NS


_facts: dict[str, str] = {}


def _fact(name: str, read: Callable[[], str]) -> str:
    if name not in _facts:
        _facts[name] = read()
    return _facts[name]


def _read_text(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def _ask(*argv: str) -> str:
    import subprocess  # only where there is no /proc

    done = subprocess.run(argv, capture_output=True, text=True, errors="replace", check=False)
    return done.stdout


def boot_id() -> str:
    """Return what names this boot of this kernel, without dashes."""

    def read() -> str:
        linux = _read_text("/proc/sys/kernel/random/boot_id")
        return (linux or _ask("sysctl", "-n", "kern.bootsessionuuid").strip()).replace("-", "").lower()

    return _fact("boot", read)


def pid_namespace() -> str:
    """Return what names the pid namespace of this process; empty where there are none."""

    def read() -> str:
        try:
            return str(os.stat("/proc/self/ns/pid").st_ino)
        except OSError:
            return ""

    return _fact("pid_namespace", read)


def host_id() -> str:
    """Return what names this installation: the machine id, else the host's name."""
    return _fact("host", lambda: _read_text("/etc/machine-id") or os.uname().nodename)


def forget_facts() -> None:
    """Read boot, host and namespace again (after a fork into a new namespace, or in a test)."""
    _facts.clear()


class Process:
    """One process as it was at one look. ``exit_status`` is that of a zombie, as ``waitpid`` gives it."""

    __slots__ = ("exit_status", "flags", "group", "parent", "pid", "session", "start", "state")

    def __init__(
        self,
        pid: int,
        state: str,
        parent: int,
        group: int,
        session: int,
        start: int,
        flags: int = 0,
        exit_status: int | None = None,
    ) -> None:
        """Take the fields of ``/proc/PID/stat``, or what ``ps`` says."""
        self.pid = pid
        self.state = state
        self.parent = parent
        self.group = group
        self.session = session
        self.start = start
        self.flags = flags
        self.exit_status = exit_status

    @property
    def dead(self) -> bool:
        """Whether it has ended and only waits to be reaped."""
        return self.state in _DEAD


def _parse_stat(pid: int, text: bytes) -> Process:
    # The name stands in parentheses and may hold anything, closing parentheses included.
    fields = text[text.rindex(b")") + 2 :].split()
    state = fields[0].decode("ascii")
    if state == "Z" and int(fields[17]) > 1:
        state = "S"  # only its first thread has ended; the process lives on in the others
    return Process(
        pid,
        state,
        int(fields[1]),
        int(fields[2]),
        int(fields[3]),
        int(fields[19]),
        int(fields[6]),
        int(fields[49]) if state in _DEAD and len(fields) > 49 else None,
    )


def _slurp(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(descriptor, 65536)
        if len(data) < 4096:  # /proc hands out a page at a time at least
            return data
        parts = [data]
        while data := os.read(descriptor, 1 << 20):
            parts.append(data)
        return b"".join(parts)
    finally:
        os.close(descriptor)


def read_process(pid: int) -> Process | None:
    """Return the process that has ``pid`` now, a zombie included, or ``None``."""
    if not HAVE_PROC:
        return _ps(pid).get(pid)
    try:
        return _parse_stat(pid, _slurp(f"/proc/{pid}/stat"))
    except (OSError, ValueError, IndexError):
        return None


def is_alive(pid: int, start: int) -> bool:
    """Whether exactly this process still runs; a zombie does not."""
    found = read_process(pid)
    return found is not None and found.start == start and not found.dead


def own_identity() -> tuple[int, int]:
    """Return (pid, start time) of this process."""
    pid = os.getpid()
    found = read_process(pid)
    return pid, found.start if found is not None else 0


def exit_status_of_zombie(pid: int, start: int) -> int | None:
    """Return the wait status of a process that ended but was not reaped yet, or ``None``.

    The kernel shows 0 in that field to those who may not see it (proc(5)), so it counts only
    for a process of our own user.
    """
    found = read_process(pid)
    if found is None or found.start != start or not found.dead or found.exit_status is None:
        return None
    try:
        owner = os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None
    return found.exit_status if os.geteuid() in {0, owner} else None


# ---------------------------------------------------------------- pidfds


def open_pidfd(pid: int, start: int) -> int | None:
    """Return a pidfd of exactly this process, or ``None`` (it is gone, or there are no pidfds here)."""
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return None
    found = read_process(pid)
    if found is None or found.start != start:
        os.close(descriptor)
        return None
    return descriptor


_PIDFD_GET_INFO: Final = 0xC040FF0B  # _IOWR(0xFF, 11, 64 bytes), include/uapi/linux/pidfd.h
_PIDFD_INFO_EXIT: Final = 1 << 3


def exit_status_of_pidfd(descriptor: int) -> int | None:
    """Return the wait status behind a pidfd that was opened while the process lived, or ``None``.

    Linux 6.15 and newer keep it, and show it once the process has been reaped, by whomever.
    """
    import fcntl

    info = bytearray(64)
    info[0:8] = _PIDFD_INFO_EXIT.to_bytes(8, sys.byteorder)
    try:
        fcntl.ioctl(descriptor, _PIDFD_GET_INFO, info)
    except OSError:
        return None
    if not int.from_bytes(info[0:8], sys.byteorder) & _PIDFD_INFO_EXIT:
        return None
    return int.from_bytes(info[60:64], sys.byteorder, signed=True)


def send_signal(pid: int, start: int, number: int) -> bool:
    """Send a signal to exactly this process. ``False`` when it is gone already.

    Raises:
        PermissionError: it lives, and is not ours to signal.
    """
    descriptor: int | None = None
    if hasattr(os, "pidfd_open"):
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            return False
        except OSError:  # no descriptor to spare, or an old kernel: check, then signal by number
            descriptor = None
    try:
        if not is_alive(pid, start):
            return False
        if descriptor is None:
            os.kill(pid, number)
        else:
            signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        if descriptor is not None:
            os.close(descriptor)
    return True


# ---------------------------------------------------------------- one look at everything


def _ps(*pids: int) -> dict[int, Process]:
    which = ["-p", ",".join(map(str, pids))] if pids else ["-ax"]
    found: dict[int, Process] = {}
    for line in _ask("ps", *which, "-o", "pid=,ppid=,pgid=,stat=,lstart=").splitlines():
        words = line.split()
        if len(words) < 9:
            continue
        pid = int(words[0])
        try:
            session = os.getsid(pid)
            start = int(time.mktime(time.strptime(" ".join(words[4:9]))))
        except (OSError, ValueError):
            continue
        found[pid] = Process(pid, words[3][0], int(words[1]), int(words[2]), session, start)
    return found


class ProcessTable:
    """Looks at all processes, and remembers between looks what cannot change."""

    def __init__(self) -> None:
        """Remember nothing yet."""
        self._marks: dict[tuple[int, int], bytes] = {}
        self._keepers: dict[tuple[int, int], bool] = {}

    def look(self) -> dict[int, Process]:
        """Return every process that is alive (zombies left out), by pid."""
        if not HAVE_PROC:
            return {pid: found for pid, found in _ps().items() if not found.dead}
        table: dict[int, Process] = {}
        for name in os.listdir("/proc"):
            if name[0] in "123456789":
                pid = int(name)
                found = read_process(pid)
                if found is not None and not found.dead and not found.flags & _KERNEL_THREAD:
                    table[pid] = found
        for remembered in (self._marks, self._keepers):
            for key in [key for key in remembered if key[0] not in table or table[key[0]].start != key[1]]:
                del remembered[key]
        return table

    def marks(self, table: dict[int, Process]) -> dict[int, bytes]:
        """Return the job id that each process of ``table`` carries in its environment, by pid."""
        if not HAVE_PROC:
            return self._marks_by_ps(table)
        young = boottime_ns() // _TICK_NS - _YOUNG_TICKS
        found: dict[int, bytes] = {}
        for pid, process in table.items():
            key = (pid, process.start)
            mark = self._marks.get(key)
            if mark is None:
                mark = _mark_of(pid)
                # Having no mark is final only for a process that can no longer be between fork
                # and exec; having one is final, even if an exec scrubs the environment later.
                if mark or process.start < young:
                    self._marks[key] = mark
            if mark:
                found[pid] = mark
        return found

    @staticmethod
    def _marks_by_ps(table: dict[int, Process]) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        for line in _ask("ps", "-axEww", "-o", "pid=,command=").splitlines():
            pid, _, rest = line.strip().partition(" ")
            _, there, value = rest.rpartition(f" {MARK.decode()}=")
            if there and pid.isdigit() and int(pid) in table:
                found[int(pid)] = value.split(" ", 1)[0].encode()
        return found

    def is_keeper(self, process: Process) -> bool:
        """Whether this is a keeper, which is never part of a job's tree."""
        key = (process.pid, process.start)
        known = self._keepers.get(key)
        if known is None:
            known = self._keepers[key] = _looks_like_keeper(process.pid)
        return known


def _mark_of(pid: int) -> bytes:
    try:
        environment = b"\0" + _slurp(f"/proc/{pid}/environ")
    except OSError:
        return b""
    found = environment.find(b"\0" + MARK + b"=")
    if found < 0:
        return b""
    begin = found + len(MARK) + 2
    return environment[begin : environment.find(b"\0", begin) if b"\0" in environment[begin:] else None]


def _looks_like_keeper(pid: int) -> bool:
    try:
        words = _slurp(f"/proc/{pid}/cmdline").split(b"\0") if HAVE_PROC else _command_words(pid)
    except OSError:
        return False
    return words[1:3] == [b"-I", b"-S"] and len(words) > 3 and words[3].endswith(b"/engines/keeper.py")


def _command_words(pid: int) -> list[bytes]:
    return _ask("ps", "-ww", "-p", str(pid), "-o", "command=").encode().split()


# ---------------------------------------------------------------- ending a tree


class Stop:
    """One tree that is being ended.

    ``on_signal`` is called once, right before the first signal, with the boot-clock time: what
    it records is on disk before anything is signalled. ``natural`` says that the leader had
    ended by itself before that, so nothing was signalled and nothing will be.
    """

    __slots__ = (
        "born",
        "delay_ns",
        "denied",
        "ended",
        "grace_ns",
        "mark",
        "natural",
        "next_ns",
        "on_signal",
        "pid",
        "session_seen",
        "signalled_ns",
        "start",
        "survivors",
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
    ) -> None:
        """Describe the tree; ``signalled_ns`` continues a stop that somebody else has begun."""
        self.mark = mark.encode("ascii")
        self.pid = pid
        self.start = start
        self.born = start
        self.ended = None if ended_ns is None else ended_ns // _TICK_NS
        self.grace_ns = int(grace_seconds * 1e9)
        self.on_signal = on_signal
        self.signalled_ns = signalled_ns
        self.natural = False
        self.termed: set[tuple[int, int]] = set()
        self.denied: set[int] = set()
        self.session_seen: set[tuple[int, int]] = set()
        self.survivors: list[int] = []
        self.next_ns = 0
        self.delay_ns = 0

    def ended_at(self, boot_ns: int) -> None:
        """Note when the leader ended: its session is known by those who were born before."""
        self.ended = boot_ns // _TICK_NS


_FIRST_DELAY_NS: Final = 2_000_000
_LONGEST_DELAY_NS: Final = 200_000_000


class TreeKiller:
    """Ends any number of trees side by side; one look at the processes serves all of them.

    Nothing here waits: call ``tick`` when ``next_ns`` has come, until it has nothing left.
    """

    def __init__(self) -> None:
        """Have nothing to end yet."""
        self._table = ProcessTable()
        self.stops: list[Stop] = []

    @property
    def next_ns(self) -> int | None:
        """The boot-clock time of the next tick that is due, or ``None``."""
        return min((stop.next_ns for stop in self.stops), default=None)

    def add(self, stop: Stop) -> None:
        """Begin with ``stop`` at the next tick."""
        self.stops.append(stop)

    @staticmethod
    def hurry(stop: Stop) -> None:
        """Look again at once: the leader of this tree has just ended."""
        stop.next_ns = stop.delay_ns = 0

    def tick(self) -> list[Stop]:
        """Look once, signal what has to be signalled, and return the stops that are complete."""
        table = self._table.look()
        marks = self._table.marks(table)
        view = _View(table, marks, self._table.is_keeper)
        finished = [stop for stop in self.stops if self._advance(stop, view)]
        if finished:
            self.stops = [stop for stop in self.stops if stop not in finished]
        return finished

    def _advance(self, stop: Stop, view: _View) -> bool:
        if stop.signalled_ns is None:
            if not is_alive(stop.pid, stop.start):
                stop.natural = True
                return True
            stop.signalled_ns = boottime_ns()
            stop.on_signal(stop.signalled_ns)
        members = view.members(stop)
        if not members:
            return True
        now = boottime_ns()
        kill_ns = stop.signalled_ns + stop.grace_ns
        if now < kill_ns:
            self._terminate(stop, members)
        else:
            _kill(stop, members)
            if stop.denied.issuperset(process.pid for process in members):
                stop.survivors = sorted(stop.denied)
                return True
        now = boottime_ns()
        stop.delay_ns = min(max(2 * stop.delay_ns, _FIRST_DELAY_NS), _LONGEST_DELAY_NS)
        stop.next_ns = now + stop.delay_ns
        if now < kill_ns < stop.next_ns:
            stop.next_ns, stop.delay_ns = kill_ns, 0
        return False

    @staticmethod
    def _terminate(stop: Stop, members: Iterable[Process]) -> None:
        for process in members:
            key = (process.pid, process.start)
            if key in stop.termed:
                continue
            stop.termed.add(key)  # once each: for many programs a second SIGTERM means something else
            try:
                if send_signal(*key, signal.SIGTERM) and process.state in _STOPPED:
                    send_signal(*key, signal.SIGCONT)
            except PermissionError:
                stop.denied.add(process.pid)


def _kill(stop: Stop, members: Iterable[Process]) -> None:
    groups: set[int] = set()
    for process in members:
        try:
            if process.pid == process.group and process.group not in groups and is_alive(process.pid, process.start):
                # The whole group in one go: a tree that forks faster than we look cannot outrun it.
                groups.add(process.group)
                os.killpg(process.group, signal.SIGKILL)
            else:
                send_signal(process.pid, process.start, signal.SIGKILL)
            stop.denied.discard(process.pid)
        except ProcessLookupError:
            pass
        except PermissionError:
            stop.denied.add(process.pid)


class _View:
    """The processes of one look, indexed by what makes one a member of a tree."""

    def __init__(
        self,
        table: dict[int, Process],
        marks: dict[int, bytes],
        is_keeper: Callable[[Process], bool],
    ) -> None:
        self.table = table
        self.marks = marks
        self.is_keeper = is_keeper
        self.by_mark: dict[bytes, list[Process]] = {}
        self.by_session: dict[int, list[Process]] = {}
        self.by_group: dict[int, list[Process]] = {}
        self.children: dict[int, list[Process]] = {}
        for pid, process in table.items():
            self.by_session.setdefault(process.session, []).append(process)
            self.by_group.setdefault(process.group, []).append(process)
            self.children.setdefault(process.parent, []).append(process)
            mark = marks.get(pid)
            if mark is not None:
                self.by_mark.setdefault(mark, []).append(process)

    def members(self, stop: Stop) -> list[Process]:
        """Return every live process of the tree of ``stop`` that may be signalled."""
        leader = self.table.get(stop.pid)
        leads = leader is not None and leader.start == stop.start
        found: dict[int, Process] = {}
        ways: list[Process] = []
        if leader is not None and leads:
            ways.append(leader)
        ways += self._session(stop, leads=leads)
        ways += self.by_mark.get(stop.mark, ())
        # Our own SIGTERM may have taken the parent by which one of them was known.
        for pid, start in stop.termed:
            process = self.table.get(pid)
            if process is not None and process.start == start:
                ways.append(process)
        own = os.getpid()
        while ways:
            process = ways.pop()
            if process.pid in found or process.start < stop.born or process.pid == own or self.is_keeper(process):
                continue
            found[process.pid] = process
            # A child that carries another job's mark belongs to that job, wherever it hangs.
            ways += [
                child for child in self.children.get(process.pid, ()) if self.marks.get(child.pid) in {None, stop.mark}
            ]
        return list(found.values())

    def _session(self, stop: Stop, *, leads: bool) -> list[Process]:
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
            or (stop.ended is not None and any(stop.born <= process.start < stop.ended for process in members))
        )
        if not ours:
            return []
        stop.session_seen = keys
        return members
