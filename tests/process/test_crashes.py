"""The supervisor is disposable; jobs are not.

"seen" and "peer" in a name refer to requirements of the first version, and to defects of other tools.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from typing import TYPE_CHECKING

import pytest
import trio

import supervisor
from supervisor.engines.interface import LaunchRequest
from supervisor.engines.local.engine import LocalEngine, LocalRunning
from supervisor.jobdir import records
from supervisor.jobs.catalog import Catalog
from supervisor.system import pidfd, processes

if TYPE_CHECKING:
    from tests.process.conftest import Host, Proc, World

SEVEN = 'echo done; echo up > "$1"; read line < "$2"; exit 7'


@pytest.fixture(scope="module")
def kernel_tells() -> bool:
    """Whether a pidfd gives the exit status of a process that another process has reaped (Linux 6.15)."""
    pid = os.fork()
    if pid == 0:
        os._exit(3)
    descriptor = os.pidfd_open(pid)
    try:
        os.waitpid(pid, 0)
        return pidfd.exit_status_of(descriptor) is not None
    finally:
        os.close(descriptor)


def start_seven(world: World, host: Host) -> tuple[str, Proc]:
    """Start a job that prints done and waits; return its id and its process."""
    up, gate = world.fifo(), world.fifo()
    job_id = host.start("sh", "-c", SEVEN, "sh", str(up), str(gate))
    assert up.line() == "up"
    world.gate = gate
    return job_id, world.leader(job_id)


def expect_seven(world: World, job_id: str) -> None:
    (job,) = world.catalog.wait([job_id], timeout=60)
    assert (job.status, job.reason, job.exit_code, job.signal) == ("failed", "nonzero_exit", 7, None)
    assert (world.job(job_id) / records.STDOUT).read_bytes() == b"done\n"
    error = world.catalog.result(job_id).error
    assert error is not None
    assert error.code == "job_failed"


def test_seen_program_killed_in_mid_job_and_peer_7_8_not_relabelled(world: World) -> None:
    host = world.host()
    job_id, leader = start_seven(world, host)
    host.kill()
    assert leader.alive
    assert world.catalog.status(job_id).status == "running"
    assert [job.job_id for job in world.catalog.list().jobs] == [job_id]
    world.gate.open()
    expect_seven(world, job_id)


def test_seen_shell_killed_with_all_its_children_and_peer_12(world: World) -> None:
    host = world.host(["sh", "-c", '"$@"; exit 0', "sh"])
    job_id, leader = start_seven(world, host)
    os.killpg(host.pid, signal.SIGHUP)
    host.kill()
    assert leader.alive
    assert world.catalog.status(job_id).status == "running"
    world.gate.open()
    expect_seven(world, job_id)


def test_seen_keeper_killed_as_well_runs_then_honestly_lost_and_peer_10(world: World) -> None:
    host = world.host()
    job_id, leader = start_seven(world, host)
    keeper = world.keeper(job_id)
    host.kill()
    keeper.kill()
    assert leader.alive
    assert world.catalog.status(job_id).status == "running"
    world.gate.open()
    assert leader.ended()
    assert leader.reaped()  # before that kernel the exit code can still be read
    job = world.catalog.status(job_id)
    assert (job.status, job.reason, job.exit_code, job.signal) == ("failed", "lost", None, None)
    error = world.catalog.result(job_id).error
    assert error is not None
    assert error.code == "job_lost"
    assert (world.job(job_id) / records.STDOUT).read_bytes() == b"done\n"


def test_seen_keeper_killed_verdict_asked_while_it_runs_is_never_invented(world: World) -> None:
    host = world.host()
    job_id, _ = start_seven(world, host)
    keeper = world.keeper(job_id)
    host.kill()
    keeper.kill()
    world.gate.open()
    (job,) = world.catalog.wait([job_id], timeout=60)
    told = (job.status, job.reason, job.exit_code, job.signal)
    assert told in {("failed", "lost", None, None), ("failed", "nonzero_exit", 7, None)}


async def test_seen_keeper_killed_a_living_supervisor_knows_the_exit_code(
    world: World,
    kernel_tells: bool,  # noqa: FBT001  # a fixture
) -> None:
    gate = world.fifo()
    async with supervisor.open_supervisor() as sup:
        job = await sup.start(["sh", "-c", 'read line < "$1"; exit 7', "sh", str(gate)])
        world.keeper(job.job_id).kill()
        again = await sup.start(["sh", "-c", "exit 3"])  # under another keeper
        assert (await sup.wait(again.job_id)).exit_code == 3
        assert (await sup.status(job.job_id)).status == "running"
        gate.open()
        with trio.fail_after(60):
            ended = await sup.wait(job.job_id)
        assert ended.status == "failed"
        if kernel_tells:
            assert (ended.reason, ended.exit_code) == ("nonzero_exit", 7)
        else:
            assert (ended.reason, ended.exit_code) in {("lost", None), ("nonzero_exit", 7)}


def test_seen_deadline_by_the_keeper_alone_and_peer_3(world: World) -> None:
    host = world.host()
    job_id = host.start("sleep", "600", deadline_seconds=0.6)
    leader, keeper = world.leader(job_id), world.keeper(job_id)
    host.kill()
    assert leader.ended(), "it runs on although no process polls"
    assert keeper.ended()  # its last job has ended, so keeper and supervisor have ended
    job = world.catalog.status(job_id)
    assert (job.status, job.reason) == ("timeout", "deadline")
    assert job.elapsed_ms < 2600


def test_deadline_at_the_next_contact_when_the_keeper_is_dead_too(world: World) -> None:
    host = world.host()
    job_id = host.start("sleep", "600", deadline_seconds=0.5)
    leader, keeper = world.leader(job_id), world.keeper(job_id)
    host.kill()
    keeper.kill()
    assert not leader.ended(0.7)  # there is neither keeper nor supervisor; the deadline has passed now
    job = world.catalog.status(job_id)
    assert not leader.alive
    assert (job.status, job.reason) == ("timeout", "deadline")


async def test_deadline_by_any_other_supervisor_on_the_root(world: World) -> None:
    host = world.host()
    job_id = host.start("sleep", "600", deadline_seconds=1.5)
    leader, keeper = world.leader(job_id), world.keeper(job_id)
    async with supervisor.open_supervisor():
        host.kill()
        keeper.kill()
        assert await trio.to_thread.run_sync(leader.ended, 6)
    job = world.catalog.status(job_id)
    assert (job.status, job.reason) == ("timeout", "deadline")


async def test_peer_7_reopening_adopts_what_runs_and_starts_no_second_copy(world: World) -> None:
    host = world.host()
    ran, gate = world.fifo(), world.fifo()
    job_id = host.start("sh", "-c", 'echo ran > "$1"; read line < "$2"', "sh", str(ran), str(gate), idempotency_key="k")
    assert ran.line() == "ran"
    host.kill()
    async with supervisor.open_supervisor() as sup, sup.events() as events:
        page = await sup.list()
        assert [(job.job_id, job.status) for job in page.jobs] == [(job_id, "running")]
        argv = ["sh", "-c", 'echo ran > "$1"; read line < "$2"', "sh", str(ran), str(gate)]
        again = await sup.start(argv, idempotency_key="k")
        assert again.job_id == job_id
        gate.open()
        with trio.fail_after(60):
            async for event in events:  # no call asks about the job: it is watched because it was adopted
                if event.job_id == job_id and event.status.terminal:
                    break
        assert (event.status, event.job.exit_code) == ("done", 0)
    assert ran.silent


async def test_reopening_settles_what_ended_meanwhile(world: World) -> None:
    host = world.host()
    job_id, leader = start_seven(world, host)
    keeper = world.keeper(job_id)
    host.kill()
    world.gate.open()
    assert leader.ended()
    assert keeper.ended()
    async with supervisor.open_supervisor() as sup, sup.events() as events:
        with trio.fail_after(60):
            async for event in events:
                if event.status.terminal:
                    break
        assert (event.job_id, event.status, event.job.exit_code) == (job_id, "failed", 7)


async def test_reopening_keeps_what_is_left_of_the_deadline_and_peer_7_limits_not_reset(world: World) -> None:
    host = world.host()
    job_id = host.start("sleep", "600", deadline_seconds=1.2)
    keeper = world.keeper(job_id)
    host.kill()
    keeper.kill()
    begun = time.monotonic()
    async with supervisor.open_supervisor() as sup:
        with trio.fail_after(60):
            job = await sup.wait(job_id)
    assert job.status == "timeout"
    assert time.monotonic() - begun < 1.2 + 0.8


def test_leaving_the_block_lets_jobs_go_on(world: World) -> None:
    host = world.host()
    job_id, leader = start_seven(world, host)
    assert host.leave() == 0
    assert leader.alive
    world.gate.open()
    expect_seven(world, job_id)


STUBBORN = """trap 'echo termed > "$1"' TERM; echo up > "$1"; while :; do read line < "$2"; done"""


def test_peer_16_supervisor_killed_during_a_stop(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERVISOR_STOP_GRACE_SECONDS", "1")
    host = world.host()
    told, gate = world.fifo(), world.fifo()
    job_id = host.start("sh", "-c", STUBBORN, "sh", str(told), str(gate))
    assert told.line() == "up"
    leader = world.leader(job_id)
    host.ask("cancel", job_id)
    assert told.line() == "termed"
    host.kill()
    assert leader.ended()
    (job,) = world.catalog.wait([job_id], timeout=60)
    assert (job.status, job.reason, job.signal) == ("cancelled", "cancelled", signal.SIGKILL)


def test_peer_16_supervisor_and_keeper_killed_during_a_stop(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERVISOR_STOP_GRACE_SECONDS", "1")
    host = world.host()
    told, gate = world.fifo(), world.fifo()
    job_id = host.start("sh", "-c", STUBBORN, "sh", str(told), str(gate))
    assert told.line() == "up"
    leader, keeper = world.leader(job_id), world.keeper(job_id)
    host.ask("cancel", job_id)
    assert told.line() == "termed"
    host.kill()
    keeper.kill()
    assert leader.alive
    job = world.catalog.status(job_id)  # the next observer finishes the stop
    assert not leader.alive
    assert (job.status, job.reason) == ("cancelled", "cancelled")


def test_peer_1_worker_killed_status_tells_the_truth_and_cancel_stops_it(world: World) -> None:
    host = world.host()
    job_id = host.start("sleep", "600")
    leader, keeper = world.leader(job_id), world.keeper(job_id)
    host.kill()
    keeper.kill()
    assert world.catalog.status(job_id).status == "running"
    job = world.catalog.cancel(job_id)
    assert not leader.alive
    assert (job.status, job.reason) == ("cancelled", "cancelled")


def test_peer_4_torn_records_neither_hide_a_job_nor_lose_its_process(world: World) -> None:
    host = world.host()
    job_id = host.start("sleep", "600")
    leader, keeper = world.leader(job_id), world.keeper(job_id)
    host.kill()
    keeper.kill()
    (world.job(job_id) / records.PROCESS).write_bytes(b'{"v":1,"pid":')
    job = world.catalog.status(job_id)
    assert (job.status, job.pid) == ("running", leader.pid)
    assert [each.job_id for each in world.catalog.list(state="running").jobs] == [job_id]
    (world.job(job_id) / records.JOB).write_bytes(b'{"v":1,"job_')
    assert world.catalog.status(job_id).status == "running"
    assert world.catalog.cancel(job_id).status == "cancelled"
    assert not leader.alive


def test_peer_4_torn_exit_record_is_no_verdict(world: World) -> None:
    host = world.host()
    job_id, leader = start_seven(world, host)
    keeper = world.keeper(job_id)
    host.kill()
    keeper.kill()
    lies = b'{"v":1,"pid":1,"start":1,"boot":"x","ended_ns":1,"exit_code":0,"signal":null}'
    for rubbish in (b"", b"{", b"[]", b"\0" * 512, b'{"v":0,"exit_code":0}', lies, b'{"v":1}'):
        (world.job(job_id) / records.EXIT).write_bytes(rubbish)
        assert world.catalog.status(job_id).status == "running"
    world.gate.open()
    assert leader.reaped()
    job = world.catalog.status(job_id)
    assert (job.status, job.reason, job.exit_code) == ("failed", "lost", None)


def test_registry_says_running_and_the_machine_was_rebooted_since(world: World) -> None:
    host = world.host()
    job_id = host.start("sleep", "600")
    leader, keeper = world.leader(job_id), world.keeper(job_id)
    host.kill()
    keeper.kill()
    process = world.record(job_id, records.PROCESS) or {}
    process.pop("v")
    records.replace(str(world.job(job_id)), records.PROCESS, {**process, "boot": "0" * 32})
    job = world.catalog.cancel(job_id)
    assert (job.status, job.reason, job.exit_code) == ("failed", "lost", None)
    assert leader.alive  # it has the recorded pid, and may be of another boot
    leader.kill()


def test_job_of_another_namespace_is_neither_signalled_nor_called_lost(world: World) -> None:
    host = world.host()
    job_id = host.start("sleep", "600")
    leader, keeper = world.leader(job_id), world.keeper(job_id)
    host.kill()
    keeper.kill()
    process = world.record(job_id, records.PROCESS) or {}
    process.pop("v")
    directory = str(world.job(job_id))
    records.replace(directory, records.PROCESS, {**process, "ns": "1"})
    assert world.catalog.status(job_id).status == "running"
    with pytest.raises(supervisor.JobElsewhere):
        world.catalog.cancel(job_id)
    assert leader.alive
    records.replace(directory, records.PROCESS, process)
    assert world.catalog.cancel(job_id).status == "cancelled"


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_defect_around_a_launch_leaves_nothing_running_and_a_record_of_the_end(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    when: str,
) -> None:
    launch = LocalEngine.launch

    async def defective(self: LocalEngine, handle: LocalRunning, request: LaunchRequest) -> None:
        if when == "after":
            await launch(self, handle, request)
        message = "a defect"
        raise RuntimeError(message)

    monkeypatch.setattr(LocalEngine, "launch", defective)
    async with supervisor.open_supervisor() as sup:
        with trio.fail_after(60):
            result = await sup.run(["sleep", "600"])
    assert result.error is not None
    assert result.error.code == "internal_error"
    job_id = result.job.job_id
    process = world.record(job_id, records.PROCESS)
    assert (process is None) is (when == "before")
    assert process is None or not processes.is_alive(process["pid"], process["start"])
    exit_record = world.record(job_id, records.EXIT)
    assert exit_record
    for path in world.root.glob("registry.db*"):
        path.unlink()
    with Catalog(supervisor.Settings()) as catalog:  # rebuilt from the directory
        assert catalog.status(job_id).status.terminal


def test_the_registry_is_not_asked_to_remember_what_the_directory_says(world: World) -> None:
    host = world.host()
    job_id, _ = start_seven(world, host)
    host.kill()
    world.gate.open()
    expect_seven(world, job_id)
    with sqlite3.connect(world.root / "registry.db") as database:
        database.execute("DELETE FROM jobs")
    database.close()
    expect_seven(world, job_id)
