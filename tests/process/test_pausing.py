"""Pausing jobs: all of their processes stand still, in whichever session they are, and go on afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

import supervisor
from supervisor.engines.local import pausing as local_pausing
from supervisor.errors import FeatureUnavailable, InvalidArguments, PermissionDenied, StateBusy
from supervisor.jobdir import records
from supervisor.jobs import pausing
from supervisor.keeper import job_cgroups
from supervisor.system import processes

if TYPE_CHECKING:
    from tests.process.conftest import Fifo, Proc, World

COUNTING = """
import os, signal, sys, threading, time
told = os.open(sys.argv[1], os.O_WRONLY)
for _ in range(int(sys.argv[2])):
    if os.fork() == 0:
        os.setsid()
        break
seen = []
def note(number, frame):
    seen.append(number)
    os.write(told, b"signal %d\\n" % number)
    if number != signal.SIGCONT:
        os._exit(3)
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCONT):
    signal.signal(number, note)
os.write(told, b"%d\\n" % os.getpid())
while True:
    os.write(1, b"x")
    time.sleep(0.001)
"""


class Counting:
    """A job whose processes, each in a session of its own, write without end."""

    def __init__(self, world: World, fifo: Fifo, job_id: str, number: int) -> None:
        self.world, self.fifo, self.job_id = world, fifo, job_id
        self.processes: list[Proc] = [world.hold(fifo.number()) for _ in range(number)]
        self.output = world.job(job_id) / records.STDOUT

    def states(self) -> set[str]:
        found = [processes.read_process(each.pid) for each in self.processes]
        return {each.state for each in found if each is not None}

    def assert_still(self) -> None:
        assert is_frozen(self.world, self.job_id) or self.states() == {"T"}

    def assert_counting(self) -> None:
        """Wait for its next output."""
        size, give_up = self.output.stat().st_size, time.monotonic() + 30
        while self.output.stat().st_size <= size + len(self.processes):
            assert time.monotonic() < give_up
            time.sleep(0.005)
        assert "T" not in self.states()


def is_frozen(world: World, job_id: str) -> bool:
    """Whether a job is in a control group of version 2 which is frozen."""
    tree = job_cgroups.tree_of(world.record(job_id, records.PROCESS), job_id)
    return tree is not None and tree.version == 2 and tree.is_frozen


def counting(world: World, host: Any, children: int = 2, **options: Any) -> Counting:
    fifo = world.fifo()
    argv = [sys.executable, "-I", "-S", "-c", COUNTING, str(fifo), str(children)]
    return Counting(world, fifo, host.start(*argv, **options), children + 1)


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "supervisor", *words], capture_output=True, text=True, check=False, cwd="/"
    )


def let_pass(deadline: datetime | None) -> None:
    """Let the time of a deadline pass, which is what these tests are about."""
    assert deadline is not None
    time.sleep(max(0.0, (deadline - datetime.now(UTC)).total_seconds()) + 0.3)


def shown(world: World, job_id: str) -> supervisor.Job:
    return world.catalog.status(job_id)


# ---------------------------------------------------------------- the plain way


@pytest.mark.parametrize("by", ["command line", "supervisor"])
def test_all_processes_stand_still_and_go_on(world: World, by: str) -> None:
    host = world.host()
    job = counting(world, host)
    if by == "supervisor":
        assert host.call("pause", job.job_id)["paused"]
    else:
        done = command("pause", "--json", job.job_id)
        assert (done.returncode, json.loads(done.stdout)["paused"]) == (0, True)
    job.assert_still()
    size = job.output.stat().st_size
    assert shown(world, job.job_id).paused
    assert shown(world, job.job_id).status == "running"
    assert host.call("status", job.job_id)["paused"]
    assert [each["paused"] for each in host.call("list")["jobs"]] == [True]
    assert "running (paused)" in command("status", job.job_id).stdout
    assert job.output.stat().st_size == size
    again = pausing.pause(world.catalog, job.job_id)
    assert again.paused
    resumed = (
        host.call("resume", job.job_id)
        if by == "supervisor"
        else json.loads(command("resume", "--json", job.job_id).stdout)
    )
    assert not resumed["paused"]
    job.assert_counting()
    assert not shown(world, job.job_id).paused
    assert not pausing.resume(world.catalog, job.job_id).paused


@pytest.mark.usefixtures("world")
async def test_events_of_pauses_by_this_and_by_another_process() -> None:
    async with supervisor.open_supervisor() as sup:
        job = await sup.start(["sleep", "600"])
        async with sup.events(job.job_id) as events:
            assert (await sup.pause(job.job_id)).paused
            with trio.fail_after(30):
                event = await anext(events)
            assert (event.previous_paused, event.job.paused, event.is_progress) == (False, True, False)
            assert supervisor.to_json(event)["previous_paused"] is False
            await trio.to_thread.run_sync(command, "resume", job.job_id)
            with trio.fail_after(30):
                event = await anext(events)
            assert (event.previous_paused, event.job.paused, event.previous) == (True, False, "running")
        await sup.cancel(job.job_id)


async def test_events_of_an_adopted_job(world: World) -> None:
    job_id = world.host().start("sleep", "600")
    async with supervisor.open_supervisor() as sup, sup.events(job_id) as events:
        await trio.to_thread.run_sync(command, "pause", job_id)
        with trio.fail_after(30):
            event = await anext(events)
        assert event.job.paused
        assert (await sup.status(job_id)).paused
        assert not (await sup.resume(job_id)).paused
        with trio.fail_after(30):
            assert not (await anext(events)).job.paused


def test_a_fork_bomb_of_short_lives_stands_still(world: World) -> None:
    host, fifo = world.host(), world.fifo()
    script = f'echo $$ > {fifo}; while :; do (setsid sh -c "(echo x) | cat" &) ; sh -c "echo y | cat"; done'
    job_id = host.start("sh", "-c", script)
    fifo.line()
    for _ in range(5):
        assert pausing.pause(world.catalog, job_id).paused
        size = os.stat(world.job(job_id) / records.STDOUT).st_size
        assert is_frozen(world, job_id) or {each.state for each in _tree(job_id)} <= {
            "T",
            "D",
        }  # D: between vfork and exec
        assert os.stat(world.job(job_id) / records.STDOUT).st_size == size
        pausing.resume(world.catalog, job_id)


def _tree(job_id: str) -> list[processes.Process]:
    from supervisor.jobdir import job_marks
    from supervisor.keeper.job_processes import JobProcesses

    table = JobProcesses()
    listed = table.list()
    marks = table.marks(listed)
    assert job_marks.MARK
    return [listed[pid] for pid, mark in marks.items() if mark == job_id.encode()]


def test_what_the_job_itself_has_stopped_stays_stopped(world: World) -> None:
    host, fifo = world.host(), world.fifo()
    job_id = host.start("sh", "-c", f"sleep 600 & kill -STOP $!; echo $! > {fifo}; wait")
    stopped = world.hold(fifo.number())
    pausing.pause(world.catalog, job_id)
    assert (world.record(job_id, records.PAUSE) or {})["before"] == f"{stopped.pid}.{stopped.start}"
    pausing.pause(world.catalog, job_id)
    pausing.resume(world.catalog, job_id)
    found = processes.read_process(stopped.pid)
    assert found is not None
    assert found.state == "T"
    leader = processes.read_process(world.leader(job_id).pid)
    assert leader is not None
    assert leader.state != "T"


# ---------------------------------------------------------------- after a kill


def test_keeper_and_supervisor_are_killed_while_it_is_paused(world: World) -> None:
    host = world.host()
    job = counting(world, host)
    keeper = world.keeper(job.job_id)
    pausing.pause(world.catalog, job.job_id)
    host.kill()
    keeper.send(signal.SIGKILL)
    assert keeper.ended()
    job.assert_still()
    assert shown(world, job.job_id).paused
    assert pausing.pause(world.catalog, job.job_id).paused
    assert command("resume", job.job_id).returncode == 0
    job.assert_counting()
    assert not shown(world, job.job_id).paused
    assert command("pause", job.job_id).returncode == 0  # without a keeper
    job.assert_still()
    assert world.catalog.cancel(job.job_id).status == "cancelled"
    assert all(each.ended() for each in job.processes)


def test_only_the_supervisor_is_killed(world: World) -> None:
    host = world.host()
    job = counting(world, host)
    host.call("pause", job.job_id)
    host.kill()
    second = world.host()
    assert second.call("status", job.job_id)["paused"]
    assert not second.call("resume", job.job_id)["paused"]
    job.assert_counting()


@pytest.mark.parametrize("then", ["pause", "resume", "cancel"])
def test_the_process_that_pauses_is_killed_in_between(world: World, then: str) -> None:
    job = counting(world, world.host())
    program = (
        "import os, signal, sys\n"
        "from supervisor.engines.local import pausing\n"
        "signals = pausing._signal\n"
        "def half(members, number):\n"
        "    signals(list(members)[:2], number)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "pausing._signal = half\n"
        "pausing.pause(sys.argv[1], by='test', hold_deadline=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(world.job(job.job_id))], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not shown(world, job.job_id).paused
    if then == "cancel":
        assert world.catalog.cancel(job.job_id).status == "cancelled"
        return
    if then == "pause":
        assert pausing.pause(world.catalog, job.job_id).paused
        job.assert_still()
    pausing.resume(world.catalog, job.job_id)
    job.assert_counting()


# ---------------------------------------------------------------- stops


def test_a_cancel_of_a_paused_job_reaches_its_handlers_before_it_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUPERVISOR_STOP_GRACE_SECONDS", "60")  # each process has to end by its handler
    job = counting(world, world.host())
    pausing.pause(world.catalog, job.job_id)
    size = job.output.stat().st_size
    ended = world.catalog.cancel(job.job_id)
    assert (ended.status, ended.exit_code, ended.paused) == ("cancelled", 3, False)
    assert job.output.stat().st_size <= size + len(job.processes)  # a write that was under way


def test_a_deadline_falls_while_it_is_paused(world: World) -> None:
    host = world.host()
    job = counting(world, host, deadline_seconds=1)
    pausing.pause(world.catalog, job.job_id)
    assert host.call("wait", job.job_id)["status"] == "timeout"
    assert all(each.ended() for each in job.processes)


@pytest.mark.parametrize("alone", [False, True])
def test_a_deadline_that_is_held_falls_after_the_pause(world: World, *, alone: bool) -> None:
    host = world.host()
    job = counting(world, host, deadline_seconds=1.5)
    before = shown(world, job.job_id).deadline_at
    assert before is not None
    paused = pausing.pause(world.catalog, job.job_id, hold_deadline=True)
    if alone:
        host.leave()
    let_pass(before)
    assert shown(world, job.job_id).paused
    job.assert_still()
    resumed = pausing.resume(world.catalog, job.job_id)
    assert paused.deadline_at is not None
    assert resumed.deadline_at is not None
    assert resumed.deadline_at > paused.deadline_at
    assert resumed.deadline_at > before
    job.assert_counting()
    (ended,) = world.catalog.wait([job.job_id], timeout=30)
    assert ended.status == "timeout"
    assert ended.completed_at is not None
    assert abs((ended.completed_at - resumed.deadline_at).total_seconds()) < 1


def test_a_deadline_is_held_when_all_were_killed(world: World) -> None:
    host = world.host()
    job = counting(world, host, deadline_seconds=1.5)
    keeper = world.keeper(job.job_id)
    before = shown(world, job.job_id).deadline_at
    pausing.pause(world.catalog, job.job_id, hold_deadline=True)
    host.kill()
    keeper.send(signal.SIGKILL)
    assert keeper.ended()
    let_pass(before)
    second = world.host()  # adopts it
    assert second.call("status", job.job_id)["paused"]
    job.assert_still()
    assert not second.call("resume", job.job_id)["paused"]
    job.assert_counting()
    ended = second.call("wait", job.job_id)
    assert ended["status"] == "timeout"
    assert ended["elapsed_ms"] > 1500


# ---------------------------------------------------------------- refusals


def test_what_cannot_be_paused(world: World) -> None:
    host = world.host()
    waits = host.start("true", hold=True)
    done = command("pause", waits)
    assert done.returncode == 2
    assert f"supervisor hold {waits}" in done.stderr
    ended = host.start("true")
    host.call("wait", ended)
    assert host.call("pause", ended) == host.call("resume", ended) == "invalid_arguments"
    assert command("pause", "f" * 32).returncode == 3
    stopping = host.start("sh", "-c", "trap '' TERM; while :; do sleep 0.1; done")
    records.create(str(world.job(stopping)), records.STOP, {"why": "cancelled"})
    assert host.call("pause", stopping) == "invalid_arguments"


def test_a_job_does_not_pause_itself(world: World) -> None:
    fifo = world.fifo()
    program = f'{sys.executable} -m supervisor pause "$SUPERVISOR_JOB_ID"; echo $? > {fifo}; sleep 600'
    world.host().start("sh", "-c", program)
    assert fifo.number() == 2


def test_a_keeper_of_an_older_version_holds_no_deadline(world: World) -> None:
    job = counting(world, world.host())
    there = world.record(job.job_id, records.PROCESS) or {}
    del there["controls"], there["v"]
    records.replace(str(world.job(job.job_id)), records.PROCESS, there)
    with pytest.raises(FeatureUnavailable, match="older version"):
        pausing.pause(world.catalog, job.job_id, hold_deadline=True)
    assert world.record(job.job_id, records.PAUSE) is None
    assert pausing.pause(world.catalog, job.job_id).paused


@pytest.mark.parametrize(
    "rubbish",
    [
        b"",
        b"{",
        b"\xff\n",
        b'{"v":1,"state":"paused"}\n',
        b'{"v":1,"state":"asleep","held_ns":0,"held_since_boot_ns":null,"before":""}\n',
        b'{"v":1,"state":"paused","held_ns":-1,"held_since_boot_ns":null,"before":""}\n',
        b'{"v":1,"state":"paused","held_ns":0,"held_since_boot_ns":%d,"before":""}\n' % 2**62,
        b'{"v":1,"state":"paused","held_ns":true,"held_since_boot_ns":null,"before":""}\n',
        b'{"v":1,"state":"paused","held_ns":0,"held_since_boot_ns":null,"before":7}\n',
        b'{"v":2,"state":"paused","held_ns":0,"held_since_boot_ns":null,"before":""}\n',
        b'{"v":1,"state":["paused"],"held_ns":0,"held_since_boot_ns":null,"before":"1.2.3 x y.z"}\n',
    ],
)
def test_a_record_without_sense_says_nothing(world: World, rubbish: bytes) -> None:
    host = world.host()
    job = counting(world, host, children=0, deadline_seconds=600)
    deadline = shown(world, job.job_id).deadline_at
    aside = Path(world.job(job.job_id) / "aside")
    aside.write_bytes(rubbish)
    aside.rename(world.job(job.job_id) / records.PAUSE)
    found = shown(world, job.job_id)
    assert (found.status, found.paused, found.deadline_at) == ("running", False, deadline)
    assert pausing.pause(world.catalog, job.job_id).paused
    job.assert_still()
    aside.write_bytes(rubbish)
    aside.rename(world.job(job.job_id) / records.PAUSE)
    assert not pausing.resume(world.catalog, job.job_id).paused
    job.assert_counting()


def test_a_process_that_is_not_ours_ends_the_pause(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(job_cgroups.CGROUPS_VARIABLE, "off")  # all are stopped by signals
    job = counting(world, world.host())
    send, denied = processes.send_signal, job.processes[-1]

    def refused(pid: int, start: int, number: int) -> bool:
        if pid == denied.pid and number == signal.SIGSTOP:
            raise PermissionError
        return send(pid, start, number)

    monkeypatch.setattr(processes, "send_signal", refused)
    with pytest.raises(PermissionDenied, match=str(denied.pid)):
        pausing.pause(world.catalog, job.job_id)
    job.assert_counting()
    assert not shown(world, job.job_id).paused


def test_a_process_that_does_not_stop_ends_the_pause(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(job_cgroups.CGROUPS_VARIABLE, "off")  # all are stopped by signals
    job = counting(world, world.host())
    send, stuck = processes.send_signal, job.processes[-1]
    monkeypatch.setattr(processes, "send_signal", lambda pid, *rest: True if pid == stuck.pid else send(pid, *rest))
    monkeypatch.setattr(local_pausing, "_PATIENCE_SECONDS", 0.2)
    with pytest.raises(StateBusy, match=str(stuck.pid)):
        pausing.pause(world.catalog, job.job_id)
    job.assert_counting()


def test_a_stop_that_comes_during_a_pause_wins(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    job = counting(world, world.host())
    look, directory = local_pausing._Tree.look, str(world.job(job.job_id))

    def looks(tree: Any) -> None:
        look(tree)
        records.create(directory, records.STOP, {"why": "cancelled"})

    monkeypatch.setattr(local_pausing._Tree, "look", looks)
    with pytest.raises(InvalidArguments, match="is being stopped"):
        pausing.pause(world.catalog, job.job_id)
    assert "T" not in job.states()


def test_many_at_once(world: World) -> None:
    job = counting(world, world.host())
    errors: list[BaseException] = []

    def toggle(number: int) -> None:
        with supervisor_catalog(world) as catalog:
            try:
                for _ in range(5):
                    (pausing.pause if number % 2 else pausing.resume)(catalog, job.job_id)
            except BaseException as error:  # noqa: BLE001  # shown by the assertion
                errors.append(error)

    threads = [threading.Thread(target=toggle, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    found = shown(world, job.job_id)
    if found.paused:
        job.assert_still()
    pausing.resume(world.catalog, job.job_id)
    job.assert_counting()


def supervisor_catalog(world: World) -> Any:
    from supervisor.jobs.catalog import Catalog

    return Catalog(supervisor.Settings(state_dir=world.root))
