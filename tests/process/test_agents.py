"""Runs of agents from end to end: a stand-in on PATH replays captured runs."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio

import supervisor
from supervisor.engines.waiting import Change
from supervisor.jobs import outcome as settling
from supervisor.jobs.catalog import Catalog
from supervisor.system.inotify import MODIFIED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.process.conftest import Fifo, World

STAND_IN = Path(__file__).with_name("agent_stand_in.py")
ROOT = Path(__file__).parents[2]
RUNS = ROOT / "tests/interpret/fixtures"
STREAM_COST = 0.00036799999999999995


@attrs.frozen
class Expected:
    """The expected verdict of a run, as ``docs/agents.md`` has it."""

    exit: str
    state: str
    reason: str
    code: str
    retryable: str
    cost: str

    def check(self, result: supervisor.Result) -> None:
        job, error = result.job, result.error
        assert (job.status, job.reason) == (self.state, self.reason)
        assert (error.code if error else "") == self.code
        assert {None: "", True: "yes", False: "no"}[error and error.retryable] == self.retryable
        assert ("" if job.cost_usd is None else f"{job.cost_usd:.6f}") == self.cost
        assert result.ok == job.result_available == (self.state == "done")
        if error is not None:
            assert error.message
            assert error.repair
            assert job.detail


def _table() -> dict[str, Expected]:
    text = ROOT.joinpath("docs/agents.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+/[\w-]+)` \|(.*)\|$", text, re.MULTILINE)
    return {name: Expected(*(cell.strip() for cell in cells.split("|"))) for name, cells in rows}


TABLE = _table()
REPLAYED = [name for name in TABLE if not name.startswith("claude/k-")]
WITH_THE_COMMAND_LINE = ("success", "stream", "529-r1", "budget", "denied", "maxturns", "badflag", "nokey")


def captured(name: str) -> dict[str, Any]:
    run: dict[str, Any] = json.loads(RUNS.joinpath(f"{name}.json").read_text(encoding="utf-8"))
    return run


class Agent:
    """The stand-in, under its names on PATH, and its configuration."""

    def __init__(self, world: World, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._world = world
        self._patch = monkeypatch
        directory.mkdir()
        for name in ("claude", "codex"):
            program = directory / name
            program.write_text(f"#!{sys.executable} -IS\n{STAND_IN.read_text(encoding='utf-8')}", encoding="utf-8")
            program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")

    def plays(self, name: str) -> list[str]:
        """Let it replay a run with its own timing; return its command."""
        self._patch.setenv("STAND_IN_RUN", str(RUNS / f"{name}.json"))
        return [name.partition("/")[0], *("-p", "hi")]

    def plays_by_step(self, name: str) -> tuple[list[str], Fifo, Fifo]:
        """Let it wait for a line before each of its own; return the command, the pipe for its pid, and the gate."""
        up, gate = self._world.fifo(), self._world.fifo()
        self._patch.setenv("STAND_IN_UP", str(up))
        self._patch.setenv("STAND_IN_GATE", str(gate))
        return self.plays(name), up, gate

    @contextlib.contextmanager
    def supervisor(self, *words: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
        """Run the command line, until it ends or the block fails."""
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        command = [sys.executable, "-m", "supervisor", *words]
        with subprocess.Popen(command, **{**pipes, "env": self._world.environment, **options}) as process:
            try:
                yield process
            except BaseException:
                process.kill()
                raise

    def only_result(self, detail: str | None = None) -> supervisor.Result:
        """Return the result of the only job, as any other process gets it."""
        (job,) = self._world.catalog.list().jobs
        return self._world.catalog.result(job.job_id, detail=detail)


@pytest.fixture
def agent(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Agent:
    return Agent(world, tmp_path / "bin", monkeypatch)


@pytest.mark.parametrize("name", WITH_THE_COMMAND_LINE)
def test_seen_a_captured_run_from_end_to_end(agent: Agent, name: str) -> None:
    run, expected = captured(f"claude/{name}"), TABLE[f"claude/{name}"]
    with agent.supervisor("run", "--kind", "claude", "--", *agent.plays(f"claude/{name}")) as process:
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (int(expected.exit), run["stdout"].encode())
    assert run["stderr"].encode() in err
    result = agent.only_result()
    expected.check(result)
    if result.error is not None:  # an exit status of 1 does not name the cause
        assert result.error.message.encode() in err
        assert result.error.repair.encode() in err
    if expected.reason == "reported_error":
        assert result.error is not None
        assert result.error.details["session_id"]


async def test_seen_every_captured_run_gets_what_the_table_says(agent: Agent) -> None:
    results: dict[str, supervisor.Result] = {}
    async with supervisor.open_supervisor() as sup, trio.open_nursery() as nursery:

        async def play(name: str) -> None:
            argv = agent.plays(name)  # the next start reads it
            environment = dict(os.environ)
            results[name] = await sup.run(argv, kind=argv[0], env=environment)

        for name in REPLAYED:
            nursery.start_soon(play, name)
    for name in REPLAYED:
        TABLE[name].check(results[name])


def test_seen_a_run_as_json_carries_it_all(agent: Agent) -> None:
    with agent.supervisor("run", "--json", "--kind", "claude", "--", *agent.plays("claude/529-r1")) as process:
        out, _ = process.communicate(timeout=30)
    shape = json.loads(out)
    assert (process.returncode, shape["ok"]) == (1, False)
    assert (shape["error"]["code"], shape["error"]["retryable"]) == ("api_overloaded", True)
    assert shape["error"]["details"]["session_id"]
    assert (shape["job"]["status"], shape["job"]["reason"], shape["job"]["cost_usd"]) == ("failed", "reported_error", 0)
    assert "Overloaded" in shape["job"]["detail"]
    assert shape["job"]["progress"] is None


# ------------------------------------------------------------ ended by others


@pytest.mark.parametrize(
    ("number", "status", "reason", "code", "exit_code"),
    [
        (signal.SIGINT, 1, "invalid_output", "invalid_output", 0),
        (signal.SIGTERM, 143, "nonzero_exit", "job_failed", 143),
        (signal.SIGKILL, 137, "killed_by_signal", "job_failed", None),
    ],
)
def test_seen_a_run_that_is_interrupted(
    world: World, agent: Agent, number: signal.Signals, status: int, reason: str, code: str, exit_code: int | None
) -> None:
    argv, up, _ = agent.plays_by_step("claude/success")
    with agent.supervisor("run", "--kind", "claude", "--", *argv) as process:
        world.hold(up.number()).send(number)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (status, b"")
    result = agent.only_result()
    assert (result.job.status, result.job.reason, result.job.exit_code) == ("failed", reason, exit_code)
    assert result.error is not None
    assert result.error.code == code
    if number == signal.SIGINT:
        assert b"wrote nothing" in err
        assert result.error.retryable


def _steps(world: World, gate: Fifo, count: int, ends_with: bytes = b"\n") -> None:
    """Let so many lines through, and wait until they are written."""
    for _ in range(count):
        gate.open()
    (job,) = world.catalog.list().jobs
    want = captured("claude/stream")["stdout"].splitlines(keepends=True)
    (out,) = world.job(job.job_id).glob("result.json")
    size = sum(len(line.encode()) for line in want[:count])
    give_up = time.monotonic() + 20
    with Change([str(out.parent)], MODIFIED) as change:
        while out.stat().st_size < size:
            assert time.monotonic() < give_up, out.read_bytes()
            change.wait(5)
    assert out.read_bytes().endswith(ends_with)


def test_seen_ctrl_c_cancels_and_what_is_known_is_kept(world: World, agent: Agent) -> None:
    argv, up, gate = agent.plays_by_step("claude/stream")
    with agent.supervisor("run", "--kind", "claude", "--", *argv) as process:
        up.number()
        _steps(world, gate, 2)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 130
    result = agent.only_result()
    # Its first signal is SIGINT, by which this agent ends with 0.
    assert (result.job.status, result.job.reason, result.job.exit_code) == ("cancelled", "cancelled", 0)
    assert result.error is not None
    assert (result.error.code, result.error.retryable) == ("job_cancelled", False)
    assert result.error.details["session_id"]
    assert result.job.cost_usd is None


def test_seen_a_deadline_after_the_answer_keeps_its_cost(world: World, agent: Agent) -> None:
    argv, up, gate = agent.plays_by_step("claude/stream")
    with agent.supervisor("run", "--kind", "claude", "--deadline", "3", "--", *argv) as process:
        up.number()
        _steps(world, gate, 5)  # the whole output, without an end
        _, err = process.communicate(timeout=30)
    assert process.returncode == 124
    assert b"deadline" in err
    result = agent.only_result()
    assert (result.job.status, result.job.reason, result.job.cost_usd) == ("timeout", "deadline", STREAM_COST)
    assert "complete answer" in (result.job.detail or "")
    assert result.error is not None
    assert result.error.code == "job_timeout"
    assert result.error.details["session_id"]
    assert result.error.details["num_turns"] == 2
    assert result.error.details["usage"]["output_tokens"] == 14


def _killed_keeper(world: World, agent: Agent, lines: int, end: int | None) -> str:
    """Play a part of a run, kill supervisor and keeper, let it end (or end it), and return the job's id."""
    argv, up, gate = agent.plays_by_step("claude/stream")
    with agent.supervisor("start", "--kind", "claude", "--", *argv) as process:
        out, _ = process.communicate(timeout=30)
    job_id = out.decode().strip()
    leader = world.hold(up.number())
    world.keeper(job_id).kill()
    _steps(world, gate, lines)
    assert world.catalog.status(job_id).status == "running"
    if end is None:
        gate.open()
    else:
        leader.send(end)
    assert leader.ended()
    assert leader.reaped()  # before that kernel the exit code can still be read
    return job_id


def test_seen_keeper_killed_a_complete_answer_is_done_and_says_so(
    world: World, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = _killed_keeper(world, agent, 5, None)
    read: list[str] = []
    read_output = settling.read_output

    def counted(directory: str, name: str, **how: Any) -> bytes:
        read.append(name)
        return read_output(directory, name, **how)

    monkeypatch.setattr(settling, "read_output", counted)
    result = world.catalog.result(job_id)
    assert read == ["stdout"]  # once, for the verdict and the value
    assert result.error is None
    assert (result.job.status, result.job.reason) == ("done", "exited")
    assert (result.job.exit_code, result.job.signal) == (None, None)
    assert "exit status is not known" in (result.job.detail or "")
    assert result.job.cost_usd == STREAM_COST
    assert result.value["text"] == "all done"


def test_seen_keeper_killed_half_an_answer_is_lost(world: World, agent: Agent) -> None:
    result = world.catalog.result(_killed_keeper(world, agent, 4, signal.SIGKILL))
    assert (result.job.status, result.job.reason) == ("failed", "lost")
    assert result.error is not None
    assert result.error.code == "job_lost"
    assert result.error.details["session_id"]


# ------------------------------------------------------------ detail


def test_detail_of_an_answer(world: World, agent: Agent) -> None:
    with agent.supervisor("run", "--kind", "claude", "--", *agent.plays("claude/success")) as process:
        process.communicate(timeout=30)
    (job,) = world.catalog.list().jobs
    for level in ("summary", "full"):
        with agent.supervisor("result", job.job_id[:8], "--detail", level) as process:
            out, _ = process.communicate(timeout=30)
        assert (process.returncode, json.loads(out)["detail"]) == (0, level)
        assert agent.only_result(level).value["detail"] == level
    with agent.supervisor("result", job.job_id, "--json", "--detail", "half") as process:
        out, _ = process.communicate(timeout=30)
    assert (process.returncode, json.loads(out)["error"]["code"]) == (2, "invalid_arguments")


async def test_detail_of_an_answer_from_trio(agent: Agent) -> None:
    async with supervisor.open_supervisor() as sup:
        job_id = (await sup.run(agent.plays("claude/success"), kind="claude")).job_id
        assert (await sup.result(job_id, detail="summary")).value["detail"] == "summary"
        assert (await sup.result(job_id)).value["detail"] == "full"
        with pytest.raises(supervisor.InvalidArguments, match="'half'"):
            await sup.result(job_id, detail="half")
        plain = await sup.run(["echo", "x"])
        assert (await sup.result(plain.job_id, detail="summary")).value == "x\n"  # the kind has no levels


# ------------------------------------------------------------ progress


AS_IT_GOES = [
    {"turn": 0, "tool": None, "finished": False},
    {"turn": 1, "tool": "Bash", "finished": False},
    {"turn": 1, "tool": None, "finished": False},
    {"turn": 2, "tool": None, "finished": False},
    {"turn": 2, "tool": None, "finished": True, "cost_usd": STREAM_COST, "output_tokens": 14},
]


async def test_seen_progress_of_a_run_as_it_goes(world: World, agent: Agent) -> None:
    argv, _, gate = agent.plays_by_step("claude/stream")
    async with supervisor.open_supervisor() as sup, sup.events() as events:
        job = await sup.start(argv, kind="claude")
        assert job.progress is None
        told: list[supervisor.JobEvent] = []
        for step in AS_IT_GOES:
            gate.open()
            with trio.fail_after(60):
                async for event in events:
                    told.append(event)
                    progress = event.job.progress
                    if progress and step.items() <= progress.items():
                        assert event.previous is event.status is supervisor.State.RUNNING
                        break
            progress = (await sup.status(job.job_id)).progress
            assert progress is not None
            assert step.items() <= progress.items()
            assert progress["partial"] is False
            there = (await trio.to_thread.run_sync(_status_elsewhere, world, job.job_id)).progress
            assert there == progress  # short enough to be read from its beginning
            (listed,) = (await sup.list()).jobs
            assert listed.progress == progress
        gate.open()
        ended = await sup.wait(job.job_id)
    assert len(told) <= 2 + len(AS_IT_GOES)
    assert (ended.progress, ended.cost_usd) == (None, STREAM_COST)


def _status_elsewhere(world: World, job_id: str) -> supervisor.Job:
    with Catalog(supervisor.Settings(state_dir=world.root)) as catalog:
        return catalog.status(job_id)


async def test_seen_progress_of_a_job_of_another_supervisor_is_followed(world: World, agent: Agent) -> None:
    argv, _, gate = agent.plays_by_step("claude/stream")
    job_id = await trio.to_thread.run_sync(lambda: world.host().start(*argv, kind="claude"))
    gate.open(2)
    async with supervisor.open_supervisor() as sup, sup.events(job_id) as events:
        with trio.fail_after(60):
            async for event in events:
                if event.job.progress and event.job.progress["tool"] == "Bash":
                    break
        job = await sup.status(job_id)
        assert job.progress is not None
        assert (job.progress["turn"], job.progress["partial"]) == (1, False)
        gate.open(4)
        assert (await sup.wait(job_id)).status == "done"


def test_seen_progress_on_a_terminal(agent: Agent) -> None:
    argv, _, gate = agent.plays_by_step("claude/stream")
    master, slave = pty.openpty()
    gate.open(2)
    shown = b""
    try:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "200"}
        with agent.supervisor("run", "--kind", "claude", "--", *argv, stderr=slave, env=environment) as process:
            os.close(slave)
            poll = select.poll()
            poll.register(master, select.POLLIN)
            while b"turn 1, Bash, 12 tokens, " not in shown:
                assert poll.poll(10_000), shown
                shown += os.read(master, 4096)
            gate.open(4)
            assert process.stdout is not None
            assert process.stdout.read() == captured("claude/stream")["stdout"].encode()
            assert process.wait(30) == 0
    finally:
        os.close(master)


def test_status_of_a_running_agent_shows_how_far_it_is(world: World, agent: Agent) -> None:
    argv, up, gate = agent.plays_by_step("claude/stream")
    with agent.supervisor("start", "--kind", "claude", "--", *argv) as process:
        out, _ = process.communicate(timeout=30)
    up.number()
    _steps(world, gate, 2)
    with agent.supervisor("status", out.decode().strip()) as process:
        shown, _ = process.communicate(timeout=30)
    assert re.search(rb"^Progress +turn 1, Bash, \d+ tokens$", shown, re.MULTILINE)
    gate.open(4)
    (job,) = world.catalog.list().jobs
    (ended,) = world.catalog.wait([job.job_id], timeout=60)
    assert (ended.status, ended.progress) == ("done", None)
