"""A wait without an event loop lasts to the end of a command whose keeper has died meanwhile."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from supervisor.engines.waiting import Change

if TYPE_CHECKING:
    from tests.process.conftest import World


@pytest.mark.parametrize("count", [1, 3])
def test_the_leaders_are_watched_once_their_keeper_has_gone(
    world: World, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Then no process writes into the job directory, and the next observation is not soon."""
    monkeypatch.setattr(Change, "_LONGEST", 600.0)
    host = world.host()
    job_ids = [host.start("sleep", "600") for _ in range(count)]
    leaders, keeper = [world.leader(job_id) for job_id in job_ids], world.keeper(job_ids[0])
    host.kill()
    directories = [str(world.job(job_id)) for job_id in job_ids]
    with Change(directories, is_relevant=lambda _: False) as change:  # the command closes its output
        change.wait(0)  # watches the keeper
        keeper.kill()
        assert change.wait(60) == set(directories)
        change.wait(0)
        for leader, directory in zip(leaders, directories, strict=True):
            leader.kill()
            assert directory in change.wait(60)


def test_a_waker_ends_a_wait_and_names_no_job(tmp_path: Path) -> None:
    woken, waker = os.pipe()
    try:
        with Change([str(tmp_path)], wakers=[woken]) as change:
            os.write(waker, b"x")
            assert change.wait(None) == set()
            assert change.wait(None) == set()  # as long as nothing is read from it
            tmp_path.joinpath("exit.json").touch()
            assert change.wait(None) == {str(tmp_path)}
    finally:
        os.close(woken)
        os.close(waker)
