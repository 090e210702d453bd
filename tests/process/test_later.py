"""Real jobs that wait for others and for times."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import trio

import supervisor
from supervisor.errors import InvalidArguments, JobNotFound
from supervisor.jobdir.records import ORDERS
from supervisor.system import processes

if TYPE_CHECKING:
    from tests.process.conftest import World

pytestmark = [
    pytest.mark.skipif(not processes.HAVE_PROC, reason="needs Linux"),
    pytest.mark.usefixtures("world"),
]
PATIENCE = 30


async def test_a_job_runs_after_the_job_that_it_waits_for(world: World) -> None:
    gate, up = world.fifo(), world.fifo()
    async with supervisor.open_supervisor() as sup:
        first = await sup.start(["sh", "-c", 'echo up > "$1"; read line < "$0"', str(gate), str(up)])
        assert up.line() == "up"
        then = await sup.start(["echo", "then"], after=[first.job_id])
        never = await sup.start(["echo", "never"], after=[("failed", first.job_id)])
        assert (then.status, then.queue_reason, then.after) == (
            "queued",
            "dependency",
            ({"job_id": first.job_id, "when": "ok"},),
        )
        gate.open()
        with trio.fail_after(PATIENCE):
            assert (await sup.wait(then.job_id)).status == "done"
            ended = await sup.wait(never.job_id)
        assert (ended.status, ended.reason) == ("cancelled", "dependency_failed")
        result = await sup.result(never.job_id)
        assert result.error is not None
        assert result.error.code == "dependency_failed"
        assert not list(world.root.glob(f"*/*/{ORDERS}"))


async def test_a_delayed_job_runs_when_its_time_has_come() -> None:
    async with supervisor.open_supervisor() as sup:
        job = await sup.start(["true"], delay_seconds=0.3)
        assert (job.status, job.queue_reason) == ("queued", "not_before")
        with trio.fail_after(PATIENCE):
            ended = await sup.wait(job.job_id)
        assert ended.status == "done"
        assert ended.started_at is not None
        assert ended.started_at - ended.created_at >= timedelta(seconds=0.3)


async def test_a_job_that_cannot_start_in_time_is_cancelled() -> None:
    async with supervisor.open_supervisor() as sup:
        await sup.set_group("g", limit=1)
        first = await sup.start(["sleep", "60"], groups=["g"])
        job = await sup.start(["true"], groups=["g"], start_within_seconds=0.2)
        with trio.fail_after(PATIENCE):
            ended = await sup.wait(job.job_id)
        assert (ended.status, ended.reason) == ("cancelled", "start_expired")
        await sup.cancel(first.job_id)


async def test_a_job_on_hold_can_be_cancelled() -> None:
    async with supervisor.open_supervisor() as sup:
        job = await sup.start(["true"], hold=True)
        assert job.queue_reason == "held"
        assert (await sup.cancel(job.job_id)).reason == "cancelled"


async def test_what_cannot_be_waited_for_is_refused() -> None:
    far = datetime.now(UTC) + timedelta(days=365)
    async with supervisor.open_supervisor() as sup:
        with pytest.raises(JobNotFound, match="to wait for"):
            await sup.start(["true"], after=["0" * 32])
        for options in (
            {"after": ["nonsense"]},
            {"after": [("soon", "0" * 32)]},
            {"after": [("ok",)]},
            {"delay_seconds": 365 * 86400},
            {"not_before": far},
            {"not_before": far.replace(tzinfo=None)},
            {"start_within_seconds": -1},
        ):
            with pytest.raises(InvalidArguments):
                await sup.start(["true"], **options)
        assert (await sup.list()).jobs == ()
