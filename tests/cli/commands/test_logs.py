from __future__ import annotations

from collections.abc import Callable
from typing import Any


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


# The second reader must not take the writer of the first release, which may not have closed the pipe yet, for its own.
AGAIN = "until read x < ../fifo; do :; done"
LINES = r"for n in 1 2 3; do echo out $n; echo err $n >&2; done; printf '\377 end'"


def test_the_last_lines_of_a_stream(cli: Any) -> None:
    job_id = cli.start("--", "sh", "-c", LINES)
    cli("wait", job_id)
    assert cli.run("logs", "-n", "2", job_id).stdout == b"out 3\n\xff end"
    assert cli.run("logs", job_id, "--lines=1").stdout == b"\xff end"
    assert cli.run("logs", job_id, "-n", "99").stdout == b"out 1\nout 2\nout 3\n\xff end"
    assert cli.run("logs", job_id, "-n", "0").stdout == b""
    assert cli.run("logs", "--stderr", "-n", "1", job_id).stdout == b"err 3\n"
    assert cli.json("logs", "--stderr", "-n", "1", job_id)["value"] == "err 3\n"
    assert cli.run("logs", "-f", "-n", "1", job_id).stdout == b"\xff end"


def test_both_streams_are_told_apart(cli: Any) -> None:
    job_id = cli.start("--", "sh", "-c", LINES)
    cli("wait", job_id)
    out = b"stdout | out 1\nstdout | out 2\nstdout | out 3\n"
    err = b"stderr | err 1\nstderr | err 2\nstderr | err 3\n"
    assert cli.run("logs", "--all", job_id).stdout == out + err + b"stdout | \xff end\n"
    assert cli.run("logs", "--all", "-n", "1", job_id).stdout == b"stderr | err 3\nstdout | \xff end\n"
    shape = cli.json("logs", "--all", job_id)
    assert (shape["stdout"]["encoding"], shape["stderr"]) == ("base64", {"value": "err 1\nerr 2\nerr 3\n"})
    assert "stream" not in shape
    done = cli("logs", "--all", "--stderr", job_id)
    assert (done.exit_code, "exclude each other" in done.output) == (2, True)
    assert cli("logs", "-n", "-1", job_id).exit_code == 2


def test_lines_of_both_come_whole_as_they_are_written(cli: Any, fifo: Callable[[], None]) -> None:
    script = f"echo one; printf 'a part ' >&2; read x < ../fifo; echo two; {AGAIN}; echo 'of a line' >&2"
    job_id = cli.start("--", "sh", "-c", script)
    with cli.process("logs", "--follow", "--all", job_id) as process:
        assert process.stdout.readline() == b"stdout | one\n"
        fifo()
        assert process.stdout.readline() == b"stdout | two\n"
        fifo()
        out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, b"stderr | a part of a line\n")


def test_a_line_without_end_is_not_held_back_for_ever(cli: Any, fifo: Callable[[], None]) -> None:
    script = f"head -c 200000 /dev/zero | tr '\\0' x; read x < ../fifo; echo err >&2; {AGAIN}; echo end"
    job_id = cli.start("--", "sh", "-c", script)
    with cli.process("logs", "--follow", "--all", job_id) as process:
        begun = process.stdout.read(100_000)
        assert begun == b"stdout | " + b"x" * 99_991
        fifo()
        while (line := process.stdout.readline()).startswith(b"x"):
            pass
        assert line == b"stderr | err\n"
        fifo()
        out, _ = process.communicate(timeout=30)
    assert out.endswith(b"end\n")


def test_new_lines_come_after_the_last_ones(cli: Any, fifo: Callable[[], None]) -> None:
    job_id = cli.start("--", "sh", "-c", "echo one; echo two; read x < ../fifo; echo three")
    with cli.process("logs", "-n", "1", "--follow", job_id) as process:
        assert process.stdout.readline() == b"two\n"
        fifo()
        out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, b"three\n")


def test_the_stderr_of_a_job_with_both_in_one_is_in_its_stdout(cli: Any) -> None:
    job_id = cli.start("--merge-stderr", "--", "sh", "-c", "echo out; echo err >&2")
    cli("wait", job_id)
    assert cli.run("logs", job_id).stdout == b"out\nerr\n"
    for words in (["--stderr"], ["--all"]):
        done = cli.run("logs", job_id, *words)
        assert done.stderr == b"supervisor: the stderr of this job is in its stdout (--merge-stderr)\n"
    assert cli.json("logs", "--stderr", job_id) == {
        "ok": True,
        "job_id": job_id,
        "merge_stderr": True,
        "stream": "stderr",
        "value": "",
    }


def test_the_limit_is_noted_for_each_stream(cli: Any) -> None:
    job_id = cli.start("--max-output", "4", "--", "sh", "-c", "printf 123456; printf 123456 >&2")
    cli("wait", job_id)
    done = cli.run("logs", "--all", job_id)
    assert done.stdout == b"stdout | 1234\nstderr | 1234\n"
    assert done.stderr.count(b"goes on past its limit of 4 bytes") == 2
    assert cli.json("logs", "--all", job_id)["stderr"] == {"value": "1234", "truncated": True}
    assert cli.run("logs", "-n", "1", job_id).stdout == b"1234"
