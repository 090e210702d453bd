"""Jobs of a state root on this machine, through the public interface of the library."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from typing import Any, Final

import attrs

from supervisor.errors import InvalidArguments, JobRunning, SupervisorError
from supervisor.load.driver import RUN_LABEL, Refused, Request
from supervisor.model import Job, JobSpec
from supervisor.runtime.opening import open_supervisor
from supervisor.runtime.supervisor import Supervisor
from supervisor.settings import Settings
from supervisor.states import State
from supervisor.store.state_root import workspace_key

__all__ = ["LocalDriver", "local_driver"]

_KEEP_ALL: Final = 1 << 31
_KEEP_SECONDS: Final = 86400
_PAGE: Final = 1000


class LocalDriver:
    """Asks a supervisor in this process. Made by ``local_driver``."""

    keeps = True
    same_machine = True

    def __init__(self, supervisor: Supervisor, workspace: str) -> None:
        """Keep what it asks, and where the jobs are to run."""
        self._supervisor = supervisor
        self._workspace = workspace
        self._environment = {"PATH": os.environ.get("PATH", os.defpath)}

    @property
    def facts(self) -> dict[str, Any]:
        """What it is, for the report."""
        return {"kind": "local", "state_dir": str(self._supervisor.settings.state_dir), "workspace": self._workspace}

    async def start(self, request: Request) -> Job:
        """Return a job that runs, or has ended already."""
        spec = JobSpec(
            argv=request.argv,
            workspace=self._workspace,
            deadline_seconds=request.deadline_seconds,
            env=self._environment,
            labels={RUN_LABEL: request.run},
            idempotency_key=request.key,
        )
        with _refusals():
            return await self._supervisor.start(spec)

    async def wait(self, job_id: str, seconds: float) -> Job:
        """Return a job when it has ended, or as it is after ``seconds``."""
        with _refusals():
            try:
                return await self._supervisor.wait(job_id, timeout=seconds)
            except JobRunning:
                return await self._supervisor.status(job_id)

    async def cancel(self, job_id: str) -> Job:
        """Stop a job, and return it when nothing of it is left."""
        with _refusals():
            return await self._supervisor.cancel(job_id)

    async def fetch(self, job: Job) -> bytes:
        """Return the stdout of an ended job: of one that is done its result, else what is in its log."""
        with _refusals():
            if job.status is State.DONE:
                value = (await self._supervisor.result(job.job_id)).value
                return value.encode() if isinstance(value, str) else b""
            async with self._supervisor.follow(job.job_id) as chunks:
                return b"".join([chunk async for chunk in chunks])

    async def listed(self, run: str) -> AsyncIterator[Job]:
        """Yield the jobs of a run that are kept."""
        cursor: str | None = None
        while True:
            with _refusals():
                page = await self._supervisor.list(labels={RUN_LABEL: run}, limit=_PAGE, cursor=cursor)
            for job in page.jobs:
                yield job
            if (cursor := page.next_cursor) is None:
                return

    async def forget(self, job_id: str) -> None:
        """Forget an ended job."""
        with _refusals():
            await self._supervisor.forget(job_id)


@contextlib.contextmanager
def _refusals() -> Generator[None]:
    try:
        yield
    except SupervisorError as error:
        raise Refused(error.message, code=error.code) from error


@contextlib.asynccontextmanager
async def local_driver(settings: Settings, workspace: str, most_output_bytes: int) -> AsyncGenerator[LocalDriver]:
    """Open a state root for a load.

    Nothing of it may expire or make room before it was looked at, so the retention of its own jobs is raised.

    Raises:
        InvalidArguments: a job would write more than the settings allow.
    """
    if most_output_bytes > settings.job_max_output_bytes:
        message = f"a job may write {most_output_bytes} bytes, and {settings.job_max_output_bytes} are allowed here"
        raise InvalidArguments(message, repair="Lower the output, or raise SUPERVISOR_JOB_MAX_OUTPUT_BYTES.")
    settings = attrs.evolve(settings, job_max_count=_KEEP_ALL, job_ttl=max(settings.job_ttl, _KEEP_SECONDS))
    async with open_supervisor(settings) as supervisor:
        yield LocalDriver(supervisor, workspace)
    # Nobody will ever run a job there again. Where some are kept it is not empty, and stays.
    with contextlib.suppress(OSError):
        os.rmdir(f"{settings.state_dir}/{workspace_key(workspace)}")
