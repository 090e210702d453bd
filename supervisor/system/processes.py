"""Which process is which, and how a signal reaches exactly the one that is meant.

Standard library only, no import from the package: the keeper runs this file too, in an
interpreter started with ``-I -S``.

A process is known by (boot, pid namespace, pid, start time). The start time is in kernel clock
ticks since boot (proc(5), field 22 of ``/proc/PID/stat``), so a recycled pid differs in it. A
signal goes out only after that identity was read again, through a pidfd where there is one, so
that the process which was checked is the process which gets it.

Without ``/proc`` (macOS) ``ps`` answers the same questions, more slowly.

What cannot be seen just now is not taken for gone: see ``observing``.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from errno import EACCES

from supervisor.system.observing import ABSENT, NotKnown, not_known

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing costs the keeper 5 ms
    from collections.abc import Callable
    from typing import Final

__all__ = [
    "Process",
    "boot_id",
    "boottime_ns",
    "command_of",
    "exit_status_of_pidfd",
    "exit_status_of_zombie",
    "has_child_ended",
    "host_id",
    "is_alive",
    "is_another_boot",
    "is_another_host",
    "is_held",
    "may_have_children",
    "open_pidfd",
    "own_identity",
    "pid_namespace",
    "read_file_of",
    "read_process",
    "send_signal",
    "start_from_boottime",
]


def _have_proc() -> bool:
    try:
        os.stat("/proc/self/stat")
    except FileNotFoundError:
        return False
    except OSError:  # it is there, for all that is known
        pass
    return sys.platform.startswith("linux")


HAVE_PROC: Final = _have_proc()

_BOOT_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
TICK_NS: Final = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_LONGEST_SPAWN_TICKS: Final = 60_000_000_000 // TICK_NS
_HELD: Final = frozenset("TtD")
_DEAD: Final = frozenset("ZXx")


def boottime_ns() -> int:
    """Return nanoseconds since boot, suspended time included: what deadlines are counted in."""
    return time.clock_gettime_ns(_BOOT_CLOCK)


def start_from_boottime(before_ns: int, after_ns: int) -> int | None:
    """Return the start tick of a process spawned between two readings, if they leave only one."""
    tick = before_ns // TICK_NS
    return tick if HAVE_PROC and tick == after_ns // TICK_NS else None


def may_have_started(tick: int, before_ns: int, after_ns: int | None) -> bool:
    """Whether a process of this start tick may be the one that was spawned between two readings of the clock.

    Without the second reading (an older version took only one) it is given some time.
    """
    if not HAVE_PROC:
        return True
    first = before_ns // TICK_NS - 1
    last = before_ns // TICK_NS + _LONGEST_SPAWN_TICKS if after_ns is None else after_ns // TICK_NS + 1
    return first <= tick <= last


def ticks_to_ns(ticks: int) -> int:
    """Return the boot-clock time at which start tick ``ticks`` began."""
    return ticks * TICK_NS


_facts: dict[str, str] = {}


def _fact(name: str, read: Callable[[], str | None]) -> str:
    """Return what stays as it is for as long as this process lives; empty, and read again next time, for ``None``."""
    known = _facts.get(name)
    if known is None:
        found = read()
        if found is None:
            return ""
        known = _facts[name] = found
    return known


def _read_text(path: str) -> str | None:
    """Return the words of a file, empty without one, ``None`` for one that this process may not read."""
    try:
        return slurp(path).decode("ascii", "replace").strip()  # a text file would have its codec imported: 1 ms
    except FileNotFoundError:
        return ""
    except PermissionError:
        return None
    except OSError as error:
        raise not_known(error, path) from error


def ask(*argv: str) -> str:
    """Return what a program prints.

    Raises:
        NotKnown: it cannot be run, or was killed.
    """
    import subprocess  # only where there is no /proc

    try:
        done = subprocess.run(argv, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise not_known(error, argv[0]) from error
    if done.returncode < 0:
        raise not_known(ChildProcessError(), argv[0])
    return done.stdout


_BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"


def boot_id() -> str:
    """Return what names this boot of this kernel, without dashes; empty where nothing does.

    A container may be shown a name of its own in the place of the kernel's (systemd-nspawn does that). Such a
    name is told by its file, which is not on ``/proc``. It begins with ``v``, which is no hexadecimal digit: two
    of different names may be of the same boot.

    Raises:
        NotKnown: it cannot be read now.
    """

    def read() -> str | None:
        if not HAVE_PROC:
            return ask("sysctl", "-n", "kern.bootsessionuuid").strip().replace("-", "").lower()
        text = _read_text(_BOOT_ID)
        if not text:
            return text
        try:
            view = "" if os.stat(_BOOT_ID).st_dev == os.stat("/proc").st_dev else "v"
        except OSError as error:
            raise not_known(error, _BOOT_ID) from error
        return view + text.replace("-", "").lower()

    return _fact("boot", read)


def is_another_boot(boot: str) -> bool:
    """Whether a boot id (or its beginning) is certainly not of this boot: it and ours are the kernel's own names.

    Raises:
        NotKnown: ours cannot be read now.
    """
    own = boot_id()
    return boot != "" and own != "" and "v" not in {boot[0], own[0]} and not own.startswith(boot)


def pid_namespace() -> str:
    """Return what names the pid namespace of this process; empty where there are none.

    Raises:
        NotKnown: it cannot be read now.
    """

    def read() -> str:
        try:
            return str(os.stat("/proc/self/ns/pid").st_ino)
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise not_known(error, "/proc/self/ns/pid") from error

    return _fact("pid_namespace", read)


def host_id() -> str:
    """Return what names this installation: the machine id, else the host's name.

    Raises:
        NotKnown: it cannot be read now.
    """
    return _machine_id() or os.uname().nodename


def is_another_host(host: str) -> bool:
    """Whether a name as ``host_id`` gives it is certainly not of this installation.

    A machine id that this process may not read says nothing, while one that is not there leaves the host's name.

    Raises:
        NotKnown: ours cannot be read now.
    """
    return host != host_id() and "host" in _facts


def _machine_id() -> str:
    return _fact("host", lambda: _read_text("/etc/machine-id"))


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


def slurp(path: str) -> bytes:
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


def read_file_of(pid: int, name: str) -> bytes:
    """Return a file that ``/proc`` has about a process, nothing when the process is gone.

    Raises:
        NotKnown: it cannot be read now, or not by this user.
    """
    path = f"/proc/{pid}/{name}"
    try:
        return slurp(path)
    except ABSENT:
        return b""
    except OSError as error:
        raise not_known(error, path) from error


def command_of(pid: int) -> list[bytes]:
    """Return the command line of a process; without ``/proc`` it is split at spaces.

    Raises:
        NotKnown: it cannot be read now.
    """
    if HAVE_PROC:
        return read_file_of(pid, "cmdline").split(b"\0")
    return ask("ps", "-ww", "-p", str(pid), "-o", "command=").encode().split()


def read_process(pid: int) -> Process | None:
    """Return the process that has ``pid`` now, a zombie included, or ``None`` when there is none.

    Raises:
        NotKnown: it cannot be seen now, or never by this user (``hidepid``).
    """
    if not HAVE_PROC:
        return list_by_ps(pid).get(pid)
    path = f"/proc/{pid}/stat"
    try:
        return _parse_stat(pid, slurp(path))
    except ABSENT:
        if not _is_hidden(pid):
            return None
        raise NotKnown(EACCES, os.strerror(EACCES), path) from None
    except (OSError, ValueError, IndexError) as error:
        raise not_known(error, path) from error


def _is_hidden(pid: int) -> bool:
    """Whether there is a process of a pid that ``/proc`` does not show: with ``hidepid``, one of another user."""
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    except OSError as error:
        raise not_known(error, f"/proc/{pid}") from error
    return True


def is_alive(pid: int, start: int) -> bool:
    """Whether exactly this process still runs; a zombie does not.

    Raises:
        NotKnown: it cannot be seen now.
    """
    found = read_process(pid)
    return found is not None and found.start == start and not found.dead


def may_have_children(pid: int) -> bool:
    """Whether a process has children; also where that cannot be told (a kernel without those lists)."""
    try:
        return any(slurp(f"/proc/{pid}/task/{task}/children") for task in os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return True


def has_child_ended(pid: int) -> bool:
    """Whether a child of this process that was not reaped yet has ended; it is still to be reaped afterwards."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True
    except AttributeError:  # no waitid here
        found = read_process(pid)
        return found is None or found.dead


def is_held(pid: int, start: int) -> bool:
    """Whether this process lives and cannot do anything just now: it was stopped, or waits for a disk.

    Raises:
        NotKnown: it cannot be seen now.
    """
    found = read_process(pid)
    return found is not None and found.start == start and found.state in _HELD


def own_identity() -> tuple[int, int]:
    """Return (pid, start time) of this process; the time is 0 where nothing tells it.

    Raises:
        NotKnown: it cannot be seen now.
    """
    pid = os.getpid()
    found = read_process(pid)
    return pid, found.start if found is not None else 0


def exit_status_of_zombie(pid: int, start: int) -> int | None:
    """Return the wait status of a process that ended but was not reaped yet, or ``None``.

    The kernel shows 0 in that field to those who may not see it (proc(5)), so it counts only
    for a process of our own user.

    Raises:
        NotKnown: it cannot be seen now.
    """
    found = read_process(pid)
    if found is None or found.start != start or not found.dead or found.exit_status is None:
        return None
    try:
        owner = os.stat(f"/proc/{pid}").st_uid
    except ABSENT:
        return None
    except OSError as error:
        raise not_known(error, f"/proc/{pid}") from error
    return found.exit_status if os.geteuid() in {0, owner} else None


def list_by_ps(*pids: int) -> dict[int, Process]:
    which = ["-p", ",".join(map(str, pids))] if pids else ["-ax"]
    found: dict[int, Process] = {}
    for line in ask("ps", *which, "-o", "pid=,ppid=,pgid=,stat=,lstart=").splitlines():
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


# ---------------------------------------------------------------- pidfds


def open_pidfd(pid: int, start: int) -> int | None:
    """Return a pidfd of exactly this process, or ``None``: it is gone, or no pidfd of it can be had (now)."""
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return None
    try:
        found = read_process(pid)
    except NotKnown:
        found = None
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
        NotKnown: whether it is the one cannot be seen now; nothing was signalled.
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
