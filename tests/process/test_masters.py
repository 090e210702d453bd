"""An embedded supervisor and the command line act on one job at the same time."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

import supervisor
from supervisor.jobs.catalog import Catalog

if TYPE_CHECKING:
    from tests.process.conftest import World


def begin(*words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "supervisor", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def end(process: subprocess.Popen[bytes], status: int = 0) -> str:
    with process:
        out, err = process.communicate(timeout=30)
    assert process.returncode == status, err.decode()
    return out.decode()


def command(*words: str, status: int = 0) -> str:
    return end(begin(*words), status)


@pytest.fixture(autouse=True)
def _same_package(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", world.environment["PYTHONPATH"])


def test_a_job_of_a_supervisor_is_ruled_from_the_command_line(world: World) -> None:
    gate = world.fifo()
    host = world.host()
    waited_for = host.start("sh", "-c", 'read line < "$1"; exit 3', "sh", str(gate))
    waiting = begin("wait", waited_for)
    cancelled = host.start("sleep", "600")
    leader = world.leader(cancelled)
    told = host.ask("wait", cancelled)
    command("rm", cancelled, status=75)
    assert json.loads(command("cancel", cancelled, "--json"))["status"] == "cancelled"
    assert not leader.alive
    assert host.answer(told)["status"] == "cancelled"
    assert host.call("cancel", cancelled)["status"] == "cancelled"
    gate.open()
    end(waiting, status=1)
    assert host.call("wait", waited_for)["exit_code"] == 3
    command("rm", waited_for)
    assert host.call("status", waited_for) == "job_not_found"
    consumed = host.call("run", ["echo", "x"])["job"]["job_id"]
    assert command("result", "--consume", consumed) == "x\n"
    for do in ("status", "result", "wait", "cancel", "forget"):
        assert host.call(do, consumed) == "job_not_found"
    assert [job["job_id"] for job in host.call("list")["jobs"]] == [cancelled]


def test_a_job_of_the_command_line_is_ruled_by_a_supervisor(world: World) -> None:
    gate = world.fifo()
    host = world.host()
    waited_for = command("start", "--", "sh", "-c", 'read line < "$1"; exit 3', "sh", str(gate)).strip()
    cancelled = command("start", "--", "sleep", "600").strip()
    leader = world.leader(cancelled)
    waiting = begin("wait", cancelled)
    told = host.ask("wait", waited_for)
    assert host.call("forget", cancelled) == "job_running"
    assert host.call("cancel", cancelled)["status"] == "cancelled"
    assert not leader.alive
    end(waiting, status=1)
    gate.open()
    assert host.answer(told)["exit_code"] == 3
    assert json.loads(command("status", waited_for, "--json"))["exit_code"] == 3
    assert host.call("forget", waited_for) is None
    command("status", waited_for, status=3)
    ended = command("start", "--", "echo", "x").strip()
    command("wait", ended)
    assert host.call("result", ended, consume=True)["value"] == "x\n"
    for word in ("result", "cancel"):
        command(word, ended, status=3)


def test_a_run_that_is_waited_for_is_cancelled_by_each_other_master(world: World) -> None:
    host = world.host()
    from_the_command_line = begin("run", "--label", "who=shell", "--", "sleep", "600")
    job_id = running(world, "shell")
    assert host.call("cancel", job_id)["status"] == "cancelled"
    with from_the_command_line:
        from_the_command_line.communicate(timeout=30)
    assert from_the_command_line.returncode != 0
    embedded = host.ask("run", ["sleep", "600"], labels={"who": "host"})
    command("cancel", running(world, "host"))
    assert host.answer(embedded)["error"]["code"] == "job_cancelled"


def running(world: World, who: str) -> str:
    """Return the running job of that label; it is being started, and an unknown job has no event yet."""
    import time

    while True:
        for job in world.catalog.list(labels={"who": who}, state="running").jobs:
            return job.job_id
        time.sleep(0.01)


@pytest.mark.parametrize("mode", ["r+b", "wb"])
def test_the_registry_is_zeroed_while_supervisors_hold_it_open_and_jobs_run(world: World, mode: str) -> None:
    gate = world.fifo()
    hosts = world.hosts(2)
    argv = ["sh", "-c", 'read line < "$1"; exit 3', "sh", str(gate)]
    jobs = [host.start(*argv) for host in hosts for _ in range(5)]
    waiting = [(host, host.ask("wait", job_id)) for host in hosts for job_id in jobs]
    for _ in range(2):
        for path in world.root.glob("registry.db*"):
            size = path.stat().st_size if path.exists() else 0
            # A process that truncates a file that SQLite has mapped into memory kills the other process, by SIGBUS.
            with contextlib.suppress(FileNotFoundError), path.open("r+b" if path.suffix == ".db-shm" else mode) as file:
                file.write(bytes(size))
        assert {job["job_id"] for job in hosts[0].call("list")["jobs"]} >= set(jobs)
        jobs.append(hosts[1].start(*argv))
        assert {job["job_id"] for job in hosts[0].call("list")["jobs"]} == set(jobs)
    gate.open(len(jobs))
    assert [host.answer(number)["exit_code"] for host, number in waiting] == [3] * len(waiting)
    with Catalog(supervisor.Settings()) as fresh:
        ended = {job.job_id: job.exit_code for job in [*fresh.wait(jobs, timeout=60), *fresh.list().jobs]}
    assert ended == dict.fromkeys(jobs, 3)
    assert list(world.root.glob("registry.db.damaged-*"))


def test_the_cap_is_reached_with_fifty_live_jobs_and_none_is_touched(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SUPERVISOR_JOB_MAX_COUNT", "10")
    hosts = world.hosts(2)
    asked = [(host, host.ask("start", ["sleep", "600"])) for host in hosts for _ in range(25)]
    live = [host.answer(number)["job_id"] for host, number in asked]
    leaders = [world.leader(job_id) for job_id in live]
    asked = [(host, host.ask("run", ["true"])) for host in hosts for _ in range(10)]
    ended = {host.answer(number)["job"]["job_id"] for host, number in asked}
    assert len(ended) == 20
    last: Any = hosts[0].call("run", ["true"])
    command("prune")
    kept = {job.job_id for job in world.catalog.list(limit=1000).jobs}
    assert kept > set(live)
    assert len(kept - set(live)) == 10
    assert last["job"]["job_id"] in kept
    assert all(leader.alive for leader in leaders)
    assert all(job.status == "running" for job in map(world.catalog.status, live))
    assert len(list(world.root.glob("*-*/????????????????????????????????"))) == 60
    assert not os.listdir(world.root / ".trash")
