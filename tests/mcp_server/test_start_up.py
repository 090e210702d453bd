"""Hosts drop servers that start slowly: the time to the first answer, compared with a bare server of the SDK.

So is a server without a record of its first answers, such as the first one after an upgrade.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
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


def record(command: Sequence[str], environment: dict[str, str]) -> None:
    """Serve a host until the first answers are recorded."""
    environment = {**environment, "SUPERVISOR_LOG": "debug"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(FIRST)
        process.stdin.flush()
        assert any(b"mcp_recorded" in line for line in process.stderr)
        process.kill()


@pytest.mark.slow
@pytest.mark.parametrize(("recorded", "most"), [(False, 1.15), (True, 0.35)])
@pytest.mark.usefixtures("state_dir")
def test_the_first_answer_takes_no_longer_than_that_of_a_bare_server(
    tmp_path: Path, most: float, *, recorded: bool
) -> None:
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
    if recorded:
        record(ours, environment)
    # Concurrently, so that other load slows both.
    ratios = [
        seconds_to_the_first_answer(ours, environment) / seconds_to_the_first_answer(theirs, environment)
        for _ in range(ROUNDS)
    ]
    assert statistics.median(ratios) <= most, sorted(ratios)


# ---------------------------------------------------------------- a slow machine


CLOCK_SECONDS = 1.0
SHARE = 0.33
PERIOD_US = 100_000
LIST = json.dumps({"jsonrpc": "2.0", "id": 2, "method": "tools/list"}).encode() + b"\n"
READY = b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n'


def limited(group: Path, limits: Mapping[str, str]) -> bool:
    """Make a control group with these limits, if that can be done here."""
    try:
        group.mkdir()
    except OSError:
        return False
    try:
        for name, value in limits.items():
            descriptor = os.open(group / name, os.O_WRONLY)  # without O_CREAT: a directory of files is no group
            with open(descriptor, "w", encoding="ascii") as file:
                file.write(value)
    except OSError:
        group.rmdir()
        return False
    return True


@pytest.fixture
def third(tmp_path: Path) -> Iterator[Path]:
    """The ``cgroup.procs`` of a control group that gets a third of one processor."""
    quota, name = round(SHARE * PERIOD_US), f"{tmp_path.parent.name}-{tmp_path.name}-{os.getpid()}"
    either = {
        f"/sys/fs/cgroup/{name}": {"cpu.max": f"{quota} {PERIOD_US}"},
        f"/sys/fs/cgroup/cpu/{name}": {"cpu.cfs_period_us": str(PERIOD_US), "cpu.cfs_quota_us": str(quota)},
    }
    group = next((Path(path) for path, limits in either.items() if limited(Path(path), limits)), None)
    if group is None:
        pytest.skip("no control group with a quota can be made here")
    yield group / "cgroup.procs"
    group.rmdir()


def seconds_to_the_tools(command: Sequence[str], environment: dict[str, str], procs: Path) -> float:
    """Be a host: return how long the server took to list its tools, from its start."""
    # The shell enters the group, so that the interpreter is slow from its first instruction on.
    entered = ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(procs), *command]
    begun = time.perf_counter()
    with subprocess.Popen(entered, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(FIRST)
        process.stdin.flush()
        assert "result" in json.loads(process.stdout.readline())
        process.stdin.write(READY + LIST)
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["result"]["tools"][0]["name"] == "k"
        taken = time.perf_counter() - begun
        process.kill()
    return taken


@pytest.mark.slow
@pytest.mark.usefixtures("state_dir")
def test_a_host_with_a_clock_of_a_second_sees_the_tools_on_a_third_of_a_processor(tmp_path: Path, third: Path) -> None:
    config = tmp_path / "kinds.toml"
    config.write_text('[kind.k]\ndescription = "K."\ncommand = ["true"]\n', encoding="utf-8")
    config.chmod(0o600)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    environment["PYTHONPYCACHEPREFIX"] = str(tmp_path / "compiled")
    command = [sys.executable, "-m", "supervisor", "mcp", "--config", str(config)]
    record(command, environment)
    taken = [seconds_to_the_tools(command, environment, third) for _ in range(ROUNDS)]
    assert statistics.median(taken) <= CLOCK_SECONDS, sorted(taken)
