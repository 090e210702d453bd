"""Callers in odd states: their directory was deleted, they ignore signals, their locale or environment is bare."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

SHORT = 60

ASKING = """
import asyncio, json, sys, trio, supervisor

def told(error):
    return [type(error).__name__, getattr(error, "code", None), str(error), getattr(error, "repair", None)]

async def in_trio(do):
    async with supervisor.open_supervisor() as sup:
        return await do(sup)

async def in_asyncio(do):
    async with supervisor.open_supervisor_asyncio() as sup:
        return await do(sup)

def in_threads(name, **options):
    with supervisor.BlockingSupervisor() as sup:
        return getattr(sup, name)(["true"], **options)

answers = []
for options in ({}, {"workspace": "below"}, {"workspace": "/"}):
    for name in ("start", "run"):
        async def do(sup):
            return await getattr(sup, name)(["true"], **options)
        async def main():
            return await in_asyncio(do)
        for run, *words in ((trio.run, in_trio, do), (lambda: asyncio.run(main()),), (in_threads, name)):
            try:
                run(*words, **(options if run is in_threads else {}))
                answers.append("ok")
            except Exception as error:
                answers.append(told(error))
print(json.dumps(answers))
"""


def where_deleted(directory: Path, argv: Sequence[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run a program whose current directory is deleted before it begins."""
    gone = directory / "gone"
    gone.mkdir(exist_ok=True)
    script = 'cd "$0" && rmdir "$0" && exec "$@"'
    argv = ["sh", "-c", script, str(gone), *argv]
    return subprocess.run(argv, check=False, timeout=SHORT, **{"capture_output": True, **options})


def test_the_library_names_the_workspace_when_the_current_directory_was_deleted(world: Any) -> None:
    done = where_deleted(world.directory, [sys.executable, "-c", ASKING], env=world.environment)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert len(answers) == 18
    for answer in answers[:12]:
        kind, code, message, repair = answer
        assert (kind, code) == ("InvalidArguments", "invalid_arguments")
        assert message.startswith("workspace is ")
        assert "the current directory was deleted" in message
        assert "absolute path" in repair
    assert answers[12:] == ["ok"] * 6


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["run", "--", "true"], 2),
        (["start", "--", "true"], 2),
        (["run", "--workspace", ".", "--", "true"], 2),
        (["run", "--workspace", "below", "--", "true"], 2),
        (["list"], 2),
        (["prune"], 2),
        (["list", "--all"], 0),
        (["prune", "--all"], 0),
        (["run", "--workspace", "/", "--", "true"], 0),
        (["cancel", "--all"], 0),
        (["status", "abcd"], 3),
        (["logs", "abcd"], 3),
        (["wait", "abcd"], 3),
        (["doctor"], 0),
    ],
)
def test_the_command_line_where_the_directory_was_deleted(world: Any, words: list[str], status: int) -> None:
    argv = [sys.executable, "-m", "supervisor", words[0], "--json", *words[1:]]
    done = where_deleted(world.directory, argv, env=world.environment)
    shape = json.loads(done.stdout)
    assert done.returncode == status, shape
    if status == 2:
        assert shape["error"]["code"] == "invalid_arguments"
        assert shape["error"]["message"].startswith("workspace is ")
        assert not shape["error"]["retryable"]


def test_a_relative_state_root_where_the_directory_was_deleted(world: Any) -> None:
    argv = [sys.executable, "-m", "supervisor", "list", "--all", "--json", "--state-dir", "state"]
    shape = json.loads(where_deleted(world.directory, argv, env=world.environment).stdout)
    assert shape["error"]["code"] == "invalid_settings"
    assert "the current directory was deleted" in shape["error"]["message"]


KINDS = """
[kind.anywhere]
description = "Where it is told."
command = ["pwd"]
workspaces = ["/usr"]

[kind.here]
description = "In the server's own directory."
command = ["pwd"]
"""


def test_a_server_whose_directory_was_deleted_serves_what_needs_none(world: Any) -> None:
    pytest.importorskip("mcp")
    kinds = world.directory / "kinds.toml"
    kinds.write_text(KINDS, encoding="utf-8")
    kinds.chmod(0o600)
    ask = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    calls = [
        ("job_list", {}),
        ("anywhere", {"workspace": "/usr"}),
        ("anywhere", {"workspace": "below"}),
        ("here", {}),
        ("here", {"workspace": "/"}),
    ]
    lines = [
        {"id": 0, "method": "initialize", "params": ask},
        {"method": "notifications/initialized"},
        *(
            {"id": number, "method": "tools/call", "params": {"name": name, "arguments": arguments}}
            for number, (name, arguments) in enumerate(calls, 1)
        ),
    ]
    said = b"".join(json.dumps({"jsonrpc": "2.0", **line}).encode() + b"\n" for line in lines)
    argv = [sys.executable, "-m", "supervisor", "mcp", "--config", str(kinds)]
    done = where_deleted(world.directory, argv, env=world.environment, input=said)
    assert done.returncode == 0, done.stderr
    answers = {answer["id"]: answer.get("result") for answer in map(json.loads, done.stdout.splitlines())}
    assert answers[1]["structuredContent"]["ok"]
    assert answers[2]["structuredContent"]["ok"]
    for number in (3, 4, 5):
        error = answers[number]["structuredContent"]["error"]
        assert error["code"] == "invalid_arguments"
        assert "the current directory was deleted" in error["message"]


# ------------------------------------------------------------ signals


def ignoring(*numbers: int, blocked: bool = False) -> Any:
    def prepare() -> None:
        for number in numbers:
            if blocked:
                signal.pthread_sigmask(signal.SIG_BLOCK, [number])
            else:
                signal.signal(number, signal.SIG_IGN)

    return prepare


EVERY = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize("blocked", [False, True])
@pytest.mark.parametrize(
    "numbers",
    [EVERY, [signal.SIGINT, signal.SIGTERM], [signal.SIGPIPE], [signal.SIGCHLD], list(signal.valid_signals())],
    ids=["all three", "two", "pipe", "child", "every one"],
)
def test_signals_that_the_caller_ignores_or_blocks(world: Any, numbers: list[int], *, blocked: bool) -> None:
    numbers = [each for each in numbers if each not in {signal.SIGKILL, signal.SIGSTOP}]
    done = subprocess.run(
        [sys.executable, "-m", "supervisor", "run", "--", "sh", "-c", "echo out; exit 7"],
        check=False,
        timeout=SHORT,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        env=world.environment,
        preexec_fn=ignoring(*numbers, blocked=blocked),  # it calls nothing that a lock could stop
    )
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"")


def test_ignored_signals_stay_ignored_while_a_job_runs(world: Any) -> None:
    going = world.fifo()
    process = subprocess.Popen(
        [sys.executable, "-m", "supervisor", "run", "--", "sh", "-c", f"echo ready; read line < {going}; exit 7"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=world.environment,
        preexec_fn=ignoring(*EVERY),  # noqa: PLW1509  # as above
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        for number in EVERY:
            process.send_signal(number)
        going.open()
        assert process.wait(SHORT) == 7


def test_a_server_whose_signals_are_ignored_ends_with_its_host(world: Any) -> None:
    pytest.importorskip("mcp")
    process = subprocess.Popen(
        [sys.executable, "-m", "supervisor", "mcp"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=world.environment,
        preexec_fn=ignoring(*EVERY),  # noqa: PLW1509  # as above
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        ask = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
        line = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": ask}
        process.stdin.write(json.dumps(line).encode() + b"\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["id"] == 1
        with open(f"/proc/{process.pid}/status", encoding="ascii") as file:
            mask = int(next(line for line in file if line.startswith("SigIgn")).split()[1], 16)
        assert all(mask & 1 << number - 1 for number in EVERY)
        process.stdin.close()
        assert process.wait(SHORT) == 0
