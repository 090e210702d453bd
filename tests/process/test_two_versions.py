"""This version and the last released one use one state root at the same time, and each takes over from the other.

As long as there is no release, and in a checkout without tags, the last landed commit stands for it.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import attrs
import pytest

from supervisor.keeper.helper_starts import lock_name, take_lock
from tests.process.conftest import PACKAGE, Fifo, Host, World, environment

QUEUES = "3e590fd68596cf565d74c7458c5f4859665453a0"
"""A commit that knows groups and retries, and neither schedules nor deliveries nor budgets."""
LAST = "5a1a36a2d7dc43477a9343201d5c0e35d31c6efc"
"""The last landed commit before this one: a commit that lands next moves it on."""
PATIENCE = 60
ROOT = Path(__file__).parents[2]


@attrs.frozen
class Version:
    """A version of the package, with programs on the state root of the test."""

    world: World
    package: Path

    def host(self) -> Host:
        return self.world.host(package=self.package)

    def run(self, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "supervisor", *words],
            env=environment(self.package),
            cwd=self.world.directory,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def json(self, *words: str) -> Any:
        done = self.run(words[0], "--json", *words[1:])
        assert done.stdout, done.stderr
        return json.loads(done.stdout)

    def start(self, *words: str) -> str:
        started: str = self.json("start", *words)["job_id"]
        return started

    def status(self, job_id: str) -> tuple[str, str | None]:
        job = self.json("status", job_id)
        return job["status"], job["reason"]


@pytest.fixture(scope="session")
def last_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of the last release, or of the last landed commit, in a directory of its own."""
    return package_of(last_release() or LAST, tmp_path_factory.mktemp("last"))


def last_release(checkout: Path = ROOT) -> str | None:
    """Return the newest release tag before the commit that is checked out; ``None`` without one."""
    command = ["git", "-C", str(checkout), "describe", "--tags", "--abbrev=0", "--match", "v[0-9]*", "HEAD^"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def package_of(commit: str, package: Path) -> Path:
    """Extract the package of a commit into a directory."""
    command = ["git", "-C", str(ROOT), "archive", commit, "supervisor"]
    try:
        archive = subprocess.run(command, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"needs the git history with {commit[:7]}: {error}")
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(package, filter="data")
    return package


@pytest.fixture(params=["upgrade", "downgrade"])
def versions(request: pytest.FixtureRequest, world: World, last_package: Path) -> tuple[Version, Version]:
    """The version that makes the jobs, and the one that comes after it."""
    last, this = Version(world, last_package), Version(world, PACKAGE)
    for version in (last, this):
        where = [sys.executable, "-c", "import supervisor; print(supervisor.__file__)"]
        environ, directory = environment(version.package), world.directory
        found = subprocess.run(where, env=environ, cwd=directory, capture_output=True, text=True, check=True).stdout
        assert Path(found).is_relative_to(version.package)
    return (last, this) if request.param == "upgrade" else (this, last)


def waiting(fifo: Fifo) -> tuple[str, ...]:
    """Return a command that waits for the test and then writes something."""
    return "sh", "-c", f"read line < {fifo}; echo came"


def test_ended_jobs_are_shown_and_forgotten_by_the_other_version(versions: tuple[Version, Version]) -> None:
    first, second = versions
    jobs = {
        "done": first.start("--key", "k", "--label", "a=b", "--", "echo", "out"),
        "failed": first.start("--", "false"),
        "timeout": first.start("--deadline", "0.2", "--", "sleep", "600"),
    }
    for status, job_id in jobs.items():
        assert first.json("wait", job_id)["status"] == status
        (listed,) = second.json("list", "--state", status)["jobs"]
        assert second.json("status", job_id).items() >= listed.items()
        before = first.json("status", job_id)
        assert all(listed[name] == before[name] for name in listed.keys() & before.keys())
    assert second.json("result", jobs["done"])["value"] == "out\n"
    assert second.start("--key", "k", "--label", "a=b", "--", "echo", "out") == jobs["done"]
    assert second.run("rm", *jobs.values()).returncode == 0
    assert first.json("list", "--all")["jobs"] == []


def test_running_jobs_outlive_the_upgrade(versions: tuple[Version, Version]) -> None:
    """Their keepers are of the first version; the second cancels one job and sees the end of the other."""
    first, second = versions
    fifo = first.world.fifo()
    ending, cancelled = first.start("--", *waiting(fifo)), first.start("--", "sleep", "600")
    for job_id in (ending, cancelled):
        assert second.status(job_id) == ("running", None)
    assert second.json("cancel", cancelled)["status"] == "cancelled"
    fifo.open()
    assert second.json("wait", ending)["status"] == "done"
    assert second.json("result", ending)["value"] == "came\n"
    assert first.status(ending) == ("done", "exited")
    assert first.status(cancelled) == ("cancelled", "cancelled")


def test_the_jobs_of_a_killed_supervisor_are_adopted_by_the_other_version(versions: tuple[Version, Version]) -> None:
    first, second = versions
    host, fifo = first.host(), first.world.fifo()
    ending, cancelled = host.start(*waiting(fifo)), host.start("sleep", "600")
    host.kill()
    heir = second.host()
    waits = heir.ask("wait", ending)
    assert heir.call("cancel", cancelled)["status"] == "cancelled"
    fifo.open()
    assert heir.answer(waits)["status"] == "done"
    assert first.status(ending) == ("done", "exited")


def test_a_job_whose_keeper_was_killed_is_stopped_by_the_other_version(versions: tuple[Version, Version]) -> None:
    first, second = versions
    job_id = first.start("--", "sleep", "600")
    leader = first.world.leader(job_id)
    first.world.keeper(job_id).kill()
    assert second.status(job_id) == ("running", None)
    assert second.json("cancel", job_id)["status"] == "cancelled"
    assert leader.ended()
    assert first.status(job_id) == ("cancelled", "cancelled")


@pytest.mark.parametrize("act", ["cancel", "die"])
def test_a_queued_job_is_judged_alike_by_both(versions: tuple[Version, Version], act: str) -> None:
    """A keeper that does not answer leaves its job queued."""
    first, second = versions
    host = first.host()
    keeper = first.world.keeper(host.start("sleep", "600"))
    first.world.stop(keeper)
    starts = host.ask("start", ["sleep", "600"], labels={"is": "queued"})
    job_id = queued(second, host, starts)
    assert second.status(job_id) == ("queued", None)
    if act == "cancel":
        assert second.json("cancel", job_id)["status"] == "cancelled"
    else:
        host.kill()
        keeper.kill()
        assert second.status(job_id) == ("failed", "launch_failed")
    assert first.json("status", job_id)["status"] == second.json("status", job_id)["status"]
    keeper.kill()


def queued(version: Version, host: Host, starts: int) -> str:
    """Return the queued job, once there is one: its row is committed while the host waits for the launch."""
    while not (found := version.json("list", "--label", "is=queued")["jobs"]):
        assert not host.answered(starts)
    job_id: str = found[0]["job_id"]
    return job_id


def test_both_start_jobs_at_the_same_time(versions: tuple[Version, Version]) -> None:
    hosts = [version.host() for version in versions]
    asked = [(host, host.ask("run", ["echo", str(number)])) for number in range(20) for host in hosts]
    assert [host.answer(call)["value"] for host, call in asked] == [f"{n}\n" for n in range(20) for _ in hosts]
    for version in versions:
        assert {job["status"] for job in version.json("list", "--all")["jobs"]} == {"done"}
        assert len(version.json("list", "--all")["jobs"]) == 40
    assert not list(versions[0].world.root.glob("*damaged*"))


def test_jobs_of_each_kind_go_to_the_other_version_and_back(versions: tuple[Version, Version]) -> None:
    """They run, wait, are paused, have an open stdin or another attempt, while each supervisor is killed."""
    first, second = versions
    world = first.world
    host, gate, failing = first.host(), world.fifo(), world.fifo()
    host.call("set_group", "g", limit=1)
    running = host.start(*waiting(gate), groups=["g"])
    in_group = host.start("echo", "in group", groups=["g"])
    after = host.start("echo", "after", after=[running])
    talking = host.start("cat", stdin_open=True)
    paused = host.start("sleep", "600")
    assert host.call("pause", paused)["paused"]
    policy = {"maximum_attempts": 2, "initial_interval": 0.01, "retry_on": ["job_failed"]}
    tried = host.start("sh", "-c", f"read line < {failing}; exit 7", retry=policy)
    host.kill()

    heir = second.host()
    for job_id in (in_group, after):
        assert heir.call("status", job_id)["status"] == "queued"
    assert heir.call("status", paused)["paused"]
    assert second.run("send", talking, "--eof", stdin="hello\n").returncode == 0
    assert heir.call("wait", talking, timeout=PATIENCE)["status"] == "done"
    failing.open()
    gate.open()
    for job_id, value in ((running, "came\n"), (after, "after\n"), (in_group, "in group\n")):
        assert heir.call("wait", job_id, timeout=PATIENCE)["status"] == "done"
        assert heir.call("result", job_id)["value"] == value
    assert not heir.call("resume", paused)["paused"]
    failing.open()
    ended = heir.call("wait", tried, timeout=PATIENCE)
    assert (ended["status"], ended["attempt"], ended["series_id"]) == ("failed", 2, tried)
    heir.kill()

    last = first.host()
    assert last.call("status", tried)["retried_by"] == ended["job_id"]
    assert last.call("result", talking)["value"] == "hello\n"
    assert last.call("cancel", paused)["status"] == "cancelled"
    assert second.json("list", "--state", "running")["jobs"] == []


def test_what_only_this_version_knows_is_left_to_it(tmp_path_factory: pytest.TempPathFactory, world: World) -> None:
    """Schedules, deliveries and budgets survive a version that knows none of them."""
    old = Version(world, package_of(QUEUES, tmp_path_factory.mktemp("queues")))
    new = Version(world, PACKAGE)
    host, gate, delivered = new.host(), world.fifo(), world.fifo()
    lock = take_lock(f"{world.root}/{lock_name()}")  # or a process of this version fires and delivers beside the other
    assert lock is not None
    host.call("set_group", "g", limit=2, budgets=["starts=1/total"])
    host.call("add_schedule", "yearly", ["true"], cron="0 0 1 1 *")
    job_id = host.start(*waiting(gate), groups=["g"], on_end=["/bin/sh", "-c", f"{{ cat; echo; }} > {delivered}"])
    host.kill()
    old_host = old.host()
    assert old_host.call("status", job_id)["status"] == "running"
    assert old.json("group", "set", "g", "--limit", "1")["running"] == 1
    gate.open()
    assert old_host.call("wait", job_id, timeout=PATIENCE)["status"] == "done"  # by the evidence; nothing is recorded
    assert old.run("prune", "--all").returncode == 0
    assert delivered.silent
    assert old_host.leave() == 0

    os.close(lock)
    heir = new.host()
    assert heir.call("wait", job_id, timeout=PATIENCE)["status"] == "done"
    (group,) = new.json("group", "list")["groups"]
    assert (group["limit"], group["budgets"][0]["used"]) == (1, 1)
    (schedule,) = new.json("schedule", "list")["schedules"]
    assert schedule["name"] == "yearly"
    assert json.loads(delivered.line())["data"]["job_id"] == job_id
    heir.call("remove_schedule", "yearly")


def test_the_last_release_is_the_newest_tag_before_the_checkout(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        name = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "tag.gpgSign=false", "-c", "commit.gpgSign=false")
        subprocess.run(["git", "-C", str(tmp_path), *name, *words], capture_output=True, check=True)

    git("init")
    for tag in ("v0.2.0", "v0.10.0", "v0.11.0"):
        git("commit", "--allow-empty", "--message", tag)
        assert last_release(tmp_path) in {None, "v0.2.0", "v0.10.0"}
        git("tag", tag)
        git("tag", f"page-{tag}")
    assert last_release(tmp_path) == "v0.10.0"
