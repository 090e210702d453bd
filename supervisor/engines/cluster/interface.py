"""What an engine for many machines has to offer: five operations, and the words in which it answers.

To add one (Kubernetes Jobs, say) write a ``Backend`` for supervisors, a ``SyncBackend`` for programs without an
event loop, a check of its options, and give the three a name in ``remote.py``. Everything else is here
already: ``batch.ClusterEngine`` turns a backend into an ``Engine``, ``reconcile`` decides what a job's
records and the engine's word mean together, ``single_job`` is what the engine has to run on the node.

What a backend must get right:

* ``submit`` may be repeated under one key, by anybody, at any time, and may even start a job twice: the
  claim in the job directory lets one of them run. It raises ``Rejected`` only when the engine has refused
  the job for good, and ``Unreachable`` whenever it cannot be known whether the job was accepted.
* ``observe`` is one request for all jobs, never one for each. What the engine does not know is ``ABSENT``.
  What cannot be asked raises ``Unreachable``. The two are never confused: a job that is absent may have
  been lost by its engine, one that is out of reach just goes on.
* ``cancel`` is a request, and idempotent; that the job is gone already is no error.
* ``collect`` is the engine's own word about an end. It counts only where the node left no record.
* ``recover`` finds by their keys the handles of jobs whose submission was not recorded.

The engine gets no command line, no environment and no input of a job: only the path of the keeper and that
of the job directory.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import Enum
from typing import Any, Protocol

import attrs

__all__ = ["Backend", "JobReport", "QueueState", "Rejected", "Submission", "SyncBackend", "Unreachable"]


class Unreachable(Exception):
    """The engine cannot be asked, or did not say; nothing follows from that."""


class Rejected(Exception):
    """The engine has refused a job, for the reason that the message gives, and did not take it on."""


class QueueState(Enum):
    """Where a job stands, as its engine has it."""

    QUEUED = "queued"
    RUNNING = "running"
    ENDED = "ended"
    ABSENT = "absent"
    UNREACHABLE = "unreachable"


@attrs.frozen(slots=True, kw_only=True)
class JobReport:
    """What an engine says about one job.

    Attributes:
        standing: where it stands; ``UNREACHABLE`` when nothing was said.
        handle: the engine's own name for it.
        reason: why it waits, when it is queued.
        state: the engine's own word for an end, for people.
        exit_code: what the keeper exited with, as ``collect`` knows it: the command's, unless 125 or above 128.
        cancelled: it was ended on somebody's request to the engine.
        overdue: it was ended for running longer than the engine was told.
    """

    queue_state: QueueState
    handle: str | None = None
    reason: str | None = None
    state: str | None = None
    exit_code: int | None = None
    cancelled: bool = False
    overdue: bool = False


@attrs.frozen(slots=True, kw_only=True)
class Submission:
    """A job to be submitted.

    Attributes:
        key: the name by which it is found again; the same for every repetition.
        directory: the job directory, on the shared file system.
        command: what the node has to run, as words for a shell that need no quoting.
        deadline_seconds: how long the command may run; the keeper sees to it, the engine is a safety net.
        grace_seconds: what it may take after that.
        options: what only this engine understands, checked.
    """

    key: str
    directory: str
    command: tuple[str, ...]
    deadline_seconds: float | None = None
    grace_seconds: float = 5
    options: Mapping[str, Any] = attrs.field(factory=dict[str, Any])


class Backend(Protocol):
    """An engine for many machines, to a supervisor. Cancelling an operation leaves its outcome open."""

    @property
    def name(self) -> str:
        """Recorded with every job."""
        ...

    async def submit(self, submission: Submission) -> str:
        """Hand a job over, and return the engine's handle for it.

        Raises:
            Rejected: it was refused and will not run.
            Unreachable: it may or may not have been accepted.
        """
        ...

    async def observe(self, keys: Collection[str]) -> Mapping[str, JobReport]:
        """Say where these jobs stand, in one request; what is missing in the answer is absent.

        Raises:
            Unreachable: nothing is known.
        """
        ...

    async def cancel(self, key: str, *, nudge: bool = False) -> None:
        """Ask for a job to be ended; ``nudge`` only has its keeper look for what was asked of it.

        Raises:
            Unreachable: the request may not have arrived.
        """
        ...

    async def collect(self, handle: str) -> JobReport | None:
        """Return the engine's word about how a job ended, ``None`` when it does not know the job any more.

        Raises:
            Unreachable: it cannot be asked.
        """
        ...

    async def recover(self, keys: Collection[str]) -> Mapping[str, str]:
        """Return the handles of those of these jobs that the engine knows.

        Raises:
            Unreachable: it cannot be asked.
        """
        ...


class SyncBackend(Protocol):
    """The same, as far as programs without an event loop need it; every call is short, and may block for that long."""

    def observe(self, keys: Collection[str]) -> Mapping[str, JobReport]:
        """Say where these jobs stand; ``Unreachable`` is a word here, so that what is on disk still gets told."""
        ...

    def cancel(self, key: str, *, nudge: bool = False) -> bool:
        """Ask for a job to be ended, or its keeper to look; ``False`` when the engine cannot be reached."""
        ...

    def collect(self, handle: str) -> JobReport | None:
        """Return the engine's word about how a job ended, ``None`` when there is none to be had."""
        ...
