"""Limits of jobs that the kernel enforces, by unified control groups, for a user without rights."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.vm.conftest import User

pytestmark = pytest.mark.vm

HOG = "python -c 'held = [bytearray(1 << 20) for _ in range(1024)]'"  # at once it is more than the guest has
# It starts processes up to the limit, says how many those are, and ends them.
BOMB = """
import os, signal
started = []
try:
    for _ in range(1000):
        if not (pid := os.fork()):
            signal.pause()
        started.append(pid)
except BlockingIOError:
    print(len(started))
for pid in started:
    os.kill(pid, signal.SIGKILL)
"""
# It uses its processor until the kernel tells that it has taken it away.
BUSY = """
group = open("/proc/self/cgroup").read().strip().removeprefix("0::")
counts = {"nr_throttled": 0}
while not counts["nr_throttled"]:
    with open(f"/sys/fs/cgroup{group}/cpu.stat") as file:
        counts = {name: int(count) for name, count in map(str.split, file)}
print(counts["nr_throttled"])
"""


def test_a_job_that_takes_too_much_memory_ends_with_its_tree_and_nothing_else_does(user: User) -> None:
    other = json.loads(user.in_session("supervisor", "start", "--json", "--", "sleep", "1000").stdout)
    script = f"sleep 4321 & setsid sleep 4321 & {HOG}; sleep 4321"
    argv = ("supervisor", "run", "--json", "--memory", "200M", "--", "sh", "-c", script)
    answer = json.loads(user.in_session(*argv).stdout)
    assert "job" in answer, answer
    job = answer["job"]
    assert (job["status"], job["reason"]) == ("failed", "memory_limit")
    assert 190 << 20 < job["memory_peak_bytes"] <= 200 << 20
    assert subprocess.run(["pgrep", "-f", "-x", "sleep 4321"], capture_output=True, check=False).stdout == b""
    assert user.answer("status", other["job_id"])["status"] == "running"


def test_a_fork_bomb_stays_within_its_number_of_processes(user: User) -> None:
    argv = ("supervisor", "run", "--json", "--pids", "50", "--", "python", "-c", BOMB)
    answer = json.loads(user.in_session(*argv).stdout)
    assert 40 <= int(answer["value"]) < 50


def test_a_job_that_takes_too_much_of_the_processor_is_throttled(user: User) -> None:
    argv = ("supervisor", "run", "--json", "--cpus", "0.1", "--", "python", "-c", BUSY)
    answer = json.loads(user.in_session(*argv).stdout)
    assert "value" in answer, answer
    assert int(answer["value"]) > 0
