"""A fleet of stand-ins for agents, which share an account with a usage limit."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
GROUP = "agents"
HALF_A_SECOND_NS = 500_000_000
"""In place of the minutes around a reset."""


class Account:
    """What the agents of a fleet have in common, see ``claude.py``."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.directory = directory
        directory.mkdir()
        (directory / "sessions").mkdir()
        given = {"turns": 3, "turn_seconds": 0.02, "limit_at": [11], "reset_seconds": 1, **settings}
        (directory / "settings").write_text(json.dumps(given), encoding="ascii")
        program = directory / "bin" / "claude"
        program.parent.mkdir()
        program.write_text(
            f"#!{sys.executable} -IS\n{(HERE / 'claude.py').read_text(encoding='utf-8')}", encoding="utf-8"
        )
        program.chmod(0o755)

    def environment(self, package: Path) -> dict[str, str]:
        """Return the environment of a program that starts agents, or launches them."""
        path = f"{self.directory / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return {"FLEET": str(self.directory), "PATH": path, "PYTHONPATH": f"{package}{os.pathsep}{HERE / 'quick'}"}

    def log(self) -> list[dict[str, Any]]:
        """Return what the agents did."""
        path = self.directory / "log"
        return [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()] if path.exists() else []

    def count(self, what: str) -> Counter[str]:
        """Return how often each prompt has met something."""
        return Counter(line["prompt"] for line in self.log() if line["what"] == what)

    def said(self) -> float:
        """Return what the agents have said that they cost."""
        return sum(line.get("cost", 0) for line in self.log())


def prompts(number: int) -> list[str]:
    """Return the tasks of a fleet."""
    return [f"task {each}" for each in range(number)]


def command(prompt: str) -> list[str]:
    """Return the command of a task."""
    return ["claude", "-p", prompt, "--output-format", "stream-json", "--verbose"]


def judge(account: Account, jobs: list[dict[str, Any]], tasks: list[str]) -> None:
    """Check that each task was finished once, by the last attempt of its series, and what all said that they cost."""
    assert account.count("done") == Counter(tasks), "each prompt is finished once"
    last = [job for job in jobs if job["retried_by"] is None]
    assert Counter(job["argv"][2] for job in last) == Counter(tasks)
    assert {job["status"] for job in last} == {"done"}
    limited = account.count("limited")
    assert {job["argv"][2]: job["attempt"] - 1 for job in last} == {task: limited[task] for task in tasks}
    assert all(job["attempt"] == job["maximum_attempts"] for job in last), "a wait for a limit is no failure"
    assert len(jobs) == len(tasks) + limited.total(), "no attempt but those"
    assert sum(job["cost_usd"] or 0 for job in jobs) == account.said()
