"""One process requests a stop of a job that another supervisor owns, or that no keeper has launched yet."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

import supervisor
from supervisor.engines.local import stopping
from supervisor.engines.local.watching import Watcher
from supervisor.jobdir import records
from tests.process.hung import HungMount

if TYPE_CHECKING:
    from tests.process.conftest import World

PATIENCE = 60


# ---------------------------------------------------------------- before the launch


async def test_a_look_does_not_rule_on_a_job_whose_owner_is_about_to_cancel_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = threading.Event()
    look, cancel_queued = Watcher._observe, stopping.cancel_queued

    def looks(*args: Any) -> Any:
        try:
            return look(*args)
        finally:
            looked.set()

    def cancels_late(directory: str, by: str, why: str) -> bool:
        assert looked.wait(PATIENCE)
        return cancel_queued(directory, by, why)

    async with supervisor.open_supervisor() as sup:
        first = await sup.start(["sleep", "600"])
        world.stop(keeper := world.keeper(first.job_id))
        monkeypatch.setattr("supervisor.runtime.launcher.LAUNCH_SECONDS", 0.2)
        job = await sup.start(["sleep", "600"])
        assert job.status == "queued"
        monkeypatch.setattr(Watcher, "_observe", staticmethod(looks))
        monkeypatch.setattr(stopping, "cancel_queued", cancels_late)
        with trio.fail_after(PATIENCE):
            ended = await sup.cancel(job.job_id)
        monkeypatch.undo()
        keeper.send(signal.SIGCONT)
        assert (ended.status, ended.reason) == ("cancelled", "cancelled")
        assert (await sup.run(["echo", "x"])).value == "x\n"
        await sup.cancel(first.job_id)
    assert world.record(job.job_id, records.PROCESS) is None


# ---------------------------------------------------------------- seen by the owner


async def test_the_owner_shows_a_stop_that_another_process_asks_for(world: World) -> None:
    async with supervisor.open_supervisor() as sup:
        job = await sup.start(["sh", "-c", "trap '' TERM; echo; while :; do sleep 0.1; done"])
        other = await sup.start(["sleep", "600"])
        assert [each.stop_requested for each in (await sup.list()).jobs] == [None, None]
        assert (await sup.status(job.job_id)).stop_requested is None
        ask_for_stop(world, job.job_id, "deadline")
        assert (await sup.status(job.job_id)).stop_requested == "deadline"
        assert [each.stop_requested for each in (await sup.list()).jobs] == [None, "deadline"]
        keeper = world.keeper(job.job_id)
        assert stopping.nudge_keeper((keeper.pid, keeper.start))
        with trio.fail_after(PATIENCE):
            ended = await sup.wait(job.job_id)
        assert (ended.status, ended.stop_requested) == ("timeout", None)
        await sup.cancel(other.job_id)


async def test_the_owner_of_a_queued_job_shows_the_stop(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.runtime.launcher.LAUNCH_SECONDS", 0.2)
    point = world.directory / "mount"
    with HungMount(point):
        async with supervisor.open_supervisor() as sup:
            job = await sup.start(["nothing"], env={"PATH": str(point)})
            assert (job.status, job.stop_requested) == ("queued", None)
            ask_for_stop(world, job.job_id, "cancelled")
            seen = await sup.status(job.job_id)
            assert (seen.status, seen.stop_requested) == ("queued", "cancelled")
            (listed,) = (await sup.list(state="queued")).jobs
            assert listed.stop_requested == "cancelled"
            with trio.fail_after(PATIENCE):
                assert (await sup.cancel(job.job_id)).status == "cancelled"


def ask_for_stop(world: World, job_id: str, why: str) -> None:
    stopping.request_stop(str(world.job(job_id)), why, "another process")


def test_a_damaged_request_is_one_as_far_as_a_job_goes_that_is_not_launched(tmp_path: Path) -> None:
    from supervisor.engines.local import reconcile

    records.take_claim(str(tmp_path), records.NOBODY)
    (tmp_path / records.STOP).write_bytes(b"")
    seen = reconcile.resolve(str(tmp_path), owner_lives=True)
    assert seen.ended is not None
    assert (seen.ended.stopped, seen.ended.exit.never_launched) == ("cancelled", False)
