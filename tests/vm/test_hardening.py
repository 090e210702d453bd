"""What only a user without rights can show: root reads the memory of every process."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.vm.conftest import User

pytestmark = pytest.mark.vm

READ_PARENT = "import os; os.listdir(f'/proc/{os.getppid()}/fd')"
# It leaves parent, session and environment, and holds a lock as proof that it lives.
DAEMON = """
import fcntl, os, sys
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
lock = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
os.set_inheritable(lock, True)
fcntl.flock(lock, fcntl.LOCK_EX)
os.write(lock, b"here")
os.execve("/bin/sleep", ["sleep", "1000"], {})
"""


def test_a_job_cannot_look_into_its_keeper(user: User) -> None:
    done = user.in_service("supervisor", "run", "--", "python", "-c", READ_PARENT)
    assert (done.returncode, "PermissionError" in done.stderr) == (1, True)


def test_orders_in_the_memory_of_a_keeper_are_launched_by_another_process(user: User) -> None:
    user.in_session("supervisor", "group", "set", "g")
    user.in_session("supervisor", "group", "pause", "g")
    start = ("supervisor", "start", "--json", "--group", "g", "--spool", "memory", "--stdin", "/etc/hostname")
    job = json.loads(user.in_session(*start, "--", "cat").stdout)
    assert job["status"] == "queued"
    user.in_session("supervisor", "group", "resume", "g")
    assert user.answer("wait", "--timeout", "120", job["job_id"])["status"] == "done"
    assert user.answer("result", job["job_id"])["value"] == "guest\n"


def test_the_keeper_is_closed_again_once_it_holds_no_orders(user: User) -> None:
    script = "sleep 1; exec python -c " + repr(READ_PARENT)
    user.in_service("supervisor", "group", "set", "g", "--limit", "1")
    argv = ("supervisor", "run", "--group", "g", "--spool", "memory", "--", "sh", "-c", script)
    done = user.in_service(*argv)
    assert (done.returncode, "PermissionError" in done.stderr) == (1, True)


def test_a_cancel_ends_a_daemon_without_parent_session_and_environment(user: User) -> None:
    file = f"{user.state_dir}.lock"
    script = f"python -c '{DAEMON}' {file}; exec sleep 1000"
    job = json.loads(user.in_session("supervisor", "start", "--json", "--", "sh", "-c", script).stdout)
    user.in_session("sh", "-c", f"until [ -s {file} ]; do sleep 0.1; done")
    assert user.in_session("flock", "--nonblock", file, "true").returncode == 1
    assert user.answer("cancel", job["job_id"])["status"] == "cancelled"
    assert user.in_session("flock", "--nonblock", file, "true").returncode == 0


def test_a_job_that_gains_no_rights_stays_its_user_whatever_it_runs(user: User) -> None:
    """The program is a copy of ``id`` that belongs to root, and that runs as root (set-user-ID)."""
    program = Path("/usr/local/bin/id-as-root")
    shutil.copy("/usr/bin/id", program)
    program.chmod(0o4755)
    run = ("supervisor", "run")
    assert user.in_service(*run, "--", str(program), "-u").stdout == "0\n"
    assert user.in_service(*run, "--no-new-privs", "--", str(program), "-u").stdout == "1000\n"
