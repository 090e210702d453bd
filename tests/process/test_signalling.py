"""Signals to running jobs, and stops that begin with another signal than SIGTERM."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from supervisor.errors import InvalidArguments
from supervisor.jobdir import records, stops
from supervisor.jobs import pausing, signalling
from supervisor.system import processes

if TYPE_CHECKING:
    from tests.process.conftest import Fifo, Host, World

NOTING = """
import os, signal, sys
told = os.open(sys.argv[1], os.O_WRONLY)
last = [int(word) for word in sys.argv[3:]]
child = sys.argv[2] == "child" and os.fork() == 0
if child:
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
name = "child" if child else "leader"
def note(number, frame):
    os.write(told, f"{name} {number}\\n".encode())
    if number in last:
        os._exit(0)
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGCONT, *(() if child else (signal.SIGINT,))):
    signal.signal(number, note)
os.write(told, f"{name} ready\\n".encode())
while True:
    signal.pause()
"""


def noting(fifo: Fifo, host: Host, *last: int, child: bool = False) -> str:
    words = ["child" if child else "alone", *map(str, last)]
    job_id = host.start(sys.executable, "-I", "-S", "-c", NOTING, str(fifo), *words)
    assert {fifo.line() for _ in range(1 + child)} == {"leader ready", *(["child ready"] if child else [])}
    return job_id


def command(*words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "supervisor", *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False, cwd="/")


# ---------------------------------------------------------------- signal


@pytest.mark.parametrize("given", ["USR1", "SIGUSR1", "usr1", str(signal.SIGUSR1.value)])
def test_the_leader_gets_a_signal_and_nothing_else_does(world: World, given: str) -> None:
    fifo = world.fifo()
    job_id = noting(fifo, world.host(), child=True)
    assert command("signal", job_id, given).returncode == 0
    assert fifo.line() == f"leader {signal.SIGUSR1.value}"
    assert signalling.signal_job(world.catalog, job_id, "HUP").status == "running"
    assert fifo.line() == f"leader {signal.SIGHUP.value}"


def test_without_a_keeper_and_a_supervisor(world: World) -> None:
    fifo, host = world.fifo(), world.host()
    job_id = noting(fifo, host)
    keeper = world.keeper(job_id)
    host.kill()
    keeper.send(signal.SIGKILL)
    assert keeper.ended()
    signalling.signal_job(world.catalog, job_id, signal.SIGUSR1)
    assert fifo.line() == f"leader {signal.SIGUSR1.value}"
    ended = world.catalog.cancel(job_id, signal="INT")
    assert [fifo.line(), ended.status] == [f"leader {signal.SIGINT.value}", "cancelled"]


def test_through_a_supervisor(world: World) -> None:
    fifo, host = world.fifo(), world.host()
    job_id = noting(fifo, host)
    assert host.call("signal", job_id, "USR1")["status"] == "running"
    assert fifo.line() == f"leader {signal.SIGUSR1.value}"
    assert host.call("signal", job_id, "KILL")["job_id"] == job_id
    ended = host.call("wait", job_id)
    assert (ended["status"], ended["reason"], ended["signal"]) == ("failed", "killed_by_signal", 9)
    assert host.call("signal", job_id, "USR1") == "invalid_arguments"


def test_refusals(world: World) -> None:
    host = world.host()
    job_id, waits = host.start("sleep", "600"), host.start("true", hold=True)
    for wrong in ("", "NONE", "SIG", "-1", "0", "65", "99999999999", "1.5", "²", "STOP", "SIGRTMIN\n9"):
        assert command("signal", job_id, "--", wrong).returncode == 2, wrong
    assert "supervisor pause" in command("signal", job_id, "STOP").stderr
    assert "has no process yet" in command("signal", waits, "USR1").stderr
    assert command("signal", "f" * 32, "USR1").returncode == 3
    assert host.call("signal", job_id, "STOP") == "invalid_arguments"
    assert host.call("cancel", job_id, signal="STOP") == "invalid_arguments"
    found = processes.read_process(world.leader(job_id).pid)
    assert found is not None
    assert found.state != "T"


def test_signals_to_a_paused_job_wait_for_its_resume(world: World) -> None:
    fifo = world.fifo()
    job_id = noting(fifo, world.host())
    pausing.pause(world.catalog, job_id)
    signalling.signal_job(world.catalog, job_id, "USR1")
    with pytest.raises(InvalidArguments, match="paused"):
        signalling.signal_job(world.catalog, job_id, "CONT")
    assert fifo.silent
    pausing.resume(world.catalog, job_id)
    numbers = {signal.SIGUSR1.value, signal.SIGCONT.value}
    assert {fifo.line(), fifo.line()} == {f"leader {number}" for number in numbers}


def test_another_process_with_the_pid_gets_no_signal(world: World) -> None:
    fifo = world.fifo()
    job_id = noting(fifo, world.host())
    there = world.record(job_id, records.PROCESS) or {}
    del there["v"]
    records.replace(str(world.job(job_id)), records.PROCESS, {**there, "start": there["start"] + 1, "ticks": False})
    with pytest.raises(InvalidArguments):
        signalling.signal_job(world.catalog, job_id, "USR1")
    assert fifo.silent
    records.replace(str(world.job(job_id)), records.PROCESS, there)


# ---------------------------------------------------------------- cancel --signal


@pytest.mark.parametrize("by", ["command line", "supervisor", "another supervisor"])
def test_the_first_signal_of_a_stop(world: World, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    monkeypatch.setenv("SUPERVISOR_STOP_GRACE_SECONDS", "60")
    fifo, host = world.fifo(), world.host()
    job_id = noting(fifo, host, signal.SIGINT, signal.SIGTERM, child=True)
    if by == "command line":
        assert command("cancel", "--signal", "INT", job_id).returncode == 0
    else:
        other = host if by == "supervisor" else world.host()
        assert other.call("cancel", job_id, signal=signal.SIGINT.value)["status"] == "cancelled"
    # The child ignores SIGINT, as background processes of a shell do.
    assert fifo.line() == f"leader {signal.SIGINT.value}"
    assert fifo.line() == f"child {signal.SIGTERM.value}"
    assert (world.record(job_id, records.STOP) or {})["signal"] == signal.SIGINT


def test_a_job_that_does_not_end_by_it_is_killed_after_its_grace(world: World) -> None:
    fifo = world.fifo()
    job_id = noting(fifo, world.host())
    ended = world.catalog.cancel(job_id, signal="HUP")
    assert (ended.status, ended.signal) == ("cancelled", signal.SIGKILL)
    assert fifo.line() == f"leader {signal.SIGHUP.value}"
    assert fifo.silent


def test_kill_as_the_first_signal(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERVISOR_STOP_GRACE_SECONDS", "60")
    job_id = noting(world.fifo(), world.host(), child=True)
    assert world.catalog.cancel(job_id, signal="KILL").signal == signal.SIGKILL


def test_of_a_paused_job(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERVISOR_STOP_GRACE_SECONDS", "60")
    job_id = noting(world.fifo(), world.host(), signal.SIGINT)
    pausing.pause(world.catalog, job_id)
    assert world.catalog.cancel(job_id, signal="INT").exit_code == 0  # by its handler


def test_of_a_job_that_waits_and_of_one_that_has_ended(world: World) -> None:
    host = world.host()
    waits, ended = host.start("true", hold=True), host.start("true")
    host.call("wait", ended)
    assert host.call("cancel", waits, signal="INT")["status"] == "cancelled"
    assert host.call("cancel", ended, signal="INT")["status"] == "done"
    assert world.record(ended, records.STOP) is None


def test_rubbish_as_the_first_signal_is_sigterm(world: World) -> None:
    fifo = world.fifo()
    job_id = noting(fifo, world.host(), signal.SIGTERM)
    for rubbish in (0, -1, 65, True, "INT", [2], 2**70, 2.5):
        (world.job(job_id) / "aside").write_text(json.dumps({"v": 1, "why": "cancelled", "signal": rubbish}) + "\n")
        os.rename(world.job(job_id) / "aside", world.job(job_id) / records.STOP)
        assert "signal" not in (stops.read_stop(str(world.job(job_id))) or {})
    assert world.catalog.cancel(job_id).status == "cancelled"
    assert fifo.line() == f"leader {signal.SIGTERM.value}"


# ---------------------------------------------------------------- Ctrl-C in `run`


def test_ctrl_c_gives_the_command_sigint_and_a_second_one_prints_the_id(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUPERVISOR_STOP_GRACE_SECONDS", "60")
    fifo = world.fifo()
    words = [sys.executable, "-I", "-S", "-c", NOTING, str(fifo), "alone", str(signal.SIGTERM.value)]
    argv = [sys.executable, "-m", "supervisor", "run", "--", *words]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, start_new_session=True) as run:
        assert fifo.line() == "leader ready"
        run.send_signal(signal.SIGINT)
        assert fifo.line() == f"leader {signal.SIGINT.value}"
        run.send_signal(signal.SIGINT)
        said = run.communicate(timeout=30)[1]
        assert run.returncode == 130
    (row,) = world.catalog.index.unfinished()
    assert row.job_id in said
    found = world.catalog.status(row.job_id)
    assert (found.status, found.stop_requested) == ("running", "cancelled")
    signalling.signal_job(world.catalog, row.job_id, "TERM")
    (ended,) = world.catalog.wait([row.job_id], timeout=30)
    assert ended.status == "cancelled"


def test_ctrl_c_ends_a_command_that_handles_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERVISOR_STOP_GRACE_SECONDS", "60")
    fifo = world.fifo()
    words = [sys.executable, "-I", "-S", "-c", NOTING, str(fifo), "alone", str(signal.SIGINT.value)]
    argv = [sys.executable, "-m", "supervisor", "run", "--", *words]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, start_new_session=True) as run:
        assert fifo.line() == "leader ready"
        run.send_signal(signal.SIGINT)
        run.communicate(timeout=30)
        assert run.returncode == 130
    (job,) = world.catalog.list().jobs
    assert (job.status, job.exit_code) == ("cancelled", 0)
