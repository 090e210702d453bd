"""A process that fires a schedule is killed at each of its steps: each instant has one job, and that runs once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

import supervisor
from supervisor.jobs import schedules
from supervisor.model import Job, JobSpec, from_ns
from supervisor.store.schedule_files import State
from supervisor.system import processes
from tests.chaos.points import SCHEDULES

if TYPE_CHECKING:
    from tests.process.conftest import World

pytestmark = pytest.mark.skipif(not processes.HAVE_PROC, reason="needs Linux")
POINTS = Path(__file__).parents[1] / "chaos"
PATIENCE = 120
MAIN = {"start.directory-made", "fire.decided", "start.committed", "launch.sent"}
"""The others take a minute, and are for a machine that has it: ``-m chaos``."""
MINUTE = timedelta(minutes=1)
PROGRAM = f"""
import sys; sys.path.insert(0, {str(POINTS)!r}); import points
points.install(points.SCHEDULES, points.module_of_package, keeper=False)
import supervisor, trio
async def main():
    async with supervisor.open_supervisor():
        await trio.sleep_forever()
trio.run(main)
"""


def missed(world: World, name: str = "tick") -> datetime:
    """Add a schedule that fires each minute and has missed the last two; return the first of these."""
    spec = JobSpec(argv=["sh", "-c", "echo ran >> marks"], workspace=str(world.directory), stdin=b"input")
    options: dict[str, Any] = {"overlap": "allow_all", "catch_up": "all"}
    schedules.add_schedule(world.catalog, name, spec, cron="* * * * *", zone="UTC", **options)
    index, now_ns = world.catalog.index, world.catalog.layout.clock.wall_ns()
    first_ns = (now_ns // (60 * 10**9) - 1) * 60 * 10**9
    index.write(lambda: index.schedules.settle(name, 0, State(since_ns=first_ns - 10**9)))
    return from_ns(first_ns)


def killed_at(world: World, point: str, nth: int) -> bool:
    """Run a supervisor that is killed at a failpoint."""
    plan = json.dumps([{"point": point, "nth": nth, "do": "self"}])
    environment = world.environment | {"CHAOS_PLAN": plan, "CHAOS_HITS": str(world.directory / "hits")}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, timeout=PATIENCE, check=False)
    return done.returncode == -9


def jobs(world: World) -> list[Job]:
    return [job for job in world.catalog.list(limit=100).jobs if job.schedule == "tick"]


def instants(found: list[Job]) -> list[datetime]:
    return sorted(job.not_before for job in found if job.not_before is not None)


@pytest.mark.parametrize(
    ("point", "nth"),
    [
        *(pytest.param(point, 1, marks=() if point in MAIN else pytest.mark.chaos) for point in SCHEDULES),
        pytest.param("fire.decided", 2, marks=pytest.mark.chaos),
    ],
)
async def test_each_instant_has_one_job_that_runs_once(world: World, point: str, nth: int) -> None:
    first = missed(world)
    try:
        assert await trio.to_thread.run_sync(killed_at, world, point, nth)
        with trio.fail_after(PATIENCE):
            await recover(world, first)
    finally:
        schedules.remove_schedule(world.catalog, "tick")
    with trio.fail_after(PATIENCE):
        async with supervisor.open_supervisor() as sup:
            for job in jobs(world):
                assert (await sup.wait(job.job_id)).status == "done"
    found = instants(jobs(world))
    assert Counter(found).most_common(1)[0][1] == 1
    assert found == [first + number * MINUTE for number in range(len(found))]  # a minute may begin meanwhile
    assert (world.directory / "marks").read_text().split() == ["ran"] * len(found)


async def recover(world: World, first: datetime) -> None:
    """Wait until what was missed is fired, by a supervisor or a helper that a keeper has started, and has ended."""
    async with supervisor.open_supervisor():
        expected = {first, first + MINUTE}
        while not expected <= set(instants([job for job in jobs(world) if job.status == "done"])):  # noqa: ASYNC110  # another process may do it
            await trio.sleep(0.1)
