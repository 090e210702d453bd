"""The interface of a cluster: five operations, and the reports that it gives.

To add a cluster (Kubernetes Jobs, for example) write a ``Backend`` for supervisors, a ``SyncBackend`` for programs
without an event loop, and a check of its options, and name the three in a ``ClusterFactory`` to which an entry point
``supervisor.engines`` refers. The rest is here: ``ClusterEngine`` makes an ``Engine`` of a backend, ``reconcile``
decides what records and reports mean together, ``single_job`` runs on the node.

Rules for a backend:

* ``submit`` may be repeated under one key, by any process, at any time, and may even start a job twice: the claim in
  the job directory lets one of them run. It raises ``Rejected`` only when the cluster has refused the job for good,
  and ``Unreachable`` whenever it is not known whether the job was accepted.
* ``observe`` is one request for all jobs. A job that the cluster does not know is missing in the answer. If the
  cluster cannot be asked, it raises ``Unreachable``. The two differ: the cluster may have lost a job that it does not
  know; a job that is out of reach goes on.
* ``cancel`` is a request, and idempotent; a job that has ended is no error.
* ``collect`` is the cluster's report of an end. It counts only where the node left no record.
* ``recover`` finds by their keys the handles of jobs whose submission was not recorded.

The cluster gets no command line, no environment and no input of a job: only the paths of the keeper and of the job
directory.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from enum import Enum
from typing import Any, Final, Protocol, runtime_checkable

import attrs

from supervisor.engines.limits import Granted
from supervisor.model import Limits

__all__ = [
    "ADMISSION",
    "Backend",
    "JobReport",
    "LimitsSubmissions",
    "QueueState",
    "Rejected",
    "Submission",
    "SyncBackend",
    "Unreachable",
]


class Unreachable(Exception):
    """The cluster cannot be asked, or gave no answer; nothing follows from that."""


class Rejected(Exception):
    """The cluster has refused a job, for the reason that the message gives."""


ADMISSION: Final = "admission"
"""The engine option by which a cluster admits its jobs; ``Submission`` has ``after`` and ``begin_ns`` of it."""


class QueueState(Enum):
    """The state of a job in the cluster's queue."""

    QUEUED = "queued"
    RUNNING = "running"
    ENDED = "ended"
    ABSENT = "absent"
    UNREACHABLE = "unreachable"


@attrs.frozen(slots=True, kw_only=True)
class JobReport:
    """The cluster's report about one job.

    Attributes:
        queue_state: its state; ``UNREACHABLE`` without an answer.
        handle: the cluster's own name for it.
        reason: why it waits, when it is queued.
        state: the cluster's name for how it ended, for people.
        exit_code: what the keeper exited with, as ``collect`` knows it: the command's, unless 125 or above 128.
        cancelled: it was ended by a request to the cluster.
        overdue: it was ended for running longer than the limit that the cluster was given.
        unsatisfied: it was ended since a job that it depends on cannot end any more as it has to.
    """

    queue_state: QueueState
    handle: str | None = None
    reason: str | None = None
    state: str | None = None
    exit_code: int | None = None
    cancelled: bool = False
    overdue: bool = False
    unsatisfied: bool = False


@attrs.frozen(slots=True, kw_only=True)
class Submission:
    """A job to be submitted.

    Attributes:
        key: the name by which it is found again; the same for every repetition.
        directory: the job directory, on the shared file system.
        command: the command for the node, as words for a shell that need no quoting.
        deadline_seconds: how long the command may run; the keeper enforces it, the cluster is a safety net.
        grace_seconds: the time it may take after that.
        options: the cluster's own options, checked.
        after: for a cluster that admits jobs, the jobs that it waits for: each with ``"ok"``, ``"any"``, ``"failed"``
            or ``"start"``, and its handle. A job whose dependency can no longer hold is to be ended.
        begin_ns: the wall-clock time before which such a cluster does not run it.
    """

    key: str
    directory: str
    command: tuple[str, ...]
    deadline_seconds: float | None = None
    grace_seconds: float = 5
    options: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    after: Sequence[tuple[str, str]] = ()
    begin_ns: int | None = None


class Backend(Protocol):
    """A cluster, for a supervisor. Cancelling an operation leaves its outcome open."""

    @property
    def name(self) -> str:
        """Recorded with every job."""
        ...

    async def submit(self, submission: Submission) -> str:
        """Submit a job, and return the cluster's handle for it.

        Raises:
            Rejected: it was refused and will not run.
            Unreachable: it may or may not have been accepted.
        """
        ...

    async def observe(self, keys: Collection[str]) -> Mapping[str, JobReport]:
        """Return the reports about these jobs, in one request; a job that is missing in the answer is absent.

        Raises:
            Unreachable: nothing is known.
        """
        ...

    async def cancel(self, key: str, *, nudge: bool = False) -> None:
        """Request the end of a job; ``nudge`` only has its keeper read the requests to it.

        Raises:
            Unreachable: the request may not have arrived.
        """
        ...

    async def collect(self, handle: str) -> JobReport | None:
        """Return the report about the end of a job, ``None`` when the cluster does not know the job any more.

        Raises:
            Unreachable: it cannot be asked.
        """
        ...

    async def recover(self, keys: Collection[str]) -> Mapping[str, str]:
        """Return the handles of those of these jobs that the cluster knows.

        Raises:
            Unreachable: it cannot be asked.
        """
        ...


@runtime_checkable
class LimitsSubmissions(Protocol):
    """A backend that can limit what a job uses."""

    def limit(self, limits: Limits) -> Granted:
        """Return the options of a submission that set the limits of a job.

        Raises:
            FeatureUnavailable: the cluster has no such limit, and the job must not run without it.
        """
        ...


class SyncBackend(Protocol):
    """A cluster, for programs without an event loop; every call is short, and blocks for that long."""

    def observe(self, keys: Collection[str]) -> Mapping[str, JobReport]:
        """Return the reports about these jobs; a cluster that cannot be asked is ``UNREACHABLE`` in them."""
        ...

    def cancel(self, key: str, *, nudge: bool = False) -> bool:
        """Request the end of a job, or a look of its keeper; ``False`` when the cluster cannot be reached."""
        ...

    def collect(self, handle: str) -> JobReport | None:
        """Return the report about the end of a job, ``None`` when there is none."""
        ...
