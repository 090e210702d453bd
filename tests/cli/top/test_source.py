"""The thread that takes overviews, without a view."""

from __future__ import annotations

import errno
import os
import queue
from pathlib import Path

import pytest

from supervisor.admission import launch_helper
from supervisor.cli.top.lines import take
from supervisor.errors import StateBusy, SupervisorError
from supervisor.jobs import watching
from supervisor.jobs.catalog import Catalog
from supervisor.jobs.overview import Overview
from supervisor.jobs.watching import Source
from supervisor.settings import Settings
from supervisor.store import Index
from supervisor.system.inotify import Inotify
from tests.cli.conftest import PATIENCE_SECONDS, Cli

Shown = queue.Queue[Overview | SupervisorError]


def until_ended(shown: Shown, count: int) -> None:
    while True:
        found = shown.get(timeout=PATIENCE_SECONDS)
        if isinstance(found, Overview) and found.counts["ended"] == count:
            return


def test_an_error_of_the_operating_system_is_shown_and_tried_again(
    state_dir: Path,
) -> None:
    failures = [OSError(errno.EMFILE, os.strerror(errno.EMFILE))]

    def fail_once(catalog: Catalog) -> Overview:
        if failures:
            raise failures.pop()
        return take(catalog)

    shown: Shown = queue.Queue()
    followed = Source(Settings(state_dir=state_dir), fail_once, shown.put)
    followed.start()
    try:
        problem = shown.get(timeout=PATIENCE_SECONDS)
        assert isinstance(problem, StateBusy)
        assert "the state root cannot be read now" in problem.message
        followed.refresh()
        assert isinstance(shown.get(timeout=PATIENCE_SECONDS), Overview)
    finally:
        followed.stop()


@pytest.mark.parametrize("blind", [False, True], ids=["inotify", "no inotify"])
def test_a_job_that_another_process_ends_is_seen(cli: Cli, monkeypatch: pytest.MonkeyPatch, *, blind: bool) -> None:
    if blind:
        monkeypatch.setattr(Inotify, "open", lambda: None)
    monkeypatch.setattr(watching, "_BLIND_PAUSE", 0.1)
    shown: Shown = queue.Queue()
    job_id = cli.start("--", "sleep", "60")
    followed = Source(Settings(state_dir=cli.state_dir), take, shown.put)
    followed.start()
    try:
        found = shown.get(timeout=PATIENCE_SECONDS)
        assert isinstance(found, Overview)
        assert [job.job_id for job in found.running] == [job_id]
        cli.run("cancel", job_id)
        until_ended(shown, 1)
    finally:
        followed.stop()


def test_an_overview_that_records_an_end_has_waiting_jobs_launched(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The view itself may free a slot or insert the next attempt, when no other process is there."""
    started: queue.Queue[Index] = queue.Queue()
    monkeypatch.setattr(launch_helper, "ensure", started.put)
    monkeypatch.setattr(Catalog, "_has_outbox", lambda _: True)  # it has something to do
    shown: Shown = queue.Queue()
    followed = Source(Settings(state_dir=state_dir), take, shown.put)
    followed.start()
    try:
        assert isinstance(shown.get(timeout=PATIENCE_SECONDS), Overview)
        assert started.get(timeout=PATIENCE_SECONDS)
    finally:
        followed.stop()
