"""Every moment of a job's life, and every order in which its writes may reach the disk, and what is told afterwards."""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable

import pytest

import supervisor
from supervisor.jobs.catalog import Catalog
from supervisor.system import processes
from tests.power.conftest import Disk, Life, Told
from tests.power.replay import Moment, moments

pytestmark = pytest.mark.skipif(not processes.HAVE_PROC, reason="needs /proc")

SEED = 20261129
PRINTS = ["sh", "-c", "printf hello"]
UNKNOWN = {"job_lost", "output_lost"}

Living = Callable[[Life], Awaitable[None]]


async def runs(life: Life) -> None:
    """Start a job and wait for its end."""
    async with supervisor.open_supervisor(life.settings()) as sup:
        job = await sup.start(PRINTS)
        life.acknowledge("started", job.job_id)
        job = await sup.wait(job.job_id)
        value = (await sup.result(job.job_id)).value
        life.acknowledge("ended", job.job_id, told=[str(job.status), str(job.reason), job.exit_code, value])


async def waits(life: Life) -> None:
    """Have a job wait before it is launched."""
    async with supervisor.open_supervisor(life.settings()) as sup:
        job = await sup.start(PRINTS, hold=True)
        life.acknowledge("started", job.job_id)
        await sup.release(job.job_id)
        job = await sup.wait(job.job_id)
        life.acknowledge("ended", job.job_id, told=[str(job.status), str(job.reason), job.exit_code, "hello"])


async def is_cancelled(life: Life) -> None:
    """Cancel a job."""
    async with supervisor.open_supervisor(life.settings()) as sup:
        job = await sup.start(["sleep", "600"])
        life.acknowledge("started", job.job_id)
        job = await sup.cancel(job.job_id)
        told = [str(job.status), str(job.reason), job.exit_code, "job_cancelled"]
        life.acknowledge("ended", job.job_id, told=told)


async def cannot_be_launched(life: Life) -> None:
    """Start a command that does not exist."""
    async with supervisor.open_supervisor(life.settings()) as sup:
        job = await sup.start(["no-such-command"])
        life.acknowledge("started", job.job_id)
        told = [str(job.status), str(job.reason), job.exit_code, "launch_failed"]
        life.acknowledge("ended", job.job_id, told=told)


async def ends_for_another_process(life: Life) -> None:
    """Have a process that does not wait for the disk itself tell the end."""
    async with supervisor.open_supervisor(life.settings()) as sup:
        job = await sup.start(["sh", "-c", "sleep 0.2; printf hello"])
        life.acknowledge("started", job.job_id)
    with Catalog(life.settings("process")) as catalog:
        (job,) = catalog.wait([job.job_id])
        life.acknowledge("ended", job.job_id, told=[str(job.status), str(job.reason), job.exit_code, "hello"])


async def is_launched_by_another_process(life: Life) -> None:
    """Have a supervisor launch a job whose own settings, and so those of its keeper, do not wait for the disk."""
    async with supervisor.open_supervisor(life.settings()) as sup:
        job = await sup.start(PRINTS, hold=True)
        life.acknowledge("started", job.job_id)
    async with supervisor.open_supervisor(life.settings("process")) as sup:
        await sup.release(job.job_id)
        job = await sup.wait(job.job_id)
        life.acknowledge("ended", job.job_id, told=[str(job.status), str(job.reason), job.exit_code, "hello"])


LIVES = (
    *(runs, waits, is_cancelled, cannot_be_launched, ends_for_another_process),
    is_launched_by_another_process,
)


def wrong(moment: Moment, told: Told, end: list[object]) -> str | None:
    """Return what is wrong with what is told about a job, whose true end is ``end``."""
    marks = {mark["name"] for mark in moment.marks}
    status, _, _, value = told
    if "ended" in marks and list(told) != end:
        return "an end that was told is told otherwise"
    if "started" in marks and status == "job_not_found":
        return "a job that was acknowledged is not known"
    if status == "running":
        return "a job runs after a reboot"
    if status == "queued" and "spawning" in marks:
        return "a job may be launched a second time"
    if status == "done" and list(told) != end and value not in UNKNOWN:
        return "a job is done with a wrong result"
    if status == "done" and "reaped" not in marks:
        return "a job is done before its command has ended"
    return None


def check(life: Life, disk: Disk, most: float) -> list[tuple[int, Told, str]]:
    """Settle what each moment may leave on the disk; return what is wrong."""
    lived = list(moments(life.log))
    (end,) = [mark for mark in lived[-1].marks if mark["name"] == "ended"]
    chance, found = random.Random(SEED), list[tuple[int, Told, str]]()
    for number, moment in enumerate(lived):
        for crash in moment.crashes(most, chance):
            told = disk.tell(crash, end["job_id"])
            if (why := wrong(moment, told, end["told"])) is not None:
                found.append((number, told, why))
    return found


@pytest.mark.parametrize("living", LIVES)
async def test_samples_of_what_a_loss_of_power_leaves(life: Life, disk: Callable[[], Disk], living: Living) -> None:
    await living(life)
    assert check(life, disk(), 2) == []


@pytest.mark.slow
@pytest.mark.parametrize("living", LIVES)
async def test_all_that_a_loss_of_power_leaves(life: Life, disk: Callable[[], Disk], living: Living) -> None:
    await living(life)
    assert check(life, disk(), math.inf) == []


async def test_without_syncs_the_same_is_found_wrong(life: Life, disk: Callable[[], Disk]) -> None:
    async with supervisor.open_supervisor(life.settings("process")) as sup:
        job = await sup.start(PRINTS)
        life.acknowledge("started", job.job_id)
        job = await sup.wait(job.job_id)
        life.acknowledge("ended", job.job_id, told=[str(job.status), str(job.reason), job.exit_code, "hello"])
    found = {why for _, _, why in check(life, disk(), 2)}
    assert "a job that was acknowledged is not known" in found
    assert "an end that was told is told otherwise" in found
