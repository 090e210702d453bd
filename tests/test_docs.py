"""What the pages in ``docs/`` show is so: their programs run, and their table of captured runs is true."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from supervisor.interpret import Outcome, get_interpreter
from supervisor.settle import _CODES
from supervisor.states import Reason

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
RUNS = ROOT / "tests/interpret/fixtures"

# <!-- file: NAME --> a file to be made, <!-- run --> a program, <!-- prints --> what the one before it prints
BLOCK = re.compile(r"^<!-- (file: (?P<name>\S+)|run|prints) -->\n```\w+\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL)


def _install(directory: Path) -> None:
    """Make what installing the distribution in ``directory`` would: its entry points can be found."""
    project = tomllib.loads((directory / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    where = directory / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    where.mkdir()
    names = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    where.joinpath("METADATA").write_text(names, encoding="utf-8")
    lines = [
        line
        for group, points in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {target}" for name, target in points.items()))
    ]
    where.joinpath("entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.usefixtures("state_dir", "fake_slurm")
@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.stem)
def test_what_a_page_shows_runs(page: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    blocks = list(BLOCK.finditer(page.read_text(encoding="utf-8")))
    for block in blocks:
        if block["name"]:
            tmp_path.joinpath(block["name"]).write_text(block["text"], encoding="utf-8")
            if block["name"] == "pyproject.toml":
                _install(tmp_path)
    printed = ""
    for block in blocks:
        if block[1] == "run":
            done = subprocess.run(
                [sys.executable, "-c", block["text"]],
                env=environment,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            printed = done.stdout
        elif block[1] == "prints":
            assert printed == block["text"]


def _row(path: Path) -> str:
    run = json.loads(path.read_text(encoding="utf-8"))
    status = run["exit_code"]
    outcome = Outcome(
        exit_code=status if status >= 0 else None,
        signal=-status if status < 0 else None,
        read_stdout=run["stdout"].encode,
        read_stderr=run["stderr"].encode,
    )
    verdict = get_interpreter(path.parent.name).verdict(outcome)
    done = verdict.reason is Reason.EXITED
    cells = (
        f"`{path.parent.name}/{path.stem}`",
        str(status) if status >= 0 else f"signal {-status}",
        "done" if done else "failed",
        verdict.reason.value,
        "" if done else verdict.code or _CODES[verdict.reason],
        "" if done else "yes" if verdict.retryable else "no",
        "" if verdict.cost_usd is None else f"{verdict.cost_usd:.6f}",
    )
    return f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |")


def test_the_table_of_captured_runs_is_what_they_get() -> None:
    text = (DOCS / "agents.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `\w+/[\w-]+` \|.*$", text, re.MULTILINE)
    expected = [_row(path) for path in sorted(RUNS.glob("*/*.json"))]
    assert rows == expected, "the table should be:\n" + "\n".join(expected)
