"""A file system that does not answer delays only the job that needs it."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

import supervisor
from supervisor.jobdir import records, stops
from tests.process.hung import HungMount

if TYPE_CHECKING:
    from tests.process.conftest import World

PATIENCE = 60


@pytest.fixture(params=["PATH", "program", "link", "interpreter"])
def hung(request: pytest.FixtureRequest, world: World) -> Iterator[tuple[HungMount, list[str], dict[str, str]]]:
    """A mount that hangs, and a command that needs it: for look-up, for loading, behind a link, as interpreter."""
    point = world.directory / "mount"
    path = f"{point}:{os.environ['PATH']}"
    with HungMount(point, None if request.param == "PATH" else "program") as mount:
        argv = [f"{point}/program"]
        if request.param == "PATH":
            argv = ["some-program"]
        elif request.param == "link":
            world.directory.joinpath("link").symlink_to(point / "program")
            argv = [str(world.directory / "link")]
        elif request.param == "interpreter":
            script = world.directory / "script"
            script.write_text(f"#!{point}/program\n")
            script.chmod(0o755)
            argv = [str(script)]
        yield mount, argv, {"PATH": path}


async def test_a_launch_that_hangs_delays_nothing_else(
    world: World,
    hung: tuple[HungMount, list[str], dict[str, str]],
) -> None:
    mount, argv, env = hung
    gate = world.fifo()
    async with supervisor.open_supervisor() as sup, trio.open_nursery() as nursery:
        ends = await sup.start(["sh", "-c", 'read line < "$1"; exit 3', "sh", str(gate)])
        late = await sup.start(["sleep", "600"], deadline_seconds=1)
        for _ in range(3):
            nursery.start_soon(_start, sup, argv, env)
        with trio.fail_after(PATIENCE):
            while len((await sup.list(state="queued")).jobs) < 3:  # noqa: ASYNC110  # of other tasks
                await trio.sleep(0.01)
            gate.open()
            ended = await sup.wait(ends.job_id)
            assert (await sup.wait(late.job_id)).status == "timeout"
            assert (await sup.run(["echo", "later"])).value == "later\n"
        assert ended.exit_code == 3
        assert len((await sup.list(state="queued")).jobs) == 3
        mount.__exit__()  # waiting processes get an error, as when a mount is given up
        with trio.fail_after(PATIENCE):
            for job in (await sup.list()).jobs:
                if job.argv == tuple(argv):
                    assert (await sup.wait(job.job_id)).reason == "launch_failed"
            assert (await sup.run(["echo", "after"])).value == "after\n"
        mount.__enter__()


async def _start(sup: supervisor.Supervisor, argv: list[str], env: dict[str, str]) -> None:
    await sup.start(argv, env=env)


async def test_a_start_that_hangs_is_told_to_be_queued_and_can_be_cancelled(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("supervisor.runtime.launcher.LAUNCH_SECONDS", 0.2)
    point = world.directory / "mount"
    with HungMount(point):
        async with supervisor.open_supervisor() as sup:
            with trio.fail_after(PATIENCE):
                mine = await sup.start(["nothing"], env={"PATH": str(point)})
                theirs = await sup.start(["nothing"], env={"PATH": str(point)})
                late = await sup.start(["nothing"], env={"PATH": str(point)}, deadline_seconds=0.5)
                assert [job.status for job in (mine, theirs, late)] == ["queued"] * 3
                assert (await sup.cancel(mine.job_id)).status == "cancelled"
                other = await trio.to_thread.run_sync(lambda: supervisor_catalog(theirs.job_id))
                assert other == "cancelled"
                assert (await sup.wait(theirs.job_id)).status == "cancelled"
                assert (await sup.wait(late.job_id)).status == "timeout"
                run = await sup.run(["echo", "x"])
            assert run.value == "x\n"
    for job in (mine, theirs, late):
        assert world.record(job.job_id, records.PROCESS) is None


def supervisor_catalog(job_id: str) -> str:
    from supervisor.jobs.catalog import Catalog

    with Catalog(supervisor.Settings()) as catalog:
        return catalog.cancel(job_id).status


@pytest.mark.parametrize("way", ["trio", "catalog"])
async def test_a_cancel_whose_exec_hangs_says_so_and_stays_requested(
    world: World, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr("supervisor.runtime.launcher.LAUNCH_SECONDS", 0.2)
    monkeypatch.setattr("supervisor.runtime.stops._OVERDUE_SECONDS", 1.0)
    monkeypatch.setattr("supervisor.engines.local.stopping._OVERDUE_SECONDS", 1.0)
    point = world.directory / "mount"
    with HungMount(point, "program") as mount:
        async with supervisor.open_supervisor() as sup:
            job = await sup.start([str(point / "program")])
            with trio.fail_after(PATIENCE):
                await trio.to_thread.run_sync(mount.asked.wait)  # it does not return, with any signal
                cancel = sup.cancel if way == "trio" else partial(trio.to_thread.run_sync, supervisor_catalog)
                with pytest.raises(supervisor.JobRunning, match="its program is being loaded, process") as caught:
                    await cancel(job.job_id)
                assert caught.value.retryable
                assert stops.read_stop(str(world.job(job.job_id))) is not None
                mount.__exit__()
                assert (await sup.wait(job.job_id)).status == "cancelled"
            mount.__enter__()


@pytest.mark.parametrize("stopped", ["before its claim", "after its claim"])
async def test_a_keeper_that_is_stopped_in_the_middle_of_a_launch_hangs_no_start(
    world: World, monkeypatch: pytest.MonkeyPatch, stopped: str
) -> None:
    monkeypatch.setattr("supervisor.runtime.launcher.LAUNCH_SECONDS", 1.0)
    monkeypatch.setattr("supervisor.runtime.stops._OVERDUE_SECONDS", 1.0)
    ran, claimed = world.directory / "ran", stopped == "after its claim"
    async with supervisor.open_supervisor() as sup:
        first = await sup.start(["sleep", "600"])
        keeper = world.keeper(first.job_id)
        with trio.fail_after(PATIENCE):
            if not claimed:
                os.kill(keeper.pid, signal.SIGSTOP)
                job = await sup.start(["sh", "-c", f"echo x >> {ran}; exec sleep 600"])
            else:
                point = world.directory / "mount"
                monkeypatch.setattr("supervisor.runtime.launcher.LAUNCH_SECONDS", 0.2)
                with HungMount(point):  # so that it is stopped while it looks the program up
                    job = await sup.start(["sh", "-c", f"echo x >> {ran}; exec sleep 600"], env=behind(point))
                    os.kill(keeper.pid, signal.SIGSTOP)
                    with pytest.raises(supervisor.JobRunning, match=f"up to its keeper, process {keeper.pid} "):
                        await sup.cancel(job.job_id)
            assert job.status == "queued"
            assert (await sup.status(job.job_id)).status == "queued"
            os.kill(keeper.pid, signal.SIGCONT)
            if not claimed:
                while not ran.exists():  # noqa: ASYNC110  # of another process
                    await trio.sleep(0.01)
            ended = await sup.cancel(job.job_id)
            assert ended.status == "cancelled"
            assert (await sup.run(["echo", "after"])).value == "after\n"
            await sup.cancel(first.job_id)
    assert not ran.exists() or ran.read_text(encoding="ascii") == "x\n"
    assert claimed or ran.exists()  # a claimed job may have been spawned before its keeper read the request


def behind(point: Path) -> dict[str, str]:
    return {"PATH": f"{point}:{os.environ['PATH']}"}


async def test_run_that_is_cancelled_while_it_is_launched_leaves_nothing_behind(world: World) -> None:
    point = world.directory / "mount"
    with HungMount(point):
        async with supervisor.open_supervisor() as sup:
            with trio.move_on_after(0.5):
                await sup.run(["nothing"], env={"PATH": str(point)})
            (job,) = (await sup.list()).jobs
            assert job.status == "cancelled"


async def test_hung_workspaces_hold_up_no_other(world: World) -> None:
    point = world.directory / "mount"
    with HungMount(point), contextlib.suppress(OSError):
        async with supervisor.open_supervisor() as sup, trio.open_nursery() as nursery:
            for _ in range(60):  # more than there are threads
                nursery.start_soon(partial(sup.start, ["true"], workspace=point))
            await trio.testing.wait_all_tasks_blocked()
            with trio.fail_after(PATIENCE):
                assert (await sup.run(["echo", "x"])).value == "x\n"
            nursery.cancel_scope.cancel()


def test_the_mount_hangs(tmp_path: Path) -> None:
    """The premise of the other tests: a listing of the mount does not return until it is given up."""
    point = tmp_path / "mount"
    with HungMount(point):
        child = os.fork()
        if not child:
            with contextlib.suppress(OSError):
                os.stat(point / "x")
            os._exit(0)
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
    assert os.waitpid(child, 0) == (child, 0)
