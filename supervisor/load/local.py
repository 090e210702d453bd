"""The driver of a state root on this machine, through the public interface of the library."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from typing import Final

import attrs

from supervisor.errors import InvalidArguments, JobRunning, SupervisorError
from supervisor.load.driver import RUN_LABEL, Driver, Refused, Request
from supervisor.model import Job, JobSpec
from supervisor.runtime.opening import open_supervisor
from supervisor.runtime.supervisor import Supervisor
from supervisor.settings import Settings
from supervisor.states import State
from supervisor.store.state_root import workspace_key

__all__ = ["local_driver"]

_MAX_COUNT: Final = 1 << 31
_MIN_TTL_SECONDS: Final = 86400
_PAGE: Final = 1000


class _LocalDriver:
    keeps_jobs = True
    same_machine = True

    def __init__(self, supervisor: Supervisor, workspace: str) -> None:
        self._supervisor = supervisor
        self._workspace = workspace
        self._environment = {"PATH": os.environ.get("PATH", os.defpath)}
        self.facts = {"kind": "local", "state_dir": str(supervisor.settings.state_dir), "workspace": workspace}

    async def start(self, request: Request) -> Job:
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
        with _refusals():
            try:
                return await self._supervisor.wait(job_id, timeout=seconds)
            except JobRunning:
                return await self._supervisor.status(job_id)

    async def cancel(self, job_id: str) -> Job:
        with _refusals():
            return await self._supervisor.cancel(job_id)

    async def fetch(self, job: Job) -> bytes:
        with _refusals():
            if job.status is State.DONE:
                value = (await self._supervisor.result(job.job_id)).value
                return value.encode() if isinstance(value, str) else b""
            async with self._supervisor.follow(job.job_id) as chunks:
                return b"".join([chunk async for chunk in chunks])

    async def listed(self, run: str) -> AsyncIterator[Job]:
        cursor: str | None = None
        while True:
            with _refusals():
                page = await self._supervisor.list(labels={RUN_LABEL: run}, limit=_PAGE, cursor=cursor)
            for job in page.jobs:
                yield job
            if (cursor := page.next_cursor) is None:
                return

    async def forget(self, job_id: str) -> None:
        with _refusals():
            await self._supervisor.forget(job_id)


@contextlib.contextmanager
def _refusals() -> Generator[None]:
    try:
        yield
    except SupervisorError as error:
        raise Refused(error.message, code=error.code) from error


@contextlib.asynccontextmanager
async def local_driver(settings: Settings, workspace: str, max_output_bytes: int) -> AsyncGenerator[Driver]:
    """Open a state root for a load, with limits that evict none of its jobs before the audit.

    Raises:
        InvalidArguments: a job would write more than the settings allow.
    """
    if max_output_bytes > settings.job_max_output_bytes:
        message = f"a job may write {max_output_bytes} bytes, but the limit is {settings.job_max_output_bytes}"
        raise InvalidArguments(message, repair="Lower the output, or raise SUPERVISOR_JOB_MAX_OUTPUT_BYTES.")
    settings = attrs.evolve(settings, job_max_count=_MAX_COUNT, job_ttl=max(settings.job_ttl, _MIN_TTL_SECONDS))
    async with open_supervisor(settings) as supervisor:
        yield _LocalDriver(supervisor, workspace)
    # No further job will use this workspace. The directory stays if it is not empty, because jobs are kept.
    with contextlib.suppress(OSError):
        os.rmdir(f"{settings.state_dir}/{workspace_key(workspace)}")
