"""``supervisor service`` with the real manager of a user: a restart and a crash of the server spare jobs."""

from __future__ import annotations

import json
import time

import pytest

from tests.vm.conftest import User

pytestmark = pytest.mark.vm

UNIT = "trio-supervisor.service"


def _status(user: User) -> dict[str, str]:
    done = user.in_service("supervisor", "service", "status", "--json")
    found: dict[str, str] = json.loads(done.stdout)["systemd"]
    return found


def _restarted(user: User, pid: str) -> dict[str, str]:
    give_up = time.monotonic() + 120
    while (found := _status(user))["MainPID"] in {pid, "0"} or found["ActiveState"] != "active":
        assert time.monotonic() < give_up, found
        time.sleep(1)
    return found


def test_a_restart_and_a_crash_of_the_service_spare_jobs_and_schedules_go_on(user: User) -> None:
    done = user.in_service("supervisor", "service", "install", "--http", "127.0.0.1:0", "--json")
    assert done.returncode == 0, done.stderr
    try:
        first = _restarted(user, "")
        assert (first["UnitFileState"], first["SubState"]) == ("enabled", "running")
        add = (
            "supervisor",
            "schedule",
            "add",
            "tick",
            "--cron",
            "*/5 * * * * *",
            "--overlap",
            "skip",
            "--deadline",
            "none",
        )
        assert user.in_service(*add, "--", "sleep", "infinity").returncode == 0
        job = _fired(user)
        assert user.in_service("systemctl", "--user", "restart", UNIT).returncode == 0
        second = _restarted(user, first["MainPID"])
        assert user.in_service("systemctl", "--user", "kill", "--signal=KILL", UNIT, "--kill-whom=main").returncode == 0
        _restarted(user, second["MainPID"])
        assert user.answer("status", job)["status"] == "running"
        assert user.in_service("supervisor", "cancel", job).returncode == 0
        assert _fired(user) != job  # the schedule goes on
    finally:
        user.in_service("supervisor", "schedule", "rm", "tick")
        assert user.in_service("supervisor", "service", "uninstall").returncode == 0
        user.in_service("supervisor", "cancel", "--all")


def _fired(user: User) -> str:
    """Return the job of the schedule that runs."""
    give_up = time.monotonic() + 120
    while True:
        (found,) = user.answer("schedule", "list")["schedules"]
        if found["last_status"] == "running":
            return str(found["last_job_id"])
        assert time.monotonic() < give_up, found
        time.sleep(1)
