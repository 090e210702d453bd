"""Where keepers go: a scope of the user manager, if their own control group is not theirs and the manager stays."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.vm.conftest import User

pytestmark = pytest.mark.vm

START = ("supervisor", "start", "--json", "--deadline", "none", "--", "sleep", "infinity")
LIMITED = ("supervisor", "start", "--json", "--memory", "50M", "--", "true")
DOCTOR = ("supervisor", "doctor", "--json")
SHOW_LIMIT = (
    """sh -c 'cut -d: -f3 /proc/self/cgroup; cat "/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)/memory.max"'"""
)
SCOPE = re.compile(r"/user@1000\.service/.*/supervisor-[0-9]+-[0-9]+\.scope(/|$)")
Way = Callable[[User], subprocess.CompletedProcess[str]]


def _in_system_service(user: User, *argv: str, **properties: str) -> subprocess.CompletedProcess[str]:
    line = ["systemd-run", "--quiet", "--collect", "--wait", "--pipe", f"--property=User={user.name}"]
    line += [f"--property={name}={value}" for name, value in properties.items()]
    return subprocess.run([*line, "env", *user.settings, *argv], capture_output=True, text=True, check=False)


def _job_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    job: dict[str, Any] = json.loads(done.stdout)
    return job


def _cgroup_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cgroup").read_text(encoding="ascii").strip().removeprefix("0::")


WAYS: dict[str, Way] = {
    "a login session": lambda user: user.in_session(*START),
    "a service of the user": lambda user: user.in_service(*START, Delegate="no"),
    "a service of the system": lambda user: _in_system_service(user, *START),
}


@pytest.mark.parametrize("way", WAYS)
def test_jobs_are_in_a_scope_and_outlive_where_they_were_started(user: User, way: str) -> None:
    job = _job_of(WAYS[way](user))  # the session or the service ends with this command
    assert SCOPE.search(_cgroup_of(job["pid"]))
    assert user.answer("status", job["job_id"])["status"] == "running"


def test_a_session_that_is_terminated_leaves_jobs_in_scopes_alone(user: User) -> None:
    script = f"cat /proc/self/cgroup; {shlex.join(START)}; exec sleep infinity"
    with subprocess.Popen(user.session_argv("sh", "-c", script), stdout=subprocess.PIPE, text=True) as session:
        assert session.stdout is not None
        number = session.stdout.readline().strip().rpartition("session-")[2].removesuffix(".scope")
        job = json.loads(session.stdout.readline())
        subprocess.run(["loginctl", "terminate-session", number], check=True)
    assert user.answer("status", job["job_id"])["status"] == "running"


def test_a_delegated_service_with_processes_of_its_own_is_left_for_a_scope_where_jobs_have_limits(user: User) -> None:
    """The kernel uses no controllers below a control group that holds processes, such as those of the service."""
    script = f"{shlex.join(DOCTOR)}; supervisor run --memory 50M -- {SHOW_LIMIT}"
    said, own, limit = user.in_service("sh", "-c", script, Delegate="yes").stdout.splitlines()
    assert SCOPE.search(own)
    assert limit == "52428800"
    checks = {check["name"]: check for check in json.loads(said)["checks"]}
    assert checks["systemd"]["facts"]["scope"] is True
    assert "in a scope of systemd" in checks["cgroups"]["message"]
    assert checks["job limits"]["facts"]["possible"] == ["cpu", "memory", "pids"]


def test_a_delegated_service_that_is_in_a_part_of_its_own_control_group_keeps_its_keepers(user: User) -> None:
    move = 'cd "/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)"; pwd; mkdir main; echo 0 > main/cgroup.procs; cd /'
    script = f"{move}; {shlex.join(DOCTOR)}; supervisor run --memory 50M -- {SHOW_LIMIT}"
    unit, said, own, limit = user.in_service("sh", "-c", script, Delegate="yes").stdout.splitlines()
    assert own.startswith(f"{unit.removeprefix('/sys/fs/cgroup')}/supervisor.")
    assert limit == "52428800"
    limits = next(check for check in json.loads(said)["checks"] if check["name"] == "job limits")
    assert limits["facts"]["possible"] == ["cpu", "memory", "pids"]


def test_a_delegated_service_that_spares_jobs_is_started_again_while_a_limited_one_runs(user: User) -> None:
    """Otherwise systemd could not: it cannot put a process into a control group below which controllers are used."""
    start = ("supervisor", "start", "--json", "--deadline", "none", "--memory", "50M", "--", "sleep", "infinity")
    file, unit = f"{user.state_dir}.started", "restarted.service"
    script = f"{shlex.join(start)} >>{file}; exec sleep infinity"
    line = ["systemd-run", "--quiet", "--collect", f"--unit={unit}", f"--property=User={user.name}"]
    line += ["--property=Delegate=yes", "--property=KillMode=process"]
    subprocess.run([*line, "env", *user.settings, "sh", "-c", script], check=True)
    try:
        user.in_session("sh", "-c", f"until [ -s {file} ]; do sleep 0.2; done")
        subprocess.run(["systemctl", "restart", unit], check=True)
        user.in_session("sh", "-c", f"until [ $(wc -l <{file}) -eq 2 ]; do sleep 0.2; done")
        jobs = [json.loads(line) for line in Path(file).read_text(encoding="ascii").splitlines()]
        assert [user.answer("status", job["job_id"])["status"] for job in jobs] == ["running", "running"]
        assert all(SCOPE.search(_cgroup_of(job["pid"])) for job in jobs)
    finally:
        subprocess.run(["systemctl", "stop", unit], check=False)


def test_a_delegated_service_of_a_user_without_a_manager_says_what_it_needs(guest: User) -> None:
    script = f"{shlex.join(LIMITED)}; {shlex.join(DOCTOR)}"
    refused, said = map(json.loads, _in_system_service(guest, "sh", "-c", script, Delegate="yes").stdout.splitlines())
    assert refused["error"]["code"] == "feature_unavailable"
    assert "processes itself, so that its controllers cannot be used below it" in refused["error"]["message"]
    limits = next(check for check in said["checks"] if check["name"] == "job limits")
    assert limits["facts"]["possible"] == []
    assert "DelegateSubgroup=" in limits["repair"]


def test_without_lingering_there_is_no_scope_and_doctor_says_how_to_get_one(guest: User) -> None:
    job = _job_of(guest.in_session(*START))
    assert re.search(r"/session-[0-9]+\.scope$", _cgroup_of(job["pid"]))
    refused = guest.in_session(*LIMITED)
    error = json.loads(refused.stdout)["error"]
    assert (error["code"], "supervisor doctor" in error["repair"]) == ("feature_unavailable", True)
    checks = json.loads(guest.in_session("supervisor", "doctor", "--json").stdout)["checks"]
    cgroups = next(check for check in checks if check["name"] == "cgroups")
    assert "loginctl enable-linger" in cgroups["repair"]


def test_with_lingering_doctor_promises_what_a_job_then_gets(user: User) -> None:
    checks = json.loads(user.in_session("supervisor", "doctor", "--json").stdout)["checks"]
    systemd, limits = (next(check for check in checks if check["name"] == name) for name in ("systemd", "job limits"))
    assert "jobs leave it for a scope of their own" in systemd["message"]
    assert limits["facts"]["possible"] == ["cpu", "memory", "pids"]
    run = ("supervisor", "run", "--memory", "50M", "--cpus", "0.5", "--pids", "20", "--", "sh", "-c")
    script = 'cd "/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)"; cat memory.max memory.swap.max cpu.max pids.max'
    assert user.in_session(*run, script).stdout.splitlines() == ["52428800", "0", "50000 100000", "20"]


def test_a_bus_that_does_not_answer_delays_a_start_and_prevents_none(user: User) -> None:
    (bus,) = subprocess.run(
        ["pgrep", "-u", user.name, "-x", "dbus-daemon"], capture_output=True, text=True, check=True
    ).stdout.split()
    os.kill(int(bus), signal.SIGSTOP)
    try:
        assert user.in_session("supervisor", "run", "--", "echo", "done").stdout == "done\n"
    finally:
        os.kill(int(bus), signal.SIGCONT)
