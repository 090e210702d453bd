"""The interface between the load generator and the service that runs its jobs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol

import attrs

from supervisor.model import Job

__all__ = ["RUN_LABEL", "Driver", "Refused", "Request", "Through"]

RUN_LABEL = "bench"
"""The label of every job of a run; its value is the run's name."""


@attrs.frozen(slots=True)
class Request:
    """A job to start.

    Attributes:
        argv: its command.
        key: its idempotency key.
        run: the name of the run, the value of its label.
        deadline_seconds: its deadline.
    """

    argv: tuple[str, ...]
    key: str
    run: str
    deadline_seconds: float


@attrs.frozen(slots=True)
class Through:
    """The group of all jobs of a load.

    Attributes:
        name: of the group.
        limit: makes the group for the load, with this limit; ``None`` for a group that exists.
    """

    name: str
    limit: int | None = None


class Refused(Exception):
    """A call had an error as its answer, or no answer.

    Attributes:
        code: the code of the error, for counting.
        message: the error as text.
        certain: whether the call had no effect; unknown after a broken connection.
    """

    def __init__(self, message: str, *, code: str, certain: bool = True) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.certain = certain


class Driver(Protocol):
    """A service that runs jobs. Every method raises ``Refused`` if its answer is an error."""

    @property
    def facts(self) -> dict[str, Any]:
        """The description of the service for the report; ``group`` and ``limit`` if the jobs are in a group."""
        ...

    @property
    def keeps_jobs(self) -> bool:
        """Whether jobs stay after their output was fetched, so that they can be listed at the end."""
        ...

    @property
    def same_machine(self) -> bool:
        """Whether the jobs run on this machine, judging by the address of the service."""
        ...

    async def start(self, request: Request) -> Job:
        """Start a job and return it once it runs or has ended."""
        ...

    async def wait(self, job_id: str, seconds: float) -> Job:
        """Return a job once it has ended, or unfinished after ``seconds``. Does not poll."""
        ...

    async def cancel(self, job_id: str) -> Job:
        """Stop a job, and return it once none of its processes is left."""
        ...

    async def fetch(self, job: Job) -> bytes:
        """Return the stdout of an ended job."""
        ...

    def listed(self, run: str) -> AsyncIterator[Job]:
        """Yield the existing jobs of a run."""
        ...

    async def forget(self, job_id: str) -> None:
        """Delete an ended job."""
