"""Hosts drop servers that start slowly: the time to the first answer, compared with a bare server of the SDK."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

ROUNDS = 9
BARE = """
import trio
from mcp.server import MCPServer

server = MCPServer("bare")

@server.tool()
def add(a: int, b: int) -> int:
    "Add."
    return a + b

trio.run(server.run_stdio_async)
"""
SHAPE = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "host", "version": "1"}}
FIRST = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": SHAPE}).encode() + b"\n"


def seconds_to_the_first_answer(command: Sequence[str], environment: dict[str, str]) -> float:
    begun = time.perf_counter()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(FIRST)
        process.stdin.flush()
        line = process.stdout.readline()
        taken = time.perf_counter() - begun
        assert "result" in json.loads(line)
        process.stdin.close()
    return taken


@pytest.mark.slow
@pytest.mark.usefixtures("state_dir")
def test_the_first_answer_takes_no_longer_than_that_of_a_bare_server(tmp_path: Path) -> None:
    bare = tmp_path / "bare.py"
    bare.write_text(BARE, encoding="utf-8")
    config = tmp_path / "kinds.toml"
    config.write_text('[kind.k]\ndescription = "K."\ncommand = ["true"]\n', encoding="utf-8")
    config.chmod(0o600)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # both as installed programs are: compiled, by the first run
    environment["PYTHONPYCACHEPREFIX"] = str(tmp_path / "compiled")
    ours = [sys.executable, "-m", "supervisor", "mcp", "--config", str(config)]
    theirs = [sys.executable, str(bare)]
    for command in (ours, theirs):
        seconds_to_the_first_answer(command, environment)
    # Concurrently, so that other load slows both.
    ratios = [
        seconds_to_the_first_answer(ours, environment) / seconds_to_the_first_answer(theirs, environment)
        for _ in range(ROUNDS)
    ]
    assert statistics.median(ratios) <= 1.15, sorted(ratios)
