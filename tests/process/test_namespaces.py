"""Jobs that are asked about from other namespaces, and through other views of ``/proc``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.process.conftest import World

IN_PID_NAMESPACE = ("unshare", "-m", "-p", "-f", "--mount-proc")
VIEWS = {
    "hidepid": "mount -t proc -o hidepid=2 proc /proc",
    "subset": "mount -t proc -o subset=pid proc /proc",
    "boot id": 'mount --bind "$BOOT" /proc/sys/kernel/random/boot_id',
}


def ask(world: World, *words: str, by: tuple[str, ...] = IN_PID_NAMESPACE, view: str = "true") -> Any:
    """Return what a command of ours answers there."""
    boot = world.directory / "boot"
    boot.write_text("11111111-2222-3333-4444-555555555555\n", encoding="ascii")
    line = f'{view} && exec "$@"'
    command = [*by, "sh", "-c", line, "sh", sys.executable, "-m", "supervisor", words[0], "--json", *words[1:]]
    environment = world.environment | {"BOOT": str(boot)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    return json.loads(done.stdout)


@pytest.fixture(autouse=True)
def _permitted() -> None:
    if not Path("/proc/self/ns/pid").exists():
        pytest.skip("needs Linux")
    try:
        tried = subprocess.run([*IN_PID_NAMESPACE, "true"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("needs unshare(1)")
    if tried.returncode:
        pytest.skip(f"no namespace can be made here: {tried.stderr.strip()}")


def test_a_job_is_not_settled_from_another_pid_namespace(world: World) -> None:
    host, gate = world.host(), world.fifo()
    job_id = host.start("sh", "-c", 'read line < "$1"; exit 4', "sh", str(gate))
    host.kill()
    assert ask(world, "status", job_id)["status"] == "running"
    assert ask(world, "cancel", job_id)["error"]["code"] == "job_elsewhere"
    gate.open()
    ended = world.catalog.wait([job_id], timeout=60)[0]
    assert (ended.status, ended.exit_code) == ("failed", 4)
    assert ask(world, "status", job_id)["exit_code"] == 4


def test_a_job_of_another_pid_namespace_ends_as_it_does_there(world: World) -> None:
    ended = ask(world, "run", "--", "sh", "-c", "exit 6")
    job = ended["job"]
    assert world.catalog.status(job["job_id"]).exit_code == 6


@pytest.mark.parametrize("view", VIEWS)
def test_a_job_is_told_and_cancelled_through_another_view(world: World, view: str) -> None:
    host = world.host()
    job_id = host.start("sleep", "600")
    leader = world.leader(job_id)
    assert ask(world, "status", job_id, by=("unshare", "-m"), view=VIEWS[view])["status"] == "running"
    assert ask(world, "cancel", job_id, by=("unshare", "-m"), view=VIEWS[view])["status"] == "cancelled"
    assert not leader.alive
