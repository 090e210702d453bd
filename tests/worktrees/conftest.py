"""A git repository, and what tests of worktrees do in it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import attrs
import pytest

from supervisor.system.git import Git
from supervisor.worktrees import removing
from supervisor.worktrees.making import make
from supervisor.worktrees.record import Place

_IDENTITY = ("-c", "user.name=x", "-c", "user.email=x@localhost", "-c", "init.defaultBranch=main")


@attrs.frozen
class Repository:
    path: Path

    def git(self, *words: str, where: Path | None = None) -> str:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        environment |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
        command = ["git", *_IDENTITY, *words]
        return subprocess.run(
            command, cwd=where or self.path, env=environment, check=True, capture_output=True, text=True
        ).stdout

    def write(self, name: str, text: str) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def commit(self, message: str = "more", where: Path | None = None) -> str:
        self.git("add", "-A", where=where)
        self.git("commit", "-q", "-m", message, where=where)
        return self.git("rev-parse", "HEAD", where=where).strip()

    def branches(self) -> list[str]:
        return self.git("for-each-ref", "--format=%(refname:short)", "refs/heads").split()

    def worktrees(self) -> list[str]:
        listed = self.git("worktree", "list", "--porcelain").splitlines()
        return [line.removeprefix("worktree ") for line in listed if line.startswith("worktree ")][1:]


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    path = tmp_path / "repository"
    path.mkdir()
    made = Repository(path)
    made.git("init", "-q")
    made.write("kept.txt", "one\ntwo\n")
    made.write("below/other.txt", "three\n")
    made.write(".gitignore", "ignored/\n*.pyc\n")
    made.commit("one")
    return made


@attrs.frozen
class Worktrees:
    """The worktrees of a state root without jobs."""

    root: str
    repository: Repository

    def place(self, number: int) -> Place:
        return Place(self.root, f"{number:032x}")

    def request(self, number: int, origin: str = "head", below: str = "") -> dict[str, object]:
        asked = {"id": f"{number:032x}", "from": origin, "below": below}
        return {"workspace": str(self.repository.path / below), "worktree": asked}

    def make(self, number: int, origin: str = "head") -> Path:
        make(self.root, self.request(number, origin), f"{number:032x}", Git())
        return Path(self.place(number).tree)

    def settle(self, number: int, *, busy: bool = False, asked: bool = False) -> str | None:
        record = removing.settle(self.root, f"{number:032x}", lambda _: busy, Git(), asked=asked, wait=True)
        return None if record is None else record["state"]


@pytest.fixture
def worktrees(tmp_path: Path, repository: Repository) -> Worktrees:
    root = tmp_path / "root"
    root.mkdir(mode=0o700)
    return Worktrees(str(root), repository)
