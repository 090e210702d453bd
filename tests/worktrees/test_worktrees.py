"""Worktrees are made as they were asked for; work in one keeps it; one without work leaves nothing behind."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from supervisor.errors import LaunchFailed
from supervisor.system.git import Git
from supervisor.worktrees.changes import changes_in, write_diff
from supervisor.worktrees.making import make
from tests.worktrees.conftest import Repository, Worktrees


def files_in(tree: Path) -> set[str]:
    return {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file() and path.name != ".git"}


ALL = {"kept.txt", "below/other.txt", ".gitignore"}


def test_head_is_the_last_commit(worktrees: Worktrees, repository: Repository) -> None:
    repository.write("kept.txt", "changed\n")
    tree = worktrees.make(1)
    assert files_in(tree) == ALL
    assert (tree / "kept.txt").read_text() == "one\ntwo\n"
    assert repository.git("status", "--porcelain", where=tree) == ""
    assert f"supervisor/{1:032x}" in repository.branches()
    assert repository.git("worktree", "list", "--porcelain").count(f"locked supervisor job {1:032x}") == 1


def test_dirty_has_the_tracked_changes_and_leaves_the_index_alone(worktrees: Worktrees, repository: Repository) -> None:
    repository.write("kept.txt", "changed\n")
    repository.write("staged.txt", "new\n")
    repository.write("untracked.txt", "not asked for\n")
    repository.git("add", "staged.txt")
    repository.git("rm", "-q", "below/other.txt")
    before = repository.git("status", "--porcelain"), (repository.path / ".git/index").read_bytes()
    tree = worktrees.make(1, "dirty")
    assert files_in(tree) == {"kept.txt", "staged.txt", ".gitignore"}
    assert (tree / "kept.txt").read_text() == "changed\n"
    assert (repository.git("status", "--porcelain"), (repository.path / ".git/index").read_bytes()) == before
    assert worktrees.settle(1) == "removed"
    assert not tree.exists()


@pytest.mark.parametrize("origin", ["head", "dirty"])
def test_a_file_that_was_written_again_with_the_same_content_is_no_work(
    worktrees: Worktrees, repository: Repository, origin: str
) -> None:
    repository.write("kept.txt", "changed\n")
    tree = worktrees.make(1, origin)
    for name in ("kept.txt", "below/other.txt"):
        os.utime(tree / name, (1, 1))
    assert worktrees.settle(1) == "removed"


def test_fresh_is_the_default_branch_of_origin(worktrees: Worktrees, repository: Repository, tmp_path: Path) -> None:
    origin = tmp_path / "origin"
    repository.git("clone", "-q", "--bare", str(repository.path), str(origin))
    repository.git("remote", "add", "origin", str(origin))
    repository.git("fetch", "-q", "origin")
    repository.git("remote", "set-head", "origin", "--auto")
    repository.write("later.txt", "x")
    repository.commit()
    assert files_in(worktrees.make(1, "fresh")) == ALL
    assert files_in(worktrees.make(2)) == ALL | {"later.txt"}
    assert "branch." not in repository.git("config", "--list", "--local").replace("branch.main", "")


def test_no_default_branch_is_told(worktrees: Worktrees) -> None:
    with pytest.raises(LaunchFailed, match="`git remote set-head origin --auto` make it known"):
        worktrees.make(1, "fresh")
    assert os.listdir(f"{worktrees.root}/worktrees") == [f"{1:032x}.lock"]


def test_no_commit_is_told(worktrees: Worktrees, repository: Repository, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    repository.git("init", "-q", where=empty)
    request = {**worktrees.request(1), "workspace": str(empty)}
    with pytest.raises(LaunchFailed, match="has no commit yet"):
        make(worktrees.root, request, f"{1:032x}", Git())


def _new_file(tree: Path, _: Repository) -> None:
    (tree / "new.txt").write_text("")


def _changed(tree: Path, _: Repository) -> None:
    (tree / "kept.txt").write_text("one\ntwo\nthree\n")


def _deleted(tree: Path, _: Repository) -> None:
    (tree / "kept.txt").unlink()


def _staged(tree: Path, repository: Repository) -> None:
    (tree / "kept.txt").write_text("staged\n")
    repository.git("add", "kept.txt", where=tree)
    (tree / "kept.txt").write_text("one\ntwo\n")


def _committed(tree: Path, repository: Repository) -> None:
    (tree / "kept.txt").write_text("committed\n")
    repository.commit(where=tree)


def _committed_and_taken_back(tree: Path, repository: Repository) -> None:
    _committed(tree, repository)
    repository.git("reset", "-q", "--hard", "HEAD~1", where=tree)


def _committed_on_a_detached_head(tree: Path, repository: Repository) -> None:
    repository.git("checkout", "-q", "--detach", where=tree)
    _committed(tree, repository)


def _ignored(tree: Path, _: Repository) -> None:
    (tree / "ignored").mkdir()
    (tree / "ignored/result").write_text("precious")


def _hidden(tree: Path, repository: Repository) -> None:
    repository.git("update-index", "--assume-unchanged", "kept.txt", where=tree)
    (tree / "kept.txt").write_text("hidden\n")


def _skipped(tree: Path, repository: Repository) -> None:
    repository.git("update-index", "--skip-worktree", "kept.txt", where=tree)
    (tree / "kept.txt").write_text("hidden\n")


def _excluded(tree: Path, repository: Repository) -> None:
    repository.write(".git/info/exclude", "*\n")
    (tree / "excluded").write_text("hidden\n")


def _repository(tree: Path, repository: Repository) -> None:
    repository.git("init", "-q", "inner", where=tree)


def _mode(tree: Path, _: Repository) -> None:
    (tree / "kept.txt").chmod(0o755)


def _link(tree: Path, _: Repository) -> None:
    (tree / "kept.txt").unlink()
    (tree / "kept.txt").symlink_to("below/other.txt")


def _index(tree: Path, repository: Repository) -> None:
    Path(repository.git("rev-parse", "--git-path", "index", where=tree).strip()).unlink()


WORK: list[Callable[[Path, Repository], None]] = [
    *(_new_file, _changed, _deleted, _staged, _committed, _committed_and_taken_back, _committed_on_a_detached_head),
    *(_ignored, _hidden, _skipped, _excluded, _repository, _mode, _link, _index),
]


@pytest.mark.parametrize("work", WORK, ids=lambda work: work.__name__[1:])
@pytest.mark.parametrize("origin", ["head", "dirty"])
def test_work_keeps_a_worktree(
    worktrees: Worktrees, repository: Repository, work: Callable[[Path, Repository], None], origin: str
) -> None:
    repository.write("below/other.txt", "dirty\n")
    tree = worktrees.make(1, origin)
    work(tree, repository)
    before = files_in(tree)
    assert worktrees.settle(1) == "changed"
    assert worktrees.settle(1) == "changed"
    assert files_in(tree) == before
    assert f"supervisor/{1:032x}" in repository.branches()


@pytest.mark.parametrize("work", WORK, ids=lambda work: work.__name__[1:])
def test_a_removal_that_a_user_asks_for_loses_no_work_either(
    worktrees: Worktrees, repository: Repository, work: Callable[[Path, Repository], None]
) -> None:
    tree = worktrees.make(1)
    work(tree, repository)
    worktrees.settle(1)
    committed = work in {_committed, _committed_and_taken_back}
    state = worktrees.settle(1, asked=True)
    if committed or work in {
        _ignored,
        _excluded,
    }:  # a branch has it, or a user does not want it
        assert state == "removed"
        assert (f"supervisor/{1:032x}" in repository.branches()) is (work is _committed)
    else:
        assert state == "changed"
        assert tree.exists()
        assert repository.git("worktree", "list", "--porcelain").count("locked") == 1


def test_an_unchanged_worktree_leaves_nothing(worktrees: Worktrees, repository: Repository) -> None:
    tree = worktrees.make(1)
    (tree / "ignored").mkdir()
    (tree / "ignored/empty").touch()
    (tree / "empty").mkdir()
    os.utime(tree / "kept.txt")
    assert worktrees.settle(1, busy=True) == "in_use"
    assert worktrees.settle(1) == "removed"
    assert not tree.exists()
    assert repository.branches() == ["main"]
    assert repository.worktrees() == []
    assert not os.listdir(repository.path / ".git/worktrees")


def test_changes_are_counted_and_shown(worktrees: Worktrees, repository: Repository) -> None:
    repository.write("kept.txt", "dirty\n")
    tree = worktrees.make(1, "dirty")
    (tree / "new.txt").write_text("1\n2\n")
    (tree / "below/other.txt").unlink()
    _committed(tree, repository)
    (tree / "later.txt").write_text("x\n")
    worktrees.settle(1)
    record = worktrees.place(1).read()
    assert record is not None
    changes = changes_in(record)
    assert changes is not None
    assert (changes.files, changes.insertions, changes.deletions, changes.commits) == (4, 4, 2, 1)
    diff = write_diff(Git(), worktrees.place(1), record, None, 10_000).decode()
    assert "-dirty\n+committed\n" in diff
    assert "+++ b/later.txt" in diff
    repository.commit(where=tree)
    assert worktrees.settle(1, asked=True) == "removed"
    assert "+++ b/later.txt" in write_diff(Git(), worktrees.place(1), record, None, 10_000).decode()


def test_one_that_was_removed_is_made_again_at_the_same_place(worktrees: Worktrees, repository: Repository) -> None:
    tree = worktrees.make(1)
    assert worktrees.settle(1) == "removed"
    repository.write("later.txt", "x")
    repository.commit()
    assert worktrees.make(1) == tree
    assert files_in(tree) == ALL  # where it began
    _committed(tree, repository)
    assert worktrees.settle(1) == "changed"
    assert worktrees.settle(1, asked=True) == "removed"
    worktrees.make(1)
    assert (tree / "kept.txt").read_text() == "committed\n"


def test_a_worktree_that_another_program_has_removed_is_missing(worktrees: Worktrees, repository: Repository) -> None:
    tree = worktrees.make(1)
    repository.git("worktree", "unlock", str(tree))
    repository.git("worktree", "remove", str(tree))
    assert worktrees.settle(1) == "missing"
    with pytest.raises(LaunchFailed, match="is not there any more"):
        worktrees.make(1)
    assert worktrees.settle(1, asked=True) == "removed"


PROGRAMS = {
    "core.fsmonitor": "touch {0}; false",
    "filter.x.clean": "touch {0}; cat",
    "filter.x.smudge": "touch {0}; cat",
    "filter.x.process": "touch {0}; false",
    "diff.x.textconv": "touch {0}; cat",
    "diff.x.command": "touch {0}; cat",
    "diff.external": "touch {0}; cat",
}


def test_git_runs_no_program_of_the_repository(worktrees: Worktrees, repository: Repository, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    repository.write(".gitattributes", "* filter=x diff=x\n")
    repository.commit()
    for name, value in PROGRAMS.items():
        repository.git("config", name, value.format(mark))
    for hook in ("post-checkout", "post-index-change", "reference-transaction", "pre-commit"):
        path = repository.path / ".git/hooks" / hook
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\ntouch {mark}\n")
        path.chmod(0o755)
    repository.write("kept.txt", "changed\n")
    tree = worktrees.make(1, "dirty")
    (tree / "kept.txt").write_text("changed again\n")
    (tree / "new.txt").write_text("x\n")
    assert worktrees.settle(1) == "changed"
    record = worktrees.place(1).read()
    assert record is not None
    assert b"changed again" in write_diff(Git(), worktrees.place(1), record, None, 10_000)
    (tree / "kept.txt").write_text("changed\n")
    (tree / "new.txt").unlink()
    assert worktrees.settle(1, asked=True) == "removed"
    assert not mark.exists()


def test_a_view_leaves_no_files(worktrees: Worktrees) -> None:
    worktrees.make(1)
    worktrees.settle(1)
    assert sorted(os.listdir(f"{worktrees.root}/worktrees")) == [f"{1:032x}.json", f"{1:032x}.lock"]


@pytest.mark.parametrize("work", [False, True])
def test_git_learns_that_the_state_root_was_moved(
    worktrees: Worktrees, repository: Repository, tmp_path: Path, *, work: bool
) -> None:
    worktrees.make(1)
    os.rename(worktrees.root, tmp_path / "moved root")
    moved = attrs.evolve(worktrees, root=str(tmp_path / "moved root"))
    tree = Path(moved.place(1).tree)
    if work:
        _new_file(tree, repository)
    assert moved.settle(1) == ("changed" if work else "removed")
    assert repository.worktrees() == ([str(tree)] if work else [])
    assert (f"supervisor/{1:032x}" in repository.branches()) is work


def test_a_copy_of_a_state_root_takes_no_worktree_from_it(
    worktrees: Worktrees, repository: Repository, tmp_path: Path
) -> None:
    tree = worktrees.make(1)
    shutil.copytree(worktrees.root, tmp_path / "copy", symlinks=True)
    copy = attrs.evolve(worktrees, root=str(tmp_path / "copy"))
    assert copy.settle(1) == "refused"
    assert repository.worktrees() == [str(tree)]
    assert worktrees.settle(1) == "removed"
    assert copy.settle(1, asked=True) == "refused"
    assert files_in(Path(copy.place(1).tree)) == ALL


@pytest.mark.parametrize("work", [False, True])
def test_a_repository_that_was_moved_is_followed_once_git_is_told(
    worktrees: Worktrees, repository: Repository, tmp_path: Path, *, work: bool
) -> None:
    tree = worktrees.make(1)
    repository.path.rename(tmp_path / "elsewhere")
    os.rename(worktrees.root, tmp_path / "root elsewhere")
    there = Repository(tmp_path / "elsewhere")
    moved = Worktrees(str(tmp_path / "root elsewhere"), there)
    tree = Path(moved.place(1).tree)
    if work:
        _changed(tree, there)
    assert moved.settle(1) == "refused"
    record = moved.place(1).read()
    assert record is not None
    assert f"run `git worktree repair {tree}` where it is now" in record["detail"]
    with pytest.raises(LaunchFailed, match="where it is now"):
        moved.make(1)
    there.git("worktree", "repair", str(tree))
    moved.make(1)
    assert moved.settle(1) == ("changed" if work else "removed")
    assert there.worktrees() == ([str(tree)] if work else [])


def test_a_worktree_that_names_another_repository_is_not_followed_there(
    worktrees: Worktrees, repository: Repository, tmp_path: Path
) -> None:
    """What stands in the worktree is the word of the job; the other repository must name the worktree, too."""
    tree = worktrees.make(1)
    other = Repository(tmp_path / "other")
    shutil.copytree(repository.path, other.path)
    shutil.rmtree(other.path / ".git/worktrees")
    other.git("worktree", "add", "-q", "-b", "x", str(tmp_path / f"{1:032x}"))
    repository.path.rename(tmp_path / "elsewhere")
    (tree / ".git").write_text(f"gitdir: {other.path}/.git/worktrees/{1:032x}\n")
    assert worktrees.settle(1) == "refused"
    assert files_in(tree) == ALL
    assert other.worktrees() == [str(tmp_path / f"{1:032x}")]
