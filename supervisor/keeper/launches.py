"""One launch of the keeper, from its claim to its answer: what may block of it stands here, apart from the loop.

Standard library only: the keeper runs this file, outside the package.
"""

from __future__ import annotations

import _thread
import errno
import os
import signal
import time

from supervisor.keeper import process_tree, protocol, resource_limits
from supervisor.keeper import spawn as keeper_spawn
from supervisor.system import processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

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
        "exited",
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

    def __init__(self, asked: protocol.Launch) -> None:
        self.token = asked.token
        self.directory = asked.directory
        self.grace = asked.grace_seconds
        self.stop_leftovers = asked.stop_leftovers
        self.pid = 0
        self.start = 0
        self.deadline: int | None = None
        self.stop: process_tree.Stop | None = None
        self.request: dict[str, object] = {}  # what stop.json says, or will when there is room for it
        self.why: str | None = None  # why it was stopped, once the first signal went out
        self.end: End | None = None  # as it was reaped
        self.exited: protocol.Exited | None = None
        self.output: dict[str, object] = {}  # what it had written when it ended


class Launch:
    """A command that is about to be spawned."""

    __slots__ = (
        "_lock",
        "after",
        "asked",
        "before",
        "before_wall",
        "entries",
        "environment",
        "error",
        "given_up",
        "held",
        "pid",
        "slot",
        "spawning",
        "standard",
        "start",
        "stop",
        "thread",
        "workspace",
    )

    def __init__(self, asked: protocol.Launch, held: list[int]) -> None:
        """Take over ``held``, descriptors to close when it was spawned, or was not."""
        self.asked = asked
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
        executable = keeper_spawn.find_executable(self.asked.argv[0], self.environment, self.workspace)
        with self._lock:
            if self.given_up:
                raise keeper_spawn.LaunchError(125, CANCELLED)
            self.spawning = True
        self.thread = _thread.get_native_id()
        self.before_wall, self.before = time.time_ns(), processes.boottime_ns()
        try:
            return limits.spawn(
                keeper_spawn.spawn, executable, self.asked.argv, self.entries, self.workspace, self.standard
            )
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
        deadline = self.asked.deadline_seconds
        return None if deadline is None else self.before + int(deadline * 1e9)

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
