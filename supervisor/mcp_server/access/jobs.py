"""The jobs that a caller may access, and waiting for their ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import trio

from supervisor.errors import JobNotFound, JobRunning, SupervisorError
from supervisor.mcp_server.access.principals import may_see
from supervisor.mcp_server.lazy import LazySupervisor
from supervisor.mcp_server.series import last_attempt
from supervisor.model import Job

if TYPE_CHECKING:
    from supervisor.runtime.supervisor import Supervisor

__all__ = ["visible", "waited"]


async def visible(lazy: LazySupervisor, principal: str | None, job_id: str) -> tuple[Supervisor, Job]:
    """Return the supervisor and a job that ``principal`` may access.

    Raises:
        JobNotFound: there is no such job for this principal.
    """
    supervisor = await lazy.supervisor()
    job = await supervisor.status(job_id)
    if not may_see(principal, job):
        message = f"there is no job {job_id!r:.80}"
        raise JobNotFound(message, details={"job_id": job_id[:80]})
    return supervisor, job


async def waited(
    lazy: LazySupervisor, job_id: str, seconds: float, meanwhile: Callable[[], Awaitable[None]] | None = None
) -> Job:
    """Return a job once it has ended, ``seconds`` have passed, or the server is about to end.

    ``meanwhile`` runs until then; it must raise no ``SupervisorError``.
    """
    supervisor = await lazy.supervisor()
    outcome: list[Job | SupervisorError] = []

    async def wait() -> None:
        try:
            outcome.append(await supervisor.wait(job_id, timeout=seconds))
        except SupervisorError as error:  # raised below, outside of an exception group
            outcome.append(error)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        if meanwhile is not None:
            nursery.start_soon(meanwhile)
        await lazy.ending.wait()
        nursery.cancel_scope.cancel()
    match outcome:
        case [Job() as job]:
            return job
        case [SupervisorError() as error] if not isinstance(error, JobRunning):
            raise error
        case _:
            return await last_attempt(supervisor, await supervisor.status(job_id))
