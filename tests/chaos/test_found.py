"""Defects that chaos has found, each reproduced without chance."""

from __future__ import annotations

import errno
import math
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

import supervisor
from supervisor.engines.interface import LaunchRequest
from supervisor.engines.local import reconcile
from supervisor.engines.local.engine import LocalEngine
from supervisor.engines.local.keeper_client import KeeperClient
from supervisor.engines.local.watching import Watched
from supervisor.jobdir import records
from supervisor.jobs.catalog import Catalog
from supervisor.system import processes
from supervisor.system.observing import NotKnown


def _ended_process() -> tuple[int, int]:
    """Return a process that has ended and was reaped."""
    child = subprocess.Popen(["sleep", "60"])
    found = processes.read_process(child.pid)
    assert found is not None
    child.kill()
    child.wait()
    return found.pid, found.start


def _directory(root: Path, job_id: str) -> Path:
    (found,) = root.glob(f"*-*/{job_id}")
    return found


@pytest.fixture
def orphan(tmp_path: Path) -> Path:
    """A job directory without records of the end, whose command and keeper have ended."""
    directory = tmp_path / ("0" * 31 + "1")
    directory.mkdir()
    pid, start = _ended_process()
    process: dict[str, object] = {
        "pid": pid,
        "start": start,
        "boot": processes.boot_id(),
        "ns": processes.pid_namespace(),
        "keeper_pid": pid,
        "keeper_start": start,
        "started_ns": 1,
        "started_boot_ns": processes.ticks_to_ns(start),
        "deadline_boot_ns": None,
    }
    records.replace(str(directory), records.PROCESS, process)
    return directory


def test_a_stranger_leaves_the_supervisor_that_may_know_a_moment_to_say_how_a_command_ended(orphan: Path) -> None:
    process = records.read(str(orphan), records.PROCESS)

    def owner() -> None:
        reconcile.note_exit(str(orphan), process, 3 << 8, by="pidfd")

    timer = threading.Timer(0.1, owner)
    timer.start()
    seen = reconcile.resolve(str(orphan), owner_lives=True)
    timer.join()
    assert seen.ended is not None
    assert seen.ended.exit.exit_code == 3


def test_the_moment_ends(orphan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile, "_OWNER_KNOWS_SECONDS", 0.05)
    seen = reconcile.resolve(str(orphan), owner_lives=True)
    assert seen.ended is not None
    assert (seen.ended.exit.exit_code, seen.ended.exit.signal) == (None, None)


@pytest.mark.parametrize("owner_lives", [False, True])
def test_a_job_that_was_forgotten_is_not_taken_for_one_that_waits_for_its_launch(
    tmp_path: Path,
    owner_lives: bool,  # noqa: FBT001
) -> None:
    with pytest.raises(FileNotFoundError):
        reconcile.resolve(str(tmp_path / "gone"), owner_lives=owner_lives)


@pytest.mark.parametrize("owner_lives", [lambda: False, lambda: True])
async def test_a_watched_job_that_another_process_forgets_harms_no_other_job(
    state_dir: Path,
    tmp_path: Path,
    owner_lives: Callable[[], bool],
) -> None:
    engine = LocalEngine(str(state_dir))
    gone, here = tmp_path / "gone", tmp_path / "here"
    here.mkdir()
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.serve)
        running = await engine.adopt(str(gone), None, owner_lives=owner_lives)
        with trio.fail_after(60):
            ended = await running.wait()
        assert ended.exit.exit_code is None
        other = await engine.adopt(str(here), None)  # the engine continues with all others
        with trio.fail_after(60):
            assert (await other.wait()).exit.never_launched
        nursery.cancel_scope.cancel()


async def test_an_owner_that_cannot_be_seen_now_is_looked_for_again(state_dir: Path, tmp_path: Path) -> None:
    engine = LocalEngine(str(state_dir))
    answers = iter([NotKnown(errno.EMFILE, os.strerror(errno.EMFILE)), False])

    def owner_lives() -> bool:
        answer = next(answers, False)
        if isinstance(answer, NotKnown):
            raise answer
        return answer

    here = tmp_path / "here"
    here.mkdir()
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.serve)
        running = await engine.adopt(str(here), None, owner_lives=owner_lives)
        with trio.fail_after(30):
            assert (await running.wait()).exit.never_launched
        nursery.cancel_scope.cancel()


async def test_a_keeper_that_is_killed_before_it_is_asked_is_replaced(
    state_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = LocalEngine(str(state_dir))
    inner = engine._descriptors.open_workspace
    killed: list[int] = []

    async def open_workspace(path: str) -> int:
        link = engine._keeper.link
        if link is not None and not killed:
            killed.append(link.pid)
            os.kill(link.pid, signal.SIGKILL)
            while link.alive:  # noqa: ASYNC110  # there is no event for that
                await trio.sleep(0.001)
        return await inner(path)

    monkeypatch.setattr(engine._descriptors, "open_workspace", open_workspace)
    directory = tmp_path / ("0" * 32)
    directory.mkdir()
    request = LaunchRequest(
        directory=str(directory),
        record={"job_id": "0" * 32, "deadline_seconds": None},
        argv=(b"true",),
        workspace=str(tmp_path),
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.serve)
        with trio.fail_after(60):
            running = engine.submit(request)
            await running.started()
            assert (await running.wait()).exit.exit_code == 0
        nursery.cancel_scope.cancel()
    assert killed


async def test_a_keeper_that_is_killed_as_it_greets_is_replaced(
    state_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inner = KeeperClient.start
    killed: list[int] = []

    async def start(link: KeeperClient, root: str, nursery: trio.Nursery) -> None:
        await inner(link, root, nursery)
        if not killed:
            killed.append(link.pid)
            os.kill(link.pid, signal.SIGKILL)
            while link.alive:  # noqa: ASYNC110  # there is no event for that
                await trio.sleep(0.001)

    monkeypatch.setattr(KeeperClient, "start", start)
    async with supervisor.open_supervisor(supervisor.Settings(state_dir=state_dir)) as sup:
        with trio.fail_after(60):
            job = await sup.start(["true"], workspace=tmp_path)
            assert (await sup.wait(job.job_id)).exit_code == 0
    assert killed


async def test_the_deadline_of_an_adopted_job_does_not_run_before_its_launch(state_dir: Path, tmp_path: Path) -> None:
    settings = supervisor.Settings(state_dir=state_dir)
    async with supervisor.open_supervisor(settings) as sup:
        first = await sup.start(["true"], workspace=tmp_path)
        await sup.wait(first.job_id)
        # A job that another supervisor has created and is slow to launch: this process stands for it.
        directory = _directory(state_dir, first.job_id)
        job_id = "f" * 32
        record = directory.joinpath("job.json").read_text().replace(first.job_id, job_id)
        other = directory.with_name(job_id)
        other.mkdir(mode=0o700)
        other.joinpath("job.json").write_text(record.replace('"deadline_seconds":1800.0', '"deadline_seconds":0.1'))
        with trio.move_on_after(0.6):
            job = await sup.wait(job_id)
            pytest.fail(f"it was ended before it was launched: {job}")
        assert records.read_claim(str(other)) is None
        records.take_claim(str(other), records.NOBODY)
        assert (await sup.wait(job_id)).reason == "launch_failed"


async def test_what_an_interrupted_forgetter_left_does_not_come_back(state_dir: Path, tmp_path: Path) -> None:
    settings = supervisor.Settings(state_dir=state_dir)
    async with supervisor.open_supervisor(settings) as sup:
        job = await sup.start(["true"], workspace=tmp_path, deadline_seconds=math.inf)
        await sup.wait(job.job_id)
    with Catalog(settings) as catalog:
        row = catalog.row(job.job_id)
        assert catalog.layout.discard(row.workspace_key, row.job_id)  # killed before the row is deleted
        catalog.prune()
        assert catalog.list().jobs == ()
        with pytest.raises(supervisor.JobNotFound):
            catalog.status(job.job_id)


async def test_a_command_is_watched_once_in_any_order_in_which_its_keepers_death_is_noticed(
    state_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = LocalEngine(str(state_dir))
    inner = engine._watcher.watch
    watched: list[str] = []

    async def watch(job: Watched) -> None:
        watched.append(job.directory)
        await inner(job)

    monkeypatch.setattr(engine._watcher, "watch", watch)
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.serve)
        running = await engine.adopt(str(tmp_path), None)
        engine._watch(running)
        with trio.fail_after(60):
            await running.wait()
        nursery.cancel_scope.cancel()
    assert watched == [str(tmp_path)]
