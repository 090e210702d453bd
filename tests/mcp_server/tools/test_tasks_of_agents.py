"""The kinds `claude_task` and `codex_task`: a change in a worktree, and its diff in the answer.

Stand-ins replay captured runs, after they have changed a file as the agents do.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters

from supervisor.mcp_server.config import kinds

RUNS = Path(__file__).parents[2] / "interpret/fixtures"
LINES = 3000


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    path = tmp_path / "repository"
    path.mkdir()
    (path / "kept.txt").write_text("one\n")
    for words in (("init", "-q"), ("add", "-A"), ("commit", "-q", "-m", "one")):
        command = ["git", "-c", "user.name=x", "-c", "user.email=x@localhost", *words]
        subprocess.run(command, cwd=path, check=True)
    return path


@pytest.fixture
def parameters(tmp_path: Path, state_dir: Path, repository: Path) -> StdioServerParameters:
    config = tmp_path / "kinds.toml"
    config.write_bytes(Path(kinds.__file__).with_name("examples.toml").read_bytes())
    config.chmod(0o600)
    programs = tmp_path / "programs"
    programs.mkdir()
    for program, run in (("claude", "claude/stream"), ("codex", "codex/success")):
        stdout = tmp_path / f"{program}.jsonl"
        stdout.write_text(json.loads(RUNS.joinpath(f"{run}.json").read_text("utf-8"))["stdout"], encoding="utf-8")
        script = f'#!/bin/sh\nprintf "%s\\n" "$*" >&2\ngrep -q many && seq {LINES} > new.txt || echo two >> kept.txt\n'
        (programs / program).write_text(f"{script}cat {stdout}\n", encoding="utf-8")
        (programs / program).chmod(0o755)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment |= {"SUPERVISOR_STATE_DIR": str(state_dir), "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    words = ["-m", "supervisor", "mcp", "--config", str(config)]
    return StdioServerParameters(command=sys.executable, args=words, env=environment, cwd=repository)


async def _call(host: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    answer = await host.call_tool(tool, arguments)
    assert not answer.is_error, answer
    assert answer.structured_content is not None
    return answer.structured_content


async def test_a_task_changes_a_worktree_and_answers_with_the_diff(
    parameters: StdioServerParameters, repository: Path
) -> None:
    places: list[Path] = []
    async with Client(parameters) as host:
        for tool in ("claude_task", "codex_task"):
            result = await _call(host, tool, prompt="Add a line.", wait_seconds=60)
            assert result["value"]["text"]
            assert "+two" in result["changes"]["diff"]
            sizes = {name: result["changes"][name] for name in ("files", "insertions", "deletions", "commits")}
            assert sizes == {"files": 1, "insertions": 1, "deletions": 0, "commits": 0}
            assert result["job"]["worktree"]["state"] == "changed"
            places.append(Path(result["job"]["worktree"]["path"]))
    assert [(place / "kept.txt").read_text("utf-8") for place in places] == ["one\ntwo\n"] * 2
    assert (repository / "kept.txt").read_text("utf-8") == "one\n"


async def test_a_long_diff_is_cut_and_read_on(parameters: StdioServerParameters) -> None:
    async with Client(parameters) as host:
        result = await _call(host, "claude_task", prompt="Add many lines.", wait_seconds=60, model="opus", max_usd=2)
        job_id = result["job"]["job_id"]
        short = await _call(host, "job_result", job_id=job_id, max_characters=4000)
        changes = short["changes"]
        assert len(changes["diff"]) <= 2000
        assert changes["diff_truncated"]
        assert f"job_logs with stream diff and offset {len(changes['diff'])}" in changes["next"]
        whole, offset = changes["diff"], len(changes["diff"])
        while True:
            piece = await _call(host, "job_logs", job_id=job_id, stream="diff", offset=offset, max_bytes=10_000)
            whole, offset = whole + piece["value"], piece["next_offset"]
            if offset == piece["size"]:
                break
        said = await _call(host, "job_logs", job_id=job_id, stream="stderr")
    assert [line for line in whole.splitlines() if line.startswith("+")][1:] == [f"+{n + 1}" for n in range(LINES)]
    assert "--output-format stream-json --verbose --model=opus --max-budget-usd=2 " in said["value"]
