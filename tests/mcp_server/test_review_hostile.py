"""Repositories in which git hangs, or that would fill the disk: a review ends, and leaves no files."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.mcp_server.review import __main__ as review
from supervisor.system import git_view
from supervisor.system.inotify import CHANGED, Inotify
from tests.mcp_server.test_review import Repository


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    path = tmp_path / "repository"
    path.mkdir()
    made = Repository(path)
    made.write("kept.py", "one = 2\n")
    monkeypatch.chdir(path)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    return made


PIPES = [
    ".gitignore",
    ".gitattributes",
    ".git/info/exclude",
    ".git/info/attributes",
    ".git/packed-refs",
    ".git/refs/heads/main",
    ".git/shallow",
    ".git/objects/info/alternates",
]


@pytest.mark.parametrize("name", PIPES)
def test_git_that_waits_for_a_pipe_is_given_up(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(review, "_MAX_GIT_SECONDS", 0.3)
    pipe = repository.path / name
    pipe.unlink(missing_ok=True)
    pipe.parent.mkdir(exist_ok=True)
    os.mkfifo(pipe)
    with pytest.raises(review._Stop, match="it was killed, as it is after"):
        review.collect("working", None, 1000)
    assert not os.listdir(os.environ["TMPDIR"])


def test_a_review_that_is_cancelled_leaves_no_files(repository: Repository) -> None:
    pipe = repository.path / ".gitignore"
    os.mkfifo(pipe)
    command = [sys.executable, "-P", "-m", "supervisor.mcp_server.review", "--", "cat"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    files = Inotify.open()
    assert files is not None
    files.watch(os.environ["TMPDIR"], CHANGED)
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, start_new_session=True)
    assert select.select([files.descriptor], [], [], 30)[0]  # git waits for the pipe, or soon will
    files.close()
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(30) != 0
    assert not os.listdir(os.environ["TMPDIR"])


def test_an_index_that_is_too_large_is_not_copied(repository: Repository) -> None:
    os.truncate(repository.path / ".git/index", git_view._MAX_INDEX_BYTES + 1)
    with pytest.raises(review._Stop, match="the index of the git repository has 1073741825 bytes") as caught:
        review.collect("working", None, 1000)
    assert caught.value.status == 4


def test_a_large_new_file_is_named_and_not_read(repository: Repository) -> None:
    repository.write("large", "")
    os.truncate(repository.path / "large", 1 << 40)
    change = review.collect("working", None, 10_000)
    assert "one = 2" in change.diff
    assert change.left_out == (f"large (new, {1 << 40} bytes)",)


@pytest.mark.parametrize("common", ["..", "/etc", "/nonexistent"])
def test_a_directory_that_is_no_repository_is_told_in_a_line(repository: Repository, common: str) -> None:
    repository.write(".git/commondir", common)
    with pytest.raises(review._Stop, match="not a git repository") as caught:
        review.collect("working", None, 1000)
    assert "usage" not in str(caught.value)


def test_git_s_help_is_not_passed_on(repository: Repository) -> None:
    repository.write(".git/HEAD", "garbage")
    with pytest.raises(review._Stop, match="Not a git repository") as caught:
        review.collect("working", None, 1000)
    assert "usage" not in str(caught.value)


@pytest.mark.parametrize("kind", ["shared", "relative", "chain", "loop"])
def test_objects_of_other_repositories(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    clone = tmp_path / "clone"
    repository.git("clone", "-q", "--shared", str(repository.path), str(clone))
    alternates = clone / ".git/objects/info/alternates"
    if kind == "relative":
        alternates.write_text("../../../repository/.git/objects\n")
    elif kind == "chain":
        repository.git("clone", "-q", "--shared", str(clone), str(tmp_path / "second"))
        clone = tmp_path / "second"
    elif kind == "loop":
        (repository.path / ".git/objects/info/alternates").write_text(f"{clone}/.git/objects\n")
    (clone / "kept.py").write_text("one = 3\n")
    monkeypatch.chdir(clone)
    assert "+one = 3" in review.collect("working", None, 10_000).diff


def test_a_submodule_is_reviewed_without_what_its_configuration_names(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    Repository(source)
    repository.git("-c", "protocol.file.allow=always", "submodule", "add", "-q", str(source), "sub")
    monkeypatch.chdir(sub := repository.path / "sub")
    canary = tmp_path / "canary"
    for name in ("core.fsmonitor", "filter.x.clean", "filter.x.process", "diff.x.textconv", "diff.x.command"):
        repository.git("-C", str(sub), "config", name, f"touch {canary}; cat")
    (sub / ".gitattributes").write_text("* filter=x diff=x\n")
    (sub / "kept.py").write_text("one = 4\n")
    assert "+one = 4" in review.collect("working", None, 10_000).diff
    monkeypatch.chdir(repository.path)
    assert "one = 4" not in review.collect("working", None, 10_000).diff
    assert not canary.exists()
