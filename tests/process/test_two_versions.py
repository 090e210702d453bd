"""This version and the last landed one use one state root at the same time, and each takes over from the other."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.process.conftest import PACKAGE, Fifo, Host, World, environment

LAST = "3e590fd68596cf565d74c7458c5f4859665453a0"
"""The last landed commit before this one: a commit that lands next moves it on."""
PATIENCE = 60


@attrs.frozen
class Version:
    """A version of the package, with programs on the state root of the test."""

    world: World
    package: Path

    def host(self) -> Host:
        return self.world.host(package=self.package)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "supervisor", *words],
            env=environment(self.package),
            cwd=self.world.directory,
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
    """The package of the last landed commit, in a directory of its own."""
    return package_of(LAST, tmp_path_factory.mktemp("last"))


def package_of(commit: str, package: Path) -> Path:
    """Extract the package of a commit into a directory."""
    here = Path(__file__).parents[2]
    command = ["git", "-C", str(here), "archive", commit, "supervisor"]
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


def test_a_series_is_left_to_the_version_that_knows_retries(last_package: Path, world: World) -> None:
    """The last version neither records the end of an attempt nor launches the next one, and shows both."""
    if "retry" in (last_package / "supervisor" / "jobdir" / "validation.py").read_text():
        pytest.skip("the last version knows retries")
    old, new = Version(world, last_package), Version(world, PACKAGE)
    host, fifo = new.host(), world.fifo()
    policy = {"maximum_attempts": 2, "initial_interval": 3600, "retry_on": ["job_failed"]}
    job_id = host.start("sh", "-c", f"read line < {fifo}; exit 7", retry=policy)
    leader = world.leader(job_id)
    host.kill()
    fifo.open()
    assert leader.ended()
    old_host = old.host()
    assert old.status(job_id) == ("failed", "nonzero_exit")  # by the evidence; nothing is recorded
    assert old.run("prune", "--all").returncode == 0
    assert [row.state for row in world.catalog.index.unfinished()] in (["queued"], ["running"])
    assert new.status(job_id) == ("failed", "nonzero_exit")
    second = new.json("status", job_id)["retried_by"]
    assert old.status(second) == new.status(second) == ("queued", None)
    assert old_host.answered(old_host.ask("status", job_id)) in {True, False}
    assert new.json("cancel", job_id)["status"] == "cancelled"
    assert old.status(second) == ("cancelled", "cancelled")
