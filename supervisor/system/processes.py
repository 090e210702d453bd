"""Identifies processes, and signals exactly the one that is meant.

A process is known by (boot, pid namespace, pid, start time). The start time is in kernel clock
ticks since boot (proc(5), field 22 of ``/proc/PID/stat``), so a recycled pid differs in it. A
signal goes out only after that identity was read again, through a pidfd where there is one, so
that the process that was checked gets it.

Without ``/proc`` (macOS) ``ps`` answers the same questions, more slowly.

A process that cannot be observed now is not taken for gone: see ``observing``.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from datetime import UTC
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
    "exit_status_of_zombie",
    "has_child_ended",
    "host_id",
    "is_alive",
    "is_another_boot",
    "is_another_host",
    "is_held",
    "may_have_children",
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
    except OSError:  # it may exist
        pass
    return sys.platform.startswith("linux")


HAVE_PROC: Final = _have_proc()

_BOOT_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
TICK_NS: Final = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_LONGEST_SPAWN_TICKS: Final = 60_000_000_000 // TICK_NS
_HELD: Final = frozenset("TtDU")
"""Stopped, or in a wait that nothing interrupts, as Linux (D) and macOS (U) write it."""
_MONTHS: Final = "JanFebMarAprMayJunJulAugSepOctNovDec"
_DEAD: Final = frozenset("ZXx")


def boottime_ns() -> int:
    """Return nanoseconds since boot, suspended time included: the clock of deadlines."""
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
    """Return a fact that is constant while this process lives; ``None`` counts as empty, and is read again."""
    known = _facts.get(name)
    if known is None:
        found = read()
        if found is None:
            return ""
        known = _facts[name] = found
    return known


def _read_text(path: str) -> str | None:
    """Return the text of a file, empty without one, ``None`` for one that this process may not read."""
    try:
        return slurp(path).decode("ascii", "replace").strip()  # a text file would have its codec imported: 1 ms
    except FileNotFoundError:
        return ""
    except PermissionError:
        return None
    except OSError as error:
        raise not_known(error, path) from error


# A keeper has no environment, so no PATH. Times and names are not to depend on that of the process that asks.
_PLAIN: Final = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL": "C", "TZ": "UTC0"}


def ask(*argv: str) -> str:
    """Return the output of a program.

    Raises:
        NotKnown: it cannot be run, or was killed.
    """
    import subprocess  # only where there is no /proc

    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False, env=_PLAIN
        )
    except OSError as error:
        raise not_known(error, argv[0]) from error
    if done.returncode < 0:
        raise not_known(ChildProcessError(), argv[0])
    return done.stdout


_BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"


def boot_id() -> str:
    """Return the name of this boot of this kernel, without dashes; empty where it has none.

    A container may have a name of its own in the place of the kernel's (systemd-nspawn does that). Its file is then not
    on ``/proc``. Such a name begins with ``v``, which is no hexadecimal digit: two of them may be of the same boot.

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
    """Whether a boot id (or its beginning) is certainly not of this boot: both names are the kernel's.

    Raises:
        NotKnown: that of this boot cannot be read now.
    """
    own = boot_id()
    return boot != "" and own != "" and "v" not in {boot[0], own[0]} and not own.startswith(boot)


def pid_namespace() -> str:
    """Return the name of the pid namespace of this process; empty where there are none.

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
    """Return the name of this installation: the machine id, else the host's name.

    Raises:
        NotKnown: it cannot be read now.
    """
    return _machine_id() or os.uname().nodename


def is_another_host(host: str) -> bool:
    """Whether a name as ``host_id`` gives it is certainly not of this installation.

    A machine id that this process may not read says nothing, while one that is not there leaves the host's name.

    Raises:
        NotKnown: that of this installation cannot be read now.
    """
    return host != host_id() and "host" in _facts


def _machine_id() -> str:
    return _fact("host", lambda: _read_text("/etc/machine-id"))


def forget_facts() -> None:
    """Read boot, host and namespace again (after a fork into a new namespace, or in a test)."""
    _facts.clear()


class Process:
    """One process at one moment. ``exit_status`` is that of a zombie, as ``waitpid`` gives it."""

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
        """Whether it has ended and waits to be reaped."""
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
        NotKnown: it cannot be observed now, or never by this user (``hidepid``).
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


def may_hide_own() -> bool:
    """Whether ``/proc`` may hide processes of this user from one another: those that are not dumpable (``hidepid``)."""
    try:
        return not HAVE_PROC or b"hidepid=" in slurp("/proc/self/mountinfo")
    except OSError:
        return True


def _is_hidden(pid: int) -> bool:
    """Whether a process exists that ``/proc`` hides: with ``hidepid``, one of another user."""
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
        NotKnown: it cannot be observed now.
    """
    found = read_process(pid)
    return found is not None and found.start == start and not found.dead


def may_have_children(pid: int) -> bool:
    """Whether a process has children; ``True`` as well where the kernel has no such lists."""
    try:
        return any(slurp(f"/proc/{pid}/task/{task}/children") for task in os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return True


def has_child_ended(pid: int) -> bool:
    """Whether a child of this process has ended; does not reap it."""
    if not hasattr(os, "waitid"):
        found = read_process(pid)
        return found is None or found.dead
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def is_held(pid: int, start: int) -> bool:
    """Whether this process lives and does not run: it was stopped, or waits for a disk.

    Raises:
        NotKnown: it cannot be observed now.
    """
    found = read_process(pid)
    return found is not None and found.start == start and found.state in _HELD


def own_identity() -> tuple[int, int]:
    """Return (pid, start time) of this process; the time is 0 where it is unknown.

    Raises:
        NotKnown: it cannot be observed now.
    """
    pid = os.getpid()
    found = read_process(pid)
    return pid, found.start if found is not None else 0


def exit_status_of_zombie(pid: int, start: int) -> int | None:
    """Return the wait status of a process that ended but was not reaped yet, or ``None``.

    The kernel shows 0 in that field to a process without permission (proc(5)), so it counts only
    for a process of this user.

    Raises:
        NotKnown: it cannot be observed now.
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
        except ProcessLookupError:  # it has ended; a zombie has no session, either
            continue
        except OSError:
            session = 0  # another user's
        found[pid] = Process(pid, words[3][0], int(words[1]), int(words[2]), session, _seconds_of(words[4:9]))
    return found


def _seconds_of(words: list[str]) -> int:
    """Return the seconds since 1970 of a time as ``ps`` writes it in UTC: ``Sun Nov 29 08:54:54 2026``.

    ``time.strptime`` would read the names of the locale that the program has set.
    """
    from datetime import datetime  # only where there is no /proc

    try:
        _, month, day, clock, year = words
        hour, minute, second = map(int, clock.split(":"))
        moment = datetime(int(year), _MONTHS.index(month) // 3 + 1, int(day), hour, minute, second, tzinfo=UTC)
    except ValueError as error:
        raise not_known(error, "ps") from error
    return int(moment.timestamp())


def send_signal(pid: int, start: int, number: int) -> bool:
    """Send a signal to exactly this process. ``False`` when it is gone already.

    Raises:
        NotKnown: its identity cannot be observed now; no process was signalled.
        PermissionError: it lives, and this user may not signal it.
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
        if descriptor is None or not hasattr(signal, "pidfd_send_signal"):
            os.kill(pid, number)
        else:
            signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        if descriptor is not None:
            os.close(descriptor)
    return True
