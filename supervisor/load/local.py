"""The driver of a state root on this machine, through the public interface of the library."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from typing import Any, Final

import attrs

from supervisor.errors import GroupNotFound, InvalidArguments, JobRunning, SupervisorError
from supervisor.load.driver import RUN_LABEL, Driver, Refused, Request, Through
from supervisor.model import GroupInfo, Job, JobSpec
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

    def __init__(self, supervisor: Supervisor, workspace: str, group: GroupInfo | None) -> None:
        self._supervisor = supervisor
        self._workspace = workspace
        self._groups = () if group is None else (group.name,)
        self._environment = {"PATH": os.environ.get("PATH", os.defpath)}
        state_dir = str(supervisor.settings.state_dir)
        self.facts: dict[str, Any] = {"kind": "local", "state_dir": state_dir, "workspace": workspace}
        if group is not None:
            self.facts |= {"group": group.name, "limit": group.limit}

    async def start(self, request: Request) -> Job:
        spec = JobSpec(
            argv=request.argv,
            workspace=self._workspace,
            deadline_seconds=request.deadline_seconds,
            env=self._environment,
            labels={RUN_LABEL: request.run},
            idempotency_key=request.key,
            groups=self._groups,
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


async def _group(supervisor: Supervisor, through: Through) -> GroupInfo:
    """Return the group of a load, which is made if its limit is given."""
    found = [each for each in await supervisor.groups() if each.name == through.name]
    if through.limit is not None:
        if found:
            message = f"group {through.name} exists, and --limit would make it for this load"
            raise InvalidArguments(message, repair="Omit --limit to use that group as it is, or give another name.")
        return await supervisor.set_group(through.name, limit=through.limit)
    if not found:
        message = f"there is no group {through.name!r}"
        raise GroupNotFound(message, repair="Correct the name, or make the group for this load with --limit N.")
    return found[0]


@contextlib.asynccontextmanager
async def local_driver(
    settings: Settings, workspace: str, max_output_bytes: int, through: Through | None = None
) -> AsyncGenerator[Driver]:
    """Open a state root for a load, with limits that evict none of its jobs before the audit.

    Raises:
        InvalidArguments: a job would write more than the settings allow, or the group to be made exists.
        GroupNotFound: the group does not exist.
    """
    if max_output_bytes > settings.job_max_output_bytes:
        message = f"a job may write {max_output_bytes} bytes, but the limit is {settings.job_max_output_bytes}"
        raise InvalidArguments(message, repair="Lower the output, or raise SUPERVISOR_JOB_MAX_OUTPUT_BYTES.")
    settings = attrs.evolve(settings, job_max_count=_MAX_COUNT, job_ttl=max(settings.job_ttl, _MIN_TTL_SECONDS))
    async with open_supervisor(settings) as supervisor:
        group = None if through is None else await _group(supervisor, through)
        yield _LocalDriver(supervisor, workspace, group)
        if through is not None and through.limit is not None:
            with contextlib.suppress(SupervisorError):  # it stays as long as jobs of it run
                await supervisor.remove_group(through.name)
    # No further job will use this workspace. The directory stays if it is not empty, because jobs are kept.
    with contextlib.suppress(OSError):
        os.rmdir(f"{settings.state_dir}/{workspace_key(workspace)}")
