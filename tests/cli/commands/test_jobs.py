"""Commands about jobs that were started from the command line, in this process where that will do."""

from __future__ import annotations

import base64
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

STUBBORN = ("sh", "-c", 'trap "" TERM; echo ready; while :; do sleep 60 & wait $!; done')


def wait_for_output(cli: Any, job_id: str, text: bytes) -> None:
    with cli.process("logs", "--follow", job_id) as process:
        found = b""
        while text not in found:
            chunk = os.read(process.stdout.fileno(), 1024)
            assert chunk
            found += chunk
        process.terminate()


def read_all(descriptor: int) -> str:
    found = b""
    while True:
        try:
            chunk = os.read(descriptor, 4096)
        except OSError:  # EIO: the other side of a pseudo-terminal is closed
            chunk = b""
        if not chunk:
            return found.decode()
        found += chunk


def on_terminal(*words: str, **environment: str) -> tuple[int, str]:
    """Run the command line with a terminal of 60 columns for its output."""
    master, slave = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "60", **environment}
    with subprocess.Popen([sys.executable, "-m", "supervisor", *words], stdout=slave, stderr=slave, env=env) as process:
        os.close(slave)
        shown = read_all(master)
    os.close(master)
    return process.returncode, shown


# ------------------------------------------------------------ status, result


def test_status_of_a_job_through_its_life(cli: Any, fifo: Callable[[], None]) -> None:
    job_id = cli.start("--label", "batch=4 2", "--deadline", "600", "--", "sh", "-c", "read x < ../fifo; exit 7")
    running = cli("status", job_id[:6])
    assert running.exit_code == 0
    facts = dict(line.split("  ", 1) for line in running.stdout.splitlines())
    assert facts["Job"].strip() == job_id
    assert facts["Status"].strip().startswith("running, for ")
    assert facts["Labels"].strip() == "batch=4 2"
    assert "10 min 00 s" in facts["Deadline"]
    shape = cli.json("status", job_id)
    assert (shape["ok"], shape["job_id"], shape["status"], shape["exit_code"]) == (True, job_id, "running", None)
    fifo()
    assert cli("wait", job_id).exit_code == 1
    ended = cli("status", job_id).stdout
    assert "failed (exit status 7)" in ended
    assert "Deadline" not in ended
    assert cli.json("status", job_id)["exit_code"] == 7


def test_control_characters_do_not_reach_a_terminal(cli: Any) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J"
    job_id = cli.start("--label", f"a={evil}", "--", "sh", "-c", "exit 1", evil)
    cli("wait", job_id)
    for words in (["status", job_id], ["list"]):
        status, shown = on_terminal(*words, NO_COLOR="1")
        assert status == 0
        assert "owned" not in shown
        assert "\x07" not in shown
        assert "\x1b[2J" not in shown


@pytest.mark.parametrize("words", [["status"], ["list"]])
def test_colours_are_for_terminals_that_want_them(cli: Any, words: list[str]) -> None:
    job_id = cli.start("true")
    cli("wait", job_id)
    words = [*words, job_id] if words == ["status"] else words
    assert "\x1b[" in on_terminal(*words)[1]
    assert "\x1b[3" not in on_terminal(*words, NO_COLOR="1")[1]
    assert "\x1b" not in cli.run(*words).stdout.decode()


def test_results_are_the_bytes_that_were_written(cli: Any) -> None:
    job_id = cli.start("--", "printf", r"caf\303\251 \377 no newline")
    assert cli("wait", job_id).exit_code == 0
    assert cli.run("result", job_id).stdout == b"caf\xc3\xa9 \xff no newline"
    shape = cli.json("result", job_id)
    assert shape["encoding"] == "base64"
    assert base64.b64decode(shape["value"]) == b"caf\xc3\xa9 \xff no newline"
    assert cli("result", "--consume", job_id).exit_code == 0
    assert cli("result", job_id).exit_code == 3


def test_the_result_of_a_running_job_is_75_and_of_a_bad_one_1(cli: Any, fifo: Callable[[], None]) -> None:
    job_id = cli.start("--kind", "json", "--", "sh", "-c", "read x < ../fifo; echo '{'")
    shape = cli.json("result", job_id, status=75)
    assert (shape["error"]["code"], shape["error"]["retryable"], shape["job"]["status"]) == (
        "job_running",
        True,
        "running",
    )
    fifo()
    assert cli("wait", job_id).exit_code == 1
    done = cli("result", job_id)
    assert (done.exit_code, done.stdout) == (1, "")
    assert job_id in done.stderr
    assert cli.json("result", job_id, status=1)["error"]["code"] == "invalid_output"


def test_the_value_of_kind_json(cli: Any) -> None:
    job_id = cli.start("--kind", "json", "--", "echo", '{"a": [1, "\\u001b"]}')
    cli("wait", job_id)
    done = cli("result", job_id)
    assert json.loads(done.stdout) == {"a": [1, "\x1b"]}
    assert "\x1b" not in done.stdout


# ------------------------------------------------------------ list


def test_a_list_in_a_pipe_is_aligned_text(cli: Any) -> None:
    first = cli.start("--label", "n=1", "--", "echo", "one two")
    second = cli.start("--label", "n=2", "--", "sh", "-c", "exit 3")
    cli("wait", first, second)
    lines = cli("list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["ID", second, first]
    assert lines[0].index("COMMAND") == lines[2].index("echo 'one two'")
    assert "\t" not in "".join(lines)
    assert [job["job_id"] for job in cli.json("list", "--label", "n=1")["jobs"]] == [first]
    assert [job["job_id"] for job in cli.json("list", "--state", "failed")["jobs"]] == [second]
    page = cli.json("list", "--limit", "1")
    assert [job["job_id"] for job in page["jobs"]] == [second]
    rest = cli.json("list", "--limit", "1", "--cursor", page["next_cursor"])
    assert ([job["job_id"] for job in rest["jobs"]], rest["next_cursor"]) == ([first], None)


def test_a_list_on_a_terminal_is_cut_to_its_width(cli: Any) -> None:
    job_id = cli.start("--", "echo", "[bold]" + "x" * 200)
    cli("wait", job_id)
    status, shown = on_terminal("list", NO_COLOR="1")
    head, line = shown.replace("\x1b[1m", "").replace("\x1b[0m", "").splitlines()
    assert status == 0
    assert head.split()[:2] == ["ID", "STATUS"]
    assert line.split()[0] == job_id[:8]
    assert len(line.rstrip()) <= 60
    assert "[bold]" in line


def test_a_list_without_jobs_says_where_there_are_some(cli: Any, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    assert cli("list").stderr == f"No jobs in {os.path.realpath('.')}.\n"
    job_id = cli.start("--workspace", str(other), "true")
    cli("wait", job_id)
    done = cli("list")
    assert (done.exit_code, done.stdout) == (0, "")
    assert "1 job in other workspaces" in done.stderr
    assert cli.json("list")["jobs_in_other_workspaces"] == 1
    assert job_id in cli("list", "--all").stdout
    assert job_id in cli("list", "--workspace", str(other)).stdout


# ------------------------------------------------------------ wait, cancel


def test_waiting_for_several(cli: Any, fifo: Callable[[], None]) -> None:
    good = cli.start("true")
    bad = cli.start("false")
    live = cli.start("--", "sh", "-c", "read x < ../fifo")
    assert cli("wait", good, bad).exit_code == 1
    assert cli("wait", "--any", good, live).exit_code == 0
    late = cli("wait", "--timeout", "0.05", good, bad, live)
    assert late.exit_code == 75
    assert f"{live}  running" in late.stdout
    shape = cli.json("wait", "--timeout", "0", good, live, status=75)
    assert shape["error"]["code"] == "job_running"
    assert [job["status"] for job in shape["jobs"]] == ["done", "running"]
    assert cli.json("wait", "--timeout", "0", live, status=75)["job"]["job_id"] == live
    assert cli("wait", good, "f" * 32).exit_code == 3
    with cli.process("wait", live) as process:
        fifo()
        out, _ = process.communicate(timeout=30)
    assert (process.returncode, out.decode()) == (0, f"{live}  done\n")


def test_several_are_cancelled_side_by_side(cli: Any) -> None:
    jobs = [cli.start("--label", "b=1", "--", *STUBBORN) for _ in range(3)]
    other = cli.start("sleep", "60")
    for job in jobs:
        wait_for_output(cli, job, b"ready")
    shape = cli.json("cancel", "--label", "b=1")
    assert {job["job_id"] for job in shape["jobs"]} == set(jobs)
    assert {job["status"] for job in shape["jobs"]} == {"cancelled"}
    asked = [cli.record(job, "stop.json")["requested_ns"] for job in jobs]
    ended = [cli.record(job, "exit.json")["ended_ns"] for job in jobs]
    assert max(asked) < min(ended)
    assert cli.json("status", other)["status"] == "running"
    assert cli.json("cancel", other)["status"] == "cancelled"
    assert cli.json("cancel", other)["status"] == "cancelled"
    assert "nothing to cancel" in cli("cancel", "--all").stderr


def test_jobs_whose_keepers_are_gone_are_cancelled_side_by_side(cli: Any) -> None:
    jobs = [cli.start("--", *STUBBORN) for _ in range(2)]
    for job in jobs:
        wait_for_output(cli, job, b"ready")
        keeper = cli.record(job, "process.json")["keeper_pid"]
        descriptor = os.pidfd_open(keeper)
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        os.close(descriptor)
    begun = time.monotonic()
    done = cli("cancel", "--json", *jobs)
    assert done.exit_code == 0, done.output
    assert {job["status"] for job in json.loads(done.stdout)["jobs"]} == {"cancelled"}
    assert time.monotonic() - begun < 10


# ------------------------------------------------------------ rm, prune, logs


def test_rm_forgets_what_has_ended_and_nothing_else(cli: Any) -> None:
    done, live = cli.start("true"), cli.start("sleep", "60")
    cli("wait", done)
    shape = cli.json("rm", done, live, status=75)
    assert (shape["forgotten"], shape["error"]["code"]) == ([done], "job_running")
    assert cli("status", done).exit_code == 3
    assert cli("status", live).exit_code == 0
    cli("cancel", live)
    assert cli("rm", live).stdout == f"{live}\n"


def test_prune_forgets_what_is_too_much(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [cli.start("true") for _ in range(3)]
    cli("wait", *jobs)
    assert cli("prune").stdout == "Forgot 0 jobs.\n"
    monkeypatch.setenv("SUPERVISOR_JOB_MAX_COUNT", "1")
    assert set(cli.json("prune")["forgotten"]) == set(jobs[:2])
    monkeypatch.setenv("SUPERVISOR_JOB_MAX_COUNT", "0")
    assert cli("prune", "--workspace", "/").stdout == "Forgot 0 jobs.\n"
    assert cli("prune", "--all").stdout == "Forgot 1 job.\n"


def test_logs_are_the_bytes_that_were_written(cli: Any) -> None:
    job_id = cli.start("--", "sh", "-c", r"printf '\377\0x'; echo err >&2")
    cli("wait", job_id)
    assert cli.run("logs", job_id).stdout == b"\xff\0x"
    assert cli.run("logs", "--stderr", job_id).stdout == b"err\n"
    assert cli.json("logs", job_id)["encoding"] == "base64"
    shape = cli.json("logs", "--stderr", job_id)
    assert (shape["value"], shape["stream"]) == ("err\n", "stderr")


def test_following_ends_with_the_job(cli: Any, fifo: Callable[[], None]) -> None:
    job_id = cli.start("--", "sh", "-c", "echo one; read x < ../fifo; echo two")
    with cli.process("logs", "--follow", job_id) as process:
        assert process.stdout.readline() == b"one\n"
        fifo()
        out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, b"two\n")


def test_a_reader_that_has_seen_enough_is_no_error(cli: Any) -> None:
    job_id = cli.start("--", "sh", "-c", "yes | head -c 1000000")
    cli("wait", job_id)
    with cli.process("logs", job_id) as process:
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_an_answer_that_cannot_be_written_is_a_failure_of_ours(cli: Any, options: list[str]) -> None:
    job_id = cli.start("true")
    cli("wait", job_id)
    with open("/dev/full", "wb") as full:
        done = cli.run("status", *options, job_id, stdout=full)
    assert done.returncode == 125
    assert b"No space left" in done.stderr
    assert b"Traceback" not in done.stderr


# ------------------------------------------------------------ doctor


def test_the_doctor_is_content_and_changes_nothing(cli: Any, tmp_path: Path) -> None:
    job_id = cli.start("true")
    cli("wait", job_id)
    shape = cli.json("doctor")
    assert shape["ok"]
    checks = {check["name"]: check for check in shape["checks"]}
    assert checks["registry"]["facts"]["jobs"] == 1
    assert {"supervisor", "platform", "state root", "pidfd", "inotify", "umask", "limits", "container"} <= set(checks)
    done = cli("doctor", "--state-dir", str(tmp_path / "a" / "b"))
    assert done.exit_code == 0, done.output
    assert "will create it" in done.stdout
    assert not tmp_path.joinpath("a").exists()


def test_the_doctor_finds_what_would_fail(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "open"
    root.mkdir()
    root.chmod(0o777)
    monkeypatch.setenv("SUPERVISOR_CONFIG", str(tmp_path / "no-such-file"))
    done = cli("doctor", "--state-dir", str(root))
    assert done.exit_code == 1
    assert "open to others" in done.stdout
    assert "chmod 700" in done.stdout
    names = {check["name"] for check in cli.json("doctor", status=1)["checks"] if check["verdict"] == "problem"}
    assert names == {"kinds file"}


def test_an_ambiguous_prefix_names_the_jobs(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [f"abcd{number:028x}" for number in reversed(range(12))]
    left = iter(ids)
    monkeypatch.setattr("supervisor.runtime.launcher.new_job_id", lambda: next(left))
    cli.start("sleep", "60")
    cli("wait", *(cli.start("false") for _ in ids[1:10]))
    for name in ("status", "result", "wait", "cancel", "rm", "logs"):
        failure = cli.json(name, "abcd", status=2)
        error = failure["error"]
        assert error["code"] == "invalid_arguments"
        assert error["details"]["job_ids"] == sorted(ids[:10])
        assert error["details"]["more"] is False
        states = {each["job_id"]: each["status"] for each in error["details"]["candidates"]}
        assert states == {ids[0]: "running", **dict.fromkeys(ids[1:10], "failed")}
        listed = ", ".join(f"{job_id} ({states[job_id]})" for job_id in sorted(states))
        assert error["message"].endswith(f": {listed}")
        assert f"{ids[0]} (running)" in cli(name, "abcd").stderr
    cli("wait", cli.start("true"))
    error = cli.json("status", "abcd", status=2)["error"]
    assert (len(error["details"]["job_ids"]), error["details"]["more"]) == (10, True)
    assert error["message"].endswith(" and others")


@pytest.mark.parametrize("character", ["a", "\x01", "\N{PILE OF POO}", '"'])
def test_a_large_value_is_written_in_pieces_that_fit(cli: Any, monkeypatch: pytest.MonkeyPatch, character: str) -> None:
    monkeypatch.setattr("supervisor.cli.front._PIECE", 10)
    value = character * 25
    job_id = cli.start("--label", 'value="value":""', "--", "printf", "%s", value)
    cli("wait", job_id)
    assert cli.json("result", job_id)["value"] == value
    assert cli.json("result", job_id)["job"]["labels"] == {"value": '"value":""'}
    assert cli.json("logs", job_id)["value"] == value
