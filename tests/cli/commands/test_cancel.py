from __future__ import annotations

import json
import os
import signal
import time
from types import SimpleNamespace
from typing import Any

from supervisor.cli.commands.cancel import _unfinished

STUBBORN = ("sh", "-c", 'trap "" TERM; echo ready; while :; do sleep 60 & wait $!; done')


def wait_for_output(cli: Any, job_id: str, text: bytes) -> None:
    with cli.process("logs", "--follow", job_id) as process:
        found = b""
        while text not in found:
            chunk = os.read(process.stdout.fileno(), 1024)
            assert chunk
            found += chunk
        process.terminate()


class Launching:
    """A catalog in which the only job is launched between two questions."""

    def __init__(self) -> None:
        self.state = "queued"

    def list(self, *, state: str, **_: object) -> SimpleNamespace:
        found = [SimpleNamespace(job_id="a")] if state == self.state else []
        self.state = "running"
        return SimpleNamespace(jobs=found, next_cursor=None)


def test_a_job_that_is_launched_during_the_search_is_found() -> None:
    catalog: Any = Launching()
    assert _unfinished(catalog, {}) == ["a"]


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
