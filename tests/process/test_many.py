"""Many at once: processes, waiters, deadlines, jobs. The slow ones print figures (``-m slow -s``)."""

from __future__ import annotations

import math
import os
import resource
import shutil
import statistics
import sys
import time
from typing import TYPE_CHECKING

import pytest
import trio

import supervisor
from supervisor.jobdir import records
from supervisor.jobs.catalog import Catalog
from supervisor.model import Exit
from supervisor.states import Reason, State
from supervisor.store.rows import JobOutcome, dump, row_of_record
from supervisor.store.state_root import new_job_id, workspace_key
from supervisor.system import processes

if TYPE_CHECKING:
    from tests.process.conftest import World

JOB = "????????????????????????????????"


def show(words: str) -> None:
    sys.stderr.write(f"\n{words}\n")


def test_eight_processes_that_start_under_one_key_run_it_once(world: World) -> None:
    ran, gate = world.fifo(), world.fifo()
    hosts = world.hosts(8)
    argv = ["sh", "-c", 'echo ran > "$1"; read line < "$2"', "sh", str(ran), str(gate)]
    asked = [(host, host.ask("start", argv, idempotency_key="k")) for host in hosts for _ in range(2)]
    answers = [host.answer(number) for host, number in asked]
    assert len({answer["job_id"] for answer in answers}) == 1, answers
    assert ran.line() == "ran"
    gate.open()
    (job,) = world.catalog.wait([answers[0]["job_id"]], timeout=60)
    assert job.status == "done"
    assert ran.silent
    assert len(list(world.root.glob(f"*-*/{JOB}"))) == 1


def test_the_cap_is_kept_once_by_many(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERVISOR_JOB_MAX_COUNT", "5")
    hosts = world.hosts(4)
    live = hosts[0].start("sleep", "600")
    for _ in range(3):
        asked = [(host, host.ask("run", ["echo", "x"])) for host in hosts for _ in range(4)]
        assert [host.answer(number)["value"] for host, number in asked] == ["x\n"] * 16
    asked = [(host, host.ask("prune")) for host in hosts]
    forgotten = [job_id for host, number in asked for job_id in host.answer(number)]
    assert len(forgotten) == len(set(forgotten))  # of each only one process reports that it pruned it
    kept = {job.job_id for job in world.catalog.list(state="done").jobs}
    assert len(kept) == 5  # the cap holds, and no process has pruned too many
    for host in hosts:
        assert {job["job_id"] for job in host.call("list", state="done")["jobs"]} == kept
        assert host.call("status", live)["status"] == "running"
    assert len(list(world.root.glob(f"*-*/{JOB}"))) == 6


def test_the_time_to_live_is_kept_once_by_many(world: World) -> None:
    hosts = world.hosts(4)
    asked = [(host, host.ask("run", ["true"])) for host in hosts for _ in range(3)]
    over = {host.answer(number)["job"]["job_id"] for host, number in asked}
    live = hosts[0].start("sleep", "600")
    kept = hosts[0].call("run", ["true"])["job"]["job_id"]
    marks = ",".join("?" * len(over))
    world.catalog.index.write(
        lambda: world.catalog.index._db.execute(f"UPDATE jobs SET expires_ns = 1 WHERE job_id IN ({marks})", [*over]),
    )
    asked = [(host, host.ask("prune")) for host in hosts]
    forgotten = [job_id for host, number in asked for job_id in host.answer(number)]
    assert set(forgotten) <= over
    for host in hosts:
        assert {job["job_id"] for job in host.call("list")["jobs"]} == {live, kept}
    assert {path.name for path in world.root.glob(f"*-*/{JOB}")} == {live, kept}


def test_two_hundred_waiters_on_one_job_in_several_processes(world: World) -> None:
    gate = world.fifo()
    hosts = world.hosts(2)
    job_id = hosts[0].start("sh", "-c", 'read line < "$1"; exit 3', "sh", str(gate))
    asked = [(host, host.ask("wait", job_id)) for host in hosts for _ in range(100)]
    for host in hosts:
        host.call("status", job_id)  # answered after all of them have been received
        assert not any(host.answered(number) for _, number in asked)
    gate.open()
    assert {host.answer(number)["exit_code"] for host, number in asked} == {3}


async def test_a_subscriber_that_never_reads_delays_no_other(world: World) -> None:
    async with supervisor.open_supervisor() as sup, sup.events() as deaf, sup.events() as slow:
        assert world.root.exists()
        first = None
        with trio.fail_after(60):
            for _ in range(3):
                async with trio.open_nursery() as nursery:
                    for _ in range(40):
                        nursery.start_soon(sup.run, ["true"])
                first = first or await anext(slow)
        assert first is not None
        assert first.lagged == 0
        after = await anext(slow)
        assert after.lagged > 0
        assert (await anext(deaf)).lagged > 0
        assert (await anext(deaf)).lagged == 0  # it is reported once


# ---------------------------------------------------------------- load


def percentile(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


async def start_many(sup: supervisor.Supervisor, count: int, **options: object) -> list[supervisor.Job]:
    jobs: list[supervisor.Job] = []
    limit = trio.CapacityLimiter(50)

    async def start() -> None:
        async with limit:
            jobs.append(await sup.start(["sleep", "600"], env={"PATH": os.environ["PATH"]}, **options))  # type: ignore[arg-type]

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(start)
    return jobs


@pytest.mark.slow
@pytest.mark.parametrize("spread", [1.0, 0.0], ids=["within a second", "at one instant"])
async def test_a_thousand_deadlines(world: World, spread: float) -> None:
    count = 1000
    limit = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    if limit != resource.RLIM_INFINITY and limit < 2 * count:
        pytest.skip("too few processes are allowed")
    async with supervisor.open_supervisor(supervisor.Settings(job_max_count=10 * count)) as sup:
        jobs: list[supervisor.Job] = []
        begun = time.monotonic()
        aim = time.monotonic() + 20
        limiter = trio.CapacityLimiter(50)

        async def start(number: int) -> None:
            async with limiter:
                left = aim + spread * number / count - time.monotonic()
                jobs.append(await sup.start(["sleep", "600"], deadline_seconds=max(0.0, left)))

        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(start, number)
        took = time.monotonic() - begun
        assert took < 20, "the machine is too slow for this"
        overs: list[float] = []
        verified: list[float] = []
        ends: dict[str, int] = {}
        due: list[float] = []

        async def wait(job: supervisor.Job) -> None:
            ended = await sup.wait(job.job_id)
            ends[job.job_id] = processes.boottime_ns()
            assert ended.status == "timeout", ended

        async with trio.open_nursery() as nursery:
            for job in jobs:
                nursery.start_soon(wait, job)
        for job in jobs:
            exit_record = world.record(job.job_id, records.EXIT)
            process = world.record(job.job_id, records.PROCESS)
            assert exit_record is not None
            assert process is not None
            due.append(process["deadline_boot_ns"] / 1e9)
            verified.append((ends[job.job_id] - process["deadline_boot_ns"]) / 1e9)
            overs.append((exit_record["ended_boot_ns"] - process["deadline_boot_ns"]) / 1e9)
    assert len(overs) == count
    assert min(overs) > -0.01
    show(
        f"{count} deadlines within {max(due) - min(due):.3f} s (started in {took:.1f} s): overshoot to the leader's "
        f"exit p50 {statistics.median(overs) * 1000:.0f} ms, p99 {percentile(overs, 0.99) * 1000:.0f} ms, "
        f"max {max(overs) * 1000:.0f} ms; to the answer that nothing is left p50 "
        f"{statistics.median(verified) * 1000:.0f} ms, p99 {percentile(verified, 0.99) * 1000:.0f} ms",
    )


def memory_and_cpu(pid: int) -> tuple[int, float]:
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        pss = next(int(line.split()[1]) for line in file if line.startswith("Pss:")) * 1024
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    return pss, (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.slow
async def test_five_thousand_running_jobs(world: World) -> None:
    count = int(os.environ.get("MANY_JOBS", "5000"))
    async with supervisor.open_supervisor(supervisor.Settings(job_max_count=10 * count)) as sup:
        one = await sup.start(["sleep", "600"])
        keeper = world.keeper(one.job_id).pid
        before = memory_and_cpu(os.getpid())[0], memory_and_cpu(keeper)[0]
        begun = time.monotonic()
        jobs = await start_many(sup, count)
        took = time.monotonic() - begun
        after = memory_and_cpu(os.getpid())[0], memory_and_cpu(keeper)[0]
        await trio.sleep(2)
        idle = memory_and_cpu(os.getpid())[1], memory_and_cpu(keeper)[1]
        await trio.sleep(10)
        used = [memory_and_cpu(pid)[1] - was for pid, was in zip((os.getpid(), keeper), idle, strict=True)]
        begun = time.monotonic()
        await sup.status(jobs[-1].job_id)
        asked = time.monotonic() - begun
        begun = time.monotonic()
        async with trio.open_nursery() as nursery:
            for job in [one, *jobs]:
                nursery.start_soon(sup.cancel, job.job_id)
        ended = time.monotonic() - begun
        assert not list(world.catalog.index.unfinished())
    show(
        f"{count} running jobs, started in {took:.1f} s: memory per job "
        f"{(after[0] - before[0]) / count / 1024:.1f} KiB "
        f"in the supervisor and {(after[1] - before[1]) / count / 1024:.1f} KiB in the keeper; idle CPU "
        f"{used[0] * 10:.1f} % and {used[1] * 10:.1f} %; status {asked * 1000:.1f} ms; all cancelled in {ended:.1f} s",
    )


@pytest.mark.slow
async def test_reopening_a_root_with_ten_thousand_ended_and_a_thousand_running_jobs(world: World) -> None:
    settings = supervisor.Settings(job_max_count=100_000)
    finished = 10_000
    async with supervisor.open_supervisor(settings) as sup:
        running = [job.job_id for job in await start_many(sup, 1000)]
        pattern = await sup.run(["echo", "x"])
        record = records.read(str(world.job(pattern.job.job_id)), records.JOB)
    assert record is not None
    source = world.job(pattern.job.job_id)
    key = workspace_key(str(world.directory))
    index = world.catalog.index

    def fill() -> None:
        for _ in range(finished - 1):
            job_id = new_job_id()
            shutil.copytree(source, world.root / key / job_id, symlinks=True)
            now = {**record, "job_id": job_id, "created_ns": time.time_ns()}
            (world.root / key / job_id / records.JOB).write_text(dump(now), encoding="ascii")
            row = row_of_record(key, now, dump(now))
            ended = Exit(exit_code=0, ended_ns=time.time_ns())
            index.insert(row)
            index.finish(
                row.with_outcome(JobOutcome(state=State.DONE, reason=Reason.EXITED, exit=ended, stdout_bytes=2))
            )

    index.write(fill)

    async def reopen() -> tuple[float, float, float]:
        begun = time.monotonic()
        async with supervisor.open_supervisor(settings) as sup:
            opened = time.monotonic() - begun
            page = await sup.list(limit=1000)
            listed = time.monotonic() - begun
            assert len(page.jobs) == 1000
            while not {*running} <= {*sup._registry.entries}:  # noqa: ASYNC110  # adoption wakes no task
                await trio.sleep(0.01)
            return opened, listed, time.monotonic() - begun

    opened, listed, adopted = await reopen()
    for path in world.root.glob("registry.db*"):
        path.unlink()
    rebuilt = await reopen()
    show(
        f"{finished} ended and {len(running)} running jobs: open after {opened * 1000:.0f} ms, 1000 listed after "
        f"{listed * 1000:.0f} ms, all that run adopted after {adopted * 1000:.0f} ms; without its registry "
        f"open after {rebuilt[0]:.1f} s",
    )
    with Catalog(settings) as catalog:
        assert catalog.index.count() == finished + len(running)
        ends = catalog.cancel_all(running)
        assert {end.status for end in ends if isinstance(end, supervisor.Job)} == {"cancelled"}
    assert math.isfinite(opened)
