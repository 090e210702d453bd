"""The configuration for hosts in docs/mcp.md starts a server."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest
from mcp import Client, StdioServerParameters

from supervisor.mcp_server.config import kinds
from supervisor.mcp_server.config.environment import ALWAYS

PAGE = (Path(__file__).parents[2] / "docs/mcp.md").read_text(encoding="utf-8")


@pytest.fixture
def command(tmp_path: Path) -> Path:
    program = tmp_path / "bin" / "supervisor"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m supervisor "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    return program


@pytest.mark.usefixtures("state_dir")
async def test_the_registration(tmp_path: Path, command: Path) -> None:
    (text,) = re.findall(r"^```json\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    (server,) = json.loads(text)["mcpServers"].values()
    assert server["command"] == "supervisor"
    config = tmp_path / "kinds.toml"
    examples = Path(kinds.__file__).with_name("examples.toml")
    config.write_bytes(examples.read_bytes())
    config.chmod(0o600)
    words = [each.replace("/home/me/kinds.toml", str(config)) for each in server["args"]]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    parameters = StdioServerParameters(command=str(command), args=words, env=environment)
    async with Client(parameters) as host:
        names = [tool.name for tool in (await host.list_tools()).tools]
    assert names[:6] == ["review", "review_codex", "ask_claude", "run_tests", "claude_task", "codex_task"]
    for name in names:
        assert f"`{name}`" in PAGE


def test_the_lists_on_the_page_are_the_lists() -> None:
    for name in ALWAYS:
        assert f"`{name}`" in PAGE or name == "LANGUAGE"
    keys = {"description", "command", "stdin", "interpret", "deadline_seconds", "env_pass", "env_set", "workspaces"}
    for name in keys | {"read_only", "parameters.NAME"}:
        assert f"`{name}`" in PAGE
