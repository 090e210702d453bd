"""Every command and snippet of the README works."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CI = (ROOT / ".ci/run").read_text(encoding="utf-8")


def snippets(language: str, title: str) -> list[str]:
    """Return the snippets of a section, in order."""
    section = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)
    assert section is not None, f"there is no section {title!r}"
    return re.findall(rf"^```{language}\n(.*?)^```", section[1], re.MULTILINE | re.DOTALL)


INSTALL_AND_RUN, INSTALL_AND_TEST = snippets("sh", "Two commands")


@pytest.fixture
def commands(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which ``supervisor`` and ``python`` are those under test."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, arguments in {"supervisor": "-m supervisor", "python": ""}.items():
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec {sys.executable} {arguments} "$@"\n', encoding="utf-8")
        program.chmod(0o755)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}


def run(script: str, environment: dict[str, str], directory: Path) -> str:
    """Run a snippet as a shell would, and stop at the first command that fails."""
    done = subprocess.run(
        ["bash", "-eu", "-c", script],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_main_job_of_the_first_command(state_dir: Path, commands: dict[str, str], tmp_path: Path) -> None:
    """Without installation, which ``test_the_first_command_whole`` covers."""
    main_job = INSTALL_AND_RUN.rpartition(" && ")[2]
    assert '"installed"' in run(main_job, commands, tmp_path)
    assert "pip inspect" in run("supervisor list --all", commands, tmp_path)
    assert any(state_dir.iterdir())


def test_from_the_shell(state_dir: Path, commands: dict[str, str], tmp_path: Path) -> None:
    (script,) = snippets("sh", "From the shell")
    # `wait` and `result` report a failed job by their exit status, as the text says.
    lenient = re.sub(r"^(supervisor (?:wait|result)[^#\n]*)", r"\1 || test $? = 1 ", script, flags=re.MULTILINE)
    shown = run(lenient, commands, tmp_path)
    assert "running" in shown
    assert "\ndone\n" in shown
    assert '"nonzero_exit"' in shown
    assert any(state_dir.iterdir())


def test_from_trio(state_dir: Path, commands: dict[str, str], tmp_path: Path) -> None:
    (program,) = snippets("python", "From Trio")
    script = tmp_path / "program.py"
    script.write_text(program, encoding="utf-8")
    shown = run(f"python {script}", commands, tmp_path)
    assert shown.splitlines()[-1] == "42"
    assert any(state_dir.iterdir())


@pytest.mark.parametrize("number", [0, 1])
def test_from_asyncio(state_dir: Path, commands: dict[str, str], tmp_path: Path, number: int) -> None:
    programs = snippets("python", "From asyncio")
    assert len(programs) == 2
    script = tmp_path / "program.py"
    script.write_text(programs[number], encoding="utf-8")
    shown = run(f"python {script}", commands, tmp_path)
    assert shown.splitlines()[-1] == "42"
    assert any(state_dir.iterdir())


def test_from_an_mcp_host(state_dir: Path, commands: dict[str, str], tmp_path: Path) -> None:
    (registration,) = snippets("json", "From an MCP host")
    assert json.loads(registration)["mcpServers"]["jobs"]["args"][0] == "mcp"
    (kinds,) = snippets("toml", "From an MCP host")
    (program,) = snippets("python", "From an MCP host")
    (tmp_path / "kinds.toml").write_text(kinds, encoding="utf-8")
    (tmp_path / "kinds.toml").chmod(0o600)
    # A host passes a few variables that it selects; the test's state root is not among them.
    args = 'args=["mcp", "--config", "kinds.toml"]'
    assert args in program
    passed = f"{args}, env={{name: os.environ[name] for name in ('PATH', 'PYTHONPATH', 'SUPERVISOR_STATE_DIR')}}"
    script = tmp_path / "program.py"
    script.write_text("import os\n" + program.replace(args, passed), encoding="utf-8")
    shown = run(f"python {script}", commands, tmp_path)
    assert shown.split() == ["3"]
    assert "[kind." in run("supervisor mcp --print-examples", commands, tmp_path)
    assert any(state_dir.iterdir())


def test_ci_runs_the_test_command_of_the_readme() -> None:
    """Both install and call pytest in the same way."""
    assert "install -e '.[test]'" in INSTALL_AND_TEST
    assert "--editable '.[test]'" in CI
    for text in (INSTALL_AND_TEST, CI):
        assert re.search(r"/bin/python -m pytest -n 2$", text, re.MULTILINE)


@pytest.mark.slow
def test_the_first_command_whole(state_dir: Path, tmp_path: Path) -> None:
    """In a clean tree with a new virtual environment, as a new user does it."""
    tree = tmp_path / "clone"
    shutil.copytree(ROOT / "supervisor", tree / "supervisor", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    shown = run(INSTALL_AND_RUN, dict(os.environ), tree)
    assert '"trio-supervisor"' in shown
    assert any(state_dir.iterdir())
