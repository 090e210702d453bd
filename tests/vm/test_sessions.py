"""What the end of a session, and that of a user manager, does to jobs; and what ``doctor`` says about it before."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.vm.conftest import User

pytestmark = pytest.mark.vm

DOCTOR = ("supervisor", "doctor", "--json")
START = ("supervisor", "start", "--json", "--deadline", "none", "--", "sleep", "infinity")
IN_MANAGER = ("systemd-run", "--user", "--scope", "--quiet")  # in a session, with the manager of its user


def _said_about(name: str, done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Return a check of ``doctor``."""
    checks = json.loads(done.stdout)["checks"]
    return next(check for check in checks if check["name"] == name)


def _job_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    job: dict[str, Any] = json.loads(done.stdout)
    return job


def _cgroup_of(job: dict[str, Any]) -> str:
    return Path(f"/proc/{job['pid']}/cgroup").read_text(encoding="ascii").strip().removeprefix("0::")


def test_a_command_in_a_unit_of_the_user_exits_as_it_exits(user: User) -> None:
    assert user.in_service("supervisor", "run", "--", "sh", "-c", "exit 5").returncode == 5


def test_jobs_of_a_session_live_on_after_the_logout(guest: User) -> None:
    assert "its end does not end jobs" in _said_about("systemd", guest.in_session(*DOCTOR))["message"]
    job = _job_of(guest.in_session(*START))  # the session ends with this command
    assert guest.answer("status", job["job_id"])["status"] == "running"


def test_a_session_that_is_terminated_takes_its_jobs_with_it(guest: User) -> None:
    script = f"{shlex.join(START)}; exec sleep infinity"
    with subprocess.Popen(guest.session_argv("sh", "-c", script), stdout=subprocess.PIPE, text=True) as session:
        assert session.stdout is not None
        job = json.loads(session.stdout.readline())
        number = Path(_cgroup_of(job)).name.removeprefix("session-").removesuffix(".scope")
        subprocess.run(["loginctl", "terminate-session", number], check=True)
    assert guest.answer("wait", "--timeout", "120", job["job_id"])["status"] == "failed"


def test_without_lingering_the_last_logout_ends_jobs_below_the_user_manager(guest: User) -> None:
    said = _said_about("systemd", guest.in_session(*IN_MANAGER, *DOCTOR))
    assert (said["verdict"], "the last logout ends every job" in said["message"]) == ("warning", True)
    assert "loginctl enable-linger" in said["repair"]
    job = _job_of(guest.in_session(*IN_MANAGER, *START))
    ended = guest.answer(
        "wait", "--timeout", "120", job["job_id"]
    )  # the user manager waits for ten seconds before it ends
    assert ended["status"] == "failed"


def test_with_lingering_jobs_below_the_user_manager_live_on_after_the_last_logout(user: User) -> None:
    said = _said_about("systemd", user.in_session(*IN_MANAGER, *DOCTOR))
    assert (said["verdict"], "runs on after the last logout" in said["message"]) == ("fine", True)
    job = _job_of(user.in_session(*IN_MANAGER, *START))
    assert "/user@1000.service/" in _cgroup_of(job)
    assert user.answer("status", job["job_id"])["status"] == "running"
