"""Following what running agents write: in time, coalesced, and at no cost while nothing comes."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from supervisor import JobEvent, Settings, State, Supervisor, open_supervisor
from supervisor.jobs.progress import Output
from supervisor.runtime import progress
from supervisor.runtime.events import _MAX_IN_A_ROW, Subscription
from supervisor.system.inotify import Inotify
from supervisor.testing import FakeCommand, FakeEngine, Script


def turn(number: int) -> bytes:
    return json.dumps({"type": "assistant", "message": {"id": f"m{number}"}}).encode() + b"\n"


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(Script(seconds=None))


@pytest.fixture
async def sup(state_dir: Path, engine: FakeEngine) -> AsyncIterator[Supervisor]:
    async with open_supervisor(Settings(state_dir=state_dir), engine=engine) as opened:
        yield opened


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the sizes of what was read, in order."""
    sizes: list[int] = []
    read = Output.read

    def counted(self: Output) -> bytes:
        data = read(self)
        sizes.append(len(data))
        return data

    monkeypatch.setattr(Output, "read", counted)
    return sizes


async def start(sup: Supervisor, engine: FakeEngine, kind: str = "claude") -> FakeCommand:
    await sup.start(["tool"], kind=kind, deadline_seconds=float("inf"))
    return engine.commands[-1]


async def until(events: AsyncIterator[JobEvent], number: int) -> list[JobEvent]:
    """Return the events up to that turn."""
    told: list[JobEvent] = []
    async for event in events:
        told.append(event)
        if event.job.progress and event.job.progress["turn"] == number:
            break
    return told


async def test_a_job_of_another_kind_is_not_looked_at(sup: Supervisor, engine: FakeEngine, reads: list[int]) -> None:
    for kind in ("raw", "json"):
        command = await start(sup, engine, kind)
        command.write(turn(1))
        assert (await sup.status(command.job_id)).progress is None
    assert not sup._notifier._wanted.is_set()
    assert reads == []


async def test_an_idle_stream_is_not_read(
    sup: Supervisor,
    engine: FakeEngine,
    reads: list[int],
    autojump_clock: trio.testing.MockClock,  # noqa: ARG001
) -> None:
    async with sup.events() as events:
        command = await start(sup, engine)
        command.write(turn(1))
        await until(events, 1)
    before = len(reads)
    await trio.sleep(4000)  # longer than any wait of a supervisor
    assert len(reads) == before


async def test_a_first_line_is_told_at_once(
    sup: Supervisor,
    engine: FakeEngine,
    autojump_clock: trio.testing.MockClock,  # noqa: ARG001
) -> None:
    command = await start(sup, engine)
    async with sup.events() as events:
        await trio.sleep(100)
        now = trio.current_time()
        command.write(turn(1))
        (event,) = await until(events, 1)
    assert trio.current_time() == now
    assert event.previous is event.status is State.RUNNING


async def test_a_busy_stream_is_looked_at_a_few_times_a_second(
    sup: Supervisor,
    engine: FakeEngine,
    reads: list[int],
    autojump_clock: trio.testing.MockClock,  # noqa: ARG001
) -> None:
    command = await start(sup, engine)
    async with sup.events() as events:
        for number in range(500):  # five seconds of it
            command.write(turn(number))
            await trio.sleep(0.01)
        told = await until(events, 500)
    assert len(told) <= 1 + 5 / progress._BETWEEN_READS_SECONDS
    assert len(reads) <= 3 * (2 + 5 / progress._BETWEEN_READS_SECONDS)
    assert [event.lagged for event in told] == [0] * len(told)


async def test_a_flood_is_read_in_portions_and_delays_nobody(
    sup: Supervisor,
    engine: FakeEngine,
    reads: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By count, not by clock: the others get a turn after each slice, and one look is no longer than it may be."""
    monkeypatch.setattr(progress, "_SLICE_SECONDS", 0.0)
    monkeypatch.setattr(progress, "_MAX_CPU_SECONDS", float("inf"))
    turns_of_others: list[int] = []

    async def other() -> None:
        while True:
            turns_of_others.append(len(reads))
            await trio.lowlevel.checkpoint()

    command = await start(sup, engine)
    data = b"".join(map(turn, range(40_000)))
    assert len(data) > 30 * 65536
    async with sup.events() as events, trio.open_nursery() as nursery:
        nursery.start_soon(other)
        command.write(data)
        told = await until(events, 40_000)
        nursery.cancel_scope.cancel()
    assert max(reads) == 65536
    assert len(told) == -(-len(data) // (16 * 65536))  # each look is told
    assert min(map(turns_of_others.count, range(1, len(reads) - 1))) >= 7  # several slices a chunk


async def test_a_slow_reader_of_progress_is_given_less_at_a_look_and_nothing_twice(
    sup: Supervisor,
    engine: FakeEngine,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: trio.testing.MockClock,  # noqa: ARG001
) -> None:
    monkeypatch.setattr(progress, "_SLICE_SECONDS", 0.0)
    monkeypatch.setattr(progress, "_MAX_CPU_SECONDS", 0.0)  # one slice, then it is over
    command = await start(sup, engine)
    async with sup.events() as events:
        command.write(b"".join(map(turn, range(100))))
        told = await until(events, 100)
    assert len(told) >= 5
    assert told[-1].job.progress is not None
    assert told[-1].job.progress["skipped_lines"] == 0


async def test_it_is_followed_where_nobody_tells_of_changes(
    sup: Supervisor,
    engine: FakeEngine,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: trio.testing.MockClock,  # noqa: ARG001
) -> None:
    monkeypatch.setattr(Inotify, "open", lambda: None)
    command = await start(sup, engine)
    async with sup.events() as events:
        command.write(turn(1))
        await until(events, 1)
        command.write(turn(2))
        await until(events, 2)


async def test_nothing_is_told_after_the_end(sup: Supervisor, engine: FakeEngine) -> None:
    command = await start(sup, engine, "codex")
    async with sup.events() as events:
        command.write(b'{"type": "turn.started"}\n')
        await until(events, 1)
        command.write(b'{"type": "turn.completed", "usage": {}}\n')
        command.finish()
        async for event in events:
            if event.status.terminal:
                break
        assert event.job.progress is None
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not events._events


@pytest.mark.parametrize("where", ["feed", "snapshot"])
async def test_a_reader_that_fails_costs_the_progress_and_not_the_job(
    sup: Supervisor, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    class Broken:
        def feed(self, _: bytes) -> bool:
            return self.fail() if where == "feed" else True

        def snapshot(self) -> dict[str, Any]:
            return self.fail()

        def fail(self) -> Any:
            raise ZeroDivisionError

    monkeypatch.setattr(progress, "reader_of", lambda _: Broken())
    command = await start(sup, engine)
    command.write(b"x")
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert (await sup.status(command.job_id)).status == "running"
    command.finish()
    assert (await sup.wait(command.job_id)).status == "failed"  # for want of an answer


# ------------------------------------------------------------ what a slow reader of events gets


async def _events(sup: Supervisor, engine: FakeEngine, count: int) -> list[JobEvent]:
    """Return an event with progress for each of so many jobs."""
    events: list[JobEvent] = []
    for _ in range(count):
        command = await start(sup, engine)
        events.append(JobEvent(job=await sup.status(command.job_id), previous=State.RUNNING))
    return events


async def _all(subscription: Subscription) -> list[JobEvent]:
    subscription.close()
    return [event async for event in subscription]


async def test_of_the_progress_of_a_job_the_latest_is_kept(sup: Supervisor, engine: FakeEngine) -> None:
    first, second = await _events(sup, engine, 2)
    later = JobEvent(job=first.job, previous=State.RUNNING)
    subscription = Subscription(None)
    for event in (first, second, later):
        subscription.put(event)
    kept = await _all(subscription)
    assert [event is later for event in kept] == [False, True]
    assert kept[0] is second


async def test_progress_pushes_out_no_change_of_state(
    sup: Supervisor, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervisor.runtime.events._MAX_EVENTS", 4)
    progressed, other = await _events(sup, engine, 2)
    changes = [JobEvent(job=progressed.job, previous=previous) for previous in (None, State.QUEUED)]
    subscription = Subscription(None)
    for event in (*changes, *changes, progressed, other):
        subscription.put(event)
    kept = await _all(subscription)
    assert [event.previous for event in kept] == [None, State.QUEUED, None, State.QUEUED]
    assert kept[0].lagged == 2


async def _filled(sup: Supervisor, engine: FakeEngine, count: int) -> Subscription:
    command = await start(sup, engine)
    job = await sup.status(command.job_id)
    subscription = Subscription(None)
    for _ in range(count):
        subscription.put(JobEvent(job=job, previous=State.QUEUED))
    return subscription


async def test_a_reader_can_be_cancelled_at_any_step_and_loses_nothing(sup: Supervisor, engine: FakeEngine) -> None:
    subscription = await _filled(sup, engine, 3)
    for left in (3, 2, 1, 0):
        with trio.CancelScope() as scope:
            scope.cancel()
            await anext(subscription)
        assert scope.cancelled_caught
        assert subscription.unread == left
        if left:
            await anext(subscription)
    subscription.close()
    with trio.CancelScope() as scope:
        scope.cancel()
        await anext(subscription)
    assert scope.cancelled_caught
    with pytest.raises(StopAsyncIteration):
        await anext(subscription)


async def test_a_reader_that_is_behind_leaves_others_their_turn(sup: Supervisor, engine: FakeEngine) -> None:
    subscription = await _filled(sup, engine, 100)
    reader = trio.lowlevel.current_task()
    left: list[int] = []

    class Turns(trio.abc.Instrument):
        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            if task is reader:
                left.append(subscription.unread)

    turns = Turns()
    trio.lowlevel.add_instrument(turns)
    for _ in range(100):
        await anext(subscription)
    trio.lowlevel.remove_instrument(turns)
    steps = [before - after for before, after in itertools.pairwise([100, *left])]
    assert set(steps) == {_MAX_IN_A_ROW}


async def test_several_may_read_from_one_subscription(sup: Supervisor, engine: FakeEngine) -> None:
    subscription = await _filled(sup, engine, 0)
    filled = await _filled(sup, engine, 5)
    heard: list[JobEvent] = []

    async def read() -> None:
        heard.extend([event async for event in subscription])

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        events = [await anext(filled) for _ in range(5)]
        for event in events:
            subscription.put(event)
        await trio.testing.wait_all_tasks_blocked()
        subscription.close()
    assert sorted(map(id, heard)) == sorted(map(id, events))
