"""One launch of the keeper, from its claim to its answer: what may block of it stands here, apart from the loop.

Standard library only: the keeper runs this file, outside the package.
"""

from __future__ import annotations

import _thread
import errno
import os
import signal
import time

from supervisor.keeper import process_tree, resource_limits
from supervisor.keeper import spawn as keeper_spawn
from supervisor.system import processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    End = tuple[int, float, int, int, int]
    """Wait status, CPU seconds, largest RSS as the kernel counts it, and when it was reaped on either clock."""

__all__ = ["CANCELLED", "Launch", "Slot", "Ticks"]

CANCELLED: Final = "it was stopped before it was launched"


class Ticks:
    """Tells the start tick of children, read from ``/proc`` only where the clock leaves a doubt."""

    def __init__(self) -> None:
        """Believe the clock until a child shows that it counts in another way, as it may in a sandbox."""
        self.agree = True
        self._checked = False

    def start_of(self, pid: int, before: int, after: int) -> int:
        """Return the start tick of a child that was not reaped, spawned between two readings of the clock.

        Raises:
            OSError: it cannot be read now.
        """
        start = processes.start_from_boottime(before, after) if self.agree else None
        if start is not None and self._checked:
            return start
        found = processes.read_process(pid)
        if found is None:
            if not processes.HAVE_PROC or processes.has_child_ended(pid):
                return start if start is not None else before // processes.TICK_NS
            raise OSError(errno.EAGAIN, "the start time of a child cannot be read")
        if start is not None:
            self._checked = True
            self.agree = start == found.start
        return found.start


class Slot:
    """A job that was launched here and is not settled yet."""

    __slots__ = (
        "deadline",
        "directory",
        "end",
        "exit",
        "grace",
        "output",
        "pid",
        "request",
        "start",
        "stop",
        "stop_leftovers",
        "token",
        "why",
    )

    def __init__(self, token: int, directory: str, grace: float, *, stop_leftovers: bool = False) -> None:
        self.token = token
        self.directory = directory
        self.grace = grace
        self.pid = 0
        self.start = 0
        self.deadline: int | None = None
        self.stop: process_tree.Stop | None = None
        self.request: dict[str, object] = {}  # what stop.json says, or will when there is room for it
        self.why: str | None = None  # why it was stopped, once the first signal went out
        self.end: End | None = None  # as it was reaped
        self.exit: tuple[Any, ...] | None = None  # as it is told
        self.output: dict[str, object] = {}  # what it had written when it ended
        self.stop_leftovers = stop_leftovers


class Launch:
    """A command that is about to be spawned."""

    __slots__ = (
        "_lock",
        "after",
        "argv",
        "before",
        "before_wall",
        "deadline",
        "directory",
        "entries",
        "environment",
        "error",
        "given_up",
        "grace",
        "held",
        "limit",
        "pid",
        "slot",
        "spawning",
        "standard",
        "start",
        "stop",
        "stop_leftovers",
        "thread",
        "token",
        "workspace",
    )

    def __init__(
        self,
        token: int,
        directory: str,
        argv: list[bytes],
        deadline: float | None,
        grace: float,
        limit: int,
        stop_leftovers: bool,  # noqa: FBT001  # a member of a message
        held: list[int],
    ) -> None:
        """Take over ``held``, descriptors to close when it was spawned, or was not."""
        self.token = token
        self.directory = directory
        self.argv = argv
        self.deadline = deadline
        self.grace = grace
        self.limit = limit
        self.stop_leftovers = stop_leftovers
        self.held = held
        self.environment: dict[bytes, bytes] = {}
        self.entries: list[bytes] = []
        self.workspace = -1
        self.standard: tuple[int, ...] = ()
        self._lock = _thread.allocate_lock()
        self.spawning = self.given_up = False
        self.stop: tuple[str, str] | None = None
        self.thread = 0
        self.error: keeper_spawn.LaunchError | None = None
        self.pid = 0
        self.slot: Slot | None = None
        self.start: int | None = None
        self.before_wall, self.before = time.time_ns(), processes.boottime_ns()
        self.after = 0

    def spawn(self, limits: resource_limits.Limits) -> None:
        """Find the program and start it, or say in ``error`` why that cannot be; may block, and raises nothing."""
        try:
            self.pid = self._spawn(limits)
            self.after = processes.boottime_ns()
        except keeper_spawn.LaunchError as error:
            self.error = error
        except Exception as error:  # noqa: BLE001  # an answer is owed whatever happens
            self.error = keeper_spawn.LaunchError(125, f"the keeper failed: {error!r}")
        finally:
            self.close()

    def _spawn(self, limits: resource_limits.Limits) -> int:
        executable = keeper_spawn.find_executable(self.argv[0], self.environment, self.workspace)
        with self._lock:
            if self.given_up:
                raise keeper_spawn.LaunchError(125, CANCELLED)
            self.spawning = True
        self.thread = _thread.get_native_id()
        self.before_wall, self.before = time.time_ns(), processes.boottime_ns()
        try:
            return limits.spawn(keeper_spawn.spawn, executable, self.argv, self.entries, self.workspace, self.standard)
        except OSError as error:
            raise keeper_spawn.why_not(error, executable, self.workspace) from None

    def give_up(self) -> bool:
        """See to it that it is never spawned; ``False`` when that has begun already."""
        with self._lock:
            self.given_up = not self.spawning
            return self.given_up

    def close(self) -> None:
        """Close what was held for it."""
        while self.held:
            os.close(self.held.pop())

    def overdue_ns(self) -> int | None:
        """Return when its deadline passes if it is not spawned before, on the boot clock."""
        return None if self.deadline is None else self.before + int(self.deadline * 1e9)

    def child(self, known: set[int]) -> int | None:
        """Return the child whose program is being loaded, which is none of ``known``: nothing of it has run."""
        ours = processes.slurp("/proc/self/cmdline")
        for word in processes.slurp(f"/proc/self/task/{self.thread}/children").split():
            pid = int(word)
            if pid not in known and processes.slurp(f"/proc/{pid}/cmdline") == ours:  # still a copy of this process
                return pid
        return None

    def kill(self, known: set[int]) -> None:
        """End the child, whose program does not come: a file system does not answer."""
        child = self.child(known)
        if child is not None:
            os.kill(child, signal.SIGKILL)
