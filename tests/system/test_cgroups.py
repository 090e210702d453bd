"""Where control groups can be made, and what they say: on trees of files, since no machine has every kind."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from supervisor.keeper.tree_killer import Stop, TreeKiller
from supervisor.system import cgroups
from supervisor.system.cgroups import TreeGroup

JOB = "0123456789abcdef0123456789abcdef"


class Machine:
    """What this process would read of itself on another machine."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self._mounts: list[str] = []
        self._groups: list[str] = []
        read = cgroups.read

        def read_here(path: str) -> str:
            if path == "/proc/self/mountinfo":
                return "\n".join(self._mounts)
            return "\n".join(self._groups) if path == "/proc/self/cgroup" else read(path)

        monkeypatch.setattr(cgroups, "read", read_here)

    def _group(self, path: str, files: dict[str, str]) -> Path:
        directory = self.root / path.lstrip("/")
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in {"cgroup.procs": "", **files}.items():
            (directory / name).write_text(text)
        return directory

    def unified(self, path: str, *, controllers: str = "", enabled: str = "", procs: str = "", root: str = "/") -> Path:
        """Add the hierarchy of version 2, with this process in ``path``."""
        self._mounts.append(f"31 23 0:28 {root} {self.root}/v2 rw - cgroup2 cgroup2 rw")
        self._groups.append(f"0::{path}")
        below = path.removeprefix(root) if root != "/" else path
        return self.above(
            f"v2{below}",
            **{"cgroup.controllers": controllers, "cgroup.subtree_control": enabled, "cgroup.procs": procs},
        )

    def above(self, path: str, **files: str) -> Path:
        return self._group(path, files)

    def old(self, name: str, path: str) -> Path:
        """Add a hierarchy of version 1."""
        self._mounts.append(f"35 31 0:32 / {self.root}/{name} rw - cgroup cgroup rw,{name}")
        self._groups.append(f"4:{name}:{path}")
        return self._group(f"{name}{path}", {"tasks": ""})


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def places(*, spawns_into: bool = True) -> tuple[str | None, dict[str, str], dict[str, str]]:
    found = cgroups.find_places(spawns_into=spawns_into)
    limits = {name: place.directory for name, place in found.limits.items()}
    return found.tree and found.tree.directory, limits, found.missing


def test_a_machine_without_control_groups(machine: Machine) -> None:
    del machine
    tree, limits, missing = places()
    assert (tree, limits) == (None, {})
    assert missing.keys() == {"tree", "memory", "cpu", "pids"}


def test_on_a_hybrid_machine_the_limits_are_where_the_controllers_are(machine: Machine) -> None:
    own = machine.unified("/")
    memory, pids, freezer = (machine.old(name, "/x") for name in ("memory", "pids", "freezer"))
    tree, limits, missing = places()
    assert tree == str(own)
    assert limits == {"memory": str(memory), "pids": str(pids)}
    assert missing.keys() == {"cpu"}
    assert places(spawns_into=False)[0] == str(freezer)


def test_a_delegated_group_that_is_alone_moves_down_and_uses_its_controllers(machine: Machine) -> None:
    own = machine.unified("/a.scope", controllers="cpu memory pids io", procs=f"{os.getpid()}\n")
    # The kernel makes these files.
    (own / f"keeper-{os.getpid()}").mkdir()
    (own / f"keeper-{os.getpid()}" / "cgroup.procs").write_text("")
    tree, limits, missing = places()
    assert (tree, missing) == (str(own), {})
    assert limits == dict.fromkeys(("memory", "cpu", "pids"), str(own))
    assert (own / "cgroup.subtree_control").read_text() == "+memory +cpu +pids"
    assert (own / f"keeper-{os.getpid()}" / "cgroup.procs").read_text() == "0"


def test_a_delegated_group_with_other_processes_cannot_limit_and_says_so_before_and_after(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = machine.unified("/a.service", controllers="cpu memory pids", procs=f"1\n{os.getpid()}\n")
    (own / "cgroup.type").write_text("domain\n")

    def write(path: str, _: str) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), path)

    monkeypatch.setattr(cgroups, "write", write)
    said = f"{own} holds 2 processes itself, so that its controllers cannot be used below it"
    for prepare in (False, True):
        found = cgroups.find_places(spawns_into=True, prepare=prepare, mover=os.getpid())
        assert (found.limits, found.crowded) == ({}, True)
        assert found.missing == dict.fromkeys(("memory", "cpu", "pids"), said)


def test_a_keeper_that_is_alone_moves_but_one_that_is_still_to_be_started_is_not_alone(machine: Machine) -> None:
    own = machine.unified("/a.service", controllers="memory", procs=f"{os.getpid()}\n")
    (own / "cgroup.type").write_text("domain\n")

    def crowded(mover: int) -> bool:
        return cgroups.find_places(spawns_into=True, prepare=False, mover=mover).crowded

    assert [crowded(os.getpid()), crowded(0)] == [False, True]
    (own / "cgroup.type").unlink()  # the root of all control groups may hold processes, too
    assert not crowded(0)


def test_a_unit_whose_processes_are_in_a_part_of_it_uses_the_controllers_of_the_unit(machine: Machine) -> None:
    own = machine.unified("/user.slice/a.service/main", controllers="", procs="1\n2\n")
    unit = machine.above(
        "v2/user.slice/a.service", **{"cgroup.controllers": "memory pids", "cgroup.subtree_control": ""}
    )
    tree, limits, missing = places()
    assert tree == str(own)
    assert limits == dict.fromkeys(("memory", "pids"), str(unit))
    assert missing.keys() == {"cpu"}


def test_what_is_above_the_unit_is_left_alone(machine: Machine) -> None:
    machine.unified("/app.slice/a.scope", controllers="", procs="1\n2\n")
    machine.above("v2/app.slice", **{"cgroup.controllers": "memory pids", "cgroup.subtree_control": "memory pids"})
    assert places()[1] == {}


def test_a_group_that_is_not_below_the_mount_is_no_place(machine: Machine) -> None:
    machine.unified("/elsewhere", root="/container", controllers="memory")
    assert places()[0] is None


def group(root: Path, **files: str) -> TreeGroup:
    directory = root / f"job-{JOB}"
    directory.mkdir()
    for name, text in {"cgroup.procs": "", "cgroup.events": "populated 0\nfrozen 0\n", **files}.items():
        (directory / name).write_text(text)
    found = TreeGroup.of_record(str(directory), JOB)
    assert found is not None
    return found


@pytest.mark.parametrize(
    "recorded", [None, 7, "", f"job-{JOB}", "/etc", "/x/job-ffffffffffffffffffffffffffffffff", f"/gone/job-{JOB}"]
)
def test_a_record_that_names_no_group_of_the_job_is_not_believed(recorded: object) -> None:
    assert TreeGroup.of_record(recorded, JOB) is None


def test_the_processes_of_a_job_are_those_of_its_group_and_below_but_not_those_of_another_keeper(
    tmp_path: Path,
) -> None:
    tree = group(tmp_path, **{"cgroup.procs": "11\n12\n"})
    for name, pid in (("nested", 13), ("supervisor.1.2.boot.ns", 14)):
        (tmp_path / f"job-{JOB}" / name).mkdir()
        (tmp_path / f"job-{JOB}" / name / "cgroup.procs").write_text(f"{pid}\n")
    assert sorted(tree.pids()) == [11, 12, 13]
    assert tree.has_keepers()


def test_a_group_that_cannot_be_read_is_not_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = Stop(JOB, 2**22 + 1, 1, 5, lambda _: None, signalled_ns=1, tree=group(tmp_path))
    stop.spare_search()
    killer = TreeKiller()
    killer.add(stop)

    def read(path: str) -> str:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)

    with monkeypatch.context() as patch:
        patch.setattr(cgroups, "read", read)
        assert killer.tick() == []
        assert killer.incomplete is not None
    killer.hurry(stop)
    assert killer.tick() == [stop]
