"""Settings that a job has of its own: its time to live, its output limit, its grace."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from supervisor import InvalidArguments, JobNotFound, Retry, Settings, open_supervisor
from supervisor.jobdir.validation import is_newer
from supervisor.testing import FakeEngine, Script

OWN = {"ttl_seconds": 60, "max_output_bytes": 10, "grace_seconds": 2.5}


def record(settings: Settings, job_id: str) -> dict[str, Any]:
    (path,) = settings.state_dir.glob(f"*/{job_id}/job.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


@pytest.fixture
def settings(state_dir: Path) -> Settings:
    return Settings(state_dir=state_dir, job_ttl=7, job_max_output_bytes=70, stop_grace_seconds=0.7)


async def test_they_are_on_record_and_others_are_those_of_the_supervisor(settings: Settings) -> None:
    engine = FakeEngine(Script(seconds=None))
    async with open_supervisor(settings, engine=engine) as sup:
        own = await sup.start(["tool"], **OWN, merge_stderr=True)
        other = await sup.start(["tool"])
        assert (own.ttl_seconds, other.ttl_seconds) == (60, 7)
        for job, expected in ((own, (60, 10, 2.5, True)), (other, (7, 70, 0.7, None))):
            found = record(settings, job.job_id)
            assert not is_newer(found)
            members = ("ttl_seconds", "output_limit", "grace_seconds", "merge_stderr")
            assert tuple(found.get(name) for name in members) == expected
            request = engine.command(job.job_id).request
            assert (request.output_limit, request.grace_seconds) == (expected[1], expected[2])
            assert request.merge_stderr is bool(expected[3])
        engine.command(own.job_id).write("more than ten bytes")
        ended = await sup.wait(own.job_id)
        assert ended.reason == "output_limit"
        assert ended.completed_at is not None
        assert ended.expires_at is not None
        assert (ended.expires_at - ended.completed_at).total_seconds() == 60
        engine.command(other.job_id).write("more than ten bytes")
        engine.command(other.job_id).finish()
        assert (await sup.wait(other.job_id)).status == "done"


async def test_a_job_of_no_time_to_live_has_a_result_for_the_call_that_runs_it(settings: Settings) -> None:
    async with open_supervisor(settings, engine=FakeEngine(Script(stdout="out"))) as sup:
        result = await sup.run(["tool"], ttl_seconds=0)
        assert result.value == "out"
        with pytest.raises(JobNotFound):
            await sup.status(result.job_id)


async def test_the_longest_time_to_live_ends_in_another_century(settings: Settings) -> None:
    async with open_supervisor(settings, engine=FakeEngine()) as sup:
        result = await sup.run(["tool"], ttl_seconds=100 * 365 * 86400)
        assert result.job.expires_at is not None
        assert result.job.expires_at.year > 2100


async def test_a_cancelled_run_waits_as_long_as_the_job_may_take(
    settings: Settings, autojump_clock: trio.testing.MockClock
) -> None:
    del autojump_clock
    engine = FakeEngine(Script(seconds=None, stop_seconds=30, stop_exit_code=3))
    async with open_supervisor(settings, engine=engine) as sup:
        with trio.move_on_after(1):
            await sup.run(["tool"], grace_seconds=60)
        (job,) = (await sup.list()).jobs
        assert (job.status, job.exit_code) == ("cancelled", 3)


async def test_each_attempt_keeps_them(settings: Settings, autojump_clock: trio.testing.MockClock) -> None:
    del autojump_clock
    retry = Retry(maximum_attempts=2, initial_interval=0, retry_on=["job_failed"])
    engine = FakeEngine(Script(exit_code=1))
    async with open_supervisor(settings, engine=engine) as sup:
        ended = await sup.wait((await sup.start(["tool"], **OWN, merge_stderr=True, retry=retry)).job_id)
        assert (ended.attempt, ended.ttl_seconds) == (2, 60)
        first, second = (record(settings, job) for job in (ended.retry_of, ended.job_id) if job)
        for name in ("ttl_seconds", "output_limit", "grace_seconds", "merge_stderr"):
            assert first[name] == second[name]
        for job_id in (ended.retry_of, ended.job_id):
            assert job_id is not None
            request = engine.command(job_id).request
            assert (request.output_limit, request.grace_seconds, request.merge_stderr) == (10, 2.5, True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("ttl_seconds", bad) for bad in (-1, -0.5, math.inf, math.nan, 1e300, 10**400, True, "60", [])),
        *(("grace_seconds", bad) for bad in (-1, math.inf, math.nan, 1e300, False, "5s")),
        *(("max_output_bytes", bad) for bad in (-1, 1.5, 2**63, math.inf, True, "10M")),
        *(("merge_stderr", bad) for bad in (1, None, "yes")),
    ],
)
async def test_a_bad_value_is_named(settings: Settings, name: str, value: Any) -> None:
    async with open_supervisor(settings, engine=FakeEngine()) as sup:
        with pytest.raises(InvalidArguments, match=f"^{name} is "):
            await sup.start(["tool"], **{name: value})
        assert (await sup.list()).jobs == ()
