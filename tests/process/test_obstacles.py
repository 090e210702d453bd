"""A stop that cannot complete is not awaited forever, and every interface reports it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import supervisor
from supervisor.jobdir import stops
from supervisor.system import processes

if TYPE_CHECKING:
    from tests.process.conftest import Host, World

OTHER = 54321
AS_OTHER = ["setpriv", "--reuid", str(OTHER), "--regid", str(OTHER), "--clear-groups"]
# Root may signal any process, unless it has given up the capability to.
WITHOUT_KILL = ["setpriv", "--bounding-set", "-kill", "--inh-caps", "-kill"]
BOUND = 40.0


def _can_become_another() -> bool:
    try:
        return os.geteuid() == 0 and subprocess.run([*WITHOUT_KILL, *AS_OTHER, "true"], check=False).returncode == 0
    except OSError:
        return False


becomes_another = pytest.mark.skipif(not _can_become_another(), reason="needs root and setpriv")


@pytest.fixture(autouse=True)
def _short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERVISOR_STOP_GRACE_SECONDS", "0.3")


def host_without_kill(world: World) -> Host:
    return world.host(WITHOUT_KILL)


def started(world: World, host: Host, *argv: str, **named: Any) -> str:
    """Start a command that reports when it is ready, and then waits to be released."""
    told = world.fifo()
    world.gate = world.fifo()  # type: ignore[attr-defined]
    script = 'echo up > "$1"; read line < "$2"; exit 7'
    for fifo in (told, world.gate):  # type: ignore[attr-defined]
        os.chmod(str(fifo), 0o666)
    for above in Path(str(told)).parents:
        if above.stat().st_mode & 0o005 != 0o005 and above != Path("/"):
            os.chmod(above, above.stat().st_mode | 0o011)
    job_id = host.start(*argv, "sh", "-c", script, "sh", str(told), str(world.gate), **named)  # type: ignore[attr-defined]
    assert told.line() == "up"
    return job_id


def by_trio(world: World, host: Host, job_id: str) -> str:
    del world
    answer: Any = host.call("cancel", job_id)
    return answer if isinstance(answer, str) else str(answer["status"])


def by_another_supervisor(world: World, host: Host, job_id: str) -> str:
    del host
    return by_trio(world, host_without_kill(world), job_id)


def by_command_line(world: World, host: Host, job_id: str) -> str:
    del host
    argv = [*WITHOUT_KILL, sys.executable, "-m", "supervisor", "cancel", "--json", job_id]
    done = subprocess.run(argv, env=world.environment, capture_output=True, timeout=BOUND, check=False)
    told = json.loads(done.stdout)
    if "error" not in told:
        return str(told["status"])
    details = told["error"]["details"]
    assert (details["uid"], details["user"]) == (OTHER, str(OTHER))
    assert str(details["pid"]) in told["error"]["message"]
    assert "sudo kill" in told["error"]["repair"]
    return str(told["error"]["code"])


def by_threads(world: World, host: Host, job_id: str) -> str:
    del host
    program = """
import sys, supervisor
with supervisor.BlockingSupervisor() as sup:
    try:
        print(sup.cancel(sys.argv[1]).status)
    except supervisor.SupervisorError as error:
        print(error.code, error.details["uid"])
"""
    argv = [*WITHOUT_KILL, sys.executable, "-c", program, job_id]
    done = subprocess.run(argv, env=world.environment, capture_output=True, timeout=BOUND, check=True)
    code, uid = done.stdout.decode().split()
    assert int(uid) == OTHER
    return code


@becomes_another
@pytest.mark.parametrize("cancel", [by_trio, by_another_supervisor, by_command_line, by_threads])
@pytest.mark.parametrize("keeper_is", ["alive", "dead"])
def test_a_leader_that_became_another_user(world: World, cancel: Any, keeper_is: str) -> None:
    host = host_without_kill(world)
    job_id = started(world, host, *AS_OTHER)
    leader = world.leader(job_id)
    if keeper_is == "dead":
        world.keeper(job_id).kill()
    for _ in range(2):  # each cancel tries again
        assert cancel(world, host, job_id) == "permission_denied"
        job = world.catalog.status(job_id)
        assert (job.status, job.stop_requested) == ("running", "cancelled")
        assert leader.alive
    world.gate.open()  # type: ignore[attr-defined]
    ended = host.call("wait", job_id)
    assert (ended["status"], ended["signal"]) == ("failed", None)
    if keeper_is == "alive":
        assert (ended["reason"], ended["exit_code"]) == ("nonzero_exit", 7)


@becomes_another
@pytest.mark.parametrize("supervisor_is", ["alive", "dead"])
def test_a_deadline_whose_signals_reach_no_process_ends_nothing(world: World, supervisor_is: str) -> None:
    host = host_without_kill(world)
    job_id = started(world, host, *AS_OTHER, deadline_seconds=0.5)
    if supervisor_is == "dead":
        host.kill()
    directory = str(world.job(job_id))
    give_up = time.monotonic() + BOUND
    while not (stops.read_stop(directory) or {}).get("refused"):
        assert time.monotonic() < give_up
        time.sleep(0.05)
    job = world.catalog.status(job_id)
    assert (job.status, job.stop_requested) == ("running", "deadline")
    world.gate.open()  # type: ignore[attr-defined]
    (ended,) = world.catalog.wait([job_id], timeout=BOUND)
    assert (ended.status, ended.reason, ended.exit_code) == ("failed", "nonzero_exit", 7)


@becomes_another
def test_a_part_of_a_job_that_became_another_user(world: World) -> None:
    told = world.fifo()
    host = host_without_kill(world)
    command = f'{" ".join(AS_OTHER)} sleep 600 & echo $! > "$1"; wait'
    job_id = host.start("sh", "-c", command, "sh", str(told))
    part = world.hold(told.number())
    give_up = time.monotonic() + BOUND
    while os.stat(f"/proc/{part.pid}").st_uid != OTHER:
        assert time.monotonic() < give_up
        time.sleep(0.01)
    try:
        assert host.call("cancel", job_id) == "permission_denied"
        job = world.catalog.status(job_id)
        assert (job.status, job.reason) == ("cancelled", "cancelled")
        assert str(part.pid) in (job.detail or "")
        assert part.alive
        assert host.call("cancel", job_id)["status"] == "cancelled"  # it has ended: nothing changes
    finally:
        part.kill()


FREEZER = Path("/sys/fs/cgroup/freezer")


@pytest.fixture
def freezer() -> Iterator[Path]:
    """A control group of the first version, whose frozen processes not even SIGKILL ends."""
    group = FREEZER / f"trio-supervisor-{os.getpid()}"
    try:
        group.mkdir()
    except OSError:
        pytest.skip("no such control group can be made here")
    yield group
    (group / "freezer.state").write_text("THAWED")
    for pid in (group / "cgroup.procs").read_text().split():
        (FREEZER / "cgroup.procs").write_text(pid)
    group.rmdir()


@pytest.mark.parametrize("frozen", ["leader", pytest.param("leader and keeper", marks=pytest.mark.slow)])
@pytest.mark.parametrize("way", ["trio", "catalog"])
def test_a_frozen_job_is_cancelled_when_it_thaws(world: World, freezer: Path, frozen: str, way: str) -> None:
    host = world.host()
    job_id = host.start("sleep", "600")
    leader, keeper = world.leader(job_id), world.keeper(job_id)
    (freezer / "cgroup.procs").write_text(str(leader.pid))
    if frozen == "leader and keeper":
        (freezer / "cgroup.procs").write_text(str(keeper.pid))
    (freezer / "freezer.state").write_text("FROZEN")
    if way == "trio":
        assert host.call("cancel", job_id) == "job_running"
    else:
        with pytest.raises(supervisor.JobRunning, match=f"process {leader.pid} is frozen") as caught:
            world.catalog.cancel(job_id)
        assert caught.value.retryable
        assert caught.value.details["pid"] == leader.pid
    assert processes.is_alive(leader.pid, leader.start)
    job = world.catalog.status(job_id)
    assert (job.status, job.stop_requested) == ("running", "cancelled")
    (freezer / "freezer.state").write_text("THAWED")
    (ended,) = world.catalog.wait([job_id], timeout=BOUND)
    assert (ended.status, ended.reason) == ("cancelled", "cancelled")
