"""The control groups that a keeper makes for a job, on directories that stand for hierarchies."""

from __future__ import annotations

import errno
import os
import select
from pathlib import Path

import pytest

from supervisor.keeper import job_cgroups, spawn
from supervisor.keeper.job_cgroups import JobCgroups
from supervisor.system import cgroups, scopes

JOB = "0123456789abcdef0123456789abcdef"
CLAIM = f"keeper.{os.getpid()}.1.boot.ns"


class Kernel:
    """Takes what is written, and refuses what it is to refuse."""

    def __init__(self) -> None:
        self.written: dict[str, str] = {}
        self.refused: set[str] = set()

    def write(self, path: str, text: str) -> None:
        if any(word in path for word in self.refused):
            raise OSError(errno.EPERM, os.strerror(errno.EPERM), path)
        self.written[path] = text


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    monkeypatch.setattr(cgroups, "write", made.write)
    return made


def keeper(monkeypatch: pytest.MonkeyPatch, tree: cgroups.Place | None, **limits: cgroups.Place) -> JobCgroups:
    places = cgroups.Places()
    places.tree, places.limits = tree, limits
    places.missing = {name: "it is not here" for name in cgroups.CONTROLLERS if name not in limits}
    monkeypatch.setattr(cgroups, "find_places", lambda **_: places)
    made = JobCgroups(CLAIM)
    made.open()
    return made


def place(tmp_path: Path, name: str, version: int) -> cgroups.Place:
    (tmp_path / name).mkdir(parents=True)
    if version == 1:
        (tmp_path / name / "tasks").touch()
    return cgroups.Place(str(tmp_path / name), version)


def test_in_version_2_a_job_has_one_group_where_its_limits_can_be_set(
    kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = place(tmp_path, "a.service", 2)
    made = keeper(monkeypatch, place(tmp_path, "a.service/main", 2), memory=unit, pids=unit)
    leaf = made.begin(JOB, (200 << 20, None, 50, True))
    assert leaf is not None
    directory = f"{unit.directory}/supervisor.{os.getpid()}.1.boot.ns/limited/job-{JOB}"
    assert leaf.directories == [directory]
    assert leaf.tree is not None
    assert leaf.tree.directory == directory
    assert kernel.written[f"{directory}/memory.max"] == str(200 << 20)
    assert kernel.written[f"{directory}/memory.oom.group"] == "1"
    assert kernel.written[f"{directory}/pids.max"] == "50"
    made.end(leaf)
    made.close()
    assert os.listdir(unit.directory) == ["main"]


def test_a_limit_that_cannot_be_set_prevents_the_launch_or_is_ignored(
    kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = keeper(monkeypatch, None, memory=place(tmp_path, "memory", 1))
    with pytest.raises(spawn.LaunchError, match="limit on pids cannot be set: it is not here") as caught:
        made.begin(JOB, (200 << 20, None, 50, True))
    assert caught.value.repair == job_cgroups.MISSING_REPAIR
    made.flush()
    leaf = made.begin(JOB, (200 << 20, None, 50, False))
    assert leaf is not None
    assert leaf.ignored == ["pids"]
    made.end(leaf)
    made.flush()
    kernel.refused.add("memory.limit_in_bytes")
    with pytest.raises(spawn.LaunchError, match="limit on memory cannot be set"):
        made.begin(JOB, (200 << 20, None, None, True))


@pytest.mark.parametrize(("refused", "required"), [("freezer", True), ("pids", True), ("pids", False)])
def test_a_group_that_cannot_be_entered(
    kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str, *, required: bool
) -> None:
    made = keeper(monkeypatch, place(tmp_path, "freezer", 1), pids=place(tmp_path, "pids", 1))
    leaf = made.begin(JOB, (None, None, 50, required))
    assert leaf is not None
    kernel.refused.add(f"/{refused}/supervisor.")
    if required and refused == "pids":
        with pytest.raises(spawn.LaunchError, match="cannot enter its control group"):
            leaf.spawn(lambda: 7)
    else:
        assert leaf.spawn(lambda: 7) == 7
        assert (leaf.tree is None, leaf.ignored) == ((True, []) if refused == "freezer" else (False, ["pids"]))
    entered = {"freezer", "pids"} - {refused}
    job = f"/supervisor.{os.getpid()}.1.boot.ns/job-{JOB}/tasks"
    assert entered == {name for name in ("freezer", "pids") if f"{tmp_path}/{name}{job}" in kernel.written}
    left = {name for name in ("freezer", "pids") if (tmp_path / name / "tasks").read_text()}
    assert left >= entered


def test_a_process_that_was_spawned_is_known_whatever_fails_after_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = keeper(monkeypatch, place(tmp_path, "freezer", 1))
    leaf = made.begin(JOB, None)
    assert leaf is not None
    monkeypatch.setattr(cgroups, "write", lambda *_: None)
    write, failures = os.write, iter([OSError(errno.EIO, "")] * 8)

    def fail_at_first(descriptor: int, data: bytes) -> int:
        for error in failures:
            raise error
        return write(descriptor, data)

    monkeypatch.setattr(job_cgroups.os, "write", fail_at_first)
    assert leaf.spawn(lambda: 7) == 7
    assert (tmp_path / "freezer" / "tasks").read_text() == "0", "the calling thread has left"


@pytest.mark.parametrize("can_rename", [True, False])
def test_in_version_1_the_next_control_group_is_made_in_advance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, can_rename: bool
) -> None:
    hierarchy = place(tmp_path, "freezer", 1)
    made = keeper(monkeypatch, hierarchy)
    base = tmp_path / "freezer" / f"supervisor.{os.getpid()}.1.boot.ns"
    leaves = [made.begin(JOB, None)]
    made.flush()
    spare = (base / "spare").stat().st_ino
    if not can_rename:

        def refuse(*_: object) -> None:
            raise PermissionError

        monkeypatch.setattr(os, "rename", refuse)
    leaves += [made.begin(JOB[::-1], None), made.begin(JOB[1:], None)]  # the last one finds none
    assert ((base / f"job-{JOB[::-1]}").stat().st_ino == spare) is can_rename
    assert (base / f"job-{JOB[1:]}").is_dir()
    made.flush()
    for leaf in leaves:
        assert leaf is not None
        made.end(leaf)
    made.close()
    assert os.listdir(hierarchy.directory) == ["tasks"]


@pytest.mark.skipif(not hasattr(os, "eventfd"), reason="the kernel of Linux sets such alarms")
@pytest.mark.parametrize("killed", [0, 1])
def test_an_alarm_tells_what_the_kernel_has_ended_before_it_was_set(
    kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: int
) -> None:
    leaf = keeper(monkeypatch, None, memory=place(tmp_path, "memory", 1)).begin(JOB, (1 << 20, None, None, True))
    assert leaf is not None
    counts = f"oom_kill_disable 0\nunder_oom 0\noom_kill {killed}\n"
    Path(leaf.directories[0], "memory.oom_control").write_text(counts, encoding="ascii")
    alarm = leaf.set_alarm()
    assert alarm is not None
    assert f"{leaf.directories[0]}/cgroup.event_control" in kernel.written
    assert bool(select.select([alarm], [], [], 0)[0]) is bool(killed)
    leaf.close()


def test_what_a_manager_that_is_busy_did_not_say_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[scopes.ScopeError | None] = [scopes.ScopeError("it does not answer", may_pass=True), None]

    def enter() -> None:
        if (answer := answers.pop(0)) is not None:
            raise answer

    def is_directory(path: str) -> bool:
        return path == "/run/systemd/system"

    monkeypatch.setattr(os.path, "isdir", is_directory)
    monkeypatch.setattr(scopes, "enter", enter)
    made = keeper(monkeypatch, None)
    assert not made.is_sure
    assert "it does not answer" in made.missing["memory"]
    with pytest.raises(spawn.LaunchError) as raised:
        made.begin(JOB, (1 << 20, None, None, True))
    assert not raised.value.final
    made.open()
    assert made.is_sure
    assert not answers
