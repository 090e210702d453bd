"""``start`` of a job that has to wait: it exits 0, and prints the id or the job."""

from __future__ import annotations

import json
from typing import Any

import pytest


@pytest.mark.parametrize(
    ("words", "reason", "position"),
    [
        (["--group", "g"], "paused", 1),
        (["--group", "g", "--hold"], "held", None),
        (["--delay", "1h"], "not_before", None),
        (["--after", "{first}"], "dependency", None),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_waiting_job_is_printed_as_it_is(cli: Any, words: list[str], reason: str, position: int | None) -> None:
    cli("group", "set", "g", "--limit", "1")
    cli("group", "pause", "g")
    first = cli.start("--hold", "--", "true")
    words = [word.format(first=first) for word in words]

    done = cli.run("start", *words, "--priority", "3", "--", "echo", "plain")
    job_id = done.stdout.decode().rstrip("\n")
    assert (done.returncode, done.stderr, len(job_id)) == (0, b"", 32)
    assert cli.json("status", job_id)["queue_reason"] == reason
    cli("cancel", job_id)

    done = cli.run("start", "--json", *words, "--priority", "3", "--", "echo", "json")
    assert (done.returncode, done.stderr) == (0, b"")
    shape = json.loads(done.stdout)
    assert (shape["ok"], shape["status"], shape["queue_reason"]) == (True, "queued", reason)
    assert (shape["queue_position"], shape["priority"], shape["argv"]) == (position, 3, ["echo", "json"])
    assert (shape["started_at"], shape["pid"]) == (None, None)
    listed = {job["job_id"]: job for job in cli.json("list", "--state", "queued")["jobs"]}
    assert listed[shape["job_id"]]["queue_reason"] == reason
    cli("cancel", shape["job_id"], first)
