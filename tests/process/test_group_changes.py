"""Changes of groups by several processes, one of which may be killed at the worst moment."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from supervisor.admission import groups
from supervisor.system import processes

if TYPE_CHECKING:
    from tests.process.conftest import World

pytestmark = pytest.mark.skipif(not processes.HAVE_PROC, reason="needs Linux")
PATIENCE = 30
KILLED_AFTER_THE_FILE = """
import os, signal, sys
from supervisor.admission import groups
from supervisor.cli import main

write = groups.save

def save(*arguments):
    write(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)

groups.save = save
sys.exit(main())
"""


def command(world: World, *words: str) -> Any:
    argv = [sys.executable, "-m", "supervisor", "--json", *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=world.environment, timeout=PATIENCE)
    return {"exit": done.returncode, **json.loads(done.stdout)}


def test_a_resume_that_was_killed_after_its_file_is_made_up_for_by_the_next_command(world: World) -> None:
    command(world, "group", "set", "g", "--limit", "1")
    command(world, "group", "pause", "g")
    job = command(world, "start", "--group", "g", "--", "true")
    assert job["queue_reason"] == "paused"
    argv = [sys.executable, "-c", KILLED_AFTER_THE_FILE, "group", "resume", "g"]
    killed = subprocess.run(argv, check=False, env=world.environment, timeout=PATIENCE)
    assert killed.returncode == -signal.SIGKILL
    ended = command(world, "wait", job["job_id"], "--timeout", str(PATIENCE))
    assert ended["status"] == "done"


def test_processes_that_set_a_group_at_once_lose_no_setting(world: World) -> None:
    settings = {"--limit": "7", "--rate": "10/min", "--fair-by": "workspace", "--on-reboot": "pause"}
    several = [
        subprocess.Popen(
            [sys.executable, "-m", "supervisor", "group", "set", "g", option, value],
            env=world.environment,
            stdout=subprocess.DEVNULL,
        )
        for option, value in settings.items()
    ]
    assert [process.wait(PATIENCE) for process in several] == [0] * len(settings)
    shown = command(world, "group", "show", "g")
    assert [shown[name] for name in ("limit", "rate", "fair_by", "on_reboot")] == [7, "10/min", "workspace", "pause"]


def test_show_has_every_field_of_a_group(world: World) -> None:
    made = command(world, "group", "set", "g", "--pause-on-failure", "1", "--on-rate-limit", "ignore")
    assert made == {
        "ok": True,
        "exit": 0,
        "name": "g",
        "limit": None,
        "running": 0,
        "waiting": 0,
        "oldest_wait_seconds": None,
        "paused": [],
        "aging_seconds": 300.0,
        "fair_by": None,
        "rate": None,
        "pause_on_failure": 1,
        "on_rate_limit": "ignore",
        "on_reboot": "keep",
        "budgets": [],
    }
    command(world, "run", "--group", "g", "--", "false")
    (pause,) = command(world, "group", "show", "g")["paused"]
    assert (pause["by"], pause["until"]) == ("failures", None)
    assert command(world, "group", "resume", "g")["paused"] == []
    refused = command(world, "group", "set", "g", "--rate", "10/fortnight")
    assert (refused["exit"], refused["error"]["code"]) == (2, "invalid_arguments")


def test_a_group_with_a_held_job_is_not_removed(world: World) -> None:
    command(world, "group", "set", "g", "--limit", "1")
    job = command(world, "start", "--group", "g", "--hold", "--", "true")
    assert command(world, "group", "rm", "g")["error"]["code"] == "invalid_arguments"
    assert groups.group_info(world.catalog.index, "g").waiting == 1
    command(world, "cancel", job["job_id"])
    assert command(world, "group", "rm", "g")["ok"]
