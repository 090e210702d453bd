"""Jobs of this machine, for programs without an event loop."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from supervisor.engines import obstacles
from supervisor.engines.interface import Observation, StopInProgress
from supervisor.engines.local import reconcile, stopping
from supervisor.engines.local.liveness_cache import LivenessCache, UnendedCache
from supervisor.errors import PermissionDenied, StateFull, SupervisorError
from supervisor.jobdir import validation
from supervisor.system import processes

if TYPE_CHECKING:
    import socket

__all__ = ["LocalClient"]


class LocalClient:
    """A ``Client``: the evidence on disk and in the process table."""

    on_this_machine = True
    poll_seconds = math.inf

    def __init__(self) -> None:
        self._cache = LivenessCache()
        self._unended = UnendedCache()
        self._signals = stopping.KeeperSignals()

    def observe(self, directory: str, *, owner_lives: bool, launched: bool = False, drive: bool = False) -> Observation:
        """Examine the evidence."""
        observation = reconcile.resolve(directory, owner_lives=owner_lives, launched=launched)
        if observation.to_stop is None or not drive:
            return observation
        process = validation.process(directory)
        if process:
            request = stopping.request_stop(directory, observation.to_stop, "nobody else was there")
            stopping.stop_trees([stopping.Tree(directory, process, request)])
        return reconcile.resolve(directory, owner_lives=owner_lives, launched=launched)

    def cached(self, directory: str, found: os.stat_result) -> Observation | None:
        """Return that a job runs under its keeper, if that provably still holds."""
        return self._cache.look(directory, found)

    def is_unended(self, directory: str) -> bool:
        """Return whether a job directory is there, without a recorded end."""
        return self._unended.is_unended(directory)

    def stop_requested(self, directory: str) -> str | None:
        """Return why a stop of the job was requested, as ``is_unended`` has read it."""
        return self._unended.stop_requested(directory)

    def can_adopt(self, record: Mapping[str, Any]) -> bool:
        """Return whether a job was created on this host, in this container."""
        if record.get("boot") == processes.boot_id():
            return record.get("ns") == processes.pid_namespace()
        return not processes.is_another_host(str(record.get("host")))

    def has_processes(self, job_id: str) -> bool:
        """Search for a process that carries the mark of the job."""
        return reconcile.find_marked_leader(job_id) is not None

    def request_stop(self, directory: str, *, by: str, first_signal: int) -> None:
        """Record a stop and its first signal. A keeper of an older version sends SIGTERM."""
        stopping.request_stop(directory, "cancelled", by, first_signal=first_signal)

    def send_signal(self, directory: str, number: int) -> bool:
        """Send a signal to the process in the record of the job, by its pid and start time."""
        process = validation.process(directory)
        if not process:
            return False
        try:
            return processes.send_signal(process["pid"], process["start"], number)
        except PermissionError:
            job_id = os.path.basename(directory)
            message = f"process {process['pid']} of job {job_id} belongs to another user, and is not ours to signal"
            raise PermissionDenied(message, details={"job_id": job_id, "pid": process["pid"]}) from None

    def begin_stop(self, directory: str, by: str, *, may_write: Callable[[], bool]) -> StopInProgress:
        """Return the stop of a job."""
        return _LocalStop(directory, by, self._signals, may_write)

    def signal(self) -> None:
        """Signal each keeper once, after all requests to it were written."""
        self._signals.send()

    def end(self, stops: Iterable[StopInProgress]) -> None:
        """End the trees of jobs."""
        stopping.stop_trees([each.tree for each in stops if isinstance(each, _LocalStop) and each.tree is not None])

    def retry_stop(self, directory: str, by: str) -> None:
        """Have a stop that was refused tried again."""
        stopping.ask_again(directory, by)

    def obstacle(self, directory: str, *, overdue: bool) -> SupervisorError | None:
        """Return what keeps a job from ending."""
        return obstacles.obstacle(os.path.basename(directory), directory, overdue=overdue)

    def survivors(self, directory: str) -> SupervisorError | None:
        """Return which processes of an ended job are left."""
        return obstacles.survivors_error(os.path.basename(directory), directory)

    def pause(self, directory: str, *, by: str, hold_deadline: bool) -> None:
        """Stop all processes of a job."""
        from supervisor.engines.local import pausing  # here and below: few programs need it

        pausing.pause(directory, by=by, hold_deadline=hold_deadline)

    def resume(self, directory: str, *, by: str) -> None:
        """Continue all processes of a job."""
        from supervisor.engines.local import pausing

        pausing.resume(directory, by=by)

    def connect(self, directory: str) -> socket.socket:
        """Return a connection to the keeper of a job."""
        from supervisor.engines.local import input_client  # with `socket`, which few commands need

        return input_client.connect(directory)

    def close(self) -> None:
        """Close the pidfds of the keepers."""
        self._cache.close()


class _LocalStop:
    """The stop of one job; ``tree`` is set when this process has to end it."""

    def __init__(self, directory: str, by: str, signals: stopping.KeeperSignals, may_write: Callable[[], bool]) -> None:
        self._directory = directory
        self._job_id = os.path.basename(directory)
        self._by = by
        self._signals = signals
        self._may_write = may_write
        self._cancel: stopping.Cancel | None = None
        self._sound = True
        self.tree: stopping.Tree | None = None

    @property
    def until(self) -> float | None:
        return self._cancel.until if self._cancel is not None and self._sound else None

    def advance(self, to_stop: str | None) -> bool:
        self._sound = self._may_write()
        self.tree = self._step(to_stop) if self._sound else self._marked()
        return self.tree is not None

    def _step(self, to_stop: str | None) -> stopping.Tree | None:
        if self._cancel is None:
            self._cancel = stopping.Cancel(self._directory, self._by, self._signals.owe)
        elif self._cancel.is_over:
            message = f"job {self._job_id} was ended, and there is no room on the disk to write that down"
            raise StateFull(message)
        elif (problem := obstacles.obstacle(self._job_id, self._directory, overdue=self._cancel.overdue)) is not None:
            raise problem
        return self._cancel.step(to_stop or "cancelled", now=to_stop is not None)

    def _marked(self) -> stopping.Tree | None:
        leader = reconcile.find_marked_leader(self._job_id)
        if leader is None:
            return None
        return stopping.Tree(self._directory, {"pid": leader.pid, "start": leader.start}, sound=False)
