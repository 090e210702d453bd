"""Real jobs that wait for others and for times."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

import supervisor
from supervisor.errors import IdempotencyConflict, InvalidArguments, JobNotFound
from supervisor.jobdir.records import ORDERS
from supervisor.model import JobEvent
from supervisor.system import processes
from tests.process.test_groups import command, held

if TYPE_CHECKING:
    from tests.process.conftest import World

pytestmark = [
    pytest.mark.skipif(not processes.HAVE_PROC, reason="needs Linux"),
    pytest.mark.usefixtures("world"),
]
PATIENCE = 60


async def test_a_job_runs_after_the_job_that_it_waits_for(world: World) -> None:
    gate, up = world.fifo(), world.fifo()
    async with supervisor.open_supervisor() as sup:
        first = await sup.start(["sh", "-c", 'echo up > "$1"; read line < "$0"', str(gate), str(up)])
        assert up.line() == "up"
        then = await sup.start(["echo", "then"], after=[first.job_id])
        never = await sup.start(["echo", "never"], after=[("failed", first.job_id)])
        assert (then.status, then.queue_reason, then.after) == (
            "queued",
            "dependency",
            ({"job_id": first.job_id, "when": "ok"},),
        )
        gate.open()
        with trio.fail_after(PATIENCE):
            assert (await sup.wait(then.job_id)).status == "done"
            ended = await sup.wait(never.job_id)
        assert (ended.status, ended.reason) == ("cancelled", "dependency_failed")
        assert ended.detail == f"job {first.job_id} ended done, and it had to end otherwise than done"
        result = await sup.result(never.job_id)
        assert result.error is not None
        assert result.error.code == "dependency_failed"
        cause = {"job_id": first.job_id, "when": "failed", "status": "done", "reason": "exited"}
        assert result.error.details == {"dependency": cause}
        assert not list(world.root.glob(f"*/*/{ORDERS}"))


async def test_a_delayed_job_runs_when_its_time_has_come() -> None:
    async with supervisor.open_supervisor() as sup:
        job = await sup.start(["true"], delay_seconds=0.3)
        assert (job.status, job.queue_reason) == ("queued", "not_before")
        with trio.fail_after(PATIENCE):
            ended = await sup.wait(job.job_id)
        assert ended.status == "done"
        assert ended.started_at is not None
        assert ended.started_at - ended.created_at >= timedelta(seconds=0.3)


async def test_a_job_that_cannot_start_in_time_is_cancelled() -> None:
    async with supervisor.open_supervisor() as sup:
        await sup.set_group("g", limit=1)
        first = await sup.start(["sleep", "60"], groups=["g"])
        job = await sup.start(["true"], groups=["g"], start_within_seconds=0.2)
        with trio.fail_after(PATIENCE):
            ended = await sup.wait(job.job_id)
        assert (ended.status, ended.reason) == ("cancelled", "start_expired")
        error = (await sup.result(job.job_id)).error
        assert error is not None
        waited = error.details["waited_seconds"]
        assert error.details == {
            "waited_seconds": waited,
            "start_within_seconds": 0.2,
            "queue_reason": "limit",
            "waited_for": ["g"],
        }
        assert 0.2 <= waited < PATIENCE
        assert ended.detail == f"it waited {waited:.1f} seconds for room in g"
        await sup.cancel(first.job_id)


async def test_a_job_on_hold_can_be_cancelled() -> None:
    async with supervisor.open_supervisor() as sup:
        job = await sup.start(["true"], hold=True)
        assert job.queue_reason == "held"
        assert (await sup.cancel(job.job_id)).reason == "cancelled"


async def test_what_cannot_be_waited_for_is_refused() -> None:
    far = datetime.now(UTC) + timedelta(days=365)
    async with supervisor.open_supervisor() as sup:
        with pytest.raises(JobNotFound, match="to wait for"):
            await sup.start(["true"], after=["0" * 32])
        for options in (
            {"after": ["nonsense"]},
            {"after": [("soon", "0" * 32)]},
            {"after": [("ok",)]},
            {"delay_seconds": 365 * 86400},
            {"not_before": far},
            {"not_before": far.replace(tzinfo=None)},
            {"start_within_seconds": -1},
        ):
            with pytest.raises(InvalidArguments):
                await sup.start(["true"], **options)
        assert (await sup.list()).jobs == ()


async def test_a_failure_goes_through_a_chain_of_dependents() -> None:
    async with supervisor.open_supervisor() as sup:
        async with sup.events() as events:
            jobs = [await sup.start(["sh", "-c", "exit 3"], hold=True)]
            for _ in range(5):
                jobs.append(await sup.start(["true"], after=[jobs[-1].job_id]))  # each needs the last
            await sup.release(jobs[0].job_id)
            with trio.fail_after(PATIENCE):
                ends = [await sup.wait(job.job_id) for job in jobs]
            seen = [event.job_id async for event in _ended(events, len(jobs))]
        assert [job.reason for job in ends] == ["nonzero_exit", *["dependency_failed"] * 5]
        assert ends[1].detail == f"job {jobs[0].job_id} ended failed (nonzero_exit), and it had to be done"
        assert ends[2].detail == f"job {jobs[1].job_id} ended cancelled (dependency_failed), and it had to be done"
        assert seen == [job.job_id for job in jobs]


async def _ended(events: AsyncIterator[JobEvent], count: int) -> AsyncIterator[JobEvent]:
    while count:
        event = await anext(events)
        if event.status.terminal:
            count -= 1
            yield event


def test_a_dependent_ends_when_no_supervisor_is_open(world: World) -> None:
    gate, up = world.fifo(), world.fifo()
    first = command(world, "start", "--", *held(gate, up, "0"), "and", "more").stdout.strip()
    ok = command(world, "start", "--after", f"any:{first}", "--", "true").stdout.strip()
    never = command(world, "start", "--after", f"failed:{first}", "--", "true").stdout.strip()
    assert up.line() == "0"
    gate.open()
    jobs = world.catalog.wait([ok, never], timeout=PATIENCE)
    assert [job.reason for job in jobs] == ["exited", "dependency_failed"]


def test_the_next_command_ends_a_dependent_when_everything_of_ours_was_killed(world: World) -> None:
    host = world.host()
    first = host.start("sleep", "600")
    job_id = host.start("true", after=[first])
    host.kill()
    world.keeper(first).kill()
    world.leader(first).kill()
    assert command(world, "status", first).returncode == 0
    (job,) = world.catalog.wait([job_id], timeout=PATIENCE)
    assert (job.reason, (job.detail or "").startswith(f"job {first} ended failed (")) == ("dependency_failed", True)


async def test_the_end_of_an_adopted_dependent_is_recorded_by_its_actor_alone(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    gate, host = world.fifo(), world.host()
    first = host.start("sh", "-c", f"read line < {gate}; exit 1")
    dependents = [host.start("true", after=[first]) for _ in range(5)]
    host.kill()
    async with supervisor.open_supervisor() as sup:
        with trio.fail_after(PATIENCE):
            while not sup._registry.entries.keys() >= {first, *dependents}:  # noqa: ASYNC110  # the janitor sets no event
                await trio.sleep(0.01)
            gate.open()
            for job_id in dependents:
                assert (await sup.wait(job_id)).reason == "dependency_failed"
        await trio.testing.wait_all_tasks_blocked(0.1)
    assert "job_actor_failed" not in caplog.messages


def test_a_status_says_at_once_that_a_dependency_has_failed(world: World) -> None:
    """Its own supervisor is stopped, so this process records the end."""
    host = world.host()
    first = host.start("sleep", "600")
    job_id = host.start("true", after=[first])
    world.stop(world.hold(host.pid))
    world.catalog.cancel(first)
    assert world.catalog.status(job_id).reason == "dependency_failed"


def test_another_supervisor_ends_the_dependent_of_one_that_hangs(world: World) -> None:
    hung, other = world.hosts(2)
    first = other.start("sleep", "600")
    job_id = hung.start("true", after=[first])
    world.stop(world.hold(hung.pid))
    assert other.call("cancel", first)["status"] == "cancelled"
    row = world.catalog.index.get(job_id)
    give_up = time.monotonic() + PATIENCE
    while row is not None and not row.finished and time.monotonic() < give_up:
        time.sleep(0.05)  # in the index: `status` would record the end itself
        row = world.catalog.index.get(job_id)
    assert row is not None
    assert row.state == "cancelled"


async def test_a_job_that_another_one_waits_for_is_kept(world: World) -> None:
    settings = supervisor.Settings(state_dir=world.root, job_ttl=0, job_max_count=0)
    async with supervisor.open_supervisor(settings) as sup:
        held = await sup.start(["true"], hold=True)
        first = await sup.start(["echo", "x"], hold=True)
        dependents = [await sup.start(["true"], after=[first.job_id, held.job_id]) for _ in range(2)]
        await sup.release(first.job_id)
        await sup.wait(first.job_id)
        await sup.start(["true"])  # a start forgets what is too many
        assert first.job_id not in await sup.prune()
        for path in world.root.glob("registry.db*"):  # also in a new index
            path.unlink()
        assert (await sup.status(first.job_id)).status == "done"
        assert first.job_id in {job.job_id for job in (await sup.list(state="done")).jobs}
        assert (await sup.result(first.job_id)).value == "x\n"
        names = {job.job_id for job in dependents}
        for remove in (sup.forget(first.job_id), sup.result(first.job_id, consume=True)):
            with pytest.raises(InvalidArguments, match="waits for it") as refused:
                await remove
            assert set(refused.value.details["awaited_by"]) == names
        assert command(world, "rm", first.job_id).returncode == 2
        assert [(await sup.status(job_id)).queue_reason for job_id in names] == ["dependency"] * 2
        for job_id in names:
            await sup.cancel(job_id)
        assert first.job_id in await sup.prune()
        with pytest.raises(JobNotFound):
            await sup.status(first.job_id)


async def test_a_job_is_not_awaited_any_more_once_its_dependent_has_its_slots() -> None:
    async with supervisor.open_supervisor() as sup:
        first = await sup.start(["true"])
        await sup.wait(first.job_id)
        await sup.set_group("g", limit=1)
        running = await sup.start(["sleep", "60"], groups=["g"])
        job = await sup.start(["sleep", "60"], after=[first.job_id], groups=["g"])
        assert (job.queue_reason, job.queue_position) == ("limit", 1)
        with pytest.raises(InvalidArguments, match="waits for it"):
            await sup.forget(first.job_id)
        async with sup.events(job.job_id) as events:
            await sup.cancel(running.job_id)
            with trio.fail_after(PATIENCE):
                while (await anext(events)).status != "running":
                    pass
        await sup.forget(first.job_id)
        await sup.cancel(job.job_id)


async def test_a_job_cannot_wait_for_itself_by_its_key() -> None:
    async with supervisor.open_supervisor() as sup:
        first = await sup.start(["true"], idempotency_key="k", hold=True)
        assert (await sup.start(["true"], idempotency_key="k")).job_id == first.job_id
        for when in ("ok", "failed"):
            request = supervisor.JobSpec(argv=["true"], idempotency_key="k", after=[(when, first.job_id)])
            for start in (sup.start(request), sup.start_many([request])):
                with pytest.raises(IdempotencyConflict, match="not to wait for itself") as refused:
                    await start
                assert refused.value.details["job_id"] == first.job_id
        with pytest.raises(JobNotFound, match="to wait for"):
            await sup.start_many([supervisor.JobSpec(argv=["true"], after=["0" * 32])])
        assert len((await sup.list()).jobs) == 1


async def test_a_job_of_another_host_can_be_waited_for_and_that_is_said(world: World) -> None:
    """It is judged only there, and its end counts once it is in the index, which both share."""
    async with supervisor.open_supervisor() as sup:
        there = await sup.start(["true"], hold=True)
        index, path = world.catalog.index, world.job(there.job_id) / "job.json"
        spec = path.read_text().replace(processes.boot_id(), "f" * 36).replace(processes.host_id(), "another host")
        path.write_text(spec)
        (world.job(there.job_id) / ORDERS).unlink()
        index.write(lambda: index._db.execute("UPDATE jobs SET owner = '1.1.ffffffffffff.0.0', spec = ?", (spec,)))
        job = await sup.start(["true"], after=[("any", there.job_id)])
        (wait,) = (await sup.explain(job.job_id)).waits_for
        assert wait.text == (
            f"it waits for job {there.job_id} (queued, on another host or in another container) to end"
        )
        index.write(
            lambda: index._db.execute(
                "UPDATE jobs SET state = 'done', completed_ns = 1, outcome = ? WHERE job_id = ?",
                (OUTCOME, there.job_id),
            )
        )
        with trio.fail_after(PATIENCE):
            assert (await sup.wait(job.job_id)).status == "done"


OUTCOME = json.dumps(
    dict.fromkeys(("exit_code", "signal", "cpu_seconds", "max_rss_bytes", "detail", "cost_usd", "error"))
    | {"reason": "exited", "stdout_bytes": 0, "stderr_bytes": 0}
)
