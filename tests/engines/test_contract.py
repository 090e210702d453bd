"""What every engine owes to the actors in front of it; one suite, run against each of them."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from supervisor.engines.cluster.shared_directory import make_job_directory
from supervisor.engines.interface import Engine, JobPhase, LaunchRequest, Observation, Running
from supervisor.engines.local.client import LocalClient
from supervisor.engines.local.engine import LocalEngine
from supervisor.engines.registry import make_engine
from supervisor.errors import LaunchFailed
from supervisor.jobdir import records
from supervisor.runtime.follow import Chunks
from supervisor.store import Layout
from supervisor.store.state_root import new_job_id, workspace_key
from supervisor.system import processes
from supervisor.system.notifier import Notifier
from supervisor.testing import FakeEngine, Script
from tests.engines import toy_cluster

# For real, and as a script. Those that print have their signals set up when they do.
COMMANDS: dict[str, tuple[tuple[str, ...], Script]] = {
    "quick": (("sh", "-c", "echo out; echo err >&2; exit 7"), Script(stdout="out\n", stderr="err\n", exit_code=7)),
    "killed": (("sh", "-c", "kill -9 $$"), Script(signal=9)),
    "short": (("sh", "-c", "echo ready; sleep 0.2"), Script(stdout="ready\n", seconds=0.2)),
    "sleeper": (("sh", "-c", "echo ready; exec sleep 600"), Script(stdout="ready\n", seconds=None)),
    "polite": (
        ("sh", "-c", "trap 'exit 3' TERM; echo ready; while :; do sleep 600 & wait; done"),
        Script(stdout="ready\n", seconds=None, stop_exit_code=3),
    ),
    "stubborn": (
        ("sh", "-c", "trap '' TERM; echo ready; exec sleep 600"),
        Script(stdout="ready\n", seconds=None, stop_seconds=float("inf")),
    ),
    "loud": (
        ("sh", "-c", "head -c 70000 /dev/zero; exec sleep 600"),
        Script(stdout=bytes(70000), seconds=None),
    ),
    "missing": (("no-such-command-anywhere",), Script(launch_error="no-such-command-anywhere: command not found")),
    "refused": (("/etc/hostname",), Script(launch_error="/etc/hostname is not executable", launch_status=126)),
}
SCRIPTS = {tuple(map(os.fsencode, argv)): script for argv, script in COMMANDS.values()}


@attrs.define
class Bench:
    """An engine on a state root of its own, and jobs for it."""

    root: Path
    workspace: Path
    make: Callable[[], Engine]
    shared: Path | None = None

    def request(self, command: str, *, job_id: str | None = None, **rest: Any) -> LaunchRequest:
        """Make a job directory and return the request to launch ``command`` in it."""
        layout = Layout(self.root)
        made = job_id or new_job_id()
        born = {"host": processes.host_id(), "boot": processes.boot_id(), "ns": processes.pid_namespace()}
        options = {"grace_seconds": 0.2, "deadline_seconds": None, "output_limit": 1 << 26} | rest
        given = {"argv": COMMANDS[command][0], "workspace": str(self.workspace), "created_ns": time.time_ns()}
        record = {"v": 1, "job_id": made} | born | given | options
        text = json.dumps(record).encode()
        directory = layout.make_job(workspace_key(str(self.workspace)), made, text)
        if self.shared is not None:
            directory = make_job_directory(directory, f"{self.shared}/{made}", text)
        argv = tuple(map(os.fsencode, COMMANDS[command][0]))
        return LaunchRequest(directory=directory, record=record, argv=argv, workspace=str(self.workspace))


@contextlib.asynccontextmanager
async def served(engine: Engine) -> AsyncGenerator[Engine]:
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.serve)
        yield engine
        nursery.cancel_scope.cancel()


@pytest.fixture(params=["fake", "local", "slurm", "toy"])
def bench(request: pytest.FixtureRequest, state_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """An engine that is not served yet; ``make`` gives what a supervisor opened later would have."""
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    if request.param == "local":
        return Bench(state_dir, workspace, lambda: make_engine("local", str(state_dir)))
    if request.param != "fake":
        if request.param == "slurm":
            request.getfixturevalue("slurm")
        else:
            toy_cluster.install(tmp_path, monkeypatch)
        shared = tmp_path / "shared"
        shared.mkdir(mode=0o700)
        return Bench(state_dir, workspace, lambda: make_engine(request.param, str(state_dir)), shared)
    machine = FakeEngine(lambda asked: SCRIPTS[asked.argv])
    return Bench(state_dir, workspace, lambda: machine)


def output(request: LaunchRequest, name: str = records.STDOUT) -> bytes | None:
    """Return what stands in a file of the job, ``None`` when there is none."""
    path = Path(request.directory, name)
    return path.read_bytes() if path.exists() else None


async def printed(directory: str) -> bytes:
    """Wait until the command has printed something."""
    async with trio.open_nursery() as nursery:
        notifier = Notifier()
        nursery.start_soon(notifier.serve)
        chunks = Chunks(directory, "stdout", trio.Event(), lambda: None)
        await nursery.start(chunks.serve, notifier)
        data = await anext(chunks)
        chunks.close()
        nursery.cancel_scope.cancel()
    return data


async def launch(engine: Engine, request: LaunchRequest) -> Running:
    """Launch a command, and wait for its turn where it has to wait for that."""
    running = engine.submit(request)
    await running.started()
    return running


async def launched(engine: Engine, request: LaunchRequest) -> Running:
    """Launch a command that prints, and wait until it has."""
    running = await launch(engine, request)
    await printed(request.directory)
    return running


async def stopped(running: Running) -> None:
    """Clean up."""
    await running.stop("cancelled", "test")
    await running.wait()


async def test_a_launched_command_has_a_pid_and_a_time(bench: Bench) -> None:
    async with served(bench.make()) as engine:
        before = time.time_ns()
        running = await launch(engine, bench.request("sleeper"))
        assert running.launched.pid > 1
        assert before <= running.launched.started_ns <= time.time_ns()
        await stopped(running)


async def test_a_natural_end_tells_the_exit_code_and_leaves_the_output(bench: Bench) -> None:
    request = bench.request("quick")
    async with served(bench.make()) as engine:
        before = time.time_ns()
        ended = await (await launch(engine, request)).wait()
    assert (ended.exit.exit_code, ended.exit.signal, ended.stopped) == (7, None, None)
    assert before <= ended.exit.ended_ns <= time.time_ns()
    assert output(request) == b"out\n"
    assert output(request, records.STDERR) == b"err\n"
    modes = {os.stat(f"{request.directory}/{name}").st_mode for name in (records.STDOUT, records.STDERR)}
    assert {mode & 0o777 for mode in modes} == {0o600}


async def test_death_by_a_signal_of_its_own_is_no_stop(bench: Bench) -> None:
    async with served(bench.make()) as engine:
        ended = await (await launch(engine, bench.request("killed"))).wait()
    assert (ended.exit.exit_code, ended.exit.signal, ended.stopped) == (None, 9, None)


async def test_everybody_who_waits_is_told_the_same(bench: Bench) -> None:
    told = []

    async def wait(running: Running) -> None:
        told.append(await running.wait())

    async with served(bench.make()) as engine:
        running = await launch(engine, bench.request("short"))
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(wait, running)
        told.append(await running.wait())
    assert len(told) == 4
    assert told.count(told[0]) == 4


async def test_a_wait_can_be_cancelled_and_begun_again(bench: Bench) -> None:
    async with served(bench.make()) as engine:
        request = bench.request("sleeper")
        running = await launch(engine, request)
        with trio.CancelScope() as scope:
            scope.cancel()
            await running.wait()
        assert scope.cancelled_caught
        assert engine.client().observe(request.directory, owner_lives=True).phase is JobPhase.RUNNING
        await running.stop("cancelled", "test")
        assert (await running.wait()).stopped == "cancelled"


async def test_a_stop_is_on_record_and_names_its_reason(bench: Bench) -> None:
    request = bench.request("sleeper")
    async with served(bench.make()) as engine:
        running = await launched(engine, request)
        await running.stop("deadline", "a test")
        ended = await running.wait()
    assert (ended.exit.exit_code, ended.exit.signal, ended.stopped) == (None, 15, "deadline")
    stop = records.read(request.directory, records.STOP)
    assert stop is not None
    assert (stop["why"], stop["by"], stop["gone"]) == ("deadline", "a test", True)
    assert isinstance(stop["signalled_boot_ns"], int)


async def test_a_command_may_end_in_its_own_way_when_it_is_stopped(bench: Bench) -> None:
    async with served(bench.make()) as engine:
        running = await launched(engine, bench.request("polite"))
        await running.stop("cancelled", "test")
        ended = await running.wait()
    assert (ended.exit.exit_code, ended.exit.signal, ended.stopped) == (3, None, "cancelled")


async def test_a_stubborn_command_is_killed_when_its_grace_is_over(bench: Bench) -> None:
    async with served(bench.make()) as engine:
        request = bench.request("stubborn", grace_seconds=0.3)
        running = await launched(engine, request)
        before = trio.current_time()
        await running.stop("cancelled", "test")
        ended = await running.wait()
        took = trio.current_time() - before
    assert (ended.exit.exit_code, ended.exit.signal, ended.stopped) == (None, 9, "cancelled")
    assert took >= 0.29


async def test_the_first_reason_of_a_stop_stays(bench: Bench) -> None:
    async with served(bench.make()) as engine:
        running = await launched(engine, bench.request("sleeper"))
        await running.stop("cancelled", "first")
        await running.stop("deadline", "second")
        assert (await running.wait()).stopped == "cancelled"
        await running.stop("deadline", "third")
        assert (await running.wait()).stopped == "cancelled"


async def test_a_command_that_has_ended_cannot_be_stopped(bench: Bench) -> None:
    request = bench.request("quick")
    async with served(bench.make()) as engine:
        running = await launch(engine, request)
        await running.wait()
        await running.stop("cancelled", "test")
        ended = await running.wait()
        seen = engine.client().observe(request.directory, owner_lives=True)
    assert (ended.exit.exit_code, ended.stopped) == (7, None)
    assert seen.ended is not None
    assert (seen.ended.exit.exit_code, seen.ended.stopped) == (7, None)


async def test_stopping_one_leaves_the_others(bench: Bench) -> None:
    async with served(bench.make()) as engine:
        requests = [bench.request("sleeper") for _ in range(3)]
        first, second, third = [await launched(engine, request) for request in requests]
        await stopped(second)
        seen = [engine.client().observe(request.directory, owner_lives=True).phase for request in requests]
        assert seen == [JobPhase.RUNNING, JobPhase.ENDED, JobPhase.RUNNING]
        await stopped(first)
        await stopped(third)


async def test_output_past_the_limit_stops_the_command(bench: Bench) -> None:
    async with served(bench.make()) as engine:
        running = await launch(engine, bench.request("loud", output_limit=65536))
        assert (await running.wait()).stopped == "output_limit"


@pytest.mark.parametrize(("command", "status"), [("missing", 127), ("refused", 126)])
async def test_a_launch_that_fails_says_why_and_leaves_it_on_record(bench: Bench, command: str, status: int) -> None:
    request = bench.request(command)
    async with served(bench.make()) as engine:
        with pytest.raises(LaunchFailed) as raised:
            await launch(engine, request)
        seen = engine.client().observe(request.directory, owner_lives=True)
    assert raised.value.exit_status == status
    assert COMMANDS[command][0][0] in raised.value.message
    assert seen.phase is JobPhase.ENDED
    assert seen.launched is None
    assert seen.ended is not None
    exit_ = seen.ended.exit
    assert (exit_.launch_error, exit_.launch_status, exit_.exit_code) == (raised.value.message, status, None)
    assert not exit_.never_launched


async def test_a_failed_launch_is_not_repeated(bench: Bench) -> None:
    request = bench.request("missing")
    async with served(bench.make()) as engine:
        for _ in range(2):
            with pytest.raises(LaunchFailed, match="no-such-command-anywhere") as raised:
                await launch(engine, request)
            assert raised.value.exit_status == 127


async def test_one_directory_is_launched_once(bench: Bench) -> None:
    request = bench.request("sleeper")
    async with served(bench.make()) as engine:
        first = await launched(engine, request)
        second = await launch(engine, request)
        await second.stop("cancelled", "test")
        told = (await first.wait(), await second.wait())
    assert first.launched.pid == (await _recorded_pid(bench, request)) > 1
    assert {ended.stopped for ended in told} == {"cancelled"}
    assert output(request) == b"ready\n"


async def test_a_job_that_a_killed_process_may_have_launched_is_launched_once(bench: Bench) -> None:
    request = bench.request("sleeper")
    async with served(bench.make()) as engine:
        first = await launched(engine, request)
    async with served(bench.make()) as engine:
        second = await launch(engine, attrs.evolve(request, may_be_launched=True))
        assert second.launched.pid == first.launched.pid
        await second.stop("cancelled", "test")
        assert (await second.wait()).stopped == "cancelled"
    assert output(request) == b"ready\n"


async def _observed(bench: Bench, request: LaunchRequest) -> Observation:
    async with served(bench.make()) as engine:
        return engine.client().observe(request.directory, owner_lives=False)


async def _recorded_pid(bench: Bench, request: LaunchRequest) -> int:
    seen = await _observed(bench, request)
    assert seen.launched is not None
    return seen.launched.pid


async def test_what_nobody_will_launch_was_never_launched(bench: Bench) -> None:
    request = bench.request("quick")
    async with served(bench.make()) as engine:
        assert engine.client().observe(request.directory, owner_lives=True).phase is JobPhase.QUEUED
        seen = engine.client().observe(request.directory, owner_lives=False)
        assert seen.phase is JobPhase.ENDED
        assert seen.ended is not None
        assert seen.ended.exit.never_launched
        with pytest.raises(LaunchFailed):  # and that ruling is final
            await launch(engine, request)
    assert output(request) is None


async def test_a_job_whose_owner_lives_can_be_watched_before_its_launch(bench: Bench) -> None:
    request = bench.request("quick")
    alive = True
    async with served(bench.make()) as engine, trio.open_nursery() as nursery:
        running = await engine.adopt(request.directory, None, owner_lives=lambda: alive)
        ends = []

        async def wait() -> None:
            ends.append(await running.wait())

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert records.read_claim(request.directory) is None  # nobody ruled that it will not be launched
        own = await launch(engine, request)
        ended = await own.wait()
    assert ends == [ended]
    assert ended.exit.exit_code == 7


async def test_the_deadline_of_an_adopted_job_runs_from_its_launch(bench: Bench) -> None:
    request = bench.request("sleeper", deadline_seconds=600)
    async with served(bench.make()) as engine, trio.open_nursery() as nursery:
        running = await engine.adopt(request.directory, None, record=request.record, owner_lives=lambda: True)
        assert running.seconds_left() == math.inf
        nursery.start_soon(running.started)
        await trio.testing.wait_all_tasks_blocked(0.02)
        own = await launch(engine, request)
        await running.started()
        assert 590 < own.seconds_left() <= 600
        assert 590 < running.seconds_left() <= 600
        await stopped(own)


async def test_a_job_without_a_deadline_has_time_without_end(bench: Bench) -> None:
    async with served(bench.make()) as engine:
        running = await launch(engine, bench.request("quick"))
        assert running.seconds_left() == math.inf
        await running.wait()


async def test_a_launch_that_fails_has_an_end(bench: Bench) -> None:
    request = bench.request("missing")
    async with served(bench.make()) as engine:
        running = engine.submit(request)
        for _ in range(2):
            with pytest.raises(LaunchFailed, match="no-such-command-anywhere"):
                await running.started()
        await running.stop("cancelled", "test")  # too late
        exit_ = (await running.wait()).exit
    assert (exit_.launch_status, exit_.exit_code) == (127, None)
    assert "no-such-command-anywhere" in (exit_.launch_error or "")


async def test_a_launch_that_is_not_waited_for_can_be_stopped(bench: Bench) -> None:
    """Whether it took place or not: a stop comes to an end, and is the reason of that."""
    request = bench.request("sleeper")
    async with served(bench.make()) as engine:
        running = engine.submit(request)
        with trio.CancelScope() as scope:
            scope.cancel()
            await running.started()
        assert scope.cancelled_caught
        await running.stop("cancelled", "test")
        with trio.fail_after(60):
            ended = await running.wait()
    assert ended.stopped == "cancelled"
    assert (await _observed(bench, request)).phase is JobPhase.ENDED


async def test_an_engine_that_is_not_served_launches_nothing(bench: Bench) -> None:
    request = bench.request("quick")
    with pytest.raises(LaunchFailed, match="not being served"):
        await launch(bench.make(), request)
    assert output(request) is None


async def test_commands_go_on_when_the_engine_is_left_and_can_be_adopted(bench: Bench) -> None:
    request = bench.request("sleeper")
    async with served(bench.make()) as engine:
        pid = (await launched(engine, request)).launched.pid
    async with served(bench.make()) as engine:
        seen = engine.client().observe(request.directory, owner_lives=False)
        assert seen.phase is JobPhase.RUNNING
        assert seen.launched is not None
        assert seen.launched.pid == pid
        running = await engine.adopt(request.directory, seen.launched)
        assert running.launched.pid == pid
        await running.stop("cancelled", "test")
        ended = await running.wait()
    assert (ended.exit.signal, ended.stopped) == (15, "cancelled")


async def test_an_end_while_nobody_looked_is_told_to_whoever_adopts(bench: Bench) -> None:
    request = bench.request("short")
    async with served(bench.make()) as engine:
        known = (await launch(engine, request)).launched
    await trio.sleep(0.25)  # nobody is there to be told of the end: time is all there is
    async with served(bench.make()) as engine:
        running = await engine.adopt(request.directory, known)
        with trio.fail_after(60):
            ended = await running.wait()
        assert (ended.exit.exit_code, ended.stopped) == (0, None)
        seen = engine.client().observe(request.directory, owner_lives=False)
        assert seen.ended is not None
        assert seen.ended.exit == ended.exit


async def test_a_deadline_holds_while_nobody_looks(bench: Bench) -> None:
    request = bench.request("sleeper", deadline_seconds=0.3)
    async with served(bench.make()) as engine:
        await launched(engine, request)
    await trio.sleep(0.4)  # as above
    async with served(bench.make()) as engine:
        running = await engine.adopt(request.directory, None)
        with trio.fail_after(60):
            ended = await running.wait()
    assert (ended.exit.signal, ended.stopped) == (15, "deadline")


async def test_adopting_does_not_need_to_know_the_launch(bench: Bench) -> None:
    request = bench.request("quick")
    async with served(bench.make()) as engine:
        await (await launch(engine, request)).wait()
    async with served(bench.make()) as engine:
        ended = await (await engine.adopt(request.directory, None)).wait()
    assert ended.exit.exit_code == 7


async def test_the_evidence_on_disk_agrees(bench: Bench) -> None:
    """Whoever has no such engine, the command line for one, comes to the same end."""
    ends = []
    requests = [bench.request("quick"), bench.request("killed"), bench.request("sleeper")]
    async with served(bench.make()) as engine:
        for request in requests:
            running = await launch(engine, request)
            if request is requests[-1]:
                await printed(request.directory)
                await running.stop("cancelled", "test")
            ends.append(await running.wait())
    local = LocalClient()
    for request, ended in zip(requests, ends, strict=True):
        seen = local.observe(request.directory, owner_lives=False)
        assert seen.ended is not None
        assert (seen.ended.exit.exit_code, seen.ended.exit.signal) == (ended.exit.exit_code, ended.exit.signal)
        assert (seen.ended.exit.ended_ns, seen.ended.stopped) == (ended.exit.ended_ns, ended.stopped)


def test_each_engine_has_a_name_of_its_own(state_dir: Path) -> None:
    assert {LocalEngine(str(state_dir)).name, FakeEngine().name} == {"local", "fake"}
