"""Jobs on a real Slurm: what is promised holds there too, whatever part of the cluster is killed."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

import supervisor
from supervisor.engines.cluster.interface import Submission
from supervisor.engines.cluster.slurm.backend import Slurm
from supervisor.engines.staging import program_in
from supervisor.jobdir import records
from supervisor.states import Reason, State

pytestmark = pytest.mark.slurm

PATIENCE = 90.0


async def until(true: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait for what other machines do, in principle: nothing tells us but looking again."""
    with trio.fail_after(seconds):
        while not true():  # noqa: ASYNC110
            await trio.sleep(0.1)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False


def content(path: Path) -> bytes:
    """Return what is in a file of Slurm's, which replaces them all the time."""
    try:
        return path.read_bytes() if path.is_file() else b""
    except FileNotFoundError:
        return b""


@pytest.mark.parametrize(
    ("script", "status", "reason", "exit_code", "number"),
    [
        ("echo hi", State.DONE, Reason.EXITED, 0, None),
        ("echo hi; exit 7", State.FAILED, Reason.NONZERO_EXIT, 7, None),
        ("echo hi; kill -9 $$", State.FAILED, Reason.KILLED_BY_SIGNAL, None, 9),
    ],
)
async def test_how_a_command_ends(
    site: Any, script: str, status: State, reason: Reason, exit_code: int | None, number: int | None
) -> None:
    async with supervisor.open_supervisor() as sup:
        with trio.fail_after(PATIENCE):
            begun = await site.start(sup, script)
            assert (begun.engine, begun.status) == ("slurm", State.QUEUED)
            job = await sup.wait(begun.job_id)
        assert (job.status, job.reason, job.exit_code, job.signal) == (status, reason, exit_code, number)
        assert job.stdout_bytes == 3
        if status is State.DONE:
            assert (await sup.result(job.job_id)).value == "hi\n"


async def test_a_deadline_holds_to_the_second_with_nobody_there(site: Any) -> None:
    async with supervisor.open_supervisor() as sup:
        job = await site.start(sup, "exec sleep 600", deadline_seconds=3)
    await until(lambda: json.loads(site.cli("status", job.job_id, "--json"))["completed_at"])
    seen = json.loads(site.cli("status", job.job_id, "--json"))
    assert (seen["status"], seen["reason"], seen["signal"]) == ("timeout", "deadline", 15)
    assert 3000 <= seen["elapsed_ms"] < 4000


async def test_time_in_the_queue_counts_if_it_is_to(site: Any) -> None:
    async with supervisor.open_supervisor() as sup:
        whole = {"partition": "small", "cpus": 8}
        first = await site.start(sup, "sleep 600", options=whole)
        second = await site.start(sup, "echo ran", options={**whole, "deadline_from": "submission"}, deadline_seconds=4)
        with trio.fail_after(PATIENCE):
            job = await sup.wait(second.job_id)
            await sup.cancel(first.job_id)
        assert (job.status, job.reason, job.started_at) == (State.TIMEOUT, Reason.DEADLINE, None)
        assert 4000 <= job.elapsed_ms < 10_000  # nobody's turn depends on it, so that a busy machine is no failure


async def test_a_job_that_waits_says_why_and_can_be_cancelled(site: Any) -> None:
    whole = {"partition": "small", "cpus": 8}
    async with supervisor.open_supervisor() as sup:
        first = await site.start(sup, "sleep 600", options=whole)
        second = await site.start(sup, "echo ran", options=whole)
        with trio.fail_after(PATIENCE):
            while (await sup.status(second.job_id)).queue_reason not in {"Resources", "Priority"}:  # noqa: ASYNC110
                await trio.sleep(0.1)
        seen = json.loads(site.cli("status", second.job_id, "--json"))
        assert seen["status"] == "queued"
        assert seen["queue_reason"] in {"Resources", "Priority"}
        with trio.fail_after(PATIENCE):
            job = await sup.cancel(second.job_id)
        assert (job.status, job.started_at, job.stdout_bytes) == (State.CANCELLED, None, 0)
        await until(lambda: site.state(second.job_id) == ["CANCELLED"])
        with trio.fail_after(PATIENCE):
            assert (await sup.cancel(first.job_id)).status is State.CANCELLED


@pytest.mark.parametrize("way", ["library", "command line"])
async def test_a_cancelled_job_leaves_nothing(site: Any, way: str) -> None:
    """Not even a grandchild in a session of its own that ignores SIGTERM."""
    child = "trap '' TERM; echo $$ > child; exec sleep 600"
    script = f'(setsid sh -c "{child.replace("$", chr(92) + "$")}" &) ; exec sleep 600'
    async with supervisor.open_supervisor() as sup:
        begun = await site.start(sup, script)
        pid = int(await site.until(site.work / "child"))
        assert is_running(pid)
        with trio.fail_after(PATIENCE):
            if way == "library":
                job = await sup.cancel(begun.job_id)
            else:
                await trio.to_thread.run_sync(site.cli, "cancel", begun.job_id)
                job = await sup.wait(begun.job_id)
    assert (job.status, job.reason, job.signal) == (State.CANCELLED, Reason.CANCELLED, 15)
    assert not is_running(pid)


async def test_scancel_by_somebody_else_is_a_cancel(site: Any) -> None:
    async with supervisor.open_supervisor() as sup:
        begun = await site.start(sup, "echo $$ > pid; exec sleep 600")
        await site.until(site.work / "pid")
        site.cluster.client("scancel", "--me", f"--name=supervisor-{begun.job_id}")
        with trio.fail_after(PATIENCE):
            job = await sup.wait(begun.job_id)
    assert (job.status, job.reason) == (State.CANCELLED, Reason.CANCELLED)


async def test_a_job_that_was_submitted_twice_runs_once(site: Any) -> None:
    async with supervisor.open_supervisor() as sup:
        begun = await site.start(sup, "echo ran >> runs; sleep 3")
        directory = f"{site.shared}/{begun.job_id}"
        command = ("python3", "-I", "-S", program_in(str(site.shared)), "--job", directory)
        await Slurm().submit(Submission(key=begun.job_id, directory=directory, command=command))
        with trio.fail_after(PATIENCE):
            job = await sup.wait(begun.job_id)
        await until(lambda: site.state(begun.job_id) == ["COMPLETED", "COMPLETED"])
    assert (job.status, job.exit_code) == (State.DONE, 0)
    assert (site.work / "runs").read_text() == "ran\n"


async def test_a_supervisor_may_be_killed_and_the_next_one_goes_on(site: Any) -> None:
    host, job_id = await trio.to_thread.run_sync(site.host, "echo ran >> runs; sleep 4; exit 5")
    host.kill()
    host.wait()
    async with supervisor.open_supervisor() as sup:
        with trio.fail_after(PATIENCE):
            job = await sup.wait(job_id)
    assert (job.status, job.exit_code) == (State.FAILED, 5)
    assert (site.work / "runs").read_text() == "ran\n"


async def test_a_controller_that_dies_right_after_a_submission(site: Any) -> None:
    """It may forget what it has acknowledged, and give the number to the next one."""
    async with supervisor.open_supervisor() as sup:
        jobs = [await site.start(sup, f"echo ran >> runs{number}; exit {number}") for number in range(8)]
        site.cluster.kill("slurmctld")
        await trio.sleep(1)
        await trio.to_thread.run_sync(site.cluster.start_controller)
        with trio.fail_after(PATIENCE):
            ended = [await sup.wait(job.job_id) for job in jobs]
    assert [job.exit_code for job in ended] == list(range(8))
    assert [(site.work / f"runs{number}").read_text() for number in range(8)] == ["ran\n"] * 8


async def test_a_controller_that_dies_in_mid_job(site: Any) -> None:
    async with supervisor.open_supervisor() as sup:
        begun = await site.start(sup, "echo $$ > pid; sleep 3; exit 6")
        await site.until(site.work / "pid")
        site.cluster.kill("slurmctld")
        with trio.fail_after(PATIENCE):
            # What the node writes is read all the same; it reaches us a moment after the command's first step.
            while (await sup.status(begun.job_id)).status is State.QUEUED:  # noqa: ASYNC110
                await trio.sleep(0.02)
            assert (await sup.status(begun.job_id)).status is State.RUNNING
            job = await sup.wait(begun.job_id)
        assert (job.status, job.exit_code) == (State.FAILED, 6)


@pytest.mark.slow
async def test_a_node_daemon_that_dies_is_not_a_job_that_dies(site: Any) -> None:
    """Not even when the controller has given the node up, and the job with it."""
    async with supervisor.open_supervisor() as sup:
        begun = await site.start(sup, "echo ran >> runs; echo $$ > pid; sleep 75; exit 4")
        pid = int(await site.until(site.work / "pid"))
        site.cluster.kill(site.node(begun.job_id))
        await until(lambda: site.state(begun.job_id) == ["NODE_FAIL"])
        assert is_running(pid)
        await trio.sleep(5)
        assert (await sup.status(begun.job_id)).status is State.RUNNING
        assert json.loads(site.cli("status", begun.job_id, "--json"))["status"] == "running"
        with trio.fail_after(PATIENCE):
            job = await sup.wait(begun.job_id)
    assert (job.status, job.exit_code) == (State.FAILED, 4)
    assert (site.work / "runs").read_text() == "ran\n"


@pytest.mark.slow
async def test_a_node_that_is_gone_takes_its_job_along(site: Any) -> None:
    async with supervisor.open_supervisor() as sup:
        begun = await site.start(sup, "echo ran >> runs; echo $$ > pid; exec sleep 600")
        pid = int(await site.until(site.work / "pid"))
        site.cluster.kill_node(site.node(begun.job_id))
        if is_running(pid):
            os.kill(pid, 9)
        with trio.fail_after(PATIENCE):
            job = await sup.wait(begun.job_id)
    assert (job.status, job.reason, job.exit_code, job.signal) == (State.FAILED, Reason.LOST, None, None)
    assert job.detail is not None
    assert "NODE_FAIL" in job.detail
    assert (site.work / "runs").read_text() == "ran\n"


@pytest.mark.slow
async def test_a_controller_out_of_reach_for_half_a_minute(site: Any) -> None:
    async with supervisor.open_supervisor() as sup, trio.open_nursery() as nursery:
        os.mkfifo(site.work / "fifo")
        long = await site.start(sup, "echo $$ > pid; read line < fifo; exit 2")
        short = await site.start(sup, "echo $$ > pid2; sleep 5; exit 3")
        doomed = await site.start(sup, "echo $$ > pid3; exec sleep 600")
        for name in ("pid", "pid2", "pid3"):
            await site.until(site.work / name)
        site.cluster.pause("slurmctld")
        paused = trio.current_time()
        late: list[supervisor.Job] = []

        async def start_late() -> None:
            late.append(await site.start(sup, "echo ran >> runs; exit 1"))

        nursery.start_soon(start_late)
        with trio.fail_after(25):
            assert (await sup.wait(short.job_id)).exit_code == 3
            assert (await sup.cancel(doomed.job_id)).status is State.CANCELLED  # its keeper looks by itself
        seen = json.loads(await trio.to_thread.run_sync(site.cli, "status", long.job_id, "--json"))
        assert seen["status"] == "running"
        await trio.sleep_until(paused + 30)
        assert [job.status for job in late] == [State.QUEUED]  # `start` returned after 10 seconds
        assert not (site.work / "runs").exists()
        assert (await sup.status(long.job_id)).status is State.RUNNING
        site.cluster.resume("slurmctld")
        await trio.to_thread.run_sync((site.work / "fifo").write_text, "go\n")
        with trio.fail_after(PATIENCE):
            assert (await sup.wait(long.job_id)).exit_code == 2
            assert (await sup.wait(late[0].job_id)).exit_code == 1
    assert (site.work / "runs").read_text() == "ran\n"


async def test_nothing_secret_reaches_slurm(site: Any) -> None:
    environment = {**os.environ, "TOKEN": "verysecret-in-env"}
    async with supervisor.open_supervisor() as sup:
        begun = await site.start(
            sup,
            "",
            argv=["sh", "-c", "cat > got; echo $TOKEN >> got; sleep 1", "verysecret-in-argv"],
            env=environment,
            stdin=b"verysecret-in-stdin\n",
        )
        directory = site.shared / begun.job_id
        spool = site.cluster.directory
        with trio.fail_after(PATIENCE):
            await site.until(site.work / "got")
            told = site.cluster.client("scontrol", "show", "job").stdout
            found = [path for path in spool.rglob("*") if b"verysecret" in content(path)]
            await sup.wait(begun.job_id)
    assert (site.work / "got").read_text() == "verysecret-in-stdin\nverysecret-in-env\n"
    assert "verysecret" not in told
    assert found == []
    assert not (directory / "orders").exists()
    assert not (directory / "stdin").exists()
    assert (directory / records.JOB).stat().st_mode & 0o777 == 0o600


async def test_forgetting_a_job_empties_the_shared_directory(site: Any) -> None:
    async with supervisor.open_supervisor() as sup:
        begun = await site.start(sup, "echo hi")
        with trio.fail_after(PATIENCE):
            await sup.wait(begun.job_id)
        assert (site.shared / begun.job_id).is_dir()
        await sup.forget(begun.job_id)
        await sup.prune()
    assert not (site.shared / begun.job_id).exists()


async def a_hundred(site: Any, script: str) -> list[float]:
    """Run a hundred jobs by a plain loop and by us, in turn; return how much longer ours took."""
    count = 100

    def by_loop(name: str) -> None:
        text = f"#!/bin/sh\n{script}\n"
        for _ in range(count):
            words = ("--parsable", f"--job-name={name}", "--output=/dev/null", "--chdir=/")
            assert site.cluster.client("sbatch", *words, input=text).returncode == 0
        while site.cluster.client("squeue", "-h", "-n", name, "-o", "%A").stdout.strip():
            time.sleep(0.05)

    async def one(sup: supervisor.Supervisor, ends: list[State]) -> None:
        job = await site.start(sup, script)
        ends.append((await sup.wait(job.job_id)).status)

    ratios: list[float] = []
    for turn in range(3):
        begun = time.perf_counter()
        await trio.to_thread.run_sync(by_loop, f"plain{turn}")
        alone = time.perf_counter() - begun
        begun = time.perf_counter()
        ends: list[State] = []
        async with supervisor.open_supervisor() as sup:
            with trio.fail_after(PATIENCE):
                async with trio.open_nursery() as nursery:
                    for _ in range(count):
                        nursery.start_soon(one, sup, ends)
        ours = time.perf_counter() - begun
        assert ends == [State.DONE] * count
        ratios.append(ours / alone)
        print(f"{count} of {script!r}: sbatch loop {alone:.2f} s, ours {ours:.2f} s, {ratios[-1]:.2f}x")  # noqa: T201
    return sorted(ratios)


@pytest.mark.slow
@pytest.mark.parametrize("script", ["true", "sleep 1"])
async def test_a_hundred_jobs_beside_a_plain_loop(site: Any, script: str) -> None:
    """End to end, in one run: the same script, from the first submission to the last end."""
    _, median, _ = await a_hundred(site, script)
    assert median < 3  # far above what is measured; a busy machine is no failure
