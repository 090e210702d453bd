"""The counts of a supervisor, and the values that ``metrics()`` computes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from supervisor import BlockingSupervisor, Metrics, Settings, State, open_supervisor, to_json
from supervisor.engines.interface import LaunchRequest
from supervisor.metrics import Counters, Times
from supervisor.testing import FakeEngine, Script


@pytest.fixture
def settings(state_dir: Path) -> Settings:
    return Settings(state_dir=state_dir, stop_grace_seconds=2)


def by_command(request: LaunchRequest) -> Script:
    return {
        b"endless": Script(seconds=None),
        b"missing": Script(launch_error="no such command"),
        b"polite": Script(seconds=None, stop_seconds=1.5),
        b"stubborn": Script(seconds=None, stop_seconds=math.inf),
        b"quick": Script(),
        b"bad": Script(exit_code=3),
    }[request.argv[0]]


async def test_nothing_has_happened_yet(settings: Settings) -> None:
    async with open_supervisor(settings, engine=FakeEngine()) as sup:
        metrics = await sup.metrics()
    assert set(metrics.jobs) == set(State)
    assert set(metrics.jobs.values()) == {0}
    assert (metrics.launches, metrics.launch_failures, metrics.adoptions) == (0, 0, 0)
    assert metrics.launch_seconds.count == metrics.stop_seconds.count == metrics.deadline_overshoot_seconds.count == 0
    assert metrics.launch_seconds.mean_seconds == 0
    assert (metrics.uncommitted, metrics.unnoted_launches, metrics.waiting_for_disk) == (0, 0, 0)


async def test_jobs_are_counted_by_state(settings: Settings) -> None:
    async with open_supervisor(settings, engine=FakeEngine(by_command)) as sup, sup.events():
        for command in ("quick", "quick", "bad", "missing"):
            await sup.run([command])
        lasting = await sup.start(["endless"])
        await sup.cancel((await sup.start(["endless"])).job_id)
        metrics = await sup.metrics()
        assert metrics.jobs == {
            State.QUEUED: 0,
            State.RUNNING: 1,
            State.DONE: 2,
            State.FAILED: 2,
            State.CANCELLED: 1,
            State.TIMEOUT: 0,
        }
        assert (metrics.launches, metrics.launch_failures) == (5, 1)
        assert metrics.launch_seconds.count == 5
        assert metrics.stop_seconds.count == 1
        assert (metrics.subscribers, metrics.unread_events) == (
            1,
            6 * 3 - 2,
        )  # one never ran, one has not ended
        await sup.cancel(lasting.job_id)


async def test_a_launch_under_way_is_queued(settings: Settings, mock_clock: MockClock) -> None:
    """The test moves the clock, since workspaces are resolved in threads, for which no clock waits."""
    engine = FakeEngine(Script(launch_seconds=3, seconds=None))
    async with open_supervisor(settings, engine=engine) as sup, trio.open_nursery() as nursery:
        nursery.start_soon(sup.start, ["tool"])
        while (await sup.metrics()).jobs[State.QUEUED] != 1:
            await trio.testing.wait_all_tasks_blocked()
        while (await sup.metrics()).jobs[State.RUNNING] != 1:
            mock_clock.jump(3)
            await trio.testing.wait_all_tasks_blocked(0.01)


async def test_how_long_stops_take_and_deadlines_overshoot(settings: Settings, mock_clock: MockClock) -> None:
    mock_clock.autojump_threshold = 0.01
    async with open_supervisor(settings, engine=FakeEngine(by_command)) as sup:
        polite = await sup.start(["polite"])
        await sup.cancel(polite.job_id)
        assert (await sup.metrics()).stop_seconds.longest_seconds == pytest.approx(1.5, abs=0.01)
        assert (await sup.metrics()).deadline_overshoot_seconds.count == 0
        stubborn = await sup.start(["stubborn"], deadline_seconds=60)
        assert (await sup.wait(stubborn.job_id)).status == "timeout"
        metrics = await sup.metrics()
    assert metrics.jobs[State.TIMEOUT] == 1
    assert metrics.stop_seconds.count == 2
    assert metrics.stop_seconds.total_seconds == pytest.approx(3.5, abs=0.02)
    assert metrics.deadline_overshoot_seconds.count == 1
    assert metrics.deadline_overshoot_seconds.total_seconds == pytest.approx(2, abs=0.02)


async def test_adopted_jobs_count_for_the_supervisor_that_records_their_end(
    settings: Settings, mock_clock: MockClock
) -> None:
    mock_clock.autojump_threshold = 0.01
    engine = FakeEngine(Script(seconds=100))
    async with open_supervisor(settings, engine=engine) as sup:
        job = await sup.start(["tool"])
    async with open_supervisor(settings, engine=engine) as sup:
        assert (await sup.wait(job.job_id)).status == "done"
        metrics = await sup.metrics()
    assert (metrics.launches, metrics.adoptions, metrics.jobs[State.DONE]) == (0, 1, 1)


def test_it_is_told_from_other_threads_and_as_json(settings: Settings) -> None:
    with BlockingSupervisor(settings, engine=FakeEngine()) as sup:
        sup.run(["tool"])
        metrics = sup.metrics()
    assert isinstance(metrics, Metrics)
    shape = json.loads(json.dumps(to_json(metrics)))
    assert shape["jobs"] == {"queued": 0, "running": 0, "done": 1, "failed": 0, "cancelled": 0, "timeout": 0}
    assert shape["since"].endswith("Z")
    assert sum(shape["launch_seconds"]["counts"]) == shape["launches"] == 1


def test_a_histogram() -> None:
    times = Times()
    for seconds in (0, 0.001, 0.0011, 0.3, 61, -4):
        times.add(seconds)
    held = times.so_far()
    assert len(held.counts) == len(held.bounds) + 1
    by_bound = dict(zip((*held.bounds, math.inf), held.counts, strict=True))
    assert {bound: count for bound, count in by_bound.items() if count} == {0.001: 3, 0.002: 1, 0.5: 1, math.inf: 1}
    assert held.count == 6
    assert held.longest_seconds == 61
    assert held.total_seconds == pytest.approx(61.3021)
    assert held.mean_seconds == pytest.approx(61.3021 / 6)


async def test_the_groups_of_the_state_root(settings: Settings, mock_clock: MockClock) -> None:
    mock_clock.autojump_threshold = 0.01
    engine = FakeEngine(Script(seconds=10))
    async with open_supervisor(settings, engine=engine) as sup:
        assert (await sup.metrics()).groups == {}
        await sup.set_group("one", limit=1)
        await sup.set_group("other")
        jobs = [await sup.start(["tool"], groups=["one", "other"]) for _ in range(3)]
        await trio.sleep(5)
        groups = (await sup.metrics()).groups
        assert list(groups) == ["one", "other"]
        assert [(group.limit, group.running, group.waiting) for group in groups.values()] == [(1, 1, 2), (None, 1, 2)]
        assert groups["one"].oldest_wait_seconds == pytest.approx(5, abs=2)
        assert (groups["one"].admissions, groups["one"].slot_to_launch_seconds.count) == (1, 0)
        for job in jobs:
            await sup.wait(job.job_id)
        groups = (await sup.metrics()).groups
        assert (groups["one"].running, groups["one"].waiting, groups["one"].oldest_wait_seconds) == (0, 0, None)
        for group in groups.values():
            assert (group.admissions, group.slot_to_launch_seconds.count) == (3, 2)
            assert group.slot_to_launch_seconds.longest_seconds < 2
        assert to_json(await sup.metrics())["groups"]["one"]["admissions"] == 3


async def test_a_slot_that_was_free_before_is_not_measured(settings: Settings, mock_clock: MockClock) -> None:
    mock_clock.autojump_threshold = 0.01
    async with open_supervisor(settings, engine=FakeEngine()) as sup:
        await sup.set_group("g", limit=1)
        for _ in range(2):
            await sup.run(["tool"], groups="g")
        await sup.pause_group("g")
        waiting = await sup.start(["tool"], groups="g")
        await trio.sleep(50)
        await sup.resume_group("g")
        await sup.wait(waiting.job_id)
        group = (await sup.metrics()).groups["g"]
    assert (group.admissions, group.slot_to_launch_seconds.count) == (3, 0)


async def test_the_number_of_groups_is_bounded(settings: Settings) -> None:
    async with open_supervisor(settings, engine=FakeEngine()) as sup:
        for number in range(102):
            await sup.set_group(f"g{number:03}")
        for number in (101, 0):
            await sup.run(["tool"], groups=f"g{number:03}")
        groups = (await sup.metrics()).groups
        assert list(groups) == [f"g{number:03}" for number in range(100)]
        assert groups["g000"].admissions == 1


def test_the_counters_of_groups_are_bounded() -> None:
    counters = Counters()
    for number in range(200):
        for counted in counters.of_groups([str(number), "0"]).values():
            counted.admissions += 1
    assert counters.group("0").admissions == 201 - 1
    assert counters.group("99").admissions == 1
    assert counters.group("100").admissions == 0
