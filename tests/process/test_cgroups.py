"""The control group of a job holds its whole tree: a stop reaches what has shed every other sign of the job."""

from __future__ import annotations

import errno
import glob
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

import supervisor
from supervisor.jobdir import records
from supervisor.jobs import pausing
from supervisor.keeper import spawn
from supervisor.system import cgroups, processes

if TYPE_CHECKING:
    from tests.process.conftest import Fifo, Proc, World

PLACES = cgroups.find_places(spawns_into=spawn.CAN_SPAWN_INTO)
CHEAP = PLACES.tree is not None and (PLACES.tree.version == 1 or spawn.CAN_SPAWN_INTO)
needs_tree = pytest.mark.skipif(
    not CHEAP, reason=f"not every job gets one: {PLACES.missing.get('tree', 'an old libc')}"
)

# It sheds parent, session, environment and tag, and is deaf; argv: the pipe, and the limit that is the tag.
DAEMON = """
import os, resource, signal, sys
if len(sys.argv) > 2:
    if os.fork():
        signal.pause()
    os.setsid()
    if os.fork():
        os._exit(0)
    hard = resource.getrlimit(int(sys.argv[2]))[1]
    resource.setrlimit(int(sys.argv[2]), (12345 if hard == resource.RLIM_INFINITY else hard, hard))
    os.execve(sys.executable, [sys.executable, "-I", "-S", "-c", os.environ["PROGRAM"], sys.argv[1]], {})
signal.signal(signal.SIGTERM, signal.SIG_IGN)
with open(sys.argv[1], "w") as told:
    told.write(f"{os.getpid()}\\n")
signal.pause()
"""


def daemon(world: World) -> tuple[list[str], dict[str, str], Fifo]:
    told = world.fifo()
    argv = [sys.executable, "-I", "-S", "-c", DAEMON, str(told), str(resource.RLIMIT_RTTIME)]
    return argv, {"PROGRAM": DAEMON}, told


def cgroup_of(world: World, job_id: str) -> Path:
    record = world.record(job_id, records.PROCESS)
    assert record is not None
    return Path(record[records.CGROUP])


def find(pattern: str) -> list[Path]:
    return [Path(each) for each in glob.glob(pattern, recursive=True)]


def needs(*controllers: str) -> pytest.MarkDecorator:
    missing = [f"{name}: {PLACES.missing[name]}" for name in controllers if name in PLACES.missing]
    return pytest.mark.skipif(bool(missing), reason=f"no limits here: {'; '.join(missing)}")


# Its child rests, and it takes a GiB.
HOG = """
import os, signal, sys
def report():
    with open(sys.argv[1], "w") as told:
        told.write(f"{os.getpid()}\\n")
if os.fork() == 0:
    report()
    while True:
        signal.pause()
report()
taken = [bytearray(1 << 20) for _ in range(1024)]
print("it has a GiB")
"""


@needs("memory")
async def test_a_job_over_its_memory_limit_is_ended_with_its_tree_and_no_other_is(world: World) -> None:
    told, limits = world.fifo(), supervisor.Limits(memory_bytes=200 << 20)
    async with supervisor.open_supervisor() as sup:
        other = await sup.start(["sleep", "600"], limits=limits)
        job = await sup.start([sys.executable, "-I", "-S", "-c", HOG, str(told)], limits=limits)
        pids = await trio.to_thread.run_sync(lambda: [told.number(), told.number()])
        keeper = world.keeper(job.job_id)
        ended = await sup.wait(job.job_id)
        assert (ended.status, ended.reason) == ("failed", "memory_limit")
        assert ended.memory_peak_bytes is not None
        assert 150 << 20 <= ended.memory_peak_bytes <= 200 << 20
        assert ended.limits == {"memory_bytes": 200 << 20, "cpus": None, "pids": None}
        result = await sup.result(job.job_id)
        assert result.error is not None
        assert result.error.code == "memory_limit"
        found = [processes.read_process(pid) for pid in pids]  # init may not have reaped the second yet
        assert not [process for process in found if process is not None and not process.dead]
        assert keeper.alive
        assert (await sup.status(other.job_id)).status == "running"
        assert (await sup.run(["true"])).ok
        await sup.cancel(other.job_id)


@needs("memory")
def test_without_a_keeper_the_count_of_the_kernel_tells_as_well(world: World) -> None:
    told = world.fifo()
    hog = 'read _ < "$1"; exec "$2" -I -S -c "len([bytearray(1 << 20) for _ in range(1024)])"'
    start = [sys.executable, "-m", "supervisor", "start", "--json", "--memory", "200M", "--"]
    command = [*start, "sh", "-c", hog, "sh", str(told), sys.executable]
    shown = subprocess.run(command, env=world.environment, check=True, capture_output=True).stdout
    job_id = json.loads(shown)["job_id"]
    leader, keeper = world.leader(job_id), world.keeper(job_id)
    keeper.kill()
    told.open()
    assert leader.ended()
    ended = world.catalog.status(job_id)
    assert (ended.status, ended.reason) == ("failed", "memory_limit")
    assert ended.memory_peak_bytes == 200 << 20


@needs("memory")
async def test_a_signal_9_from_elsewhere_is_no_memory_limit(world: World) -> None:
    async with supervisor.open_supervisor() as sup:
        job = await sup.start(["sleep", "600"], limits=supervisor.Limits(memory_bytes=200 << 20))
        world.leader(job.job_id).kill()
        ended = await sup.wait(job.job_id)
    assert (ended.reason, ended.signal) == ("killed_by_signal", 9)
    assert ended.memory_peak_bytes is not None


# Each process reads what never comes.
BOMB = """
import os, sys
while True:
    try:
        if os.fork() == 0:
            os.read(0, 1)
            os._exit(0)
    except OSError as error:
        with open(sys.argv[1], "w") as told:
            told.write(f"{os.strerror(error.errno)}\\n")
        os.read(0, 1)
"""


@needs("pids")
@needs_tree
async def test_a_fork_bomb_has_no_more_processes_than_its_limit(world: World) -> None:
    told = world.fifo()
    argv = ["sh", "-c", 'sleep 600 | "$@"', "sh", sys.executable, "-I", "-S", "-c", BOMB, str(told)]
    async with supervisor.open_supervisor() as sup:
        job = await sup.start(argv, limits=supervisor.Limits(pids=50))
        assert await trio.to_thread.run_sync(told.line) == os.strerror(errno.EAGAIN)
        pids = (cgroup_of(world, job.job_id) / "cgroup.procs").read_text().split()
        assert len(pids) == 50
        tree = [world.hold(int(pid)) for pid in pids]
        assert (await sup.cancel(job.job_id)).status == "cancelled"
        assert not [process.pid for process in tree if process.alive]


@needs("cpu")
async def test_the_kernel_gets_the_share_of_processors(world: World) -> None:
    async with supervisor.open_supervisor() as sup:
        job = await sup.start(["sleep", "600"], limits=supervisor.Limits(cpus=0.5))
        leader, place = world.leader(job.job_id), PLACES.limits["cpu"]
        (directory,) = find(f"{place.directory}/supervisor.*/**/job-{job.job_id}")
        if place.version == 1:
            assert (directory / "cpu.cfs_quota_us").read_text().strip() == "50000"
        else:
            assert (directory / "cpu.max").read_text().split() == ["50000", "100000"]
        assert str(leader.pid) in (directory / "cgroup.procs").read_text().split()
        await sup.cancel(job.job_id)


@needs("pids")
@pytest.mark.usefixtures("world")
async def test_a_job_that_waits_keeps_its_limits() -> None:
    async with supervisor.open_supervisor() as sup:
        job = await sup.start(["sh", "-c", "(true); exit 0"], limits=supervisor.Limits(pids=1), hold=True)
        await sup.release(job.job_id)
        ended = await sup.wait(job.job_id)
    assert ended.limits == {"memory_bytes": None, "cpus": None, "pids": 1}
    assert ended.status == "failed", "it has made a second process"


async def test_a_job_that_cannot_be_limited_is_not_started_or_says_so(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUPERVISOR_CGROUPS", "off")
    async with supervisor.open_supervisor() as sup:
        with pytest.raises(supervisor.FeatureUnavailable, match="SUPERVISOR_CGROUPS is off"):
            await sup.start(["true"], limits=supervisor.Limits(pids=50))
        assert not (await sup.list()).jobs
        job = await sup.start(["true"], limits=supervisor.Limits(pids=50, cpus=2, enforce="best-effort"))
        job = await sup.wait(job.job_id)
    assert (job.status, job.limits) == ("done", {"memory_bytes": None, "cpus": None, "pids": None})
    assert "cpu, pids" in job.warnings[0]
    assert world.catalog.status(job.job_id).warnings == job.warnings


@needs_tree
async def test_a_daemon_that_sheds_everything_is_ended_by_a_cancel(world: World) -> None:
    argv, env, told = daemon(world)
    async with supervisor.open_supervisor() as sup:
        job = await sup.start(argv, env=env)
        process: Proc = await trio.to_thread.run_sync(lambda: world.hold(told.number()))
        group, keeper = cgroup_of(world, job.job_id), world.keeper(job.job_id)
        assert str(process.pid) in (group / "cgroup.procs").read_text().split()
        ended = await sup.cancel(job.job_id)
        assert ended.status == "cancelled"
        assert not process.alive
    assert keeper.ended()
    assert not group.parent.exists(), "the keeper has left its control groups"


@needs_tree
def test_a_daemon_that_sheds_everything_is_paused(world: World) -> None:
    argv, env, told = daemon(world)
    job_id = world.host().start(*argv, env=env)
    process = world.hold(told.number())
    for change, stands_still in ((pausing.pause, True), (pausing.resume, False)):
        assert change(world.catalog, job_id).paused is stands_still
        found = processes.read_process(process.pid)
        assert found is not None
        tree = cgroups.TreeGroup.of_record(str(cgroup_of(world, job_id)), job_id)
        assert tree is not None
        assert (found.state == "T" or (tree.version == 2 and tree.is_frozen)) is stands_still


@needs_tree
def test_after_the_death_of_its_keeper_any_process_ends_such_a_daemon(world: World) -> None:
    argv, env, told = daemon(world)
    host = world.host()
    job_id = host.start(*argv, env=env)
    process = world.hold(told.number())
    group, keeper = cgroup_of(world, job_id), world.keeper(job_id)
    host.kill()
    keeper.kill()
    ended = world.catalog.cancel(job_id)
    assert ended.status == "cancelled"
    assert process.ended()
    assert not group.parent.exists(), "the control groups of a keeper that is gone are left"


@needs_tree
async def test_the_next_keeper_removes_the_control_groups_of_one_that_is_gone(world: World) -> None:
    told = world.fifo()
    host = world.host()
    job_id = host.start("sh", "-c", f"echo $$ > {told}; exec sleep 1000")
    leader = await trio.to_thread.run_sync(lambda: world.hold(told.number()))
    group, keeper = cgroup_of(world, job_id), world.keeper(job_id)
    host.kill()
    keeper.kill()
    leader.kill()
    assert group.exists()
    async with supervisor.open_supervisor() as sup:
        assert (await sup.run(["true"])).ok
    assert not group.parent.exists()


async def test_without_control_groups_such_a_daemon_escapes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERVISOR_CGROUPS", "off")
    argv, env, told = daemon(world)
    async with supervisor.open_supervisor() as sup:
        job = await sup.start(argv, env=env)
        process = await trio.to_thread.run_sync(lambda: world.hold(told.number()))
        record = world.record(job.job_id, records.PROCESS)
        assert record is not None
        assert records.CGROUP not in record
        ended = await sup.cancel(job.job_id)
        assert ended.status == "cancelled"
        assert process.alive, "SECURITY.md says that it escapes: say that it does not"
    process.kill()
