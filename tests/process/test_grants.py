"""How a supervisor learns that a job of its was admitted, and what becomes of an admission that led to no launch."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

import supervisor
from supervisor.admission import groups
from supervisor.errors import StateFull
from supervisor.jobdir.records import GRANTED, JOB, PROCESS
from supervisor.keeper.helper_starts import take_lock
from supervisor.runtime import janitor
from supervisor.store.grants import Grants
from supervisor.store.queue import FOR_EVER_NS
from supervisor.system import processes
from supervisor.system.inotify import Inotify
from tests.process.test_groups import command, counts, held, make
from tests.process.test_helper import its_lock, wait_for_no_helper

if TYPE_CHECKING:
    from tests.process.conftest import World

pytestmark = pytest.mark.skipif(not processes.HAVE_PROC, reason="needs Linux")
PATIENCE = 60
OTHER_BOOT = "0123456789ab"


async def launched_by_the_end_of_anothers_job(world: World) -> None:
    make(world, "g", 1)
    gate, up = world.fifo(), world.fifo()
    host = world.host()
    host.start(*held(gate, up, "first"), groups=["g"])
    assert up.line() == "first"
    async with supervisor.open_supervisor() as sup:
        job = await sup.start(["true"], groups=["g"])
        assert job.queue_reason == "limit"
        with trio.fail_after(PATIENCE):
            await trio.testing.wait_all_tasks_blocked()  # its first check is over
            gate.open()
            assert (await sup.wait(job.job_id)).status == "done"


async def test_a_supervisor_is_poked_when_another_one_admits_its_job(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(janitor, "_TICK_SECONDS", 3600)
    await launched_by_the_end_of_anothers_job(world)


async def test_a_job_that_was_taken_over_is_launched_although_a_new_index_names_its_former_supervisor(
    world: World,
) -> None:
    former = world.host()
    job_id = former.start("true", hold=True)
    index = world.catalog.index

    def owner() -> str:
        row = index.get(job_id)
        assert row is not None
        return row.owner

    first = owner()
    async with supervisor.open_supervisor() as sup:
        former.kill()
        with trio.fail_after(PATIENCE):
            while owner() == first:  # noqa: ASYNC110  # a change of an owner has no event
                await trio.sleep(0.05)
            for path in world.root.glob("registry.db*"):
                path.unlink()
            assert (await trio.to_thread.run_sync(command, world, "release", job_id)).returncode == 0
            assert (await sup.wait(job_id)).status == "done"


async def test_without_inotify_a_supervisor_finds_an_admission_at_its_next_look(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Inotify, "open", lambda: None)
    await launched_by_the_end_of_anothers_job(world)


def waiting_jobs(world: World, number: int) -> list[str]:
    """Make a paused group with waiting jobs, whose supervisor is gone."""
    groups.change_group(world.catalog.index, "g", groups.pause(None, None), create=True)
    make(world, "g", 1)
    host = world.host()
    jobs = [host.start("true", groups=["g"]) for _ in range(number)]
    host.kill()
    return jobs


def admit(world: World) -> None:
    """Admit what there is room for, as if the group was not paused."""
    index = world.catalog.index
    index.queue.set_group("g", limit=1, paused_until_ns=0, aging_ns=0)
    index.take_turn()
    index.queue.set_group("g", limit=1, paused_until_ns=FOR_EVER_NS, aging_ns=0)


def test_a_transaction_that_fails_leaves_no_sign_of_its_admissions(world: World) -> None:
    (job_id,) = waiting_jobs(world, 1)

    def fail() -> None:
        admit(world)
        assert (world.job(job_id) / GRANTED).exists()
        message = "no room"
        raise StateFull(message)

    with pytest.raises(StateFull):
        world.catalog.index.write(fail)
    assert not (world.job(job_id) / GRANTED).exists()
    assert counts(world, "g") == (0, 1)


async def test_an_end_is_recorded_although_the_admission_that_follows_fails(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(world, "g", 1)

    def fail(*_: object) -> None:
        message = "no room"
        raise StateFull(message)

    async with supervisor.open_supervisor() as sup:
        first = await sup.start(["sleep", "1000"], groups=["g"])
        second = await sup.start(["true"], groups=["g"])
        with monkeypatch.context() as patch, trio.fail_after(PATIENCE):
            patch.setattr(Grants, "add", fail)
            await sup.cancel(first.job_id)
            row = world.catalog.index.get(first.job_id)
            assert row is not None
            assert row.finished
            assert (await sup.status(second.job_id)).queue_reason == "limit"
        with trio.fail_after(PATIENCE):
            assert (await sup.wait(second.job_id)).status == "done"
    assert counts(world, "g") == (0, 0)


def test_the_sign_of_an_admission_has_its_time_and_is_no_new_file(world: World) -> None:
    (job_id,) = waiting_jobs(world, 1)
    os.utime(world.job(job_id) / JOB, ns=(0, 0))
    world.catalog.index.write(lambda: admit(world))
    made = (world.job(job_id) / GRANTED).stat()
    assert made.st_ino == (world.job(job_id) / JOB).stat().st_ino
    assert made.st_mtime_ns > 0


def test_a_sign_of_a_killed_process_gives_no_slots_beyond_the_limit(world: World) -> None:
    killed, admitted = waiting_jobs(world, 2)
    for number, job_id in enumerate([killed, admitted]):
        path = world.job(job_id) / GRANTED
        path.touch()
        os.utime(path, ns=(0, time.time_ns() + number))
    lose_index(world)
    assert world.catalog.status(admitted).queue_reason == "no_launcher"
    assert counts(world, "g") == (1, 1)
    assert world.catalog.status(killed).queue_reason == "paused"
    assert not (world.job(killed) / GRANTED).exists()


@pytest.mark.parametrize("index", ["there", "lost"])
def test_after_a_reboot_an_admitted_job_without_a_claim_waits_again(world: World, index: str) -> None:
    (job_id,) = waiting_jobs(world, 1)
    world.catalog.index.write(lambda: admit(world))
    assert counts(world, "g") == (1, 0)
    assert (world.job(job_id) / GRANTED).exists()
    reboot(world, job_id)
    if index == "lost":
        lose_index(world)
    host = world.host()
    give_up = time.monotonic() + PATIENCE
    while world.catalog.row(job_id).owner.split(".")[2] == OTHER_BOOT:
        assert time.monotonic() < give_up
    assert counts(world, "g") == (0, 1)
    assert not (world.job(job_id) / GRANTED).exists()
    assert world.catalog.status(job_id).queue_reason == "paused"
    groups.change_group(world.catalog.index, "g", groups.resume)
    assert host.call("wait", job_id, timeout=PATIENCE)["status"] == "done"


def test_after_a_reboot_a_claimed_job_is_lost_and_its_slots_are_free(world: World) -> None:
    make(world, "g", 1)
    gate, up = world.fifo(), world.fifo()
    host = world.host()
    first = host.start(*held(gate, up, "first"), groups=["g"])
    second = host.start("true", groups=["g"])
    assert up.line() == "first"
    leader = world.leader(first)
    world.keeper(first).kill()
    host.kill()
    leader.kill()
    reboot(world, first)
    reboot(world, second)
    path = world.job(first) / PROCESS
    path.write_text(path.read_text().replace(processes.boot_id(), OTHER_BOOT + "0" * 20))
    for name in os.listdir(world.job(first)):
        if name == "exit.json":
            (world.job(first) / name).unlink()
    claim = world.job(first) / "claim"
    target = os.readlink(claim)
    claim.unlink()
    claim.symlink_to(target.replace(processes.boot_id()[:12], OTHER_BOOT))
    heir = world.host()
    assert heir.call("wait", second, timeout=PATIENCE)["status"] == "done"
    assert heir.call("wait", first, timeout=PATIENCE)["reason"] == "lost"
    assert counts(world, "g") == (0, 0)


def lose_index(world: World) -> None:
    for path in world.root.glob("registry.db*"):
        path.unlink()


def reboot(world: World, job_id: str) -> None:
    """Have it look as if a job was made before the last boot."""
    boot = processes.boot_id()
    index = world.catalog.index
    statement = "UPDATE jobs SET spec = replace(spec, ?, ?), owner = replace(owner, ?, ?) WHERE job_id = ?"
    index.write(lambda: index._db.execute(statement, (boot[:12], OTHER_BOOT, boot[:12], OTHER_BOOT, job_id)))
    path = world.job(job_id) / "job.json"
    path.write_text(path.read_text().replace(boot[:12], OTHER_BOOT))


def unattended(world: World) -> list[str]:
    """Return what ``list`` and ``doctor`` say of jobs that wait for a process."""
    checks = json.loads(command(world, "doctor", "--json").stdout)["checks"]
    listed = command(world, "list").stderr.splitlines()
    return [check["message"] for check in checks if check["name"] == "waiting jobs"] + listed


def test_list_and_doctor_say_that_no_process_is_there_to_launch_what_waits(world: World) -> None:
    jobs = waiting_jobs(world, 2)
    assert unattended(world) == [], "another command has to resume their group"
    world.catalog.index.write(lambda: admit(world))
    said = "2 jobs wait, and no process is there to launch them"
    assert world.catalog.status(jobs[0]).queue_reason == "no_launcher"
    assert unattended(world) == [said, f"{said}: this command has started `supervisor launch-waiting`."]
    world.catalog.wait(jobs[:1], timeout=PATIENCE)
    groups.change_group(world.catalog.index, "g", groups.resume)
    assert unattended(world) == [], "that process is there"
    assert [job.status for job in world.catalog.wait(jobs, timeout=PATIENCE)] == ["done", "done"]
    wait_for_no_helper(world.root)


def test_a_process_that_is_being_started_is_there(world: World) -> None:
    (job_id,) = waiting_jobs(world, 1)
    world.catalog.index.write(lambda: admit(world))
    assert world.catalog.status(job_id).queue_reason == "no_launcher"
    lock = take_lock(its_lock(world.root))
    assert lock is not None
    assert world.catalog.status(job_id).queue_reason == "launching"
    os.close(lock)
    assert world.catalog.status(job_id).queue_reason == "no_launcher"


def test_a_supervisor_that_does_not_launch_an_admitted_job_is_named(world: World) -> None:
    groups.change_group(world.catalog.index, "g", groups.pause(None, None), create=True)
    make(world, "g", 1)
    host = world.host()
    job_id = host.start("true", groups=["g"])
    process = world.hold(host.pid)
    world.stop(process)
    world.catalog.index.write(lambda: admit(world))
    assert "its supervisor has not launched it" not in command(world, "status", job_id).stdout
    long_ago = time.time_ns() - 45 * 10**9
    os.utime(world.job(job_id) / GRANTED, ns=(long_ago, long_ago))
    assert "its supervisor has not launched it" in command(world, "status", job_id).stdout
    assert world.catalog.status(job_id).queue_reason == "launching"
    world.resume(process)
    assert host.call("wait", job_id, timeout=PATIENCE)["status"] == "done"
