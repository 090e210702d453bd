"""This version and an earlier one share the groups of a state root; jobs that only this one understands wait."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from supervisor.keeper.helper_starts import lock_name, take_lock
from supervisor.system import processes
from tests.process.conftest import PACKAGE, PATIENCE, World
from tests.process.test_groups import held
from tests.process.test_two_versions import Version, last_package, package_of, versions

__all__ = ["last_package", "versions"]  # fixtures

GROUPS_ONLY = "e252917"
"""A commit that knows groups, and nothing else that a job can wait for."""

pytestmark = pytest.mark.skipif(not processes.HAVE_PROC, reason="needs Linux")


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if not path.is_symlink()}


def test_a_limit_holds_over_both(versions: tuple[Version, Version]) -> None:
    """Each supervisor launches its own jobs, whichever ends the job before."""
    first, second = versions
    world = first.world
    assert first.run("group", "set", "g", "--limit", "1").returncode == 0
    hosts, gate, up = [first.host(), second.host()], world.fifo(), world.fifo()
    jobs = [hosts[n % 2].call("start", list(held(gate, up, str(n))), groups=["g"]) for n in range(4)]
    assert [job["status"] for job in jobs] == ["running"] + 3 * ["queued"]
    for version in versions:
        assert [version.json("status", job["job_id"])["queue_position"] for job in jobs] == [None, 1, 2, 3]
    for number in range(4):
        assert up.line() == str(number)
        assert up.silent
        gate.open()
    for version in versions:
        (group,) = version.json("group", "list")["groups"]
        ended = [version.json("wait", job["job_id"])["status"] for job in jobs]
        assert ended == 4 * ["done"]
    assert (group["running"], group["waiting"]) == (0, 0)


def test_the_waiting_jobs_of_a_killed_supervisor_are_launched_by_the_other_version(
    versions: tuple[Version, Version],
) -> None:
    first, second = versions
    world = first.world
    assert second.run("group", "set", "g", "--limit", "2").returncode == 0
    host, gate, up = first.host(), world.fifo(), world.fifo()
    jobs = [host.start(*held(gate, up, str(number)), groups=["g"]) for number in range(5)]
    assert {up.line(), up.line()} == {"0", "1"}
    host.kill()
    heir = second.host()
    gate.open(5)
    assert sorted(up.line() for _ in range(3)) == ["2", "3", "4"]
    assert {heir.call("wait", job_id)["status"] for job_id in jobs} == {"done"}
    assert {first.json("wait", job_id)["status"] for job_id in jobs} == {"done"}


class Later:
    """Jobs that this version has made, and that may not run yet; no process of this version is left.

    ``in_groups``: some of them are in a group as well. The other version does not know that they wait for anything else
    when it has to make the index anew.
    """

    def __init__(self, world: World, old: Version, this: Version, *, in_groups: bool) -> None:
        assert old.run("group", "set", "g", "--limit", "1").returncode == 0
        self.gate, self.up = world.fifo(), world.fifo()
        self.world = world
        host = this.host()
        self.first = host.start(*held(self.gate, self.up, "first"), groups=["g"])
        assert self.up.line() == "first"
        group = {"groups": ["g"]} if in_groups else {}
        options: list[dict[str, Any]] = [
            {"after": [self.first]},
            {"after": [self.first], **group},
            {"after": [("failed", self.first)]},
            {"hold": True},
            {"hold": True, **group},
            {"delay_seconds": 3600},
            {"delay_seconds": 3600, **group},
        ]
        self.jobs = [host.start(*held(self.gate, self.up, "later"), **each) for each in options]
        host.kill()
        self.before = [content(world.job(job_id)) for job_id in self.jobs]

    def is_untouched(self) -> bool:
        return [content(self.world.job(job_id)) for job_id in self.jobs] == self.before


@pytest.fixture(scope="session")
def old_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return package_of(GROUPS_ONLY, tmp_path_factory.mktemp("old"))


@pytest.fixture
def old(world: World, old_package: Path) -> Version:
    return Version(world, old_package)


@pytest.fixture
def this(world: World) -> Version:
    return Version(world, PACKAGE)


@pytest.mark.parametrize("index", ["kept", "lost"])
def test_a_version_that_knows_only_groups_leaves_jobs_alone_that_may_not_run_yet(
    world: World, old: Version, this: Version, index: str
) -> None:
    world.root.mkdir(mode=0o700, exist_ok=True)
    lock = take_lock(f"{world.root}/{lock_name()}")  # or a keeper of this version starts the process that launches them
    assert lock is not None
    later = Later(world, old, this, in_groups=index == "kept")
    if index == "lost":
        for name in ("registry.db", "registry.db-wal", "registry.db-shm"):
            (world.root / name).unlink(missing_ok=True)
    host = old.host()
    for job_id in later.jobs:
        assert old.status(job_id) == ("queued", None)
        assert host.call("wait", job_id, timeout=0) in {"job_running", "job_elsewhere"}
    assert old.run("prune").returncode == 0
    later.gate.open()
    assert host.call("wait", later.first, timeout=PATIENCE)["status"] == "done"
    other = host.start(*held(later.gate, later.up, "other"), groups=["g"])
    assert later.up.line() == "other"
    later.gate.open()
    assert host.call("wait", other, timeout=PATIENCE)["status"] == "done"
    assert len(old.json("list", "--state", "queued")["jobs"]) == len(later.jobs)
    host.leave()
    assert later.is_untouched()

    os.close(lock)
    heir = this.host()
    assert [later.up.line() for _ in range(2)] == ["later"] * 2
    later.gate.open(2)
    ended = [heir.call("wait", job_id, timeout=PATIENCE) for job_id in later.jobs[:3]]
    assert [(job["status"], job["reason"]) for job in ended] == [
        ("done", "exited"),
        ("done", "exited"),
        ("cancelled", "dependency_failed"),
    ]
    waiting = [heir.call("status", job_id)["queue_reason"] for job_id in later.jobs[3:]]
    assert waiting == ["held", "held", "not_before", "not_before"]
    assert later.up.silent
    for job_id in later.jobs[3:]:
        assert heir.call("cancel", job_id)["status"] == "cancelled"
    assert not any((world.job(job_id) / name).exists() for job_id in later.jobs for name in ("orders", "granted"))
    assert os.listdir(world.root / "groups") == ["g.json"]
