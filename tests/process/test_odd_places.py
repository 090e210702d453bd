"""Callers in odd states: their directory was deleted, they ignore signals, their locale or environment is bare."""

from __future__ import annotations

import json
import os
import shutil
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
    assert b"getcwd" not in done.stderr  # as a shell that the test starts would report
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
        preexec_fn=ignoring(*numbers, blocked=blocked),  # it makes no call that waits for a lock
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


# ------------------------------------------------------------ the environment


def environment_of_a_job(world: Any, given: dict[bytes, bytes], *words: str, **options: Any) -> dict[bytes, bytes]:
    """Return the environment of a job of `run` that is started with exactly ``given`` and the test's own variables."""
    needed = {name: world.environment[name] for name in ("PATH", "PYTHONPATH", "SUPERVISOR_STATE_DIR")}
    own = {os.fsencode(name): os.fsencode(value) for name, value in needed.items()} | given
    reading = "import sys; sys.stdout.buffer.write(open('/proc/self/environ', 'rb').read())"
    argv = [sys.executable, "-m", "supervisor", "run", *words, "--", sys.executable, "-c", reading]
    # env(1) can set an entry without a name, which Python's own interface refuses.
    entries = [name + b"=" + value for name, value in own.items()]
    done = subprocess.run(
        ["env", "-i", *entries, *argv],
        check=False,
        timeout=SHORT,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        **options,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    found = dict(entry.split(b"=", 1) for entry in done.stdout.split(b"\0")[:-1])
    assert len(found.pop(b"SUPERVISOR_JOB_ID")) == 32
    found.pop(b"", None)  # passed on if the system call allows it
    expected = {name: value for name, value in own.items() if name}
    return {name: value for name, value in found.items() if expected.get(name) != value} | {
        name: b"(missing)" for name in expected if name not in found
    }


@pytest.mark.parametrize(
    "given",
    [
        {},
        {b"LC_ALL": b"C"},
        {b"LANG": b"C"},
        {b"LC_CTYPE": b"C"},
        {b"LC_CTYPE": b"POSIX", b"LANG": b"C"},
        {b"LC_CTYPE": b"C.UTF-8"},
        {b"LC_CTYPE": b""},
        {b"PYTHONCOERCECLOCALE": b"0"},
        {b"PYTHONUTF8": b"1"},
        {b"": b"x"},
        {b"": b""},
        {b"": b"x=y", b"LANG": b"C"},
        {b"BYTES": b"\xff\xfe", b"\xff": b"1", b"LINES": b"a\nb", b"EMPTY": b"", b"a b": b" ", b"E": b"=a="},
    ],
)
@pytest.mark.parametrize("words", [[], ["--env", "PATH"]])
def test_a_job_gets_the_environment_of_the_caller(world: Any, given: dict[bytes, bytes], words: list[str]) -> None:
    assert environment_of_a_job(world, given, *words) == {}


def test_pwd_names_the_workspace_if_there_is_one(world: Any) -> None:
    here = os.fsencode(world.directory)
    by_a_link = world.directory.with_name("link")
    by_a_link.symlink_to(world.directory)
    other = world.directory / "other"
    other.mkdir()
    link = os.fsencode(by_a_link)
    job = environment_of_a_job
    assert job(world, {}) == {}
    assert job(world, {b"PWD": here}) == {}
    assert job(world, {b"PWD": link}) == {}  # it names the same directory, by the path that the user knows
    assert job(world, {b"PWD": link}, "--workspace", str(by_a_link)) == {}
    assert job(world, {b"PWD": b"/usr"}) == {b"PWD": here}
    assert job(world, {b"PWD": b""}) == {b"PWD": here}
    assert job(world, {b"PWD": b"elsewhere"}) == {b"PWD": here}
    assert job(world, {b"PWD": here}, "--workspace", "other") == {b"PWD": os.fsencode(other)}
    assert job(world, {b"PWD": here}, "--workspace", "/usr", "--env", "A=b") == {b"PWD": b"/usr", b"A": b"b"}
    assert job(world, {b"PWD": here}, "--workspace", "/usr", "--env", "PWD=/of my own") == {b"PWD": b"/of my own"}


PRINTING = """
import asyncio, os, sys, trio, supervisor

def asked(**more):
    return dict(argv=["env"], workspace="/usr", **more)

async def in_trio(**options):
    async with supervisor.open_supervisor() as sup:
        return await sup.run(**options)

async def in_asyncio(**options):
    async with supervisor.open_supervisor_asyncio() as sup:
        return await sup.run(**options)

def in_threads(**options):
    with supervisor.BlockingSupervisor() as sup:
        return sup.run(**options)

def pwd(result):
    return [line for line in result.value.splitlines() if line.startswith("PWD=")]

env = dict(os.environ)
assert "" in env
for options in (asked(), asked(env=env)):
    assert pwd(trio.run(lambda: in_trio(**options))) == ["PWD=/usr"]
    assert pwd(asyncio.run(in_asyncio(**options))) == ["PWD=/usr"]
    assert pwd(in_threads(**options)) == ["PWD=/usr"]
own = asked(env={"PATH": env["PATH"], "PWD": "/my/own"})
assert pwd(in_threads(**own)) == ["PWD=/my/own"]
assert env["PWD"] == os.environ["PWD"]
assert os.environ["LC_CTYPE"] == "C.UTF-8"
"""


def test_the_library_sets_pwd_and_nothing_in_its_host(world: Any) -> None:
    """LC_CTYPE that Python has set belongs to the environment of the host."""
    entries = [f"{name}={world.environment[name]}" for name in ("PATH", "PYTHONPATH", "SUPERVISOR_STATE_DIR")]
    argv = ["env", "-i", "=x", f"PWD={world.directory}", *entries, sys.executable, "-c", PRINTING]
    done = subprocess.run(argv, check=False, timeout=SHORT, capture_output=True)
    assert done.returncode == 0, done.stderr


# ------------------------------------------------------------ directories


def without_privileges(*argv: str) -> list[str]:
    """Return a command line under which file modes apply to root as to other users."""
    if os.geteuid() != 0:
        return list(argv)
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv takes away what lets root ignore modes")
    dropped = "-dac_override,-dac_read_search"
    return ["setpriv", "--bounding-set", dropped, "--inh-caps", dropped, *argv]


def foreign(path: Path, mode: int) -> Path:
    """Make a directory that only its mode for others lets this process enter."""
    path.mkdir()
    if os.geteuid() == 0:
        os.chown(path, 4242, 4242)
    else:
        mode = mode & 0o007 << 6 | mode
    path.chmod(mode)
    return path


def run_job(world: Any, workspace: str | None, cwd: Path) -> tuple[int, Any]:
    words = [] if workspace is None else ["--workspace", workspace]
    argv = [sys.executable, "-m", "supervisor", "run", "--json", *words, "--", "/bin/sh", "-c", "pwd -P"]
    done = subprocess.run(
        without_privileges(*argv), check=False, timeout=SHORT, capture_output=True, cwd=cwd, env=world.environment
    )
    return done.returncode, json.loads(done.stdout)


def test_a_directory_that_can_only_be_searched_is_a_workspace(world: Any) -> None:
    path = foreign(world.directory / "search-only", 0o711 if os.geteuid() == 0 else 0o111)
    try:
        for status, shape in (run_job(world, str(path), world.directory), run_job(world, None, path)):
            assert (status, shape.get("value")) == (0, f"{path}\n"), shape
        argv = [sys.executable, "-m", "supervisor", "list", "--json", "--workspace", str(path)]
        done = subprocess.run(without_privileges(*argv), check=False, capture_output=True, env=world.environment)
        assert len(json.loads(done.stdout)["jobs"]) == 2
    finally:
        path.chmod(0o755)


@pytest.mark.parametrize("below", ["missing", "file/below", "closed", "closed/below", "loop", "n" * 300])
def test_a_workspace_that_cannot_be_entered_will_not_be_later(world: Any, below: str) -> None:
    (world.directory / "file").write_text("")
    (world.directory / "loop").symlink_to("loop")
    closed = foreign(world.directory / "closed", 0o700 if os.geteuid() == 0 else 0o000)
    try:
        status, shape = run_job(world, str(world.directory / below), world.directory)
    finally:
        closed.chmod(0o755)
    assert status == 125
    assert shape["error"]["code"] == "launch_failed"
    assert shape["error"]["retryable"] is False
    again = subprocess.run(
        [sys.executable, "-m", "supervisor", "result", "--json", shape["job"]["job_id"]],
        check=False,
        capture_output=True,
        env=world.environment,
    )
    assert json.loads(again.stdout)["error"] == shape["error"]
