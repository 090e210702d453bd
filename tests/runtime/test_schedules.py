"""Supervisors that fire schedules, on a mock clock and a wall clock that is set."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from supervisor import JobSpec, Retry, Settings, State, Supervisor, open_supervisor
from supervisor.jobs import schedules
from supervisor.jobs.catalog import Catalog
from supervisor.model import from_ns
from supervisor.model.schedules import ScheduleInfo
from supervisor.testing import FakeEngine, Script


def set_clock(engine: FakeEngine, when: datetime) -> None:
    """Set the wall clock of an engine that is open."""
    engine.clock._wall_ns = int(when.timestamp()) * 10**9 - int(engine.clock.now() * 1e9)


def add(sup: Supervisor, name: str, cron: str, argv: tuple[str, ...] = ("work",), **options: Any) -> ScheduleInfo:
    """Add a schedule, as another process does."""
    own = {name: options.pop(name) for name in list(options) if name in {"groups", "retry", "workspace"}}
    spec = JobSpec(argv=argv, env={"A": "b"}, ttl_seconds=10**9, **own)  # jobs expire by the clock of this machine
    with other(sup) as catalog:
        return schedules.add_schedule(catalog, name, spec, cron=cron, zone=options.pop("zone", "UTC"), **options)


def other(sup: Supervisor) -> Catalog:
    """Return the catalog of another process, with the same clock."""
    catalog = Catalog(sup.settings)
    catalog.layout.clock.source = sup._catalog.layout.clock.source
    return catalog


def by_other(sup: Supervisor, change: Callable[..., Any], *args: Any) -> Any:
    """Change schedules as another process does, which closes its index afterwards."""
    with other(sup) as catalog:
        return change(catalog, *args)


def info(sup: Supervisor, name: str) -> ScheduleInfo:
    return schedules.schedule_info(sup._catalog, name)


def instants(sup: Supervisor, name: str) -> list[datetime]:
    """Return the instants of the jobs of a schedule, in the order of their starts."""
    jobs = sup._catalog.list(limit=1000).jobs
    found = [from_ns(sup._catalog.row(job.job_id).request["instant_ns"]) for job in jobs if job.schedule == name]
    return found[::-1]


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


async def until(sup: Supervisor, name: str, count: int) -> list[datetime]:
    """Wait for jobs of a schedule, and return their instants; the mock clock jumps while a thread works."""
    for _ in range(10_000):
        if len(found := instants(sup, name)) >= count:
            return found
        await trio.sleep(1)
    pytest.fail(f"{name} has the instants {instants(sup, name)}")


def drop_index(state_dir: Path) -> None:
    """Delete the index, which is derived from the files."""
    for path in state_dir.glob("registry.db*"):
        path.unlink()


async def detailed(sup: Supervisor, name: str) -> ScheduleInfo:
    """Wait until an instant of a schedule makes no job."""
    for _ in range(10_000):
        if (found := info(sup, name)).detail is not None:
            return found
        await trio.sleep(1)
    pytest.fail(f"each instant of {name} makes a job")


ALL: dict[str, Any] = {"catch_up": "all", "overlap": "allow_all", "window_seconds": 60}
"""However late an instant of the last minute is fired, it is fired."""


async def test_two_supervisors_start_one_job_for_each_instant_over_both_changes_of_the_clocks(
    state_dir: Path,
    autojump_clock: trio.testing.MockClock,  # noqa: ARG001
) -> None:
    engine = FakeEngine(Script(seconds=1))
    settings = Settings(state_dir=state_dir)
    async with open_supervisor(settings, engine=engine) as sup, open_supervisor(settings, engine=engine):
        # The hour from 02:00 on comes twice in Berlin.
        set_clock(engine, utc("2025-10-26T02:57:30+02:00"))
        add(sup, "tick", "0,30 58,59 2 * * *", zone="Europe/Berlin", **ALL)
        assert await until(sup, "tick", 4) == [
            utc(f"2025-10-26T02:{minute}:{second}+02:00") for minute in (58, 59) for second in ("00", "30")
        ]
        set_clock(engine, utc("2025-10-26T02:57:30+01:00"))
        await trio.sleep(300)
        assert len(instants(sup, "tick")) == 4
        set_clock(engine, utc("2026-03-29T01:58:00+01:00"))
        add(sup, "early", "15,30,45 2 * * *", zone="Europe/Berlin", **ALL)  # times that do not exist
        assert await until(sup, "early", 1) == [utc("2026-03-29T03:00+02:00")]
        await trio.sleep(300)
        assert len(instants(sup, "early")) == 1
        assert instants(sup, "tick")[4:] == [utc("2026-03-29T03:00+02:00")]
        assert len(engine.commands) == 6


async def test_a_gap_of_a_day_is_one_job_for_each_instant_that_is_due(
    state_dir: Path,
    autojump_clock: trio.testing.MockClock,  # noqa: ARG001
) -> None:
    engine, settings = FakeEngine(Script(seconds=1)), Settings(state_dir=state_dir)
    async with open_supervisor(settings, engine=engine) as sup:
        set_clock(engine, utc("2026-11-28T12:00:30Z"))
        add(sup, "hourly", "0 * * * *", window_seconds=7200)
        add(sup, "backup", "0 3 * * *")
        add(sup, "patient", "0 3 * * *", window_seconds=86400)
        add(sup, "every", "0 */6 * * *", catch_up="all", window_seconds=86400, overlap="allow_all")
        await trio.sleep(2)
        set_clock(engine, utc("2026-11-29T12:01:50Z"))  # no process was there meanwhile
        assert await until(sup, "hourly", 1) == [utc("2026-11-29T12:00Z")]  # 24 were missed
        assert await until(sup, "patient", 1) == [utc("2026-11-29T03:00Z")]
        assert await until(sup, "every", 4) == [
            utc(f"2026-11-{day}T{hour}:00Z") for day, hour in ((28, "18"), (29, "00"), (29, "06"), (29, "12"))
        ]
        assert instants(sup, "backup") == []  # it was missed for nine hours
        set_clock(engine, utc("2026-11-28T12:59:30Z"))  # set back by a day: it postpones nothing
        assert (await until(sup, "hourly", 2))[1] == utc("2026-11-28T13:00Z")
        set_clock(engine, utc("2026-11-29T11:59:30Z"))
        await trio.sleep(200)
        for name in ("hourly", "patient", "every"):
            assert Counter(instants(sup, name)).most_common(1)[0][1] == 1


async def test_overlap_skip_passes_an_instant_over_while_a_job_has_not_ended(
    state_dir: Path,
    autojump_clock: trio.testing.MockClock,  # noqa: ARG001
) -> None:
    engine = FakeEngine(Script(seconds=100))
    async with open_supervisor(Settings(state_dir=state_dir), engine=engine) as sup:
        set_clock(engine, utc("2026-11-28T12:00:30Z"))
        add(sup, "slow", "* * * * *")
        first = await until(sup, "slow", 1)
        shown = await detailed(sup, "slow")
        assert instants(sup, "slow") == first
        assert shown.detail == f"passed over, as job {shown.last_job_id} had not ended"
        assert (shown.last_at, shown.last_status) == (first[0] + timedelta(minutes=1), "running")
        assert (await until(sup, "slow", 2))[1] >= first[0] + timedelta(minutes=2)
        assert info(sup, "slow").detail is None


async def test_overlap_buffer_one_has_one_job_wait(
    state_dir: Path,
    autojump_clock: trio.testing.MockClock,  # noqa: ARG001
) -> None:
    engine = FakeEngine(Script(seconds=200))
    async with open_supervisor(Settings(state_dir=state_dir), engine=engine) as sup:
        set_clock(engine, utc("2026-11-28T12:00:30Z"))
        add(sup, "slow", "* * * * *", overlap="buffer_one")
        await until(sup, "slow", 2)
        assert [each.status for each in sup._catalog.list().jobs] == ["queued", "running"]
        shown = await detailed(sup, "slow")
        assert shown.detail == f"passed over, as job {shown.last_job_id} waited already"
        await until(sup, "slow", 3)
        assert [each.status for each in sup._catalog.list().jobs][-2:] == ["running", "done"]


async def test_overlap_cancel_other_ends_the_job_before(
    state_dir: Path,
    autojump_clock: trio.testing.MockClock,  # noqa: ARG001
) -> None:
    engine = FakeEngine(Script(seconds=1000))
    async with open_supervisor(Settings(state_dir=state_dir), engine=engine) as sup:
        set_clock(engine, utc("2026-11-28T12:00:30Z"))
        add(sup, "slow", "* * * * *", overlap="cancel_other")
        await until(sup, "slow", 2)
        second, first = sup._catalog.list().jobs
        assert (second.status.terminal, first.status) == (False, "cancelled")


async def test_an_attempt_counts_as_a_job_that_has_not_ended(
    state_dir: Path,
    autojump_clock: trio.testing.MockClock,  # noqa: ARG001
) -> None:
    engine = FakeEngine(Script(seconds=5, exit_code=75))
    async with open_supervisor(Settings(state_dir=state_dir), engine=engine) as sup:
        set_clock(engine, utc("2026-11-28T12:00:50Z"))
        retry = Retry(maximum_attempts=3, initial_interval=40, retry_on=[75], jitter=0)
        add(sup, "flaky", "*/30 * * * * *", retry=retry)
        await until(sup, "flaky", 1)
        shown = await detailed(sup, "flaky")
        ids = {each.job_id for each in sup._catalog.list().jobs if each.attempt > 1}
        assert str(shown.detail).split()[4] in ids
        assert {each.schedule for each in sup._catalog.list().jobs} == {"flaky"}


async def test_a_paused_schedule_starts_nothing_and_catches_nothing_up(
    state_dir: Path,
    autojump_clock: trio.testing.MockClock,  # noqa: ARG001
) -> None:
    engine = FakeEngine(Script(seconds=1))
    async with open_supervisor(Settings(state_dir=state_dir), engine=engine) as sup:
        set_clock(engine, utc("2026-11-28T12:00:30Z"))
        add(sup, "tick", "* * * * *")
        assert by_other(sup, schedules.pause_schedule, "tick").next_at is None
        await trio.sleep(100)
        assert by_other(sup, schedules.resume_schedule, "tick").next_at == utc("2026-11-28T12:03Z")
        await trio.sleep(15)
        assert instants(sup, "tick") == []
        assert (await until(sup, "tick", 1))[0] >= utc("2026-11-28T12:03Z")


async def test_a_running_job_goes_on_when_its_schedule_is_removed(
    state_dir: Path,
    autojump_clock: trio.testing.MockClock,  # noqa: ARG001
) -> None:
    engine = FakeEngine(Script(seconds=60))
    async with open_supervisor(Settings(state_dir=state_dir), engine=engine) as sup:
        set_clock(engine, utc("2026-11-28T12:00:58Z"))
        add(sup, "once", "* * * * *")
        await until(sup, "once", 1)
        by_other(sup, schedules.remove_schedule, "once")
        await trio.sleep(120)
        assert [each.status for each in sup._catalog.list().jobs] == [State.DONE]
        assert list((state_dir / "schedules").rglob("once*")) == []


async def test_run_now_starts_a_job_of_its_own(
    state_dir: Path,
    autojump_clock: trio.testing.MockClock,  # noqa: ARG001
) -> None:
    engine = FakeEngine(Script(seconds=10))
    async with open_supervisor(Settings(state_dir=state_dir), engine=engine) as sup:
        set_clock(engine, utc("2026-11-28T12:00:30Z"))
        add(sup, "daily", "0 0 * * *")
        by_other(sup, schedules.pause_schedule, "daily")
        first, second = await sup.run_schedule("daily"), await sup.run_schedule("daily")
        assert first.job_id != second.job_id
        assert (first.schedule, second.schedule) == ("daily", "daily")
        shown = info(sup, "daily")
        assert (shown.last_job_id, shown.last_at) == (second.job_id, None)


@pytest.mark.parametrize("what", ["workspace", "group"])
async def test_an_instant_that_cannot_be_fired_is_passed_over_and_not_tried_for_ever(
    state_dir: Path,
    tmp_path: Path,
    what: str,
    autojump_clock: trio.testing.MockClock,  # noqa: ARG001
) -> None:
    engine = FakeEngine(Script(seconds=1))
    async with open_supervisor(Settings(state_dir=state_dir), engine=engine) as sup:
        set_clock(engine, utc("2026-11-28T12:00:30Z"))
        workspace = tmp_path / "workspace"
        workspace.mkdir()
        await sup.set_group("agents")
        add(sup, "broken", "* * * * *", groups=["agents"], workspace=workspace)
        if what == "group":
            await sup.remove_group("agents")
        else:
            workspace.rmdir()
        seen: set[datetime | None] = set()
        while len(seen - {None}) < 2:
            await trio.sleep(1)
            seen.add(info(sup, "broken").last_at)
        if what == "group":
            assert "there is no group 'agents'" in str(info(sup, "broken").detail)
            assert len(engine.commands) == 0


async def test_a_schedule_of_a_newer_version_is_left_alone(
    state_dir: Path,
    autojump_clock: trio.testing.MockClock,  # noqa: ARG001
) -> None:
    engine = FakeEngine(Script(seconds=1))
    async with open_supervisor(Settings(state_dir=state_dir), engine=engine) as sup:
        set_clock(engine, utc("2026-11-28T12:00:30Z"))
        add(sup, "tick", "* * * * *")
        path = state_dir / "schedules" / "tick.json"
        path.write_text(path.read_text().replace('"cron"', '"calendar": "lunar", "cron"'))
        before = path.read_text()
        await trio.sleep(100)
        assert len(engine.commands) == 0
        assert path.read_text() == before
        (shown,) = schedules.schedule_infos(sup._catalog)
        assert "a newer version of this package has written it" in str(shown.detail)


async def test_the_job_of_an_instant_that_was_removed_is_not_started_again(
    state_dir: Path,
    autojump_clock: trio.testing.MockClock,  # noqa: ARG001
) -> None:
    engine, settings = FakeEngine(Script(seconds=1)), Settings(state_dir=state_dir)
    async with open_supervisor(settings, engine=engine) as sup:
        set_clock(engine, utc("2026-11-28T12:00:58Z"))
        add(sup, "tick", "1 12 * * *")
        await until(sup, "tick", 1)
        (job,) = sup._catalog.list().jobs
        await sup.wait(job.job_id)
        await sup.result(job.job_id, consume=True)
        await trio.sleep(2)
    drop_index(state_dir)
    with Catalog(settings) as catalog:
        assert schedules.schedule_info(catalog, "tick").last_job_id == job.job_id
    async with open_supervisor(settings, engine=engine) as sup:
        await trio.sleep(100)  # the instant is in the window of the catch-up
        assert len(engine.commands) == 1


async def test_no_schedule_costs_no_timer(
    state_dir: Path,
    autojump_clock: trio.testing.MockClock,  # noqa: ARG001
) -> None:
    async with open_supervisor(Settings(state_dir=state_dir), engine=FakeEngine()) as sup:
        with trio.move_on_after(3) as scope:
            await sup.wait((await sup.start(["work"])).job_id, timeout=math.inf)
        assert scope.cancelled_caught is False
        assert schedules.schedule_infos(sup._catalog) == []
