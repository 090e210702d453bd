"""Before a load: a trial job with a known result, and the cost of the generator itself.

The trial job shows whether the driver starts jobs, and whether this machine can read their marks. It
also starts what the first job needs, the keeper for instance. The cost of the generator is measured
with a driver that answers at once and does nothing.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, Final

import attrs
import trio

from supervisor.errors import EndpointFailed
from supervisor.load.driver import Driver, Request
from supervisor.load.generator import Load
from supervisor.load.mix import Mix
from supervisor.load.program import argv, expected_output, read_marks
from supervisor.model import Job
from supervisor.states import Reason, State

__all__ = ["own_cost", "try_out"]

_JOBS: Final = 200
_BYTES: Final = 20


async def try_out(driver: Driver, run: str, marks: str, patience_seconds: float) -> bool:
    """Run one job to its end, and return whether this machine can read its marks.

    Raises:
        Refused: a call about the job was refused.
        EndpointFailed: the job did not end as expected.
    """
    tag = f"{run}-0"
    command = argv(tag, marks=marks, before=_BYTES, after=_BYTES)
    try:
        with trio.fail_after(patience_seconds):
            job = await driver.start(Request(command, f"bench-{tag}", run, patience_seconds))
            job = await driver.wait(job.job_id, patience_seconds)
            written = await driver.fetch(job)
            if driver.keeps_jobs:
                await driver.forget(job.job_id)
    except trio.TooSlowError:
        message = f"a first job had not ended after {patience_seconds:g} s"
        raise EndpointFailed(message) from None
    if job.status is not State.DONE:
        message = f"a first job ended {job.status.value}: {job.detail or job.reason}"
        raise EndpointFailed(message, details={"job_id": job.job_id})
    if written != expected_output(tag, _BYTES, _BYTES):
        message = f"a first job wrote {2 * _BYTES} bytes, but its output has {len(written)} other bytes"
        raise EndpointFailed(message, details={"job_id": job.job_id})
    found = await trio.to_thread.run_sync(read_marks, marks)
    return found.begun[tag] == found.ended[tag] == 1


async def own_cost(mix: Mix) -> float:
    """Return the CPU seconds of the generator itself for a job of this mix."""
    sorts = tuple(
        sort
        if sort.cancel_after_seconds is None
        else attrs.evolve(sort, cancel_after_seconds=attrs.evolve(sort.cancel_after_seconds, form="fixed", values=(0,)))
        for sort in mix.sorts
    )
    at_once = attrs.evolve(mix, sorts=sorts, rate=100_000, for_seconds=10, jobs=_JOBS)
    load = Load(_NullDriver(), at_once, "null")
    began = time.thread_time()
    await load.run()
    return (time.thread_time() - began) / max(1, len(load.records))


class _NullDriver:
    """A driver whose jobs end at once, as expected."""

    keeps_jobs = True
    same_machine = True

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {"kind": "null"}
        now = datetime.now(UTC)
        self._job = Job(
            job_id="",
            kind="raw",
            status=State.DONE,
            reason=Reason.EXITED,
            workspace="/",
            argv=(),
            created_at=now,
            started_at=now,
            completed_at=now,
            exit_code=0,
        )

    async def start(self, request: Request) -> Job:
        await trio.lowlevel.checkpoint()
        return attrs.evolve(self._job, job_id=request.key, argv=request.argv, status=State.RUNNING)

    async def wait(self, job_id: str, seconds: float) -> Job:
        del seconds
        await trio.lowlevel.checkpoint()
        return attrs.evolve(self._job, job_id=job_id)

    async def cancel(self, job_id: str) -> Job:
        await trio.lowlevel.checkpoint()
        return attrs.evolve(self._job, job_id=job_id, status=State.CANCELLED, reason=Reason.CANCELLED)

    async def fetch(self, job: Job) -> bytes:
        del job
        await trio.lowlevel.checkpoint()
        return b""

    async def listed(self, run: str) -> AsyncIterator[Job]:
        del run
        nothing: tuple[Job, ...] = ()
        for job in nothing:
            yield job

    async def forget(self, job_id: str) -> None:
        del job_id
