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
