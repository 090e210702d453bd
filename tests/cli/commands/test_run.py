"""``run`` and ``start`` as real processes: streams, exit statuses, signals."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from supervisor.jobs.validation import MAX_INPUT_BYTES


def only_job(cli: Any) -> Any:
    (job,) = cli.json("list")["jobs"]
    return job


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["--", "sh", "-c", "exit 7"], 7),
        (["sh", "-c", "exit 7"], 7),
        (["--", "sh", "-c", "kill -KILL $$"], 137),
        (["--deadline", "0.1", "--", "sleep", "60"], 124),
        (["--", "surely-no-such-command"], 127),
        (["--", "/etc/passwd"], 126),
        (["--workspace", "/no/such/directory", "--", "true"], 125),
        (["--kind", "json", "--", "echo", "{"], 1),
        (["--kind", "json", "--", "echo", "{}"], 0),
    ],
)
def test_run_exits_as_the_command_exits(cli: Any, words: list[str], status: int) -> None:
    assert cli.run("run", *words).returncode == status
    done = cli.run("run", "--json", *words)
    assert done.returncode == status
    shape = json.loads(done.stdout)
    assert shape["ok"] == (status == 0)
    assert shape["job"]["status"] == {0: "done", 124: "timeout"}.get(status, "failed")
    assert done.stderr == b""


def test_run_passes_output_on_unchanged(cli: Any) -> None:
    done = cli.run("run", "--", "sh", "-c", r"printf '\377\0'; yes | head -c 300000; printf 'err\033' >&2")
    assert done.returncode == 0
    assert done.stdout == b"\xff\0" + b"y\n" * 150000
    assert done.stderr == b"err\x1b"


def test_run_streams_while_the_command_runs(cli: Any, fifo: Callable[[], None]) -> None:
    with cli.process("run", "--", "sh", "-c", "echo one; read x < ../fifo; echo two") as process:
        assert process.stdout.readline() == b"one\n"
        fifo()
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, b"two\n", b"")


def test_options_after_the_command_are_its_own(cli: Any) -> None:
    done = cli.run("run", "echo", "--json", "--", "-h", "--state-dir", "x")
    assert (done.returncode, done.stdout) == (0, b"--json -- -h --state-dir x\n")


def test_stdin_and_environment(cli: Any, tmp_path: Path) -> None:
    prompt = tmp_path / "prompt"
    prompt.write_bytes(b"caf\xc3\xa9\xff")
    assert cli.run("run", "--stdin", str(prompt), "--", "cat").stdout == b"caf\xc3\xa9\xff"
    assert cli.run("run", "--", "cat").stdout == b""
    with cli.process("run", "--stdin", "-", "--", "cat", stdin=subprocess.PIPE) as process:
        out, _ = process.communicate(b"from a pipe", timeout=30)
    assert out == b"from a pipe"
    file = tmp_path / "env"
    file.write_text("# comment\n\nONE=1 # kept\nTWO=from file\nGIVEN\n", encoding="utf-8")
    words = ["--env-file", str(file), "--env", "TWO=2=2", "--env", "GIVEN"]
    done = cli.run(
        "run",
        *words,
        "--",
        "sh",
        "-c",
        'echo "$ONE|$TWO|$GIVEN|$ELSE"',
        env={**os.environ, "GIVEN": "given", "ELSE": "else"},
    )
    assert done.stdout == b"1 # kept|2=2|given|else\n"


UNREAD = b"stdin has input that the job does not get; --stdin - passes it on"


def given_on_stdin(cli: Any, tmp_path: Path, how: str, *words: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command line that finds three lines, or nothing, on its stdin."""
    file = tmp_path / "lines"
    file.write_bytes(b"1\n2\n3\n" if how != "empty file" else b"")
    ours, theirs = socket.socketpair()
    reading, writing = os.pipe()
    with ours, theirs, open(reading, "rb") as pipe, open(file, "rb") as opened:
        if how == "socket":
            ours.send(file.read_bytes())
            ours.shutdown(socket.SHUT_WR)
        if how == "pipe":
            os.write(writing, file.read_bytes())
        if how == "read file":
            opened.seek(0, os.SEEK_END)
        if how in {"closed pipe", "pipe"}:
            os.close(writing)
        try:
            stdin = {"socket": theirs, "silent socket": theirs}.get(how, pipe if "pipe" in how else opened)
            return cli.run(*words, stdin=stdin)
        finally:
            if how not in {"closed pipe", "pipe"}:
                os.close(writing)


@pytest.mark.parametrize("words", [["run"], ["start"], ["run", "--json"], ["start", "--json"]], ids=" ".join)
@pytest.mark.parametrize("how", ["pipe", "file", "socket"])
def test_input_that_a_job_is_not_given_is_not_dropped_silently(
    cli: Any, tmp_path: Path, how: str, words: list[str]
) -> None:
    done = given_on_stdin(cli, tmp_path, how, *words, "--", "wc", "-l")
    assert done.returncode == 0
    assert done.stderr.count(UNREAD) == 1
    for given, lines in (("-", 3), ("/dev/null", 0)):
        done = given_on_stdin(cli, tmp_path, how, "run", "--stdin", given, "--", "wc", "-l")
        assert (done.stdout.strip(), done.stderr) == (str(lines).encode(), b"")


@pytest.mark.parametrize("how", ["open pipe", "closed pipe", "empty file", "read file", "silent socket"])
def test_without_input_nothing_is_said_and_nothing_waited_for(cli: Any, tmp_path: Path, how: str) -> None:
    for word in ("run", "start"):
        done = given_on_stdin(cli, tmp_path, how, word, "--", "true")
        assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.usefixtures("fifo")
def test_input_that_comes_late_is_noticed_at_the_end(cli: Any) -> None:
    with cli.process("run", "--", "sh", "-c", "echo ready; read x < ../fifo", stdin=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        process.stdin.write(b"late")
        process.stdin.flush()
        with open("../fifo", "wb") as fifo:
            fifo.write(b"go\n")
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err.count(UNREAD)) == (0, 1)


@pytest.mark.parametrize(
    "line", ["a && b", "echo $HOME", "echo a|cat", "A=b make", "ls *", "./x; ./y", "my-command -v"]
)
@pytest.mark.parametrize("kind", ["raw", "json", "claude", "codex"])
def test_a_line_for_a_shell_is_told_how_to_get_one(cli: Any, line: str, kind: str) -> None:
    done = cli("start", "--kind", kind, "--json", line)
    assert done.exit_code == 127
    assert "sh -c 'LINE'" in json.loads(done.stdout)["error"]["repair"]
    assert "sh -c" not in json.loads(cli("start", "--json", "my-command").stdout)["error"]["repair"]


@pytest.mark.parametrize(
    "words", [["--stdin", "-"], ["--stdin", "/dev/zero"], ["--env-file", "/dev/zero"]], ids=" ".join
)
def test_endless_input_is_refused_and_takes_no_more_memory_than_the_limit(cli: Any, words: list[str]) -> None:
    limit = ["prlimit", f"--as={1 << 30}"] if shutil.which("prlimit") else []
    with open("/dev/zero", "rb") as zero:
        argv = [*limit, sys.executable, "-m", "supervisor", "start", "--json", *words, "--", "true"]
        done = subprocess.run(argv, stdin=zero, capture_output=True, check=False, timeout=60)
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["code"], error["retryable"]) == (2, "invalid_arguments", False)
    assert error["message"] == f"{words[0]} has more than 67108864 bytes, which is the limit"
    assert "FILE" in error["repair"]
    assert cli.json("list")["jobs"] == []


def test_input_of_just_the_limit_is_given(cli: Any, tmp_path: Path) -> None:
    file = tmp_path / "large"
    with open(file, "wb") as opened:
        opened.truncate(MAX_INPUT_BYTES)
    done = cli.run("run", "--stdin", str(file), "--", "wc", "-c")
    assert (done.returncode, done.stdout.strip()) == (0, str(MAX_INPUT_BYTES).encode())


def test_a_closed_stdin_has_nothing_to_give(cli: Any) -> None:
    script = 'exec "$0" -m supervisor start --json --stdin - -- cat <&-'
    done = subprocess.run(["sh", "-c", script, sys.executable], capture_output=True, check=False, timeout=60)
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["message"] == "--stdin -: stdin is closed"
    assert cli.json("list")["jobs"] == []


def test_a_key_starts_a_job_once(cli: Any) -> None:
    first = cli.start("--key", "k", "--", "echo", "x")
    assert cli.start("--key", "k", "--", "echo", "x") == first
    failure = cli("start", "--json", "--key", "k", "echo", "y")
    assert failure.exit_code == 2
    assert json.loads(failure.stdout)["error"]["code"] == "idempotency_conflict"
    done = cli.run("run", "--key", "k", "--", "echo", "x")
    assert (done.returncode, done.stdout) == (0, b"x\n")
    assert only_job(cli)["job_id"] == first


def test_start_returns_at_once_and_the_job_goes_on(cli: Any, fifo: Callable[[], None]) -> None:
    done = cli.run("start", "--json", "--label", "a=b", "--", "sh", "-c", "read x < ../fifo; echo done; exit 7")
    shape = json.loads(done.stdout)
    assert (done.returncode, shape["ok"], shape["status"], shape["labels"]) == (0, True, "running", {"a": "b"})
    fifo()
    ended = cli.json("wait", shape["job_id"], status=1)
    assert (ended["status"], ended["reason"], ended["exit_code"]) == ("failed", "nonzero_exit", 7)
    assert cli.run("logs", shape["job_id"]).stdout == b"done\n"


def test_a_command_that_cannot_be_launched_is_a_job_all_the_same(cli: Any) -> None:
    done = cli("start", "surely-no-such-command")
    assert done.exit_code == 127
    job_id = done.stdout.strip()
    assert "surely-no-such-command" in done.stderr
    assert cli.json("status", job_id)["reason"] == "launch_failed"
    shape = json.loads(cli("start", "--json", "/etc/passwd").stdout)
    assert shape["error"]["code"] == "launch_failed"
    assert shape["error"]["details"]["exit_status"] == 126


# ------------------------------------------------------------ signals


READY = ("sh", "-c", "echo ready; exec sleep 60")
STUBBORN = ("sh", "-c", 'trap "" TERM; echo ready; while :; do sleep 60 & wait $!; done')


def test_interrupting_run_cancels_the_job(cli: Any) -> None:
    with cli.process("run", "--", *READY) as process:
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"cancelling" in err
    assert only_job(cli)["status"] == "cancelled"


def test_a_second_interrupt_does_not_wait(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERVISOR_STOP_GRACE_SECONDS", "60")
    with cli.process("run", "--", *STUBBORN) as process:
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        assert b"cancelling" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    job = only_job(cli)
    assert process.returncode == 130
    assert job["job_id"].encode() in err
    assert job["status"] == "running"
    os.killpg(job["pid"], signal.SIGKILL)
    assert cli("wait", job["job_id"]).exit_code == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_terminated_run_lets_go_of_the_job(cli: Any, number: signal.Signals) -> None:
    before = signal.signal(
        number, signal.SIG_DFL
    )  # a signal that this process ignores, as under nohup, would stay ignored in children
    try:
        with cli.process("run", "--", *READY) as process:
            assert process.stdout.readline() == b"ready\n"
            process.send_signal(number)
            _, err = process.communicate(timeout=30)
    finally:
        signal.signal(number, before)
    job = only_job(cli)
    assert process.returncode == 128 + number
    assert job["job_id"].encode() in err
    assert job["status"] == "running"


def test_a_killed_run_leaves_the_job_running(cli: Any) -> None:
    with cli.process("run", "--", *READY) as process:
        assert process.stdout.readline() == b"ready\n"
        process.kill()
    assert only_job(cli)["status"] == "running"


@pytest.mark.usefixtures("cli")
def test_an_ignored_hangup_stays_ignored(fifo: Callable[[], None]) -> None:
    words = [sys.executable, "-m", "supervisor", "run", "--", "sh", "-c", "echo ready; read x < ../fifo"]
    command = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGHUP)
        fifo()
        process.communicate(timeout=30)
    assert process.returncode == 0


def test_a_reader_who_goes_away_leaves_the_job_running(cli: Any) -> None:
    with cli.process("run", "--", "sh", "-c", "while :; do echo ready; sleep 0.01; done") as process:
        assert process.stdout.readline() == b"ready\n"
        process.stdout.close()
        err = process.stderr.read()
    assert process.returncode == 141
    job = only_job(cli)
    assert job["status"] == "running"
    assert job["job_id"].encode() in err


def test_the_clock_is_shown_on_a_terminal_and_taken_away(cli: Any) -> None:
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "supervisor", "run", "--deadline", "1.5", "--", "sh", "-c", "echo out; sleep 60"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=slave, env={**os.environ, "TERM": "xterm"}
    ) as process:
        os.close(slave)
        assert process.stdout is not None
        assert process.stdout.read() == b"out\n"
        shown = b""
        while True:
            try:
                chunk = os.read(master, 4096)
            except OSError:
                break
            shown += chunk
    os.close(master)
    assert process.returncode == 124
    assert b"deadline in" in shown
    assert b"\r\x1b[K" in shown
    assert only_job(cli)["status"] == "timeout"


def test_run_says_on_a_terminal_what_its_job_waits_for(cli: Any, fifo: Callable[[], None], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "end")
    cli("group", "set", "g", "--limit", "1")
    running = cli.start("--group", "g", "--", "sh", "-c", "read line < ../fifo")
    before = cli.start("--group", "g", "--", "true")
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "supervisor", "run", "--group", "g", "--"]
    command += ["sh", "-c", "echo out; read line < ../end"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "200"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=slave, env=environment) as process:
        os.close(slave)
        shown = b""

        def shows(words: bytes) -> None:
            nonlocal shown
            while words not in shown:
                shown += os.read(master, 4096)

        shows(b"[waiting: for room in g; 1 job ahead, 0 s, job ")
        cli("cancel", before)
        shows(b"[waiting: for room in g; next in line, ")
        cli("group", "pause", "g")
        shows(b"[waiting: its group is paused; next in line, ")
        cli("group", "resume", "g")
        fifo()
        shows(b"s, deadline in 29 min ")
        (tmp_path / "end").write_text("go\n", encoding="ascii")
        assert process.stdout is not None
        assert process.stdout.read() == b"out\n"
        with contextlib.suppress(OSError):  # the other end is closed
            while True:
                shown += os.read(master, 4096)
    os.close(master)
    assert process.returncode == 0
    assert shown.endswith(b"\r\x1b[K"), "the line was taken away"
    found = re.search(rb"\[(\d+) s, deadline in 29 min (\d+) s", shown)
    assert found is not None, shown
    assert int(found[1]) + int(found[2]) in {59, 60, 61}, "its clock begins when it runs"
    cli("wait", running)


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_run_in_a_pipe_says_nothing_of_a_wait(cli: Any, fifo: Callable[[], None], words: list[str]) -> None:
    cli("group", "set", "g", "--limit", "1")
    cli.start("--group", "g", "--", "sh", "-c", "read line < ../fifo")
    with cli.process("run", *words, "--group", "g", "--", "true") as process:
        while [job["status"] for job in cli.json("list", "--state", "queued")["jobs"]] != ["queued"]:
            pass
        fifo()
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, b"")
