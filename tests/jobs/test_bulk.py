"""A process that waits for jobs or stops them has waiting jobs launched, also after an end that it records itself."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import attrs
import pytest

from supervisor.admission import groups, launch_helper
from supervisor.jobs import bulk
from supervisor.jobs.catalog import Catalog
from supervisor.settings import Settings
from tests.store.test_series import World

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from supervisor.store import Index


class Helper:
    """Stands in for the process that launches waiting jobs; it notes for which ones it was started."""

    def __init__(self) -> None:
        self.started_for: list[list[str]] = []

    def ensure(self, index: Index) -> bool:
        self.started_for.append([row.job_id for row in index.unfinished() if row.started_ns is None])
        return True


@pytest.fixture
def helper(monkeypatch: pytest.MonkeyPatch) -> Helper:
    found = Helper()
    monkeypatch.setattr(launch_helper, "ensure", found.ensure)
    return found


@pytest.fixture
def world(state_dir: Path) -> Iterator[World]:
    with Catalog(Settings(state_dir=state_dir), launches_waiting=True) as catalog:
        yield World(catalog)


def test_a_wait_that_records_the_end_of_an_attempt_has_the_next_one_launched(world: World, helper: Helper) -> None:
    row = world.launch(world.job())
    world.exit(row, 1)
    (found,) = world.catalog.wait([row.job_id], timeout=0.5)
    assert found.job_id == world.row(row.job_id).retried_by, "the second attempt, which waits"
    assert helper.started_for[-1] == [found.job_id]


@pytest.fixture
def jobs(world: World) -> tuple[str, str, str]:
    """Return a running job with the only slot of its group, one that waits for the slot, and one in no group."""
    groups.change_group(world.index, "g", lambda group: attrs.evolve(group, limit=1), create=True)
    runs, waits = world.job(policy=None, groups=["g"]), world.job(policy=None, groups=["g"])
    world.index.take_turns()
    return world.launch(world.row(runs.job_id)).job_id, waits.job_id, world.launch(world.job(policy=None)).job_id


def test_a_wait_that_records_an_end_has_the_job_launched_that_gets_the_slot(
    world: World, jobs: tuple[str, str, str], helper: Helper, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, waits, other = jobs
    wait = bulk._Watch.wait

    def end_before_the_wait(watch: bulk._Watch, until: float) -> object:
        if not world.row(runs).finished:
            helper.started_for.clear()
            world.exit(world.row(runs), 0)
        elif helper.started_for:
            world.exit(world.row(other), 0)
        return wait(watch, until)

    monkeypatch.setattr(bulk._Watch, "wait", end_before_the_wait)
    ended = world.catalog.wait([runs, other], timeout=20)
    assert [job.status.terminal for job in ended] == [True, True], "the other one ends once the helper is started"
    assert helper.started_for == [[waits]]


def test_a_cancel_has_the_job_launched_that_gets_the_slot_while_it_stops_another(
    world: World, jobs: tuple[str, str, str], helper: Helper, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, waits, stubborn = jobs
    world.exit(world.row(runs), 0)
    go_on = bulk._Cancelling._go_on
    give_up = time.monotonic() + 20

    def resist(cancelling: bulk._Cancelling, job_id: str, to_end: set[str]) -> object:
        if job_id == stubborn and not helper.started_for:
            assert time.monotonic() < give_up
            cancelling._left[job_id] = time.monotonic() + 0.01
            return None
        if job_id == stubborn:
            world.exit(world.row(stubborn), 0)
        return go_on(cancelling, job_id, to_end)

    monkeypatch.setattr(bulk._Cancelling, "_go_on", resist)
    ends = world.catalog.cancel_all([runs, stubborn])
    assert [getattr(end, "job_id", end) for end in ends] == [runs, stubborn]
    assert helper.started_for == [[waits]]
