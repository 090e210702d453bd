"""Waiting jobs that are held, released and moved, by their own supervisor and by other processes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import trio

import supervisor
from supervisor.errors import InvalidArguments, JobNotFound, JobRunning, StateCorrupt
from supervisor.jobdir import records
from supervisor.jobs import places
from supervisor.jobs.catalog import Catalog
from supervisor.system import processes
from tests.process.test_groups import PATIENCE, command, counts, held, make

if TYPE_CHECKING:
    from tests.process.conftest import World

pytestmark = pytest.mark.skipif(not processes.HAVE_PROC, reason="needs Linux")


def rebuilt(world: World) -> None:
    """Have the index made anew."""
    for path in world.root.glob("registry.db*"):
        path.unlink()


def test_jobs_of_a_living_supervisor_are_held_released_and_moved_from_outside(world: World) -> None:
    make(world, "g", 1)
    gate, up = world.fifo(), world.fifo()
    host = world.host()
    host.start(*held(gate, up, "0"), groups=["g"])
    one, two, three = (host.start(*held(gate, up, name), groups=["g"]) for name in "123")
    assert up.line() == "0"
    job = json.loads(command(world, "hold", one[:8], "--json").stdout)
    assert (job["job_id"], job["status"], job["queue_reason"], job["queue_position"]) == (one, "queued", "held", None)
    assert command(world, "move", three, "--first").returncode == 0
    assert [world.catalog.status(job_id).queue_position for job_id in (three, two)] == [1, 2]
    assert counts(world, "g") == (1, 3)
    for name in "32":
        gate.open()
        assert up.line() == name
    gate.open()
    assert host.call("wait", two, timeout=PATIENCE)["status"] == "done"
    assert up.silent
    assert host.call("status", one)["queue_reason"] == "held"
    released = command(world, "release", one)
    assert (released.returncode, released.stdout.split()[0]) == (0, one)
    assert up.line() == "1"
    gate.open()
    assert host.call("wait", one, timeout=PATIENCE)["status"] == "done"


@pytest.mark.usefixtures("world")
async def test_its_own_supervisor_holds_releases_and_moves() -> None:
    async with supervisor.open_supervisor() as sup:
        await sup.set_group("g", limit=1, aging_seconds=600)
        first = await sup.start(["sleep", "60"], groups=["g"])
        one, two = [await sup.start(["true"], groups=["g"]) for _ in range(2)]
        assert ((await sup.hold(one.job_id)).queue_reason, (await sup.hold(one.job_id)).queue_reason) == ("held",) * 2
        assert (await sup.status(two.job_id)).queue_position == 1
        moved = await sup.move(one.job_id, priority=7)  # also while it is held
        assert (moved.priority, moved.queue_reason) == (7, "held")
        assert (await sup.release(one.job_id)).queue_position == 1
        assert (await sup.status(one.job_id)).priority == 7
        assert (await sup.move(two.job_id, first=True)).queue_position == 1
        assert (await sup.move(one.job_id, first=True)).queue_position == 1
        assert (await sup.move(one.job_id, priority=-1)).queue_position == 2
        assert (await sup.release(one.job_id)).queue_position == 2  # it is not held: nothing changes
        await sup.hold(two.job_id)
        await sup.cancel(first.job_id)
        with trio.fail_after(PATIENCE):
            assert (await sup.wait(one.job_id)).status == "done"
            await sup.release(two.job_id)
            assert (await sup.wait(two.job_id)).status == "done"


@pytest.mark.usefixtures("world")
async def test_a_start_on_hold_runs_once_it_is_released_although_nothing_else_changes() -> None:
    async with supervisor.open_supervisor() as sup:
        job = await sup.start(["echo", "x"], hold=True)
        await sup.release(job.job_id)
        with trio.fail_after(PATIENCE):
            assert (await sup.wait(job.job_id)).status == "done"
        assert (await sup.result(job.job_id)).value == "x\n"


def test_a_released_job_is_launched_when_no_supervisor_is_open(world: World) -> None:
    job_id = command(world, "start", "--hold", "--", "true").stdout.strip()
    assert world.catalog.status(job_id).queue_reason == "held"
    assert command(world, "release", job_id).returncode == 0
    (job,) = world.catalog.wait([job_id], timeout=PATIENCE)
    assert job.status == "done"


async def test_jobs_that_do_not_wait_are_left_alone(world: World) -> None:
    async with supervisor.open_supervisor() as sup:
        runs = await sup.start(["sleep", "60"])
        ended = await sup.start(["true"])
        await sup.wait(ended.job_id)
        for call in (sup.hold, sup.release, lambda job_id: sup.move(job_id, first=True)):
            with pytest.raises(JobRunning, match="it runs") as running:
                await call(runs.job_id)
            assert (running.value.retryable, running.value.details["status"]) == (False, "running")
            with pytest.raises(InvalidArguments, match="has ended: it is done"):
                await call(ended.job_id)
            with pytest.raises(JobNotFound):
                await call("0" * 32)
        waits = await sup.start(["true"], hold=True)
        for options in ({}, {"priority": 1, "first": True}, {"priority": 1001}, {"priority": True}):
            with pytest.raises(InvalidArguments):
                await sup.move(waits.job_id, **options)  # type: ignore[arg-type]
        assert command(world, "hold", runs.job_id).returncode == 75
        assert command(world, "release", ended.job_id).returncode == 2
        assert command(world, "move", "0" * 32, "--first").returncode == 3
        assert command(world, "move", waits.job_id).returncode == 2
        assert not list(world.root.glob(f"*/{runs.job_id}/{records.QUEUE}"))
        await sup.cancel(runs.job_id)


def test_a_rebuild_of_the_index_keeps_holds_and_the_order(world: World) -> None:
    make(world, "g", 1)
    gate, up = world.fifo(), world.fifo()
    host = world.host()
    host.start(*held(gate, up, "0"), groups=["g"])
    one, two, three, four = (host.start(*held(gate, up, name), groups=["g"]) for name in "1234")
    free = host.start("true", hold=True)
    places.hold(world.catalog, one)
    places.move(world.catalog, three, first=True)
    places.move(world.catalog, four, priority=3)
    places.release(world.catalog, free)
    before = {job_id: world.catalog.status(job_id) for job_id in (one, two, three, four)}
    rebuilt(world)
    for job_id, job in before.items():
        now = world.catalog.status(job_id)
        assert (now.queue_reason, now.queue_position, now.priority) == (
            job.queue_reason,
            job.queue_position,
            job.priority,
        )
    assert [before[job_id].queue_position for job_id in (one, two, three, four)] == [None, 3, 1, 2]
    assert host.call("wait", free, timeout=PATIENCE)["status"] == "done"


def test_what_a_newer_version_has_written_about_a_job_is_kept(world: World) -> None:
    job_id = command(world, "start", "--hold", "--", "true").stdout.strip()
    places.move(world.catalog, job_id, priority=2)
    directory = str(world.job(job_id))
    known = world.record(job_id, records.QUEUE)
    assert known is not None
    records.replace(directory, records.QUEUE, {**known, "of_a_newer_version": [1, {"x": None}]})
    rebuilt(world)
    places.move(world.catalog, job_id, priority=3)
    assert world.record(job_id, records.QUEUE) == {"v": 1, "priority": 3, "of_a_newer_version": [1, {"x": None}]}
    world.job(job_id).joinpath(records.QUEUE).write_text('{"v": 2, "order": "by moonlight"}')
    with pytest.raises(StateCorrupt, match="newer version"):
        places.move(world.catalog, job_id, priority=4)
    assert world.catalog.status(job_id).priority == 3


@pytest.mark.parametrize("content", ["", "{}", '{"v": 1, "hold": "yes"}', '{"v": 1, "first_ns": 1e300}'])
def test_a_job_whose_changes_are_damaged_waits_until_it_is_released(world: World, content: str) -> None:
    job_id = command(world, "start", "--delay", "2d", "--", "true").stdout.strip()
    places.move(world.catalog, job_id, priority=2)
    world.job(job_id).joinpath(records.QUEUE).write_text(content)
    rebuilt(world)
    assert world.catalog.status(job_id).queue_reason == "held"
    with Catalog(world.catalog.settings) as catalog:
        assert places.release(catalog, job_id).queue_reason == "not_before"


async def test_a_job_that_another_process_ends_while_it_is_changed_ends_as_on_record(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    del world
    async with supervisor.open_supervisor() as sup:
        job = await sup.start(["true"], hold=True)
        await sup._change_place(lambda catalog: catalog.cancel(job.job_id))
        with trio.fail_after(PATIENCE):
            assert (await sup.wait(job.job_id)).status == "cancelled"
    assert "job_actor_failed" not in caplog.messages
