"""Jobs of a cluster, for programs without an event loop."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

from supervisor.engines.cluster.interface import JobReport, QueueState, SyncBackend
from supervisor.engines.cluster.reconcile import REPEAT_WITHIN_SECONDS, resolve
from supervisor.engines.interface import JobPhase, Observation, StopInProgress
from supervisor.engines.local import stopping
from supervisor.errors import FeatureUnavailable, JobElsewhere, StateBusy, SupervisorError
from supervisor.jobdir import records

__all__ = [
    "UNREACHABLE_REPORT",
    "ClusterClient",
    "MissingClient",
    "read_submission",
    "request_end",
]

UNREACHABLE_REPORT: Final = JobReport(queue_state=QueueState.UNREACHABLE)
_KEEPER_ANSWERS_SECONDS: Final = 6.0
"""How long past its grace the keeper on a node may take to end a job before the cluster is asked to end it."""


def _nothing(*_: object, **__: object) -> None:
    """Return and do nothing."""


def _no(*_: object, **__: object) -> bool:
    return False


class _Remote:
    """Jobs of other machines: this machine proves nothing about them, and none of their processes can be ended here."""

    on_this_machine = False
    poll_seconds = 1.0
    cached = stop_requested = obstacle = survivors = signal = end = retry_stop = close = staticmethod(_nothing)
    is_unended = has_processes = staticmethod(_no)

    def request_stop(self, directory: str, *, by: str, first_signal: int) -> None:
        """Raise ``FeatureUnavailable``."""
        del by, first_signal
        raise _unavailable(directory, "stopped with another signal than SIGTERM", "Cancel it without a signal.")

    def send_signal(self, directory: str, number: int) -> bool:
        """Raise ``FeatureUnavailable``."""
        del number
        raise _unavailable(directory, "signalled", "Use the commands of the cluster, such as `scancel --signal`.")

    def pause(self, directory: str, *, by: str, hold_deadline: bool) -> None:
        """Raise ``FeatureUnavailable``: a scheduler lets its administrators suspend jobs, not their owners."""
        del by, hold_deadline
        raise _unavailable(directory, "paused", "Cancel it, or ask an administrator of the cluster to suspend it.")

    def resume(self, directory: str, *, by: str) -> None:
        """Raise ``FeatureUnavailable``."""
        del by
        raise _unavailable(directory, "resumed", "Only what suspended it, as `scontrol suspend` does, can resume it.")

    def connect(self, directory: str) -> NoReturn:
        """Raise ``FeatureUnavailable``: the keeper is on another machine."""
        raise _unavailable(directory, "sent input", "Start it with the whole of its input: --stdin.")


def _unavailable(directory: str, what: str, repair: str) -> FeatureUnavailable:
    job_id = os.path.basename(directory)
    message = f"job {job_id} runs on a cluster, and cannot be {what} from here"
    return FeatureUnavailable(message, repair=repair, details={"job_id": job_id})


class ClusterClient(_Remote):
    """A ``Client``: the records of a job, and where they prove no end, the word of the cluster.

    Args:
        name: of the engine.
        cluster: answers for it.
    """

    def __init__(self, name: str, cluster: SyncBackend) -> None:
        self._name = name
        self._cluster = cluster

    def can_adopt(self, record: Mapping[str, Any]) -> bool:
        """Return yes: any machine can watch a job of a cluster."""
        del record
        return True

    def observe(self, directory: str, *, owner_lives: bool, launched: bool = False, drive: bool = False) -> Observation:
        """Read the records of a job and, if they hold no end, ask the cluster."""
        del launched, drive  # the cluster knows the one, and sees to the other
        key = os.path.basename(directory)
        try:
            observation = resolve(directory, UNREACHABLE_REPORT, owner_lives=owner_lives, engine=self._name)
            unsubmitted = observation.phase is JobPhase.QUEUED and observation.queue_reason is None
            if observation.ended is not None or unsubmitted:
                return observation
            report = self._cluster.observe([key]).get(key) or _absent(directory)
            return resolve(directory, report, owner_lives=owner_lives, engine=self._name, collect=self.collect)
        except FileNotFoundError:  # nothing follows from that: the job is where it last was
            message = f"the shared directory {os.path.dirname(directory)} of job {key} cannot be seen from here"
            repair = "Mount the shared directory again, under this path, and repeat the call."
            problem = StateBusy(message, repair=repair, details={"job_id": key})
            damage = "its shared directory cannot be seen from here"
            return Observation(phase=JobPhase.ELSEWHERE, damage=damage, problem=problem)

    def collect(self, handle: str) -> JobReport | None:
        """Return the word of the cluster about an end, for a thread."""
        return self._cluster.collect(handle)

    def begin_stop(self, directory: str, by: str, *, may_write: Callable[[], bool]) -> StopInProgress:
        """Return the stop of a job."""
        del may_write  # what is in the state root only leads to the job
        return _ClusterStop(directory, by, self._name, self._cluster)


class _ClusterStop:
    """The stop of one job: by its keeper on the node, and by the cluster if that does not do it."""

    def __init__(self, directory: str, by: str, engine: str, cluster: SyncBackend) -> None:
        self._directory = directory
        self._key = os.path.basename(directory)
        self._by = by
        self._engine = engine
        self._cluster = cluster
        self.until: float | None = None

    def advance(self, to_stop: str | None) -> bool:
        del to_stop
        now = time.monotonic()
        if self.until is None:
            unrun = request_end(self._directory, "cancelled", self._by, engine=self._engine)
            self._cluster.cancel(self._key, nudge=not unrun)
            self.until = now + stopping.seconds_of_grace(self._directory) + _KEEPER_ANSWERS_SECONDS
        elif self.until <= now:
            self._cluster.cancel(self._key)
            self.until = now + _KEEPER_ANSWERS_SECONDS
        return False


class MissingClient(_Remote):
    """A ``Client`` for the jobs of an engine that is not installed here, of which nothing can be known.

    Args:
        problem: the error that says so.
    """

    poll_seconds = math.inf
    can_adopt = staticmethod(_no)

    def __init__(self, problem: SupervisorError) -> None:
        self._problem = problem

    def observe(self, directory: str, *, owner_lives: bool, launched: bool = False, drive: bool = False) -> Observation:
        """Return that the job can be judged only where its engine is installed."""
        del directory, owner_lives, launched, drive
        damage = f"its engine is not installed here: {self._problem.message}"
        return Observation(phase=JobPhase.ELSEWHERE, damage=damage, problem=self._error())

    def begin_stop(self, directory: str, by: str, *, may_write: Callable[[], bool]) -> StopInProgress:
        """Raise the error."""
        del directory, by, may_write
        raise self._error()

    def _error(self) -> SupervisorError:
        return JobElsewhere(self._problem.message, repair="Repeat the call where the engine of the job is installed.")


def request_end(directory: str, why: str, by: str, *, engine: str) -> bool:
    """Request that a job ends; return whether it had not begun, and so never will.

    The request comes before the claim, so that every process that sees the claim knows why.

    Raises:
        OSError: it cannot be written.
    """
    stopping.request_stop(directory, why, by)
    if not records.take_claim(directory, records.NOBODY):
        return records.read_claim(directory) == records.NOBODY
    resolve(directory, UNREACHABLE_REPORT, owner_lives=False, engine=engine)
    return True


def _absent(directory: str) -> JobReport:
    """Return what it means, at one look, that the engine does not know a job: of a young one, nothing yet."""
    submitted = read_submission(directory).get("submitted_ns")
    young = isinstance(submitted, int) and time.time_ns() - submitted < REPEAT_WITHIN_SECONDS * 1e9
    if young:
        return JobReport(queue_state=QueueState.UNREACHABLE, reason="unknown so far")
    return JobReport(queue_state=QueueState.ABSENT)


def read_submission(directory: str) -> dict[str, Any]:
    """Return what was recorded at the submission of a job, nothing without one."""
    return records.read(directory, records.SUBMISSION) or {}
