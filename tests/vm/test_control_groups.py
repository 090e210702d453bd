"""What the kernel does for a job in a control group of version 2: it slows it down, freezes it, and ends all of it."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from tests.vm.conftest import User

pytestmark = pytest.mark.vm

_IN_MODIFY = 0x2
HERE = 'cd "/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)"'
# It sheds parent, session and environment, ignores SIGTERM, and holds a lock as proof that it lives.
DAEMON = """
import fcntl, os, signal, sys
if not os.fork():
    os.setsid()
    if os.fork(): os._exit(0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    lock = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
    os.set_inheritable(lock, True)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.write(lock, b"here")
    os.execve("/bin/sleep", ["sleep", "1000"], {})
signal.signal(signal.SIGTERM, signal.SIG_IGN)
while True:
    signal.pause()
"""
# It counts, and its child does in another session; a handler of SIGTERM ends each.
COUNTING = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: os._exit(3))
if not os.fork():
    os.setsid()
while True:
    os.write(1, b"x")
    time.sleep(0.01)
"""


def _start(user: User, *argv: str) -> tuple[str, Path, dict[str, Any]]:
    """Start a job in a login session, and return its id, its control group and ``status``."""
    job: dict[str, Any] = json.loads(user.in_session("supervisor", "start", "--json", *argv).stdout)
    name = Path(f"/proc/{job['pid']}/cgroup").read_text(encoding="ascii").strip().removeprefix("0::")
    return job["job_id"], Path(f"/sys/fs/cgroup{name}"), job


@contextlib.contextmanager
def _writes_to(path: Path) -> Generator[Callable[[], bool]]:
    """Yield a function that tells whether a process has written to a file."""
    libc = ctypes.CDLL(None)
    watching = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    assert libc.inotify_add_watch(watching, os.fsencode(path), _IN_MODIFY) > 0

    def is_written() -> bool:
        try:
            return int.from_bytes(os.read(watching, 16)[4:8], sys.byteorder) == _IN_MODIFY
        except BlockingIOError:
            return False

    try:
        yield is_written
    finally:
        os.close(watching)


def test_the_kernel_ends_a_job_as_a_whole_and_tells_its_peak(user: User) -> None:
    script = f"{HERE}; cat memory.oom.group; exec python -c 'held = bytes([1]) * (1 << 20)'"
    argv = ("supervisor", "run", "--json", "--memory", "50M", "--", "sh", "-c", script)
    answer = json.loads(user.in_session(*argv).stdout)
    assert answer["value"].split() == ["1"]
    assert 1 << 20 < answer["job"]["memory_peak_bytes"] <= 50 << 20


def test_a_cancel_ends_a_deaf_daemon_and_leaves_no_control_group(user: User) -> None:
    file = f"{user.state_dir}.lock"
    job_id, group, _ = _start(user, "--grace", "1", "--pids", "50", "--", "python", "-c", DAEMON, file)
    user.in_session("sh", "-c", f"until [ -s {file} ]; do sleep 0.1; done")
    assert user.in_session("flock", "--nonblock", file, "true").returncode == 1
    with _writes_to(group / "cgroup.kill") as is_written:
        ended = user.answer("cancel", job_id)
        assert is_written()
    assert (ended["status"], ended["signal"]) == ("cancelled", 9)
    assert user.in_session("flock", "--nonblock", file, "true").returncode == 0
    assert not group.exists()


def test_a_paused_job_is_frozen_and_thawed_for_its_handlers(user: User) -> None:
    job_id, group, _ = _start(user, "--grace", "10m", "--pids", "50", "--", "python", "-c", COUNTING)
    assert user.answer("pause", job_id)["paused"] is True
    assert "frozen 1" in (group / "cgroup.events").read_text(encoding="ascii")
    output = user.answer("status", job_id)["stdout_bytes"]
    assert user.answer("status", job_id)["stdout_bytes"] == output
    assert user.answer("resume", job_id)["paused"] is False
    assert "frozen 0" in (group / "cgroup.events").read_text(encoding="ascii")
    user.answer("pause", job_id)
    ended = user.answer("cancel", job_id)
    assert (ended["status"], ended["exit_code"]) == ("cancelled", 3)
    assert not group.exists()


def test_every_job_has_a_control_group_where_the_c_library_can_spawn_into_one(user: User) -> None:
    said = json.loads(user.in_session("supervisor", "doctor", "--json").stdout)["checks"]
    cgroups = next(check for check in said if check["name"] == "cgroups")
    job_id, group, _ = _start(user, "--", "sleep", "1000")
    if "each job gets its own" in cgroups["message"]:
        assert group.name == f"job-{job_id}"
    else:
        assert "glibc 2.39" in cgroups["repair"]
        assert "job-" not in group.name
