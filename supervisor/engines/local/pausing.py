"""Pausing local jobs: their control group is frozen, and what is not in it gets SIGSTOP until none of them runs.

A control group that another keeper is in, or that has version 1, is not frozen: then all processes get SIGSTOP.

The calling process does this itself, whether or not the job has a keeper or a supervisor. Its records make that safe:
``pause.json`` says that the processes are changing before the first of them is signalled, and that they are paused, or
run, once that is so. If the calling process is killed in between, the job does not count as paused; the next ``resume``
continues it, and the next ``pause`` completes what was begun. A lock on the job directory lets one process do this at a
time. The keeper is told afterwards, as a pause may hold the deadline.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Generator, Iterable
from typing import Any, Final

from supervisor.engines.local import evidence, stopping
from supervisor.errors import FeatureUnavailable, InvalidArguments, PermissionDenied, StateBusy
from supervisor.jobdir import durability, records, stops, validation
from supervisor.keeper import job_cgroups
from supervisor.keeper.job_processes import JobProcesses, JobTree
from supervisor.system import processes
from supervisor.system.observing import NotKnown, not_known

__all__ = ["pause", "resume"]

_PATIENCE_SECONDS: Final = 10.0
_FIRST_DELAY_SECONDS: Final = 0.001
_LONGEST_DELAY_SECONDS: Final = 0.1
_FREEZABLE: Final = 2
"""The version of control groups in which a frozen process can be ended by SIGKILL."""
_STAYS_FROZEN: Final = "stays_frozen"
"""In ``pause.json``: another program had frozen the control group before the pause, and has to thaw it."""
_MAX_ROUNDS: Final = 5
"""How often a process is continued that stops itself again."""

_Key = tuple[int, int]


def pause(directory: str, *, by: str, hold_deadline: bool) -> None:
    """Stop all processes of a job, and record that; a paused one stays paused.

    Raises:
        InvalidArguments: it is being stopped, or this process belongs to it.
        FeatureUnavailable: the deadline cannot be held, as its keeper is of an older version.
        PermissionDenied: a process of it belongs to another user; the others were continued.
        StateBusy: its processes have not all stopped in time; they were continued.
        OSError: its records cannot be read or written; nothing was stopped.
    """
    with _alone(directory):
        process, job_id = _leader(directory), os.path.basename(directory)
        if evidence.belongs_to(directory, os.getpid()):
            message = f"job {job_id} cannot be paused by a process of its own, which would have to stop itself"
            raise InvalidArguments(message, repair="Pause it from outside of the job.")
        _check_not_stopping(directory)
        if hold_deadline and process.get("controls") is None and _has_keeper(directory):
            message = f"the keeper of job {job_id} is of an older version, which does not hold deadlines"
            raise FeatureUnavailable(message, repair="Pause it without --hold-deadline.", details={"job_id": job_id})
        there = records.read_pause(directory)
        record: dict[str, Any] = {"since_ns": time.time_ns(), "by": by, **_times(there)}
        tree = _Tree(job_id, process, there)
        tree.look()
        if there is None or (there and there["state"] == records.RUNNING):
            tree.before = frozenset(tree.stopped())
            tree.stays_frozen = tree.is_frozen_by_another()
        elif there and there["state"] == records.PAUSED:
            if not tree.running() and not (hold_deadline and record["held_since_boot_ns"] is None):
                return
            record |= {"since_ns": there.get("since_ns"), "by": there.get("by")}
        record["before"] = " ".join(f"{pid}.{start}" for pid, start in sorted(tree.before))
        record[_STAYS_FROZEN] = tree.stays_frozen
        _write(directory, record, records.CHANGING)
        try:
            tree.stop(directory, freeze=_may_freeze(directory, process))
            if hold_deadline and record["held_since_boot_ns"] is None:
                record["held_since_boot_ns"] = processes.boottime_ns()
            _write(directory, record, records.PAUSED)
            _check_not_stopping(directory)
        except BaseException:
            tree.go_on()
            with contextlib.suppress(OSError):
                _end(directory, record)
            raise
        stopping.nudge_keeper(evidence.recorded_keeper(directory))


def resume(directory: str, *, by: str) -> None:
    """Continue all processes of a job that was paused, and record that; others stay as they are.

    Processes that were stopped before the pause, by the job itself for instance, stay stopped.

    Raises:
        InvalidArguments: it has ended.
        PermissionDenied: a process of it belongs to another user.
        OSError: its records cannot be read or written; the processes were not continued.
    """
    with _alone(directory):
        there = records.read_pause(directory)
        if there is None:
            return
        process = _leader(directory)
        tree = _Tree(os.path.basename(directory), process, there)
        record: dict[str, Any] = {
            "since_ns": time.time_ns(),
            "by": by,
            **_times(there),
            "before": there.get("before", ""),
            _STAYS_FROZEN: tree.stays_frozen,
        }
        if record["held_since_boot_ns"] is not None:  # before a process runs: its deadline falls in any case
            record["held_ns"] += processes.boottime_ns() - record["held_since_boot_ns"]
            record["held_since_boot_ns"] = None
        _write(directory, record, records.CHANGING)
        stopping.nudge_keeper(evidence.recorded_keeper(directory))
        tree.go_on()
        _end(directory, record)


def _end(directory: str, record: dict[str, Any]) -> None:
    """Record that no process of a job is stopped by a pause any more."""
    _write(directory, record, records.RUNNING)
    stopping.nudge_keeper(evidence.recorded_keeper(directory))


def _write(directory: str, record: dict[str, Any], state: str) -> None:
    durable = durability.is_durable(records.read(directory, records.JOB) or {})
    records.replace(directory, records.PAUSE, {**record, "state": state}, durable=durable)


@contextlib.contextmanager
def _alone(directory: str) -> Generator[None]:
    """Keep other processes from pausing or resuming the same job."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _leader(directory: str) -> dict[str, Any]:
    """Return ``process.json`` of a job whose leader provably lives."""
    process = validation.process(directory)
    if not process or not processes.is_alive(process["pid"], process["start"]):
        message = f"job {os.path.basename(directory)} has ended, or its record of the process is damaged"
        raise InvalidArguments(message, repair="See `supervisor status`.")
    return process


def _has_keeper(directory: str) -> bool:
    keeper = evidence.recorded_keeper(directory)
    return keeper is not None and processes.is_alive(*keeper)


def _may_freeze(directory: str, process: dict[str, Any]) -> bool:
    """Whether the keeper of a job, if there is one, thaws its control group when it stops the job."""
    controls = process.get("controls")
    return (isinstance(controls, int) and controls >= records.THAWS) or not _has_keeper(directory)


def _check_not_stopping(directory: str) -> None:
    stop = stops.read_stop(directory)
    if stop is not None and not stop.get("refused"):
        message = f"job {os.path.basename(directory)} is being stopped"
        raise InvalidArguments(message, repair="Only a job that runs can be paused.")


def _names(there: dict[str, Any] | None) -> frozenset[_Key]:
    """Return the processes that were stopped before the pause that is on record."""
    words = [word.split(".") for word in (there or {}).get("before", "").split()]
    valid = (word for word in words if len(word) == 2 and all(map(validation.is_number, word)))
    return frozenset((int(pid), int(start)) for pid, start in valid)


def _times(there: dict[str, Any] | None) -> dict[str, Any]:
    """Return for how long the deadline was held, and since when it is; for a record without sense, not at all."""
    return {name: (there or {}).get(name, none) for name, none in (("held_ns", 0), ("held_since_boot_ns", None))}


class _Tree(JobTree):
    """The processes of a job that is paused or resumed."""

    def __init__(self, job_id: str, process: dict[str, Any], pause: dict[str, Any] | None) -> None:
        super().__init__(job_id, process["pid"], process["start"])
        self.job_id = job_id
        self.before = _names(pause)
        self.stays_frozen = (pause or {}).get(_STAYS_FROZEN) is True
        self._table = JobProcesses()
        self._group = job_cgroups.tree_of(process, job_id)
        self._members: list[processes.Process] = []
        self._asked: set[_Key] = set()
        self._inside: set[_Key] = set()
        self._is_frozen = self._is_shared = False

    def look(self) -> None:
        """Find its processes, the oldest first."""
        problem = self._look_into_group()
        self._members = sorted(self._table.snapshot({self.mark}).members(self), key=lambda member: member.start)

        self._table.incomplete = self._table.incomplete or problem

    def _look_into_group(self) -> NotKnown | None:
        """Note the processes in its control group, which may have shed every other sign; return why that failed."""
        if self._group is None:
            return None
        try:
            found = [processes.read_process(pid) for pid in self._group.pids()]
            still = {*self._group.pids()}  # another process may have the pid of one that has left
            self._is_frozen = self._group.version == _FREEZABLE and self._group.is_frozen
            self._is_shared = self._group.has_keepers()
        except OSError as error:
            return not_known(error, self._group.directory)
        inside = [each for each in found if each is not None and each.pid in still]
        self._is_shared = self._is_shared or any(map(self._table.is_keeper, inside))
        self._inside = {(each.pid, each.start) for each in inside}
        self.known.update(self._inside)
        return None

    def stopped(self) -> set[_Key]:
        """Return the processes that are stopped, or stop before they run on.

        That is so once it has got its signal for a process that waits in the kernel (D: for a disk, or between vfork
        and exec for a child that is stopped), and for one that is traced, whose tracer decides when it goes on.
        """
        frozen = self._inside if self._is_frozen else frozenset[_Key]()
        keys = ((each.state, (each.pid, each.start)) for each in self._members)
        return {key for state, key in keys if state == "T" or key in frozen or (state in "tD" and key in self._asked)}

    def running(self) -> list[processes.Process]:
        """Return the others."""
        stopped = self.stopped()
        return [each for each in self._members if (each.pid, each.start) not in stopped]

    def _freeze(self) -> bool:
        """Have the kernel freeze its control group, soon; return whether that is possible."""
        if self._group is None or self._group.version != _FREEZABLE or self._is_shared:
            return False
        try:
            return self._group.freeze()
        except OSError:
            return False

    def is_frozen_by_another(self) -> bool:
        """Whether another program has frozen its control group.

        Raises:
            OSError: that cannot be read now.
        """
        return self._group is not None and self._group.version == _FREEZABLE and self._group.is_told_to_freeze

    def _thaw(self) -> None:
        if self._group is not None and self._group.version == _FREEZABLE and not self.stays_frozen:
            self._group.thaw()

    def stop(self, directory: str, *, freeze: bool) -> None:
        """Stop all processes, parents before their children, until none of them runs and there are no new ones.

        ``freeze``: those in the control group are frozen instead, where that is possible.

        A process that was forked before its parent stopped exists by the time that the parent is seen to be stopped,
        so the next look finds it.
        """
        give_up, delay = time.monotonic() + _PATIENCE_SECONDS, _FIRST_DELAY_SECONDS
        quiet: set[_Key] | None = None
        freezes = freeze and self._freeze()
        while True:
            self.look()
            if freezes and self._is_shared:  # a keeper has come meanwhile, and its jobs are not part of this one
                self._thaw()
                freezes = False
            running, stopped = self.running(), self.stopped()
            if not running and self._table.incomplete is None and stopped == quiet:
                return
            quiet = None if running else stopped
            left = [each for each in running if not (freezes and (each.pid, each.start) in self._inside)]
            if denied := _signal(left, signal.SIGSTOP):
                raise self._denied(denied, "paused")  # a word, not a message
            self._asked.update((each.pid, each.start) for each in left)
            _check_not_stopping(directory)
            if time.monotonic() > give_up:
                raise self._not_stopped(running)
            if running:
                time.sleep(delay)
                delay = min(2 * delay, _LONGEST_DELAY_SECONDS)

    def _not_stopped(self, running: Iterable[processes.Process]) -> StateBusy:
        words = [f"process {each.pid} is in state {each.state}" for each in running]
        why = ", ".join(words[:5]) or f"its processes cannot be read: {self._table.incomplete}"
        message = f"job {self.job_id} is not paused, as it did not stop in {_PATIENCE_SECONDS:.0f} s: {why}"
        return StateBusy(message, repair="Try again.")

    def go_on(self) -> None:
        """Continue all processes but those that were stopped before, children before their parents.

        Raises:
            PermissionDenied: some belong to another user.
            OSError: its control group cannot be thawed now.
        """
        self.look()
        stopped_else = self.before | (self._inside if self._is_frozen else frozenset[_Key]())
        to_continue = [
            each
            for each in self._members
            if (each.pid, each.start) not in (self.before if each.state == "T" else stopped_else)
        ]
        self._thaw()
        denied: list[int] = []
        for _ in range(_MAX_ROUNDS):
            denied = _signal(reversed(to_continue), signal.SIGCONT)
            self.look()
            stopped = (each for each in self._members if each.state == "T")
            to_continue = [each for each in stopped if (each.pid, each.start) not in self.before]
            if not to_continue and self._table.incomplete is None:
                return
            time.sleep(_FIRST_DELAY_SECONDS)
        if denied:
            raise self._denied(denied, "resumed")  # as above

    def _denied(self, pids: list[int], what: str) -> PermissionDenied:
        words = ", ".join(map(str, pids[:5]))
        message = f"job {self.job_id} cannot be {what}: process {words} belongs to another user"
        return PermissionDenied(message, details={"job_id": self.job_id, "pids": pids})


def _signal(members: Iterable[processes.Process], number: int) -> list[int]:
    """Signal processes; return the pids of those that this user may not signal."""
    denied: list[int] = []
    for member in members:
        try:
            processes.send_signal(member.pid, member.start, number)
        except NotKnown:  # the next look decides
            continue
        except PermissionError:
            denied.append(member.pid)
    return denied
