"""Behaviour that all commands about jobs share: prefixes of ids, and a stdout whose reader has closed it."""

from __future__ import annotations

from typing import Any

import pytest


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


def test_an_ambiguous_prefix_names_the_jobs(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [f"abcd{number:028x}" for number in reversed(range(12))]
    left = iter(ids)
    monkeypatch.setattr("supervisor.runtime.drafts.new_job_id", lambda: next(left))
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
