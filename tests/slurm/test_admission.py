"""Admission on a real Slurm: limits count cluster and local jobs, no waiting job is lost; and admission by Slurm."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import trio

import supervisor
from supervisor.states import Reason, State

pytestmark = pytest.mark.slurm

PATIENCE = 90.0
MARKED = "echo begin >> marks; sleep 0.5; echo end >> marks"


def most_at_once(marks: Path) -> int:
    """Return how many jobs ran at the same time, by the lines that each writes at its begin and its end."""
    running, most = 0, 0
    for line in marks.read_text().splitlines():
        running += 1 if line == "begin" else -1
        most = max(most, running)
    assert running == 0
    return most


def submissions(site: Any, job_ids: Iterable[str]) -> list[int]:
    """Return how often Slurm was given each of these jobs."""
    names = site.cluster.client("squeue", "-h", "-t", "all", "-o", "%j").stdout.split()
    return [names.count(f"supervisor-{job_id}") for job_id in job_ids]


async def test_a_limit_of_two_holds_over_slurm_jobs_and_local_ones(site: Any) -> None:
    async with supervisor.open_supervisor() as sup:
        await sup.set_group("g", limit=2)
        on_slurm = [await site.start(sup, MARKED, groups=["g"]) for _ in range(5)]
        local = [await sup.start(["sh", "-c", MARKED], groups=["g"]) for _ in range(3)]
        ids = [job.job_id for job in (*on_slurm, *local)]
        assert [job.queue_reason for job in (*on_slurm, *local)][2:] == ["limit"] * 6
        assert sum(submissions(site, ids)) <= 2
        with trio.fail_after(PATIENCE):
            ended = [await sup.wait(job_id) for job_id in ids]
        assert {job.status for job in ended} == {State.DONE}
        (group,) = await sup.groups()
        assert (group.running, group.waiting) == (0, 0)
    assert most_at_once(site.work / "marks") == 2
    assert submissions(site, ids) == [1] * 5 + [0] * 3


@pytest.mark.parametrize("last", ["supervisor", "command"])
async def test_jobs_wait_on_when_their_submitter_is_killed(site: Any, last: str) -> None:
    """The first job is in Slurm's queue, or runs; the others are not submitted. Another process submits each once."""
    async with supervisor.open_supervisor() as sup:
        await sup.set_group("g", limit=1)
    os.mkfifo(site.work / "fifo")
    scripts = [f"echo begin >> marks; read line < fifo; {MARKED.partition('; ')[2]}", MARKED, MARKED]
    started = [await trio.to_thread.run_sync(lambda each=each: site.host(each, groups=["g"])) for each in scripts]
    ids = [job_id for _, job_id in started]
    assert submissions(site, ids) == [1, 0, 0]
    for host, _ in started:
        host.kill()
        host.wait()
    await site.until(site.work / "marks")
    await trio.to_thread.run_sync((site.work / "fifo").write_text, "go\n")
    if last == "supervisor":
        async with supervisor.open_supervisor() as sup:
            with trio.fail_after(PATIENCE):
                ended = [(await sup.wait(job_id)).status for job_id in ids]
    else:
        shown = await trio.to_thread.run_sync(lambda: site.cli("wait", *ids))  # it starts the process that submits them
        ended = re.findall("done", shown)
    assert ended == [State.DONE] * 3
    assert most_at_once(site.work / "marks") == 1
    assert submissions(site, ids) == [1] * 3


async def test_a_job_in_slurms_queue_holds_its_slot(site: Any) -> None:
    whole = {"partition": "small", "cpus": 8}
    async with supervisor.open_supervisor() as sup:
        await sup.set_group("g", limit=1)
        other = await site.start(sup, "sleep 600", options=whole)
        queued = await site.start(sup, MARKED, options=whole, groups=["g"])
        waiting = await sup.start(["sh", "-c", MARKED], groups=["g"])
        with trio.fail_after(PATIENCE):
            while (await sup.status(queued.job_id)).queue_reason not in {"Resources", "Priority"}:  # noqa: ASYNC110
                await trio.sleep(0.1)
        assert (await sup.status(waiting.job_id)).queue_reason == "limit"
        with trio.fail_after(PATIENCE):
            await sup.cancel(other.job_id)
            ended = [(await sup.wait(job.job_id)).status for job in (queued, waiting)]
    assert ended == [State.DONE] * 2
    assert most_at_once(site.work / "marks") == 1


async def test_a_waiting_job_is_cancelled_without_a_submission(site: Any) -> None:
    async with supervisor.open_supervisor() as sup:
        await sup.set_group("g", limit=1)
        running = await site.start(sup, "exec sleep 600", groups=["g"])
        waiting = await site.start(sup, MARKED, groups=["g"])
        job = await sup.cancel(waiting.job_id)
        assert (job.status, job.started_at) == (State.CANCELLED, None)
        with trio.fail_after(PATIENCE):
            await sup.cancel(running.job_id)
    assert submissions(site, [waiting.job_id]) == [0]
    assert not (site.work / "marks").exists()


async def until_it_waits_for(sup: supervisor.Supervisor, job_id: str, reason: str) -> None:
    with trio.fail_after(PATIENCE):
        while (await sup.status(job_id)).queue_reason != reason:  # noqa: ASYNC110  # Slurm sends no event
            await trio.sleep(0.1)


async def test_slurm_keeps_the_order_that_is_left_to_it(site: Any) -> None:
    async with supervisor.open_supervisor() as sup:
        os.mkfifo(site.work / "fifo")
        first = await site.start(sup, "read line < fifo; echo 1 >> marks; exit 3")
        by_slurm = {"admission": "engine"}
        second = await site.start(sup, "echo 2 >> marks", options=by_slurm, after=[("failed", first.job_id)])
        third = await site.start(sup, "echo 3 >> marks", options=by_slurm, after=[second.job_id])
        never = await site.start(sup, "echo never >> marks", options=by_slurm, after=[first.job_id])
        await until_it_waits_for(sup, third.job_id, "Dependency")
        assert submissions(site, [second.job_id, third.job_id, never.job_id]) == [1, 1, 1]
        await trio.to_thread.run_sync((site.work / "fifo").write_text, "go\n")
        with trio.fail_after(PATIENCE):
            ended = [await sup.wait(job.job_id) for job in (first, second, third, never)]
    assert [job.exit_code for job in ended] == [3, 0, 0, None]
    assert (ended[3].status, ended[3].reason) == (State.CANCELLED, Reason.DEPENDENCY_FAILED)
    assert (site.work / "marks").read_text() == "1\n2\n3\n"


async def test_slurm_keeps_the_time_that_is_left_to_it(site: Any) -> None:
    async with supervisor.open_supervisor() as sup:
        job = await site.start(sup, "true", options={"admission": "engine"}, delay_seconds=4)
        await until_it_waits_for(sup, job.job_id, "BeginTime")
        with trio.fail_after(PATIENCE):
            job = await sup.wait(job.job_id)
    assert job.status is State.DONE
    assert job.started_at is not None
    assert (job.started_at - job.created_at).total_seconds() >= 3.9
