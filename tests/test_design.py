"""docs/design.md names files that exist: the files of the package, and the files on disk."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import supervisor
from supervisor.states import State

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "supervisor"
PAGE = (ROOT / "docs/design.md").read_text(encoding="utf-8")
NAMED = (
    "docs/design.md",
    "docs/architecture.md",
    "CONTRIBUTING.md",
    "ROADMAP.md",
    "docs/slurm.md",
    "docs/kinds.md",
    "docs/performance.md",
)


@pytest.mark.parametrize("page", NAMED)
def test_every_file_that_a_page_names_is_there(page: str) -> None:
    paths = re.findall(
        r"`((?:supervisor/|tests/|docs/)?[a-z_]+(?:/[a-z_]+)*(?:/|\.py))`", (ROOT / page).read_text("utf-8")
    )
    missing = [each for each in paths if not any((base / each).exists() for base in (ROOT, PACKAGE))]
    assert not missing


def test_the_names_in_each_list_of_files_are_in_those_files() -> None:
    lists = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("\n## Where to add\n")[2]
    items = re.split(r"^\d\. ", lists, flags=re.MULTILINE)[1:]
    assert len(items) > 20
    for item in items:
        words = re.findall(r"`([\w./]+)`", item.partition("\n\n")[0])
        paths = [path for word in words for base in (ROOT, PACKAGE) if (path := base / word).is_file()]
        text = "\n".join(path.read_text(encoding="utf-8") for path in paths)
        assert [word for word in words if word.isidentifier() and paths and word not in text] == [], item


def test_each_term_has_one_definition() -> None:
    section = PAGE.partition("\n## Words\n")[2].partition("\n## ")[0]
    terms = re.findall(r"^\| ([^|]+?) \| [^|]+ \|$", section, re.MULTILINE)[1:]
    assert len(terms) > 30
    assert terms == sorted(set(terms))


def _patterns(title: str) -> list[str]:
    """Return the names in one table of files, each as a regular expression."""
    section = PAGE.partition("\n## On disk\n")[2].partition("\n## ")[0].partition(f"\n{title}:\n")[2].lstrip("\n")
    table = section.partition("\n\n")[0]
    names = [
        name for cell in re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE) for name in re.findall(r"`([^`]+)`", cell)
    ]
    assert names, title
    return [re.sub(r"<[^>]+>", "[^/]+", re.sub(r"[.]", r"\\.", name)).rstrip("/") for name in names]


IN_ROOT = _patterns("In the state root")
IN_JOB = _patterns("In a job directory")
IN_SHARED = _patterns("In the shared directory of a cluster")


def _files(directory: Path) -> Iterator[str]:
    """Yield the names of files and links below ``directory``; the files of a copied keeper count as one."""
    for path in directory.rglob("*"):
        if path.is_symlink() or not path.is_dir():
            yield re.sub(r"^(\.keeper-[^/]+)/.*", r"\1", path.relative_to(directory).as_posix())


def _unnamed(names: Iterator[str], where: list[str], jobs: str, inside: list[str]) -> list[str]:
    """Return the names that no table has; ``inside`` is for names in a job directory."""
    left = []
    for name in names:
        below = re.fullmatch(rf"{jobs}/([^/]+)", name)
        patterns, told = (inside, below[1]) if below else (where, name)
        if not any(re.fullmatch(pattern, told) for pattern in patterns):
            left.append(name)
    return sorted(left)


async def test_every_file_on_disk_is_on_the_page(
    fake_slurm: Any, state_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shared, turn = tmp_path / "shared", tmp_path / "turn"
    os.mkfifo(turn)
    fake_slurm.arrange("hold")
    found: list[str] = []
    remote: list[str] = []
    async with supervisor.open_supervisor() as sup:
        options = {"shared_dir": str(shared)}
        queued = await sup.start(["true"], engine="slurm", engine_options=options, stdin=b"x")
        running = await sup.start(["sh", "-c", f"read line < {turn}"])
        found += _files(state_dir)
        remote += _files(shared)
        await sup.cancel(running.job_id)
        fake_slurm.release()
        assert (await sup.wait(queued.job_id)).status is State.DONE
        found += _files(state_dir)
        remote += _files(shared)
    key, job = r"[\w.-]+-[0-9a-f]{12}", "[0-9a-f]{32}"
    assert _unnamed(iter(found), IN_ROOT, f"{key}/{job}", IN_JOB) == []
    assert _unnamed(iter(remote), IN_SHARED, job, [*IN_JOB, *IN_SHARED]) == []
    assert {"registry.db", "lock", ".clock"} <= set(found)
    of_jobs = {os.path.basename(name) for name in remote}
    assert {"orders", "stdin", "submission.json", "claim", "job.json", "exit.json"} <= of_jobs
