"""The launches of a keeper, from claim to answer, with the steps that may block; and the children that follow."""

from __future__ import annotations

import _thread
import errno
import os
import signal
import sys
import time

from supervisor.jobdir import durability, factories, records
from supervisor.keeper import job_cgroups, protocol, resource_limits, tree_killer
from supervisor.keeper import spawn as keeper_spawn
from supervisor.keeper.stop_record import StopRecord
from supervisor.keeper.unwritten import is_shortage
from supervisor.system import processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

    from supervisor.keeper import terminals

    End = tuple[int, float, int, int, int]
    """Wait status, CPU seconds, largest RSS as the kernel counts it, and when it was reaped on either clock."""

__all__ = ["CANCELLED", "Child", "HeldOrders", "Launch", "Ticks", "is_there"]

CANCELLED: Final = "it was stopped before it was launched"


class Ticks:
    """Finds the start ticks of children, in ``/proc`` only where the clock leaves a doubt."""

    def __init__(self) -> None:
        self.agree = True  # in a sandbox the clock may count in another way
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


class Child:
    """A job that this keeper has launched, until its end is reported."""

    def __init__(self, asked: protocol.Launch) -> None:
        self.token = asked.token
        self.directory = asked.directory
        self.grace = asked.grace_seconds
        self.stop_leftovers = asked.stop_leftovers
        self.queued = asked.queued
        self.durable = asked.durable
        self.is_output_synced = False
        self.unsynced: str | None = None  # why something of it may not be on the disk
        self.pid = 0
        self.start = 0
        self.deadline: int | None = None  # none while a pause holds it
        self.launched: protocol.Launched | None = None  # as it was reported
        self.stop: tree_killer.Stop | None = None
        self.record: StopRecord | None = None  # of a stop that is under way
        self.why: str | None = None  # why it is stopped, if a stop has begun
        self.end: End | None = None  # as it was reaped
        self.exited: protocol.Exited | None = None
        self.output: dict[str, object] = {}  # its sizes when it ended
        self.leaf: job_cgroups.Leaf | None = None
        self.memory_peak_bytes: int | None = None

    def reaped(self, end: End) -> None:
        """Note its end, at once also in its stop: from now on another process may have its pid."""
        self.end = end
        if self.stop is not None:
            self.stop.ended_at(end[4])

    def new_stop(self, on_signal: Callable[[int], object], **more: Any) -> tree_killer.Stop:
        """Return a stop of its tree; ``more`` are arguments of ``Stop``."""
        job_id = self.directory.rpartition("/")[2]
        tree = None if self.leaf is None else self.leaf.tree
        ended_ns = None if self.end is None else self.end[4]
        return tree_killer.Stop(
            job_id, self.pid, self.start, self.grace, on_signal, ended_ns=ended_ns, tree=tree, **more
        )

    def report(self) -> protocol.Exited:
        """Return the report of its end; it was reaped."""
        exit_code, by_signal, wall, boot, cpu, rss = self._end()
        return protocol.Exited(
            token=self.token,
            exit_code=exit_code,
            signal=by_signal,
            ended_ns=wall,
            ended_boot_ns=boot,
            cpu_seconds=cpu,
            max_rss_bytes=rss,
            output=self.output,
            stopped=None,
            survivors=[],
            memory_peak_bytes=self.memory_peak_bytes,
        )

    def record_of_end(self, boot_id: str) -> dict[str, object]:
        """Return the record of its end, without its output."""
        exit_code, by_signal, wall, boot, cpu, rss = self._end()
        peak = self.memory_peak_bytes
        more: dict[str, object] = {} if peak is None else {"memory_peak_bytes": peak}
        return more | factories.process_end(
            {"pid": self.pid, "start": self.start, "boot": boot_id},
            exit_code,
            by_signal,
            by="keeper",
            ended_ns=wall,
            ended_boot_ns=boot,
            cpu_seconds=cpu,
            max_rss_bytes=rss,
        )

    def _end(self) -> tuple[int | None, int | None, int, int, float, int]:
        assert self.end is not None  # noqa: S101  # set when it was reaped
        status, cpu, rss, wall, boot = self.end
        rss_bytes = rss * (1 if sys.platform == "darwin" else 1024)
        return *factories.exit_code_and_signal(status), wall, boot, round(cpu, 6), rss_bytes


class Launch:
    """A command that is about to be spawned."""

    def __init__(self, asked: protocol.Launch, held: list[int]) -> None:
        """Take over ``held``, descriptors to close after the spawn, or without one."""
        self.asked = asked
        self.held = held
        self.environment: dict[bytes, bytes] = {}
        self.entries: list[bytes] = []
        self.workspace = -1
        self.standard: tuple[int, ...] | bytes = ()
        self.leaf: job_cgroups.Leaf | None = None
        self._lock = _thread.allocate_lock()
        self.spawning = self.given_up = False
        self.stop: tuple[str, str] | None = None
        self.thread = 0
        self.error: keeper_spawn.LaunchError | None = None
        self.pid = 0
        self.child: Child | None = None
        self.start: int | None = None
        self.before_wall, self.before = time.time_ns(), processes.boottime_ns()
        self.after = 0

    def prepare(
        self,
        environment: dict[bytes, bytes],
        entries: list[bytes],
        null: int,
        inputs: terminals.Inputs,
        *,
        umask_is_odd: bool,
    ) -> None:
        """Prepare the environment, its entries, and the standard streams of the command.

        Raises:
            LaunchError: the output files cannot be created.
        """
        changes = self.asked.changes
        self.environment = {**environment, **changes}
        if len(self.environment) == len(environment) + len(changes):
            self.entries = [*entries, *(name + b"=" + value for name, value in changes.items())]
        else:
            self.entries = [name + b"=" + value for name, value in self.environment.items()]
        self.workspace = self.held[0]
        stdin = self.held[1] if self.asked.descriptors > 1 else null
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        outputs: list[int] = []
        try:
            for name in (records.STDOUT, records.STDERR):
                outputs.append(os.open(f"{self.asked.directory}/{name}", flags, 0o600))
                self.held.append(outputs[-1])
                if umask_is_odd:
                    os.fchmod(outputs[-1], 0o600)
        except OSError as error:
            raise keeper_spawn.LaunchError(125, f"cannot create its output files: {error.strerror}") from None
        outputs = [outputs[0], outputs[0 if self.asked.merge_stderr else 1]]
        self.standard = (stdin, *outputs)
        if self.asked.pty is not None or self.asked.stdin_open:
            try:
                channel = inputs.open(self.asked, None if stdin == null else stdin, outputs[0])
            except OSError as error:
                raise keeper_spawn.LaunchError(125, f"cannot open its input: {error.strerror}") from None
            if channel.path:
                self.standard = channel.path
            else:
                self.held.append(channel.reading)
                self.standard = (channel.reading, *outputs)

    def spawn(self, limits: resource_limits.Limits) -> None:
        """Find the program and start it, or set ``error``; may block, and raises nothing."""
        try:
            self.pid = (
                keeper_spawn.unprivileged(self._spawn, limits) if self.asked.no_new_privs else self._spawn(limits)
            )
            self.after = processes.boottime_ns()
        except keeper_spawn.LaunchError as error:
            self.error = error
        except Exception as error:  # noqa: BLE001  # the supervisor waits for an answer
            self.error = keeper_spawn.LaunchError(125, f"the keeper failed: {error!r}")
        finally:
            self.close()

    def _spawn(self, limits: resource_limits.Limits) -> int:
        if self.asked.durable:
            try:
                durability.sync_job(
                    self.asked.directory
                )  # the claim: after a loss of power no process launches it again
            except OSError as error:
                message = f"its records cannot be written to the disk: {error.strerror}"
                raise keeper_spawn.LaunchError(125, message) from None
        executable = keeper_spawn.find_executable(self.asked.argv[0], self.environment, self.workspace)
        with self._lock:
            if self.given_up:
                raise keeper_spawn.LaunchError(125, CANCELLED)
            self.spawning = True
        self.thread = _thread.get_native_id()
        self.before_wall, self.before = time.time_ns(), processes.boottime_ns()
        how = (keeper_spawn.spawn,) if self.leaf is None else (self.leaf.spawn, keeper_spawn.spawn)
        try:
            return limits.spawn_job(
                *how,
                executable,
                self.asked.argv,
                self.entries,
                self.workspace,
                self.standard,
                settings=self.asked.settings,
            )
        except OSError as error:
            raise keeper_spawn.why_not(error, executable, self.workspace) from None

    def give_up(self) -> bool:
        """Prevent the spawn; ``False`` when it has begun already."""
        with self._lock:
            self.given_up = not self.spawning
            return self.given_up

    def close(self) -> None:
        """Close the descriptors that are held for it."""
        while self.held:
            try:
                os.close(self.held.pop())
            except OSError:  # of an output that its disk does not take; it is closed all the same
                continue

    def overdue_ns(self) -> int | None:
        """Return when its deadline passes, on the boot clock."""
        deadline = self.asked.deadline_seconds
        return None if deadline is None else self.before + int(deadline * 1e9)

    def loading_pid(self, known: set[int]) -> int | None:
        """Return the child whose program is being loaded, so that nothing of it has run; none of ``known``."""
        own = processes.slurp("/proc/self/cmdline")
        for word in processes.slurp(f"/proc/self/task/{self.thread}/children").split():
            pid = int(word)
            if pid not in known and processes.slurp(f"/proc/{pid}/cmdline") == own:  # still a copy of this process
                return pid
        return None

    def kill(self, known: set[int]) -> None:
        """End the child whose program a file system does not deliver."""
        pid = self.loading_pid(known)
        if pid is not None:
            os.kill(pid, signal.SIGKILL)


class HeldOrders:
    """Orders of waiting jobs in memory, under the name of orders on disk: a link that dies with this process.

    The kernel lets other processes of this user follow the link only while this process is dumpable. So it is that only
    while it holds any.

    Args:
        pid: of this process.
        show: called with whether other processes must be able to follow such a link.
    """

    def __init__(self, pid: int, show: Callable[[bool], object]) -> None:
        self._pid = pid
        self._show = show
        self._descriptors: dict[str, int] = {}  # by job directory

    def __bool__(self) -> bool:
        """Whether any are held."""
        return bool(self._descriptors)

    def add(self, directory: str, descriptors: list[int]) -> str:
        """Hold the orders in the first descriptor; return why they are not held, ``""`` when they are."""
        error = "no descriptor came with them"
        for descriptor in descriptors:
            try:
                self._show(True)
                os.symlink(f"/proc/{self._pid}/fd/{descriptor}", f"{directory}/{records.ORDERS}")
                self._descriptors[directory], error = descriptor, ""
            except OSError as problem:
                os.close(descriptor)
                error = os.strerror(problem.errno or 0)
        return error

    def drop(self, directory: str) -> None:
        """Close the orders of a job if they are held."""
        descriptor = self._descriptors.pop(directory, None)
        if descriptor is not None:
            os.close(descriptor)
            if not self._descriptors:
                self._show(False)

    def let_go(self) -> None:
        """Close the orders whose names are deleted: their jobs are launched, or never will be.

        Raises:
            OSError: that cannot be read now.
        """
        for directory in list(self._descriptors):
            if not is_there(f"{directory}/{records.ORDERS}"):
                self.drop(directory)


def is_there(path: str) -> bool:
    """Whether there is a file of this name.

    Raises:
        OSError: that cannot be read now.
    """
    try:
        os.lstat(path)
    except OSError as error:
        if is_shortage(error):
            raise
        return False
    return True
