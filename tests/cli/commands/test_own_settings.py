"""The options of ``start`` and ``run`` that override a setting for one job."""

from __future__ import annotations

import json
from typing import Any

import pytest

from supervisor.jobdir import records


def test_they_are_on_record(cli: Any) -> None:
    job_id = cli.start("--ttl", "2d", "--max-output", "1.5k", "--grace", "1m30s", "--merge-stderr", "--", "true")
    found = cli.record(job_id, records.JOB)
    assert (found["ttl_seconds"], found["output_limit"], found["grace_seconds"]) == (172800, 1536, 90)
    assert found["merge_stderr"] is True


def test_a_run_with_no_time_to_live_leaves_its_output_and_its_status(cli: Any) -> None:
    done = cli.run("run", "--ttl", "0", "--", "sh", "-c", "echo out; exit 4")
    assert (done.returncode, done.stdout, done.stderr) == (4, b"out\n", b"")
    assert cli.json("list")["jobs"] == []


def test_every_attempt_of_such_a_run_is_shown(cli: Any) -> None:
    words = ["--ttl", "0", "--attempts", "2", "--retry-on", "3", "--retry-delay", "0"]
    done = cli.run("run", *words, "--", "sh", "-c", "echo out; exit 3")
    assert (done.returncode, done.stdout) == (3, b"out\nout\n")
    assert b"attempt 1 of 2" in done.stderr


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--ttl", "soon"], "'soon' is not a duration"),
        (["--ttl", "none"], "'none' is not a duration"),
        (["--grace", "-1"], "'-1' is not a duration"),
        (["--grace", "inf"], "'inf' is not a duration"),
        (["--ttl", "99999999d"], "ttl_seconds is 8639999913600.0; it must be a number of seconds from 0 to 100 years"),
        (["--max-output", "10 files"], "'10 files' is not a size"),
        (["--max-output", "9e9"], "'9e9' is not a size"),
        (["--max-output", "99999999T"], "'99999999T' is not a size"),
    ],
)
def test_bad_values_start_nothing(cli: Any, words: list[str], problem: str) -> None:
    done = cli("start", "--json", *words, "--", "true")
    assert done.exit_code == 2
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "invalid_arguments"
    assert problem in error["message"]
    assert cli.json("list")["jobs"] == []
