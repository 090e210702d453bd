"""Adopted commands whose keeper lives: watched together, and handed over when there is more to do."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from supervisor.engines.interface import LaunchRequest
from supervisor.engines.local import reconcile
from supervisor.engines.local.engine import LocalEngine, LocalRunning
from supervisor.jobdir import records
from supervisor.store import Layout
from supervisor.store.state_root import new_job_id, workspace_key
from supervisor.system import processes
from supervisor.system.inotify import CHANGED, OVERFLOWN, Inotify
from supervisor.system.notifier import Notifier

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs pidfds and inotify")
COUNT = 12


@contextlib.asynccontextmanager
async def served(root: Path) -> AsyncGenerator[LocalEngine]:
    engine = LocalEngine(str(root))
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.serve)
        yield engine
        nursery.cancel_scope.cancel()


def request(root: Path, workspace: Path, *argv: str) -> LaunchRequest:
    job_id = new_job_id()
    directory = Layout(root).make_job(workspace_key(str(workspace)), job_id, b'{"v":1}')
    return LaunchRequest(
        directory=directory,
        record={"job_id": job_id, "deadline_seconds": None, "grace_seconds": 0.3},
        argv=tuple(map(os.fsencode, argv)),
        workspace=str(workspace),
    )


async def launch(engine: LocalEngine, asked: LaunchRequest) -> LocalRunning:
    running = engine.submit(asked)
    await running.started()
    return running


def make_zombie() -> int:
    """Return the pid of a process that has ended and was not reaped."""
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid


def reap(pid: int) -> None:
    os.waitpid(pid, 0)


def tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


async def test_many_are_watched_by_one_task_and_each_end_is_told(state_dir: Path, tmp_path: Path) -> None:
    async with served(state_dir) as first, served(state_dir) as second:
        requests = [request(state_dir, tmp_path, "sleep", "600") for _ in range(COUNT)]
        for each in requests:
            await launch(first, each)
        before = tasks()
        adopted = [await second.adopt(each.directory, None) for each in requests]
        while len(second._adopted._keepers) == 0:  # noqa: ASYNC110  # of being watched nobody is told
            await trio.sleep(0.001)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert tasks() <= before + 2  # the one that waits for the keeper, and a thread's if it is still around
        for number, running in enumerate(adopted):
            os.kill(running.launched.pid, signal.SIGKILL if number % 2 else signal.SIGTERM)
        with trio.fail_after(60):
            ends = [(await running.wait()).exit.signal for running in adopted]
    assert ends == [signal.SIGTERM, signal.SIGKILL] * (COUNT // 2)


async def test_a_command_that_was_launched_and_has_ended_between_two_looks_is_told_with_its_launch(
    state_dir: Path, tmp_path: Path
) -> None:
    async with served(state_dir) as first:
        asked = request(state_dir, tmp_path, "true")
        launched = await launch(first, asked)
        await launched.wait()
    async with served(state_dir) as second:
        aside = tmp_path / "aside"
        os.rename(asked.directory, aside)
        os.mkdir(asked.directory, 0o700)
        adopted = await second.adopt(asked.directory, None, owner_lives=lambda: True)
        for path in aside.iterdir():  # before the next look at it
            os.rename(path, Path(asked.directory, path.name))
        await adopted.wait()
        assert adopted.launched.pid == launched.launched.pid


async def test_whoever_leaves_closes_what_he_held(state_dir: Path, tmp_path: Path) -> None:
    async with served(state_dir) as first:
        asked = request(state_dir, tmp_path, "sleep", "600")
        running = await launch(first, asked)
        before = sorted(os.listdir("/proc/self/fd"))
        async with served(state_dir) as second:
            adopted = await second.adopt(asked.directory, None)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert adopted.pidfd is not None
        assert sorted(os.listdir("/proc/self/fd")) == before
        await running.stop("cancelled", "test")
        await running.wait()


async def test_when_their_keeper_dies_they_are_taken_care_of_from_here(state_dir: Path, tmp_path: Path) -> None:
    async with served(state_dir) as first, served(state_dir) as second:
        requests = [request(state_dir, tmp_path, "sleep", "600") for _ in range(3)]
        for each in requests:
            await launch(first, each)
        adopted = [await second.adopt(each.directory, None) for each in requests]
        await trio.testing.wait_all_tasks_blocked(0.05)
        process = records.read(requests[0].directory, records.PROCESS)
        assert process is not None
        os.kill(process["keeper_pid"], signal.SIGKILL)
        with trio.fail_after(60):
            for running in adopted:
                await running.stop("cancelled", "test")
                ended = await running.wait()
                assert ended.stopped == "cancelled"
                found = processes.read_process(running.launched.pid)
                assert found is None or found.dead


async def test_nothing_is_looked_at_while_nothing_happens(
    state_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks: list[str] = []
    inner = reconcile.resolve_kept

    def counted(directory: str, *more: Any) -> Any:
        looks.append(directory)
        return inner(directory, *more)

    monkeypatch.setattr(reconcile, "resolve_kept", counted)
    async with served(state_dir) as first, served(state_dir) as second:
        requests = [request(state_dir, tmp_path, "sleep", "600") for _ in range(3)]
        for each in requests:
            await launch(first, each)
        adopted = [await second.adopt(each.directory, None) for each in requests]
        await trio.testing.wait_all_tasks_blocked(0.05)
        begun = len(looks)
        assert begun >= 3
        await trio.sleep(0.5)
        assert len(looks) == begun
        for running in adopted:
            await running.stop("cancelled", "test")
            await running.wait()


async def test_a_keeper_that_nobody_reaps_is_gone_all_the_same(state_dir: Path, tmp_path: Path) -> None:
    """A zombie can be held by a pidfd, which is readable at once, again and again."""
    asked = request(state_dir, tmp_path, "sleep", "600")
    async with served(state_dir) as first:
        running = await launch(first, asked)
        process = records.read(asked.directory, records.PROCESS)
        assert process is not None
        zombie = make_zombie()
        found = processes.read_process(zombie)
        assert found is not None
        engine = LocalEngine(str(state_dir))
        assert engine._adopted._keeper_of(asked.directory) is not None
        forged = process | {"keeper_pid": zombie, "keeper_start": found.start}
        forged.pop("v")
        os.unlink(f"{asked.directory}/{records.CLAIM}")
        records.replace(asked.directory, records.PROCESS, forged)
        assert engine._adopted._keeper_of(asked.directory) is None
        reap(zombie)
        for keeper in engine._adopted._keepers.values():
            keeper.close()
        await running.stop("cancelled", "test")
        await running.wait()


async def test_all_are_told_when_the_kernel_lost_count(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    nursery: trio.Nursery,
) -> None:
    told = {name: trio.Event() for name in ("a", "b", "c")}
    monkeypatch.setattr(Inotify, "read", lambda notify: (os.read(notify.descriptor, 65536), {OVERFLOWN})[1])
    notifier = Notifier()
    nursery.start_soon(notifier.serve)
    undo = []
    for name, event in told.items():
        (tmp_path / name).mkdir()
        undo.append(notifier.watch(str(tmp_path / name), CHANGED, event.set))
    (tmp_path / "a" / "file").touch()
    with trio.fail_after(60):
        for event in told.values():
            await event.wait()
    for unwatch in undo:
        assert unwatch is not None
        unwatch()
    nursery.cancel_scope.cancel()
