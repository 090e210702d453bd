"""Repeated observations read little, and are never outdated."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

import supervisor
from supervisor.engines.interface import JobPhase
from supervisor.engines.local import liveness_cache, reconcile
from supervisor.engines.local.liveness_cache import LivenessCache, UnendedCache
from supervisor.jobdir import records
from supervisor.jobs.catalog import Catalog
from supervisor.system import file_systems, pidfd, processes

if TYPE_CHECKING:
    from tests.process.conftest import Host, World

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs pidfds")


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness_cache, "_known", {})


@pytest.fixture
def host(world: World) -> Host:
    return world.host()


def pass_a_while(directory: Path) -> None:
    """Let a directory become so old that its next change cannot have the same time."""
    while not file_systems.has_settled(directory.stat()):
        time.sleep(0.02)


def remembered(world: World, host: Host) -> str:
    """Start a job that ``world.catalog`` then observes without reading its records."""
    job_id = host.start("sleep", "600")
    pass_a_while(world.job(job_id))
    for _ in range(2):
        assert world.catalog.status(job_id).status == "running"
    assert str(world.job(job_id)) in liveness_cache._known
    return job_id


def pidfds() -> int:
    names = os.listdir("/proc/self/fd")
    return sum(os.path.lexists(path := f"/proc/self/fd/{name}") and "pidfd" in os.readlink(path) for name in names)


def test_records_are_read_once(world: World, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = remembered(world, host)

    def refuse(*_: object) -> None:
        raise AssertionError

    with monkeypatch.context() as patched:
        for name in ("resolve_kept", "resolve"):
            patched.setattr(reconcile, name, refuse)
        job = world.catalog.status(job_id)
    assert (job.status, job.pid) == ("running", world.leader(job_id).pid)


def test_what_it_has_written_is_counted_anew(world: World, host: Host) -> None:
    gate = world.fifo()
    job_id = host.start("sh", "-c", f'while read line < "{gate}"; do echo 1234567; done')
    pass_a_while(world.job(job_id))
    for lines in range(3):
        while (job := world.catalog.status(job_id)).stdout_bytes != lines * 8:
            assert job.stdout_bytes < lines * 8
            time.sleep(0.002)
        gate.open()


def test_a_fresh_directory_is_read_every_time(world: World, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_systems, "_SETTLED_NS", 1 << 62)
    job_id = host.start("sleep", "600")
    for _ in range(3):
        assert world.catalog.status(job_id).status == "running"
    assert not liveness_cache._known


def test_what_settles_while_it_is_read_is_not_remembered(
    world: World, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = world.job(host.start("sleep", "600"))
    resolve, exists = reconcile.resolve_kept, os.path.lexists
    unended = UnendedCache()

    def slowly(path: str, *rest: Any) -> Any:
        seen = resolve(path, *rest)
        pass_a_while(directory)  # whose names may have changed by then without a change of its time
        return seen

    def slow_exists(path: str) -> bool:
        there = exists(path)
        pass_a_while(directory)
        return there

    with monkeypatch.context() as patched:
        patched.setattr(reconcile, "resolve_kept", slowly)
        (directory / "one").touch()
        assert world.catalog.status(directory.name).status == "running"
        patched.setattr(os.path, "lexists", slow_exists)
        (directory / "two").touch()
        assert unended.is_unended(str(directory))
    assert not liveness_cache._known
    assert not unended._stamps


def test_the_end_is_seen_once_it_is_on_record(world: World, host: Host) -> None:
    job_id = remembered(world, host)
    path = world.job(job_id) / records.EXIT
    world.leader(job_id).kill()
    while not path.exists():
        assert world.catalog.status(job_id).status in {"running", "failed"}
    job = world.catalog.status(job_id)
    assert (job.status, job.signal) == ("failed", 9)


def test_a_keeper_that_was_killed_proves_no_running_job(world: World, host: Host) -> None:
    job_id = remembered(world, host)
    leader, keeper = world.leader(job_id), world.keeper(job_id)
    world.stop(world.hold(host.pid))  # it would take over
    keeper.kill()
    assert world.catalog.status(job_id).status == "running"  # by its own identity
    assert not liveness_cache._known
    leader.kill()
    assert leader.reaped()
    host.kill()
    assert world.catalog.status(job_id).status == "failed"


def test_a_cancel_is_visible_to_processes_that_have_observed_the_job_before(world: World, host: Host) -> None:
    job_id = remembered(world, host)
    with Catalog(supervisor.Settings(state_dir=world.root)) as another:
        assert another.cancel(job_id).status == "cancelled"
    assert world.catalog.status(job_id).status == "cancelled"


def test_a_stop_under_way_is_seen_at_once(world: World, host: Host) -> None:
    job_id = remembered(world, host)
    world.stop(world.keeper(job_id))  # otherwise it would act on the request
    records.create(str(world.job(job_id)), records.STOP, {"why": "cancelled", "by": "another process"})
    pass_a_while(world.job(job_id))
    for _ in range(3):
        assert world.catalog.status(job_id).stop_requested == "cancelled"


def test_what_became_of_a_job_is_seen_in_a_registry_that_was_replaced(world: World, host: Host) -> None:
    job_id = remembered(world, host)
    with Catalog(supervisor.Settings(state_dir=world.root)) as another:
        for path in world.root.glob("registry.db*"):
            path.rename(path.with_name(f"aside-{path.name}"))
        assert another.status(job_id).status == "running"
        assert world.catalog.status(job_id).status == "running"
        assert another.cancel(job_id).status == "cancelled"
        another.forget(job_id)
    with pytest.raises(supervisor.JobNotFound):
        world.catalog.status(job_id)


def test_a_directory_that_others_lead_elsewhere_is_not_trusted(world: World, host: Host) -> None:
    job_id = remembered(world, host)
    workspace = world.job(job_id).parent
    moved = workspace.rename(workspace.with_name("moved"))
    workspace.symlink_to(moved)
    assert "missing or damaged" in (world.catalog.status(job_id).detail or "")
    workspace.unlink()
    moved.rename(workspace)


def test_a_keeper_is_held_by_one_descriptor_until_the_catalog_is_closed(world: World, host: Host) -> None:
    before = pidfds()
    with Catalog(supervisor.Settings(state_dir=world.root)) as catalog:
        for _ in range(3):
            job_id = host.start("sleep", "600")
            pass_a_while(world.job(job_id))
            catalog.list()
        assert len(liveness_cache._known) == 3
        assert pidfds() == before + 1
    assert pidfds() == before


def test_the_pid_of_a_keeper_may_be_a_strangers_by_now(world: World, host: Host) -> None:
    job_id = host.start("sleep", "600")
    keeper = world.keeper(job_id)
    look = LivenessCache()
    for start in (keeper.start, keeper.start + 1, keeper.start + 1):
        assert look._lives(keeper.pid, start) is (start == keeper.start)
    assert list(look._keepers) == [(keeper.pid, keeper.start)]
    look.close()


def test_a_keeper_that_is_a_zombie_does_not_live() -> None:
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    found = processes.read_process(pid)
    assert found is not None
    look = LivenessCache()
    held = liveness_cache._Keeper(pid, found.start)
    assert [look._lives(pid, found.start), held.lives(), held.lives()] == [False, False, False]
    held.close()
    os.waitpid(pid, 0)


def test_only_so_many_are_remembered(world: World, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_MAX_JOBS", "_MAX_KEEPERS"):
        monkeypatch.setattr(liveness_cache, name, 1)
    look, unended = LivenessCache(), UnendedCache()
    for _ in range(3):
        directory = world.job(host.start("sleep", "600"))
        pass_a_while(directory)
        for _ in range(3):
            seen = look.look(str(directory), directory.stat())
            assert seen is not None
            assert seen.phase is JobPhase.RUNNING
            assert unended.is_unended(str(directory))
        assert len(liveness_cache._known) == len(unended._stamps) == 1
    own = processes.own_identity()
    assert look._lives(*own)
    assert list(look._keepers) == [own]
    look.close()


def test_without_pidfds_the_process_table_is_asked(world: World, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pidfd, "open_of", lambda *_: None)
    job_id = remembered(world, host)
    world.stop(world.hold(host.pid))
    world.keeper(job_id).kill()
    assert world.catalog.status(job_id).status == "running"
    assert not liveness_cache._known


# ---------------------------------------------------------------- an own job


def test_no_end_is_on_record(tmp_path: Path) -> None:
    unended, directory = UnendedCache(), tmp_path / "job"
    assert not unended.is_unended(str(directory))
    directory.mkdir()
    assert unended.is_unended(str(directory))
    assert not unended._stamps  # it might change again, at the same time by its clock
    pass_a_while(directory)
    assert unended.is_unended(str(directory))
    assert unended._stamps
    assert unended.is_unended(str(directory))
    (directory / records.EXIT).symlink_to("nowhere")
    assert not unended.is_unended(str(directory))
    (directory / records.EXIT).unlink()
    assert unended.is_unended(str(directory))
    directory.rename(tmp_path / "trash")
    assert not unended.is_unended(str(directory))


async def test_a_supervisor_sees_what_others_did_to_its_job(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = supervisor.Settings(state_dir=world.root)
    async with supervisor.open_supervisor(settings) as sup:
        job_id = (await sup.start(["sleep", "600"])).job_id
        pass_a_while(world.job(job_id))
        await sup.status(job_id)
        with monkeypatch.context() as patched:

            def refuse() -> Any:
                raise AssertionError

            patched.setattr(sup._registry, "check_for_changes", refuse)  # the index is not read
            assert (await sup.status(job_id)).status == "running"

        def cancel() -> str:
            with Catalog(settings) as another:
                status = another.cancel(job_id).status
                another.forget(job_id)
                return status

        assert await trio.to_thread.run_sync(cancel) == "cancelled"
        with pytest.raises(supervisor.JobNotFound):
            await sup.status(job_id)


async def test_a_supervisor_that_looks_on_answers_at_once_and_truly(
    world: World, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = host.start("sleep", "600")
    pass_a_while(world.job(job_id))
    async with supervisor.open_supervisor(supervisor.Settings(state_dir=world.root)) as sup:
        assert (await sup.status(job_id)).status == "running"  # in a thread: its kind may report progress
        with monkeypatch.context() as patched:

            def refuse(*_: object) -> Any:
                raise AssertionError

            patched.setattr(sup.access, "in_thread", refuse)
            for _ in range(2):
                assert (await sup.status(job_id)).status == "running"
                assert [job.status for job in (await sup.list()).jobs] == ["running"]
        assert (await trio.to_thread.run_sync(host.call, "cancel", job_id))["status"] == "cancelled"
        assert (await sup.status(job_id)).status == "cancelled"
        assert [job.status for job in (await sup.list()).jobs] == ["cancelled"]
