"""What the generator asks of whoever runs the jobs, and the request that it makes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol

import attrs

from supervisor.model import Job

__all__ = ["RUN_LABEL", "Driver", "Refused", "Request"]

RUN_LABEL = "bench"
"""The label that every job of a run has; its value is the run's name."""


@attrs.frozen(slots=True)
class Request:
    """A job that is asked for.

    Attributes:
        argv: its command.
        key: its idempotency key.
        run: the name of the run, which goes into its label.
        deadline_seconds: when it is stopped.
    """

    argv: tuple[str, ...]
    key: str
    run: str
    deadline_seconds: float


class Refused(Exception):
    """A call was answered by an error, or by nothing.

    Attributes:
        code: of the error, for counting.
        message: what was said.
        certain: whether nothing was done; of a connection that broke nobody knows.
    """

    def __init__(self, message: str, *, code: str, certain: bool = True) -> None:
        """Keep what is given."""
        super().__init__(message)
        self.code = code
        self.message = message
        self.certain = certain


class Driver(Protocol):
    """Somebody who runs jobs. Every method raises ``Refused`` when it is answered by an error."""

    @property
    def facts(self) -> dict[str, Any]:
        """What it is, for the report."""
        ...

    @property
    def keeps(self) -> bool:
        """Whether jobs stay after their output was fetched, so that they can be listed at the end."""
        ...

    @property
    def same_machine(self) -> bool:
        """Whether its clock and its processes are those of this machine, as far as can be told beforehand."""
        ...

    async def start(self, request: Request) -> Job:
        """Return a job that runs, or has ended already."""
        ...

    async def wait(self, job_id: str, seconds: float) -> Job:
        """Return a job when it has ended, or as it is after ``seconds``. Nothing is polled."""
        ...

    async def cancel(self, job_id: str) -> Job:
        """Stop a job, and return it when nothing of it is left."""
        ...

    async def fetch(self, job: Job) -> bytes:
        """Return the stdout of an ended job."""
        ...

    def listed(self, run: str) -> AsyncIterator[Job]:
        """Yield the jobs of a run that are kept."""
        ...

    async def forget(self, job_id: str) -> None:
        """Forget an ended job."""
        ...
