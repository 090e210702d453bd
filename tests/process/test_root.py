"""The state root: unsafe, damaged, full of traps, and used by many processes at once."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import trio

import supervisor
from supervisor.engines.interface import Observation
from supervisor.engines.local import reconcile
from supervisor.jobdir import records
from supervisor.jobs.catalog import Catalog
from supervisor.store.rows import dump, row_of_record
from supervisor.store.state_root import new_job_id, workspace_key
from supervisor.system import processes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.process.conftest import World


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o701, 0o777])
async def test_a_root_open_to_others_is_refused(world: World, mode: int) -> None:
    world.root.chmod(mode)
    with pytest.raises(supervisor.StateUnsafe):
        async with supervisor.open_supervisor():
            pytest.fail("opened")
    with pytest.raises(supervisor.StateUnsafe):
        Catalog(supervisor.Settings())
    world.root.chmod(0o700)
    assert not list(world.root.iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give directories away")
def test_a_root_of_another_user_is_refused(world: World) -> None:
    os.chown(world.root, 65534, 65534)
    with pytest.raises(supervisor.StateUnsafe):
        Catalog(supervisor.Settings())
    os.chown(world.root, 0, 0)


def test_a_root_that_is_no_directory_or_holds_traps_is_refused(world: World) -> None:
    elsewhere = world.directory / "elsewhere"
    elsewhere.mkdir()
    (world.root / ".trash").symlink_to(elsewhere)
    with pytest.raises(supervisor.StateUnsafe):
        Catalog(supervisor.Settings())
    (world.root / ".trash").unlink()
    file = world.directory / "file"
    file.touch()
    with pytest.raises(supervisor.StateUnsafe):
        Catalog(supervisor.Settings(state_dir=file))


HOSTILE = [
    "../../etc",
    "..",
    "",
    "/etc/passwd",
    "0" * 31,
    "0" * 33,
    "A" * 32,
    "0" * 31 + "\n",
    "\0" * 32,
    "\N{ARABIC-INDIC DIGIT ZERO}" * 32,
    "../" * 10 + "ab",
]


@pytest.mark.parametrize("do", ["status", "result", "cancel", "wait", "forget"])
async def test_hostile_ids_are_never_followed(world: World, do: str) -> None:
    async with supervisor.open_supervisor() as sup:
        for job_id in HOSTILE:
            with pytest.raises(supervisor.JobNotFound):
                await getattr(sup, do)(job_id)
            with pytest.raises(supervisor.JobNotFound):
                getattr(world.catalog, do)([job_id] if do == "wait" else job_id)


def test_symlinked_job_and_workspace_directories_are_never_followed(world: World) -> None:
    host = world.host()
    ended = host.call("run", ["echo", "mine"])["job"]["job_id"]
    real = world.job(ended)
    bait = new_job_id()
    outside = world.directory / "outside"
    shutil.copytree(real, outside, symlinks=True)
    (outside / records.JOB).write_text((real / records.JOB).read_text().replace(ended, bait))
    (real.parent / bait).symlink_to(outside)
    (world.root / "linked-0123456789ab").symlink_to(real.parent)
    for ask in (world.catalog.status, world.catalog.result, world.catalog.cancel, world.catalog.forget):
        with pytest.raises(supervisor.JobNotFound):
            ask(bait)
    os.unlink(world.root / "registry.db")
    with Catalog(supervisor.Settings()) as rebuilt:
        assert [job.job_id for job in rebuilt.list().jobs] == [ended]
        shutil.move(real, world.directory / "moved")
        real.symlink_to(world.directory / "moved")
        with pytest.raises(supervisor.StateCorrupt):
            rebuilt.result(ended)
        rebuilt.forget(ended)
        rebuilt.prune()
    assert (world.directory / "moved" / records.JOB).exists()  # the target of a link is not deleted
    assert (outside / records.JOB).exists()


def truncate(path: Path) -> None:
    os.truncate(path, 0)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 + 100)


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def scribble(path: Path) -> None:
    path.write_bytes(os.urandom(path.stat().st_size or 4096))


def remove(path: Path) -> None:
    path.unlink()


def replace_by_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_empty(path: Path) -> None:
    path.unlink()
    path.touch()


def replace_by_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


DAMAGES = [truncate, cut, zero, scribble, remove, replace_by_directory, replace_by_empty, replace_by_link]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("held", ["closed", "held open"])
def test_a_damaged_registry_costs_no_job(world: World, damage: Callable[[Path], None], held: str) -> None:
    gate = world.fifo()
    host = world.host()
    ended = host.call("run", ["sh", "-c", "exit 3"], idempotency_key="k")["job"]["job_id"]
    running = host.start("sh", "-c", 'read line < "$1"; exit 4', "sh", str(gate))
    if held == "closed":
        assert host.leave() == 0
    for path in (world.root / "registry.db-wal", world.root / "registry.db-shm"):
        if held == "closed":
            path.unlink(missing_ok=True)
    damage(world.root / "registry.db")
    with Catalog(supervisor.Settings()) as fresh:
        found = {job.job_id: (job.status, job.exit_code) for job in fresh.list().jobs}
        assert found == {ended: ("failed", 3), running: ("running", None)}
        if held == "held open":
            assert host.call("status", ended)["exit_code"] == 3
            assert host.call("status", running)["status"] == "running"
            later = host.call("run", ["sh", "-c", "exit 5"])["job"]["job_id"]
            assert host.call("start", ["sh", "-c", "exit 3"], idempotency_key="k")["job_id"] == ended
            assert {job["job_id"] for job in host.call("list")["jobs"]} == {ended, running, later}
            gate.open()
            assert host.call("wait", running)["exit_code"] == 4
            assert fresh.status(later).exit_code == 5
        else:
            gate.open()
            (job,) = fresh.wait([running], timeout=60)
            assert job.exit_code == 4
        assert fresh.status(running).exit_code == 4
    if held == "closed" and damage is not remove:  # an open index is whole as long as its content is in the log
        assert list(world.root.glob("registry.db.damaged-*"))


def test_a_registry_damaged_under_its_supervisor_which_is_the_first_to_notice(world: World) -> None:
    gate = world.fifo()
    host = world.host()
    ended = host.call("run", ["sh", "-c", "exit 3"])["job"]["job_id"]
    running = host.start("sh", "-c", 'read line < "$1"; exit 4', "sh", str(gate))
    for path in world.root.glob("registry.db*"):
        path.unlink()
    (world.root / "registry.db").write_bytes(b"rubbish" * 1000)
    later = host.start("sh", "-c", "exit 5")
    gate.open()
    assert [host.call("wait", job_id)["exit_code"] for job_id in (ended, running, later)] == [3, 4, 5]
    assert {job.job_id for job in world.catalog.list().jobs} == {ended, running, later}


def test_peer_11_key_from_many_processes_at_once_is_exactly_one_run(world: World) -> None:
    ran, gate = world.fifo(), world.fifo()
    hosts = world.hosts(4)
    argv = ["sh", "-c", 'echo ran > "$1"; read line < "$2"', "sh", str(ran), str(gate)]
    asked = [(host, host.ask("start", argv, idempotency_key="k")) for _ in range(4) for host in hosts]
    ids = {host.answer(number)["job_id"] for host, number in asked}
    assert len(ids) == 1
    assert ran.line() == "ran"
    gate.open()
    (job_id,) = ids
    (job,) = world.catalog.wait([job_id], timeout=60)
    assert job.status == "done"
    assert ran.silent
    assert hosts[0].call("start", argv, idempotency_key="k")["status"] == "done"
    assert hosts[1].call("start", ["true"], idempotency_key="k") == "idempotency_conflict"
    assert len(list(world.root.glob("*-*/????????????????????????????????"))) == 1  # no directories of starts that lost


def test_peer_11_twelve_starts_at_once_all_survive(world: World) -> None:
    hosts = world.hosts(4)
    asked = [(host, host.ask("run", ["sh", "-c", f"exit {n}"]), n) for n in range(3) for host in hosts]
    jobs = [(host.answer(number)["job"], n) for host, number, n in asked]
    assert len({job["job_id"] for job, _ in jobs}) == 12
    assert all(job["exit_code"] == n for job, n in jobs)
    assert len(world.catalog.list().jobs) == 12


def test_peer_11_cap_and_ttl_never_touch_a_live_job(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERVISOR_JOB_MAX_COUNT", "2")
    told = world.fifo()
    host = world.host()
    live = [host.start("sh", "-c", "exec sleep 600") for _ in range(5)]
    ended = []
    for _ in range(4):
        ended.append(host.start("sh", "-c", 'echo up > "$1"', "sh", str(told)))
        assert told.line() == "up"
        assert host.call("wait", ended[-1])["status"] == "done"
        assert host.call("status", ended[-1])["status"] == "done"
    last = host.start("true")
    host.call("wait", last)
    kept = [job.job_id for job in world.catalog.list(state="done").jobs]
    assert kept == [last, ended[3], ended[2]]
    with Catalog(supervisor.Settings(job_max_count=0)) as greedy:
        assert set(greedy.prune()) == {last, ended[3], ended[2]}
        assert {job.job_id for job in greedy.list().jobs} == set(live)
    assert all(world.leader(job_id).alive for job_id in live)
    assert not os.listdir(world.root / ".trash")


async def test_ttl_counts_from_the_exit_and_then_the_job_is_forgotten(world: World) -> None:
    settings = supervisor.Settings(job_ttl=0.4)
    async with supervisor.open_supervisor(settings) as sup:
        gone = await sup.start(["true"])
        kept = await sup.start(["sleep", "600"])
        ended = await sup.wait(gone.job_id)
        assert ended.expires_at is not None
        assert ended.completed_at is not None
        assert (ended.expires_at - ended.completed_at).total_seconds() == pytest.approx(0.4, abs=0.001)
        directory = world.job(gone.job_id)
        await trio.sleep(ended.expires_at.timestamp() - time.time())  # the test waits for the clock
        with pytest.raises(supervisor.JobNotFound):
            await sup.status(gone.job_id)
        assert [job.job_id for job in (await sup.list()).jobs] == [kept.job_id]
        assert await sup.prune() == [gone.job_id] or not directory.exists()
        assert not directory.exists()
        assert (await sup.status(kept.job_id)).status == "running"
        await sup.cancel(kept.job_id)


async def test_a_result_that_is_waited_for_is_not_evicted_before_it_is_fetched(world: World) -> None:
    async with supervisor.open_supervisor(supervisor.Settings(job_max_count=1)) as sup:
        results: list[int | None] = []

        async def five(first: int) -> None:
            for number in range(first, first + 5):
                result = await sup.run(["sh", "-c", f"exit {number}"])
                results.append(result.job.exit_code)

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for first in range(0, 20, 5):
                    nursery.start_soon(five, first)
    assert sorted(results) == list(range(20))
    assert world.root.exists()


def test_two_supervisors_and_a_command_line_on_one_root(world: World) -> None:
    one, two = world.hosts(2)
    first, second = one.start("sleep", "600"), two.start("sleep", "600")
    assert {job["job_id"] for job in one.call("list")["jobs"]} == {first, second}
    assert two.call("cancel", first)["status"] == "cancelled"
    assert one.call("status", first)["status"] == "cancelled"
    waiting = one.ask("wait", second)
    assert world.catalog.cancel(second).status == "cancelled"
    assert one.answer(waiting)["status"] == "cancelled"
    for _ in range(8):
        done = one.call("run", ["echo", "x"])["job"]["job_id"]
        asked = [(host, host.ask("result", done, consume=True)) for host in (one, two)]
        answers = [host.answer(number) for host, number in asked]
        assert answers.count("job_not_found") == 1, answers  # one of the two gets it
        assert [answer["value"] for answer in answers if answer != "job_not_found"] == ["x\n"]
        for host in (one, two):
            assert host.call("status", done) == "job_not_found"
    forgotten = two.call("run", ["true"])["job"]["job_id"]
    world.catalog.forget(forgotten)
    assert two.call("status", forgotten) == "job_not_found"


async def test_peer_13_the_callers_directory_drifts_and_its_job_is_found(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    elsewhere = world.directory / "elsewhere"
    elsewhere.mkdir()
    async with supervisor.open_supervisor() as sup:
        job = await sup.start(["pwd"])
        monkeypatch.chdir(elsewhere)
        await sup.wait(job.job_id)
        assert (await sup.result(job.job_id)).value == f"{world.directory}\n"
        (world.directory / "link").symlink_to(world.directory)
        page = await sup.list(workspace=world.directory / "link")
        assert [each.job_id for each in page.jobs] == [job.job_id]
        assert (await sup.run(["pwd"])).value == f"{elsewhere}\n"
    assert world.catalog.status(job.job_id).status == "done"


async def test_peer_15_waiting_is_woken_and_does_not_poll(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = world.fifo()
    looks: list[str] = []
    resolve = reconcile.resolve

    def counted(directory: str, **more: Any) -> Observation:
        looks.append(directory)
        return resolve(directory, **more)

    monkeypatch.setattr(reconcile, "resolve", counted)
    async with supervisor.open_supervisor() as sup:
        job = await sup.start(["sh", "-c", 'read line < "$1"', "sh", str(gate)])
        ends: list[float] = []

        async def wait() -> None:
            await sup.wait(job.job_id)
            ends.append(trio.current_time())

        def wait_outside() -> None:
            with Catalog(supervisor.Settings()) as catalog:
                catalog.wait([job.job_id], timeout=0.5)

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(wait)
            await trio.to_thread.run_sync(wait_outside)
            assert len(looks) < 10
            begun = trio.current_time()
            gate.open()
        assert len(ends) == 50
        assert max(ends) - begun < 1


def forge(world: World, *, owner: str, claim: str | None) -> tuple[str, Path]:
    """Leave a state root as a supervisor does that dies between recording a job and launching it."""
    job_id = new_job_id()
    real = str(world.directory)
    record = {
        "v": 1,
        "job_id": job_id,
        "kind": "raw",
        "argv": ["sleep", "600"],
        "workspace": real,
        "labels": {},
        "created_ns": time.time_ns(),
        "deadline_seconds": None,
        "ttl_seconds": 86400,
        "grace_seconds": 0.3,
        "output_limit": 1 << 20,
        "idempotency_key": "k",
        "digest": "x",
        "engine": "local",
        "owner": owner,
        "host": processes.host_id(),
        "boot": processes.boot_id(),
        "ns": processes.pid_namespace(),
    }
    text = dump(record)
    row = row_of_record(workspace_key(real), record, text)
    directory = world.catalog.layout.make_job(row.workspace_key, job_id, text.encode())
    world.catalog.index.write(lambda: world.catalog.index.insert(row))
    if claim is not None:
        assert records.take_claim(directory, claim)
    return job_id, world.job(job_id)


DEAD_OWNER = "1.1.0.0.0"


def dead_keeper() -> str:
    return records.keeper_claim(2**22 - 1, 1, processes.boot_id(), processes.pid_namespace())


def test_peer_16_a_job_that_no_keeper_launched_never_ran_and_never_will(world: World) -> None:
    job_id, directory = forge(world, owner=DEAD_OWNER, claim=None)
    job = world.catalog.status(job_id)
    assert (job.status, job.reason) == ("failed", "launch_failed")
    assert not records.take_claim(str(directory), "keeper.late")
    error = world.catalog.result(job_id).error
    assert error is not None
    assert error.details["never_launched"] is True


def test_peer_16_a_job_whose_owner_lives_is_still_starting(world: World) -> None:
    host = world.host()
    host.call("run", ["true"])
    (owner,) = os.listdir(world.root / ".owners")
    job_id, directory = forge(world, owner=owner, claim=None)
    assert world.catalog.status(job_id).status == "queued"
    assert not os.path.lexists(directory / records.CLAIM)
    host.kill()
    assert world.catalog.status(job_id).reason == "launch_failed"


def test_peer_16_claimed_by_a_keeper_that_died_before_the_spawn_is_lost_and_not_run_again(world: World) -> None:
    job_id, _ = forge(world, owner=DEAD_OWNER, claim=dead_keeper())
    job = world.catalog.status(job_id)
    assert (job.status, job.reason, job.exit_code) == ("failed", "lost", None)


def test_peer_16_spawned_by_a_keeper_that_died_before_the_record_is_found_by_its_mark(world: World) -> None:
    job_id, _ = forge(world, owner=DEAD_OWNER, claim=dead_keeper())
    environment = os.environ | {"SUPERVISOR_JOB_ID": job_id}
    with subprocess.Popen(["sleep", "600"], env=environment, start_new_session=True) as process:
        held = world.hold(process.pid)
        job = world.catalog.status(job_id)
        assert (job.status, job.pid) == ("running", process.pid)
        with ThreadPoolExecutor(1) as pool:
            reaping = pool.submit(process.wait)  # as init does with orphans
            assert world.catalog.cancel(job_id).status == "cancelled"
            reaping.result(20)
        assert not held.alive


def test_an_index_that_another_process_locks_delays_a_start_or_refuses_it_and_loses_nothing(world: World) -> None:
    host = world.host()
    host.call("run", ["true"])
    database = sqlite3.connect(world.root / "registry.db", isolation_level=None)
    database.execute("BEGIN IMMEDIATE")
    running = host.ask("run", ["sh", "-c", "exit 3"])
    assert host.call("list", limit=1)["jobs"][0]["argv"] == ["true"]
    assert not host.answered(running)
    database.execute("ROLLBACK")
    database.close()
    assert host.answer(running)["job"]["exit_code"] == 3


async def test_prune_sweeps_the_directory_of_a_start_that_died_before_it_returned(world: World) -> None:
    async with supervisor.open_supervisor() as sup:
        done = await sup.run(["true"])
        kept = world.job(done.job_id)
        orphan = kept.parent / new_job_id()
        orphan.mkdir(mode=0o700)
        record = records.read(str(kept), records.JOB)
        assert record is not None
        record |= {"job_id": orphan.name, "owner": "1.1.0.0.dead"}
        (orphan / records.JOB).write_text(dump(record), encoding="utf-8")
        assert await sup.prune() == []
        assert not orphan.exists()
        assert (await sup.status(done.job_id)).status == "done"
