"""A process that makes or removes a worktree is killed (SIGKILL) before and after each of its steps.

The steps are all calls of git, and all changes of the record and of directories. After each kill another process goes
on: it makes the worktree whole, or leaves nothing of it, and in no case is a file lost that git has not put there.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from supervisor.system.git import Git
from supervisor.worktrees import removing
from supervisor.worktrees.record import Busy, Place
from tests.worktrees.conftest import Repository, Worktrees
from tests.worktrees.test_worktrees import ALL, files_in

SEAMS: tuple[tuple[Any, str], ...] = ((Git, "run"), (Place, "write"), (Place, "forget"), (shutil, "rmtree"))


def _killed_at(step: int, action: Callable[[], object]) -> bool:
    """Run ``action`` in a child that is killed at a step; return ``False`` if it has come to its end before."""
    child = os.fork()
    if child:
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    try:
        left = [step]

        def count() -> None:
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1

        for owner, name in SEAMS:
            function = getattr(owner, name)

            def wrapped(*words: Any, function: Any = function, **named: Any) -> Any:
                count()
                return function(*words, **named)

            setattr(owner, name, wrapped)
        action()
    except BaseException:  # noqa: BLE001  # the child must not go on with the tests
        os._exit(1)
    os._exit(0)


def _left(worktrees: Worktrees, repository: Repository, number: int) -> list[str]:
    """Return what is left of a worktree, but its record: files of the state root, files of git, branches."""
    below = repository.path / ".git/worktrees"
    names = [
        *os.listdir(f"{worktrees.root}/worktrees"),
        *repository.worktrees(),
        *(os.listdir(below) if below.exists() else ()),
        *repository.branches(),
    ]
    return [name for name in names if f"{number:032x}" in name and not name.endswith((".lock", ".json"))]


def test_a_making_that_is_killed_is_repeated_or_undone(worktrees: Worktrees, repository: Repository) -> None:
    repository.write("kept.txt", "dirty\n")
    number = 0
    while True:
        number += 1
        if not _killed_at(number - 1, lambda: worktrees.make(number, "dirty")):  # noqa: B023  # it is called at once
            break
        if number % 2:
            state = worktrees.settle(number)  # its job has ended, without a launch
            assert state in {None, "removed"}, number
            assert not _left(worktrees, repository, number)
        tree = worktrees.make(number, "dirty")  # another process launches it
        assert files_in(tree) == ALL, number
        assert (tree / "kept.txt").read_text() == "dirty\n", number
    assert number > 15


def test_a_making_that_is_repeated_keeps_others_out_to_its_end(
    worktrees: Worktrees, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep in between would delete the view with which git works."""
    repository.write("kept.txt", "dirty\n")
    calls_to_add = 6
    assert _killed_at(calls_to_add, lambda: worktrees.make(1, "dirty"))
    assert (worktrees.place(1).read() or {}).get("state") == "making"
    run, excluded = Git.run, []

    def watched(self: Git, *words: Any, **named: Any) -> Any:
        with pytest.raises(Busy), worktrees.place(1).locked(wait=False):
            pass
        excluded.append(words)
        return run(self, *words, **named)

    monkeypatch.setattr(Git, "run", watched)
    assert files_in(worktrees.make(1, "dirty")) == ALL
    assert len(excluded) > calls_to_add


@pytest.mark.parametrize("work", [False, True])
def test_an_examination_that_is_stopped_is_no_refusal(
    worktrees: Worktrees, monkeypatch: pytest.MonkeyPatch, *, work: bool
) -> None:
    """A supervisor that closes stops its git, at any call."""
    run = Git.run
    for number in range(1, 100):
        tree = worktrees.make(number)
        if work:
            (tree / "new.txt").write_text("x")
        git, left = Git(), number

        def stopped(self: Git, *words: Any, git: Git = git, **named: Any) -> Any:
            nonlocal left
            left -= 1
            if not left:
                git.stop()
            return run(self, *words, **named)

        with monkeypatch.context() as patches:
            patches.setattr(Git, "run", stopped)
            record = removing.settle(worktrees.root, f"{number:032x}", lambda _: False, git, wait=True)
        state = (record or {})["state"]
        if left > 0:
            break
        assert state in {"in_use", "removing"}
        assert worktrees.settle(number) == ("changed" if work else "removed")
    assert number > 5
    assert state == ("changed" if work else "removed")


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENOMEM])
def test_an_examination_for_which_something_is_scarce_is_no_refusal(
    worktrees: Worktrees, repository: Repository, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    tree = worktrees.make(1)

    def scarce(*_: Any, **_named: Any) -> Any:
        raise OSError(error, os.strerror(error))

    with monkeypatch.context() as patches:
        patches.setattr(Git, "run", scarce)
        assert worktrees.settle(1) == "in_use"
    assert worktrees.settle(1) == "removed"
    assert repository.worktrees() == []
    assert not tree.exists()


def test_an_entry_that_a_killed_git_has_left_half_made_is_in_no_other_worktrees_way(
    worktrees: Worktrees, repository: Repository
) -> None:
    """The job of the other one may wait for long, and its launch is what discards it."""
    worktrees.make(1)
    place = worktrees.place(1)
    place.write({**(place.read() or {}), "jobs": []}, state="making")
    (repository.path / f".git/worktrees/{place.id}/commondir").write_text("")
    (made := worktrees.make(2)).joinpath("new.txt").write_text("x")
    assert worktrees.settle(2) == "changed"
    (repository.path / f".git/worktrees/{place.id}").mkdir()
    (repository.path / f".git/worktrees/{place.id}/commondir").write_text("")
    (made / "new.txt").unlink()
    assert worktrees.settle(2, asked=True) == "removed"
    assert files_in(worktrees.make(1)) == ALL


def test_many_worktrees_of_one_repository_are_made_at_a_time(worktrees: Worktrees, repository: Repository) -> None:
    makers = [threading.Thread(target=worktrees.make, args=(number,)) for number in range(1, 9)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    assert len(repository.worktrees()) == len(makers)


def test_a_removal_that_is_killed_is_finished_unless_a_file_has_come(
    worktrees: Worktrees, repository: Repository
) -> None:
    repository.write("kept.txt", "dirty\n")
    number = kept = 0
    while True:
        number += 1
        tree = worktrees.make(number, "dirty")
        if not _killed_at(number - 1, lambda: worktrees.settle(number)):  # noqa: B023  # it is called at once
            break
        if tree.exists() and number % 2:
            (tree / "below/late.txt").write_text("precious\n")
            (tree / "kept.txt").write_text("precious, too\n")
            assert worktrees.settle(number) == "changed", number
            assert (tree / "below/late.txt").read_text() == "precious\n", number
            assert (tree / "kept.txt").read_text() == "precious, too\n", number
            shutil.rmtree(tree / "below")
            repository.git("checkout", "-q", "HEAD", ".", where=tree)
            kept += 1
        assert worktrees.settle(number, asked=True) == "removed", number
        assert not _left(worktrees, repository, number)
    assert number > 15
    assert kept > 5


@pytest.mark.parametrize("files", ["none", "half", "torn"])
def test_what_git_had_deleted_is_restored(worktrees: Worktrees, repository: Repository, files: str) -> None:
    tree = worktrees.make(1)
    place = worktrees.place(1)
    record = place.read()
    assert record is not None
    place.write(record, state="removing")
    if files != "none":
        (tree / ".git").unlink()
        (tree / "kept.txt").unlink()
    if files == "torn":
        (tree / "below/late.txt").write_text("precious\n")
    assert worktrees.settle(1) == ("changed" if files == "torn" else "removed")
    if files == "torn":
        assert files_in(tree) == ALL | {"below/late.txt"}
    else:
        assert not _left(worktrees, repository, 1)


def test_a_git_that_outlives_its_caller_holds_the_lock(
    worktrees: Worktrees, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, real = tmp_path / "gate", shutil.which("git")
    os.mkfifo(gate)
    shim = tmp_path / "bin/git"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\ncase "$*" in *read-tree*) read line < {gate};; esac\nexec {real} "$@"\n')
    shim.chmod(shim.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{shim.parent}{os.pathsep}{os.environ['PATH']}")
    program = "import sys; from tests.worktrees.test_kills import make_alone; make_alone(*sys.argv[1:])"
    command = [sys.executable, "-c", program, worktrees.root, str(worktrees.repository.path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    caller = subprocess.Popen(command, env=environment)
    with gate.open("w") as opened:  # once git is at the gate
        caller.kill()
        caller.wait()
        with pytest.raises(Busy), worktrees.place(1).locked(wait=False):
            pass
        monkeypatch.setenv("PATH", os.environ["PATH"].partition(os.pathsep)[2])
        second = threading.Thread(target=worktrees.make, args=(1,))
        second.start()
        opened.write("go\n")
    second.join()
    assert files_in(Path(worktrees.place(1).tree)) == ALL
    assert worktrees.settle(1) == "removed"


def make_alone(root: str, repository: str) -> None:
    """Make worktree 1, in a process of its own."""
    Worktrees(root, Repository(Path(repository))).make(1)
