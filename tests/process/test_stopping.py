"""A stop ends all processes of a job and no others, and one stop delays no other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

import supervisor
from supervisor.engines.local import stopping
from supervisor.jobdir import records
from supervisor.system import processes

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.process.conftest import Fifo, Proc, World

TREE = Path(__file__).with_name("tree.py")
WAYS = {
    "child": "",
    "ignores SIGTERM": "deaf",
    "setsid": "session deaf",
    "group of its own": "group deaf",
    "double fork": "fork deaf",
    "setsid and double fork": "fork session deaf",
    "daemon": "session fork deaf",
    "cleared environment, in the session": "bare deaf",
    "cleared environment, double fork in the session": "fork bare deaf",
    "cleared environment, setsid, a descendant": "session bare deaf",
    "stopped": "stopped",
    "another mark, setsid, a descendant": "forge session deaf",
    "another mark, daemon": "forge session fork deaf",
    "cleared environment, daemon": "bare session fork deaf",
    "overwritten environment, daemon": "overwrite session fork deaf",
    "command line of a keeper, daemon": "keeper session fork deaf",
    "command line of a keeper, a descendant": "keeper session deaf",
}


def grow(world: World, *ways: str) -> tuple[list[str], Fifo, int]:
    """Return a command that starts a process in each of these ways, and how many report over the pipe."""
    told = world.fifo()
    return [sys.executable, "-S", str(TREE), str(told), *ways], told, len(ways) + 1


def hold_tree(world: World, told: Fifo, count: int) -> list[Proc]:
    return [world.hold(told.number()) for _ in range(count)]


async def test_seen_and_peer_5_cancel_ends_every_way_to_hide(world: World) -> None:
    argv, told, count = grow(world, *WAYS.values())
    async with supervisor.open_supervisor() as sup:
        job = await sup.start(argv)
        tree = await trio.to_thread.run_sync(hold_tree, world, told, count)
        ended = await sup.cancel(job.job_id)
        left = [process.pid for process in tree if process.alive]
    assert not left
    assert (ended.status, ended.reason) == ("cancelled", "cancelled")


def cancel_here(world: World, job_id: str) -> supervisor.Job:
    return world.catalog.cancel(job_id)


def cancel_from_another_program(world: World, job_id: str) -> supervisor.Job:
    assert world.host().call("cancel", job_id)["status"] == "cancelled"
    return world.catalog.status(job_id)


@pytest.mark.parametrize("cancel", [cancel_here, cancel_from_another_program])
@pytest.mark.parametrize("keeper_is", ["alive", "dead"])
def test_peer_5_cancel_from_another_process(
    world: World,
    cancel: Callable[[World, str], supervisor.Job],
    keeper_is: str,
) -> None:
    argv, told, count = grow(world, "deaf", "session deaf", "fork session deaf", "fork bare deaf")
    host = world.host()
    job_id = host.start(*argv)
    tree = hold_tree(world, told, count)
    if keeper_is == "dead":
        world.keeper(job_id).kill()
    job = cancel(world, job_id)
    assert not [process.pid for process in tree if process.alive]
    assert (job.status, job.reason) == ("cancelled", "cancelled")
    assert host.call("status", job_id)["status"] == "cancelled"  # its own supervisor agrees


@pytest.mark.slow
def test_cancel_while_the_keeper_is_stopped(world: World) -> None:
    argv, told, count = grow(world, "session deaf", "fork deaf")
    host = world.host()
    job_id = host.start(*argv)
    tree = hold_tree(world, told, count)
    world.stop(world.keeper(job_id))
    host.kill()
    job = world.catalog.cancel(job_id)
    assert not [process.pid for process in tree if process.alive]
    assert (job.status, job.reason, job.signal) == ("cancelled", "cancelled", signal.SIGTERM)


@pytest.mark.slow
def test_its_own_supervisor_does_not_need_a_keeper_that_is_stopped(world: World) -> None:
    host = world.host()
    cancelled, late = host.start("sleep", "600"), host.start("sleep", "600", deadline_seconds=0.5)
    keeper = world.keeper(late)
    world.stop(keeper)
    number = host.ask("cancel", cancelled)
    assert host.call("wait", late, timeout=15)["status"] == "timeout"
    assert host.answer(number)["status"] == "cancelled"
    world.resume(keeper)
    assert host.call("run", ["sh", "-c", "exit 3"])["job"]["exit_code"] == 3
    assert [world.catalog.status(job_id).signal for job_id in (cancelled, late)] == [signal.SIGTERM] * 2


def test_cleared_environment_and_session_of_its_own_under_a_parent_that_obeys_sigterm(world: World) -> None:
    argv, told, count = grow(world, "parent session bare deaf")
    host = world.host()
    job_id = host.start(*argv)
    tree = hold_tree(world, told, count + 1)
    assert world.catalog.cancel(job_id).status == "cancelled"
    assert not [process.pid for process in tree if process.alive]


async def test_deadline_and_output_limit_end_the_tree_as_well(world: World) -> None:
    deadline, told, count = grow(world, "session deaf", "fork deaf")
    flood = ["sh", "-c", 'trap "" TERM; while :; do echo 0123456789012345678901234567890123456789; done']
    async with supervisor.open_supervisor(supervisor.Settings(job_max_output_bytes=100_000)) as sup:
        late = await sup.start(deadline, deadline_seconds=0.5)
        tree = await trio.to_thread.run_sync(hold_tree, world, told, count)
        loud = await sup.start(flood)
        with trio.fail_after(60):
            late, loud = await sup.wait(late.job_id), await sup.wait(loud.job_id)
    assert not [process.pid for process in tree if process.alive]
    assert (late.status, late.reason) == ("timeout", "deadline")
    assert (loud.status, loud.reason) == ("failed", "output_limit")  # line 14
    assert 100_000 < loud.stdout_bytes < 200_000_000
    assert world.catalog.result(loud.job_id).error.code == "output_limit"  # type: ignore[union-attr]


def test_peer_14_output_limit_by_the_keeper_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERVISOR_JOB_MAX_OUTPUT_BYTES", "100000")
    host = world.host()
    job_id = host.start("sh", "-c", "while :; do echo 0123456789012345678901234567890123456789 >&2; done")
    host.kill()
    (job,) = world.catalog.wait([job_id], timeout=60)
    assert (job.status, job.reason) == ("failed", "output_limit")


def test_peer_6_one_that_ignores_sigterm_delays_no_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERVISOR_STOP_GRACE_SECONDS", "3")
    told, gate = world.fifo(), world.fifo()
    host = world.host()
    trap = """trap 'echo termed > "$1"' TERM; echo up > "$1"; while :; do read line < "$2"; done"""
    stubborn = host.start("sh", "-c", trap, "sh", str(told), str(gate))
    assert told.line() == "up"
    meek = [host.start("sleep", "600") for _ in range(4)]
    leader = world.leader(stubborn)
    first = host.ask("cancel", stubborn)
    assert told.line() == "termed"
    for number in [host.ask("cancel", job_id) for job_id in meek]:
        assert host.answer(number)["status"] == "cancelled"
    assert host.call("run", ["sh", "-c", "exit 3"])["job"]["exit_code"] == 3
    assert world.catalog.cancel(host.start("sleep", "600")).status == "cancelled"
    assert leader.alive, "all that took longer than the grace of the one that ignores SIGTERM"
    assert host.answer(first)["status"] == "cancelled"
    assert not leader.alive


def test_a_job_that_uses_supervisor_is_cancelled_and_its_inner_job_lives_on(world: World) -> None:
    told, gate = world.fifo(), world.fifo()
    program = """
import sys, trio, supervisor
async def main():
    async with supervisor.open_supervisor() as sup:
        job = await sup.start(["sh", "-c", 'echo $$ > "$1"; read line < "$2"; exit 4', "sh", *sys.argv[1:]])
        open(sys.argv[1], "w").write(job.job_id + "\\n")
        await trio.sleep_forever()
trio.run(main)
"""
    host = world.host()
    outer = host.start(sys.executable, "-c", program, str(told), str(gate))
    lines = sorted((told.line(), told.line()), key=len)
    inner_process, inner = world.hold(int(lines[0])), lines[1]
    outer_process, keeper = world.leader(outer), world.keeper(inner)
    assert keeper.pid != world.keeper(outer).pid
    assert host.call("cancel", outer)["status"] == "cancelled"
    assert not outer_process.alive
    assert inner_process.alive
    assert keeper.alive
    gate.open()
    (job,) = world.catalog.wait([inner], timeout=60)
    assert (job.status, job.exit_code) == ("failed", 4)


def forge_process(world: World, job_id: str, **changes: int) -> None:
    process = world.record(job_id, records.PROCESS) or {}
    process.pop("v")
    records.replace(str(world.job(job_id)), records.PROCESS, {**process, **changes})


@pytest.fixture
def stranger(world: World) -> Proc:
    """A process that belongs to no job, leads its session, and dies of any signal."""
    process = subprocess.Popen(["sleep", "600"], start_new_session=True)
    held = world.hold(process.pid)
    yield held
    process.kill()
    process.wait()


def test_peer_9_recycled_pid_of_the_job_is_not_signalled(world: World, stranger: Proc) -> None:
    host = world.host()
    job_id = host.start("sleep", "600")
    leader, keeper = world.leader(job_id), world.keeper(job_id)
    host.kill()
    keeper.kill()
    forge_process(world, job_id, pid=stranger.pid)
    job = world.catalog.cancel(job_id)
    assert stranger.alive
    assert (job.status, job.reason, job.exit_code) == ("failed", "lost", None)
    leader.kill()


def test_peer_9_recycled_pid_of_the_keeper_is_not_signalled(world: World, stranger: Proc) -> None:
    host = world.host()
    job_id = host.start("sleep", "600")
    leader, keeper = world.leader(job_id), world.keeper(job_id)
    host.kill()
    keeper.kill()
    forge_process(world, job_id, keeper_pid=stranger.pid, keeper_start=stranger.start - 1)
    job = world.catalog.cancel(job_id)
    assert not leader.alive
    assert job.status == "cancelled"
    assert not stranger.ended(0)


def test_peer_9_session_number_of_a_leader_long_gone_is_not_trusted(world: World, stranger: Proc) -> None:
    """A stop was begun, supervisor and keeper died, and the pid leads another session by now."""
    host = world.host()
    job_id = host.start("sleep", "600")
    leader, keeper = world.leader(job_id), world.keeper(job_id)
    host.kill()
    keeper.kill()
    leader.kill()
    request = {"why": "cancelled", "requested_ns": 1, "by": "test", "gone": False}
    signalled = processes.boottime_ns()
    records.replace(str(world.job(job_id)), records.STOP, {**request, "signalled_boot_ns": signalled})
    forge_process(world, job_id, pid=stranger.pid)
    assert world.catalog.status(job_id).status == "cancelled"
    assert stranger.alive


async def test_a_natural_exit_wins_and_cancelling_again_changes_nothing(world: World) -> None:
    async with supervisor.open_supervisor() as sup:
        done = await sup.start(["true"])
        ended = await sup.wait(done.job_id)
        assert await sup.cancel(done.job_id) == ended
        assert world.catalog.cancel(done.job_id) == ended
        assert (ended.status, ended.exit_code) == ("done", 0)
        first = await sup.cancel((await sup.start(["sleep", "600"])).job_id)
        assert await sup.cancel(first.job_id) == first
        assert (first.status, first.signal) == ("cancelled", signal.SIGTERM)


async def test_children_left_on_purpose_are_left_alone_by_a_natural_exit(world: World) -> None:
    argv, told, count = grow(world, "session")
    async with supervisor.open_supervisor() as sup:
        job = await sup.start([*argv, "leave"])
        tree = await trio.to_thread.run_sync(hold_tree, world, told, count)
        with trio.fail_after(60):
            assert (await sup.wait(job.job_id)).status == "done"
        assert (await sup.cancel(job.job_id)).status == "done"
    left = [process for process in tree if process.alive]
    assert len(left) == 1
    left[0].kill()


@pytest.mark.parametrize("moment", ["at once", "while it runs"])
async def test_peer_17_run_cancelled_stops_its_job(world: World, moment: str) -> None:
    argv, told, count = grow(world, "session deaf")
    async with supervisor.open_supervisor() as sup:
        if moment == "at once":
            await sup.run(["true"])  # the keeper runs, so the command is spawned for certain
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sup.run, argv)
                if moment == "at once":
                    while (await sup.list(limit=1)).jobs[0].argv != tuple(argv):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
                else:
                    tree = await trio.to_thread.run_sync(hold_tree, world, told, count)
                    scope.cancel()
        (job,) = (await sup.list(limit=1)).jobs
        assert (job.status, job.argv) == ("cancelled", tuple(argv))
    if moment == "while it runs":
        assert not [process.pid for process in tree if process.alive]


async def test_peer_17_run_stops_its_job_when_everything_around_it_is_cancelled(world: World) -> None:
    argv, told, count = grow(world, "session deaf")
    tree: list[Proc] = []
    with trio.CancelScope() as scope:
        async with supervisor.open_supervisor() as sup, trio.open_nursery() as nursery:
            nursery.start_soon(sup.run, argv)
            tree += await trio.to_thread.run_sync(hold_tree, world, told, count)
            scope.cancel()
    assert not [process.pid for process in tree if process.alive]
    (job,) = world.catalog.list().jobs
    assert (job.status, job.reason) == ("cancelled", "cancelled")


def test_peer_17_interrupt_from_the_keyboard_stops_what_run_has_started(world: World) -> None:
    told, gate = world.fifo(), world.fifo()
    program = """
import os, sys, trio, trio.testing, supervisor
async def announce(sup):
    async with sup.events() as events:
        async for event in events:
            if event.status == "running":
                break
    await trio.testing.wait_all_tasks_blocked()
    os.write(told, b"%d\\n" % event.job.pid)  # unbuffered: a finalizer would swallow the interrupt
async def main():
    async with supervisor.open_supervisor() as sup, trio.open_nursery() as nursery:
        nursery.start_soon(announce, sup)
        await sup.run(["sh", "-c", 'read line < "$1"', "sh", sys.argv[2]])
told = os.open(sys.argv[1], os.O_WRONLY)
trio.run(main)
"""
    python = [sys.executable, "-c", program, str(told), str(gate)]
    with subprocess.Popen(python, stderr=subprocess.DEVNULL, env=world.environment) as process:
        leader = world.hold(told.number())
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        finally:
            process.kill()
    assert not leader.alive
    (job,) = world.catalog.list().jobs
    assert (job.status, job.reason) == ("cancelled", "cancelled")


@pytest.mark.parametrize("turns", range(12))
@pytest.mark.usefixtures("world")
async def test_peer_17_run_cancelled_at_any_moment_of_its_start_leaves_nothing_running(turns: int) -> None:
    async with supervisor.open_supervisor() as sup:
        await sup.run(["true"])
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sup.run, ["sleep", "600"])
                for _ in range(turns):
                    await trio.lowlevel.checkpoint()
                scope.cancel()
        jobs = (await sup.list()).jobs[:-1]
        assert {job.status for job in jobs} <= {"cancelled"}


async def test_cancelled_waiting_and_start_stop_nothing(world: World) -> None:
    async with supervisor.open_supervisor() as sup:
        job = await sup.start(["sleep", "600"])
        leader = world.leader(job.job_id)
        with trio.move_on_after(0.05):
            await sup.wait(job.job_id)
        with pytest.raises(supervisor.JobRunning):
            await sup.wait(job.job_id, timeout=0.05)
        with trio.CancelScope() as scope:
            scope.cancel()
            await sup.start(["sleep", "600"], idempotency_key="k")
        assert leader.alive
        ids = [each.job_id for each in (await sup.list()).jobs]
        assert ids == [job.job_id]  # cancelled before any step: no job
        await sup.cancel(job.job_id)


def test_of_many_each_is_looked_at_when_something_has_happened_to_it(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hosts = world.hosts(2)
    jobs = [host.start("sleep", "600") for host in hosts for _ in range(30)]
    done = hosts[0].call("run", ["true"])["job"]["job_id"]
    looks: list[str] = []
    nudged: list[object] = []
    settled, nudge = world.catalog.refresh, stopping.nudge_keeper
    monkeypatch.setattr(
        world.catalog, "refresh", lambda row, **more: (looks.append(row.job_id), settled(row, **more))[1]
    )
    monkeypatch.setattr(stopping, "nudge_keeper", lambda keeper: (nudged.append(keeper), nudge(keeper))[1])
    ends = world.catalog.cancel_all([*jobs, done, "0" * 32, jobs[0]])
    assert [end.status if isinstance(end, supervisor.Job) else end.code for end in ends] == [
        *["cancelled"] * 60,
        "done",
        "job_not_found",
        "cancelled",
    ]
    assert len(nudged) == len(set(nudged)) == 2
    assert max(map(looks.count, jobs)) <= 5  # the time when it has to end, and when it and its keeper then write


def test_of_many_that_are_waited_for_each_is_looked_at_when_it_has_ended(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host, gate = world.host(), world.fifo()
    jobs = [host.start("sh", "-c", 'read line < "$1"', "sh", str(gate)) for _ in range(30)]
    looks: list[str] = []
    status = world.catalog.status
    monkeypatch.setattr(
        world.catalog,
        "status",
        lambda job_id, **more: (looks.append(job_id), status(job_id, **more))[1],
    )
    gate.open(len(jobs))
    assert {job.status for job in world.catalog.wait(jobs, timeout=60)} == {"done"}
    assert max(map(looks.count, jobs)) <= 3


def test_cancel_goes_on_when_the_asking_process_dies(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERVISOR_STOP_GRACE_SECONDS", "1")
    told, gate = world.fifo(), world.fifo()
    trap = """trap 'echo termed > "$1"' TERM; echo up > "$1"; while :; do read line < "$2"; done"""
    owner, canceller = world.hosts(2)
    job_id = owner.start("sh", "-c", trap, "sh", str(told), str(gate))
    assert told.line() == "up"
    leader = world.leader(job_id)
    canceller.ask("cancel", job_id)
    assert told.line() == "termed"
    canceller.kill()
    assert leader.ended()
    assert owner.call("wait", job_id, timeout=60)["status"] == "cancelled"


def test_cancel_all_and_stop_request_is_seen_while_it_is_under_way(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SUPERVISOR_STOP_GRACE_SECONDS", "1")
    told, gate = world.fifo(), world.fifo()
    trap = """trap 'echo termed > "$1"' TERM; echo up > "$1"; while :; do read line < "$2"; done"""
    host, other = world.hosts(2)
    job_id = host.start("sh", "-c", trap, "sh", str(told), str(gate))
    assert told.line() == "up"
    number = host.ask("cancel", job_id)
    assert told.line() == "termed"
    asked = world.catalog.status(job_id)
    assert (asked.status, asked.stop_requested) == ("running", "cancelled")
    assert other.call("status", job_id)["stop_requested"] == "cancelled"
    ends = world.catalog.cancel_all([job_id, host.start("sleep", "600"), "0" * 32])
    assert [getattr(end, "status", None) or end.code for end in ends] == ["cancelled", "cancelled", "job_not_found"]
    assert host.answer(number)["status"] == "cancelled"


def test_no_keeper_stays_behind(world: World) -> None:
    host = world.host()
    job_id = host.start("sleep", "600")
    keeper = world.keeper(job_id)
    assert host.leave() == 0
    assert keeper.alive
    world.catalog.cancel(job_id)
    assert keeper.ended()
    assert os.path.exists(world.root)
