"""Schedules with real processes: several that fire, and are killed."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from supervisor.jobs import schedules
from supervisor.model import Job, JobSpec
from supervisor.system import processes
from tests.process.test_helper import helpers

if TYPE_CHECKING:
    from tests.process.conftest import Fifo, World

pytestmark = pytest.mark.skipif(not processes.HAVE_PROC, reason="needs Linux")


def add(world: World, fifo: Fifo) -> None:
    """Add a schedule whose jobs each write a line, every second."""
    spec = JobSpec(argv=["sh", "-c", 'echo fired > "$0"', str(fifo.path)], workspace=str(world.directory))
    options = {"overlap": "allow_all", "catch_up": "all"}
    schedules.add_schedule(world.catalog, "tick", spec, cron="* * * * * *", zone="UTC", **options)


def jobs(world: World) -> list[Job]:
    return [job for job in world.catalog.list().jobs if job.schedule == "tick"]


def instants(world: World) -> list[datetime]:
    return sorted(job.not_before for job in jobs(world) if job.not_before is not None)


def assert_one_job_each(found: list[datetime]) -> None:
    assert Counter(found).most_common(1)[0][1] == 1
    first, last = found[0], found[-1]
    assert len(found) == (last - first) // timedelta(seconds=1) + 1, "an instant has no job"


def test_two_processes_start_one_job_for_each_instant_though_one_is_killed(world: World) -> None:
    fifo = world.fifo()
    first, _ = world.hosts(2)
    add(world, fifo)
    assert fifo.line() == "fired"
    first.kill()
    assert [fifo.line() for _ in range(2)] == ["fired"] * 2
    schedules.remove_schedule(world.catalog, "tick")
    assert_one_job_each(instants(world))


def test_the_helper_fires_while_no_supervisor_is_open_and_the_next_command_revives_it(world: World) -> None:
    fifo = world.fifo()
    add(world, fifo)
    command = [sys.executable, "-m", "supervisor", "schedule", "list"]
    said = subprocess.run(command, env=world.environment, capture_output=True, text=True, check=True)
    assert "1 schedule, and no process is there to fire it: this command has started" in said.stderr
    assert fifo.line() == "fired"
    (pid,) = helpers(world.root)
    world.hold(pid).kill()
    subprocess.run(command, env=world.environment, capture_output=True, check=True)
    assert fifo.line() == "fired"
    schedules.remove_schedule(world.catalog, "tick")
    assert_one_job_each(instants(world))


def test_a_job_keeps_its_environment_input_and_umask_and_the_files_are_private(world: World) -> None:
    fifo = world.fifo()
    script = 'umask > "$0"; cat > "$0"; printf %s "$WORD" | wc -c > "$0"; pwd > "$0"'
    spec = JobSpec(
        argv=["sh", "-c", script, str(fifo.path)],
        workspace=str(world.directory),
        env={"WORD": "se cret\udcff", "PATH": "/usr/bin:/bin"},
        stdin=b"input\n",
    )
    schedules.add_schedule(world.catalog, "once", spec, cron="* * * * * *", zone="UTC", overlap="skip")
    world.host()
    lines = [fifo.line() for _ in range(4)]
    schedules.remove_schedule(world.catalog, "once")
    assert lines[1] == "input"
    assert lines[2].strip() == "8"
    assert lines[3] == str(Path(world.directory).resolve())


def test_the_files_are_private_and_gone_with_the_schedule(world: World) -> None:
    spec = JobSpec(argv=["true"], workspace=str(world.directory), stdin=b"secret", env={"A": "secret"})
    schedules.add_schedule(world.catalog, "daily", spec, cron="@daily", zone="UTC")
    files = [path for path in (world.root / "schedules").rglob("*") if path.is_file()]
    assert len(files) == 3
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    schedules.remove_schedule(world.catalog, "daily")
    assert [path for path in (world.root / "schedules").rglob("*") if path.is_file()] == []
