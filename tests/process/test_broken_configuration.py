"""A configuration file that is broken while jobs wait."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from supervisor.errors import InvalidSettings
from supervisor.runtime import launch_waiting
from supervisor.settings.config_file import VARIABLE
from supervisor.system import processes

if TYPE_CHECKING:
    from tests.process.conftest import World

PATIENCE = 60


def command(world: World, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "supervisor", *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False, env=world.environment, timeout=PATIENCE)


@pytest.mark.skipif(not processes.HAVE_PROC, reason="needs Linux")
def test_waiting_jobs_are_launched_all_the_same(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[defaults]\nttl = 100\n")
    monkeypatch.setenv(VARIABLE, str(file))
    gate = world.fifo()
    command(world, "group", "set", "g", "--limit", "1")
    first = command(world, "start", "--group", "g", "--", "sh", "-c", 'read line < "$0"', str(gate)).stdout.strip()
    second = command(world, "start", "--group", "g", "--", "sh", "-c", "echo launched").stdout.strip()
    file.write_text("state_dir = \n")
    assert command(world, "status", second).returncode == 2
    gate.open()
    monkeypatch.setenv(VARIABLE, os.devnull)
    assert [job.status for job in world.catalog.wait([first, second], timeout=PATIENCE)] == ["done", "done"]
    assert world.catalog.result(second).value == "launched\n"
    assert world.catalog.status(second).ttl_seconds == 100


def test_without_the_file_no_job_is_forgotten_and_the_environment_counts(
    state_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config.toml"
    file.write_text("job_max_count = 5000\nlogg = 1\n")
    monkeypatch.setenv(VARIABLE, str(file))
    monkeypatch.setenv("SUPERVISOR_JOB_LEFTOVERS", "stop")
    settings = launch_waiting._settings()
    assert (settings.state_dir, settings.job_leftovers, settings.job_max_count) == (state_dir, "stop", sys.maxsize)
    assert os.environ[VARIABLE] == str(file)
    monkeypatch.setenv("SUPERVISOR_JOB_LEFTOVERS", "keep")  # a mistake that is not in the file
    with pytest.raises(InvalidSettings, match="SUPERVISOR_JOB_LEFTOVERS"):
        launch_waiting._settings()
    file.write_text("job_max_count = 5000\n")
    monkeypatch.delenv("SUPERVISOR_JOB_LEFTOVERS")
    assert launch_waiting._settings().job_max_count == 5000
