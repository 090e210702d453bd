"""The events of a waiting job: one for each change of ``queue_reason``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from trio.testing import MockClock

from supervisor import JobEvent, JobSpec, Settings, State, Supervisor, open_supervisor
from supervisor.admission.groups import change_group, pause
from supervisor.jobs import places
from supervisor.jobs.catalog import Catalog
from supervisor.runtime.events import Subscription
from supervisor.testing import FakeEngine, Script
from tests.clock import jumping_clock

QUEUED, RUNNING = State.QUEUED, State.RUNNING
Change = tuple[State | None, str | None, State, str | None]


@pytest.fixture
def settings(state_dir: Path) -> Settings:
    return Settings(state_dir=state_dir)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(Script(seconds=None))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> MockClock:
    return jumping_clock(monkeypatch, threshold=0.01)


@asynccontextmanager
async def opened(settings: Settings, engine: FakeEngine) -> AsyncIterator[Supervisor]:
    async with open_supervisor(settings, engine=engine) as sup:
        await sup.set_group("g", limit=1)
        yield sup


def change(event: JobEvent) -> Change:
    return event.previous, event.previous_queue_reason, event.status, event.job.queue_reason


async def changes(events: Subscription, count: int) -> list[Change]:
    return [change(await anext(events)) for _ in range(count)]


async def test_a_job_that_need_not_wait(settings: Settings, engine: FakeEngine) -> None:
    async with opened(settings, engine) as sup, sup.events() as events:
        await sup.start(["a"], groups="g")
        assert await changes(events, 2) == [(None, None, QUEUED, "launching"), (QUEUED, "launching", RUNNING, None)]
        await sup.start(["b"])
        assert await changes(events, 2) == [(None, None, QUEUED, None), (QUEUED, None, RUNNING, None)]
        engine.commands[0].finish()
        assert await changes(events, 1) == [(RUNNING, None, State.DONE, None)]
        assert events.unread == 0


@pytest.mark.parametrize("many", [False, True])
async def test_from_the_wait_to_the_launch(
    settings: Settings,
    engine: FakeEngine,
    clock: MockClock,  # noqa: ARG001
    *,
    many: bool,
) -> None:
    async with opened(settings, engine) as sup:
        first = await sup.start(["first"], groups="g")
        if many:
            (job,) = await sup.start_many([JobSpec(argv=("second",), groups=("g",))])
        else:
            job = await sup.start(["second"], groups="g")
        async with sup.events(job.job_id) as events:
            await sup.hold(job.job_id)
            await sup.release(job.job_id)
            await sup.pause_group("g")
            engine.command(first.job_id).finish()
            await sup.wait(first.job_id)
            await sup.resume_group("g")
            assert await changes(events, 5) == [
                (QUEUED, "limit", QUEUED, "held"),
                (QUEUED, "held", QUEUED, "limit"),
                (QUEUED, "limit", QUEUED, "paused"),
                (QUEUED, "paused", QUEUED, "launching"),
                (QUEUED, "launching", RUNNING, None),
            ]
            engine.command(job.job_id).write("progress is none of these")
            engine.command(job.job_id).finish()
            assert await changes(events, 1) == [(RUNNING, None, State.DONE, None)]


async def test_changes_by_another_process_and_by_the_clock(
    settings: Settings,
    engine: FakeEngine,
    clock: MockClock,  # noqa: ARG001
) -> None:
    async with opened(settings, engine) as sup, sup.events() as events:
        first = await sup.start(["first"], groups="g", not_before=engine.time() + timedelta(seconds=30))
        second = await sup.start(["second"], groups="g", after=[first.job_id])
        assert await changes(events, 2) == [(None, None, QUEUED, "not_before"), (None, None, QUEUED, "dependency")]
        with Catalog(settings) as other:
            places.hold(other, first.job_id)
            assert await changes(events, 1) == [(QUEUED, "not_before", QUEUED, "held")]
            places.release(other, first.job_id)
            assert await changes(events, 1) == [(QUEUED, "held", QUEUED, "not_before")]
            change_group(other.index, "g", pause(None, None))
            begun = await changes(events, 1)
            assert begun == [(QUEUED, "not_before", QUEUED, "paused")]
            assert engine.commands == ()
        await sup.resume_group("g")
        assert await changes(events, 2) == [
            (QUEUED, "paused", QUEUED, "launching"),
            (QUEUED, "launching", RUNNING, None),
        ]
        engine.command(first.job_id).finish()
        assert await changes(events, 3) == [
            (RUNNING, None, State.DONE, None),
            (QUEUED, "dependency", QUEUED, "launching"),
            (QUEUED, "launching", RUNNING, None),
        ]
        await sup.cancel(second.job_id)


async def test_a_cancelled_wait(settings: Settings, engine: FakeEngine) -> None:
    async with opened(settings, engine) as sup, sup.events() as events:
        job = await sup.start(["a"], hold=True)
        await sup.cancel(job.job_id)
        assert await changes(events, 2) == [(None, None, QUEUED, "held"), (QUEUED, "held", State.CANCELLED, None)]


async def test_a_slow_reader_gets_every_change(settings: Settings, engine: FakeEngine) -> None:
    """Events of progress replace one another; those of other changes do not, though the state is the same."""
    async with opened(settings, engine) as sup:
        await sup.pause_group("g")
        job = await sup.start(["a"], groups="g")
        async with sup.events(job.job_id) as events:
            for _ in range(3):
                await sup.hold(job.job_id)
                await sup.release(job.job_id)
            assert events.unread == 6
            assert [reason for _, _, _, reason in await changes(events, 6)] == ["held", "paused"] * 3


async def test_an_adopted_job(settings: Settings, engine: FakeEngine, clock: MockClock) -> None:  # noqa: ARG001
    async with opened(settings, engine) as sup:
        await sup.start(["first"], groups="g")
        waiting = await sup.start(["second"], groups="g")
    async with opened(settings, engine) as sup, sup.events() as events:
        (await engine.next()).finish()
        await sup.wait(engine.commands[0].job_id)
        (await engine.next()).finish()
        await sup.wait(waiting.job_id)
        events.close()
        seen = [change(event) async for event in events if event.job_id == waiting.job_id]
        assert seen[-1][2] is State.DONE
        assert (QUEUED, "launching") in [(previous, reason) for previous, _, _, reason in seen]
