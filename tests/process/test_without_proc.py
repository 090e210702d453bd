"""The life of jobs where there is no ``/proc``, no pidfd and no inotify, as on macOS: see ``pretended``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from supervisor.jobdir import records
from supervisor.system import processes
from tests.process import pretended
from tests.process.conftest import PACKAGE, PATIENCE, environment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.process.conftest import Host, Proc, World

pytestmark = pytest.mark.skipif(not processes.HAVE_PROC, reason="takes away what only Linux has")

STUBBORN = "trap '' TERM; echo up > {fifo}; (trap '' TERM; echo up > {fifo}; while :; do sleep 1; done) & wait; wait"


class Site:
    """A state root that only processes without ``/proc`` use; this process, which has it, watches them."""

    def __init__(self, world: World, package: Path) -> None:
        self.world = world
        self.package = package

    def __call__(self, *words: str, rc: int = 0, given: bytes = b"") -> str:
        """Run a command and return its output."""
        argv = [sys.executable, "-m", "supervisor", *words]
        environ = environment(self.package)
        done = subprocess.run(argv, env=environ, input=given, capture_output=True, timeout=PATIENCE, check=False)
        assert done.returncode == rc, (words, done.returncode, done.stderr.decode())
        return done.stdout.decode()

    def json(self, *words: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self(*words, "--json"))
        return found

    def start(self, *words: str) -> str:
        return self("start", *words).strip()

    def host(self) -> Host:
        return self.world.host(package=self.package)

    def tree(self, job_id: str) -> list[Proc]:
        """Hold the processes of ``STUBBORN``."""
        leader = self.world.leader(job_id)
        children = Path(f"/proc/{leader.pid}/task/{leader.pid}/children").read_text(encoding="ascii").split()
        return [leader, *(self.world.hold(int(pid)) for pid in children)]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretended.package(PACKAGE, tmp_path_factory.mktemp("pretended"))


@pytest.fixture
def site(world: World, package: Path) -> Iterator[Site]:
    made = Site(world, package)
    yield made
    made("cancel", "--all")
    for job in made.json("list", "--all", "--limit", "1000")["jobs"]:
        assert job["status"] not in {"queued", "running"}, job


def test_what_the_processes_find(site: Site) -> None:
    shown = "p.HAVE_PROC, hasattr(os, 'pidfd_open'), p.own_identity()[1] > 1e9"
    argv = [sys.executable, "-c", f"import supervisor, os, supervisor.system.processes as p; print({shown})"]
    found = subprocess.run(argv, env=environment(site.package), capture_output=True, text=True, check=True).stdout
    assert found.split() == ["False", "False", "True"]
    assert site.json("doctor")["ok"] is True


def test_a_job_runs_and_its_result_is_read(site: Site) -> None:
    assert site("run", "--", "sh", "-c", "cat; exit 3", rc=3, given=b"") == ""
    job_id = site.start("--", "echo", "hello")
    assert "done" in site("wait", job_id)
    assert site("result", job_id) == "hello\n"


def test_a_deadline_and_a_cancel_end_a_stubborn_tree(site: Site) -> None:
    fifo = site.world.fifo()
    for words, status in ((("--deadline", "2"), "timeout"), ((), "cancelled")):
        job_id = site.start(*words, "--", "sh", "-c", STUBBORN.format(fifo=fifo))
        assert [fifo.line(), fifo.line()] == ["up", "up"]
        tree = site.tree(job_id)
        assert len(tree) > 1
        if status == "cancelled":
            site("cancel", job_id)
        else:
            site("wait", job_id, rc=1)
        assert site.json("status", job_id)["status"] == status
        assert all(process.ended() for process in tree)


def test_jobs_outlive_their_supervisor_and_are_adopted(site: Site) -> None:
    fifo = site.world.fifo()
    first = site.host()
    runs, ends = (first.start("sh", "-c", f"read line < {fifo}; echo {word}") for word in ("one", "two"))
    first.kill()
    fifo.open(2)
    second = site.host()
    for job_id, word in ((runs, "one"), (ends, "two")):
        assert second.call("wait", job_id)["status"] == "done"
        assert site("result", job_id) == f"{word}\n"
    third = second.start("sh", "-c", f"read line < {fifo}")
    assert second.call("cancel", third)["status"] == "cancelled"
    assert second.leave() == 0


@pytest.mark.parametrize("supervised", [False, True])
def test_a_job_whose_keeper_is_killed_is_cancelled_whole(site: Site, *, supervised: bool) -> None:
    fifo = site.world.fifo()
    argv = ("sh", "-c", STUBBORN.format(fifo=fifo))
    host = site.host() if supervised else None
    job_id = site.start("--", *argv) if host is None else host.start(*argv)
    assert [fifo.line(), fifo.line()] == ["up", "up"]
    tree = site.tree(job_id)
    keeper = site.world.keeper(job_id)
    keeper.kill()
    assert keeper.reaped()
    if host is None:
        assert site.json("status", job_id)["status"] == "running"
        site("cancel", job_id)
    else:
        assert host.call("cancel", job_id)["status"] == "cancelled"
    assert site.json("status", job_id)["status"] == "cancelled"
    assert all(process.ended() for process in tree)


def test_a_job_that_ends_after_its_keeper_was_killed_is_lost(site: Site) -> None:
    fifo = site.world.fifo()
    job_id = site.start("--", "sh", "-c", f"read line < {fifo}")
    leader, keeper = site.world.leader(job_id), site.world.keeper(job_id)
    keeper.kill()
    assert keeper.reaped()
    assert site.json("status", job_id)["status"] == "running"
    fifo.open()
    assert leader.ended()
    assert leader.reaped()
    site("wait", job_id, rc=1)
    found = site.json("status", job_id)
    assert (found["status"], found["reason"]) == ("failed", "lost")


def test_waiting_jobs_are_launched_when_all_processes_of_ours_are_gone(site: Site) -> None:
    fifo = site.world.fifo()
    site("group", "set", "g", "--limit", "1")
    host = site.host()
    first = host.start("sh", "-c", f"read line < {fifo}", groups=["g"])
    others = [host.start("echo", str(number), groups=["g"]) for number in range(2)]
    host.kill()
    fifo.open()
    for job_id in (first, *others):
        site("wait", job_id)
    assert [site("result", job_id) for job_id in others] == ["0\n", "1\n"]


def test_input_and_a_pause(site: Site) -> None:
    job_id = site.start("--stdin-open", "--", "cat")
    site("send", job_id, given=b"one\n")
    leader = site.world.leader(job_id)
    site("pause", job_id)
    found = processes.read_process(leader.pid)
    assert found is not None
    assert found.state == "T"
    site("resume", job_id)
    site("send", "--eof", job_id)
    site("wait", job_id)
    assert site("result", job_id) == "one\n"


def test_a_process_with_the_pid_of_a_job_is_not_signalled(site: Site) -> None:
    """Only the start tells the two apart: the record names this one, with another start."""
    fifo = site.world.fifo()
    job_id = site.start("--", "sh", "-c", f"read line < {fifo}")
    leader, keeper = site.world.leader(job_id), site.world.keeper(job_id)
    keeper.kill()
    assert keeper.reaped()
    bystander = subprocess.Popen(["sleep", str(PATIENCE)], start_new_session=True)
    try:
        path = site.world.job(job_id) / records.PROCESS
        record = json.loads(path.read_bytes())
        path.write_text(json.dumps(record | {"pid": bystander.pid}), encoding="ascii")
        site("cancel", job_id)
        assert bystander.poll() is None
        assert leader.alive, "the record names another process"
    finally:
        fifo.open()
        os.kill(bystander.pid, signal.SIGKILL)
        bystander.wait()
