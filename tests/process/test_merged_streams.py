"""Jobs whose stderr goes where their stdout goes."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import trio

import supervisor

if TYPE_CHECKING:
    from tests.process.conftest import World

PATIENCE = 60
TURNS = "for n in 1 2 3; do echo out $n; echo err $n >&2; done"
BOTH = "out 1\nerr 1\nout 2\nerr 2\nout 3\nerr 3\n"


def command(world: World, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "supervisor", *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False, env=world.environment, timeout=PATIENCE)


def test_they_are_in_the_order_of_the_writes(world: World) -> None:
    async def main() -> None:
        async with supervisor.open_supervisor(supervisor.Settings(state_dir=world.root)) as sup:
            result = await sup.run(["sh", "-c", TURNS], merge_stderr=True)
            assert (result.value, result.job.stdout_bytes, result.job.stderr_bytes) == (BOTH, len(BOTH), 0)
            apart = await sup.run(["sh", "-c", TURNS])
            assert (apart.value, apart.job.stderr_bytes) == ("out 1\nout 2\nout 3\n", 18)

    trio.run(main)


def test_both_are_one_descriptor(world: World) -> None:
    # A program may test whether its stdout and stderr are the same file, and a seek in one of them moves both.
    done = command(world, "run", "--merge-stderr", "--", "sh", "-c", "readlink /proc/self/fd/1 /proc/self/fd/2")
    first, second = done.stdout.split()
    assert first == second
    assert (done.returncode, done.stderr) == (0, "")


def test_a_job_that_waited_and_is_launched_without_a_supervisor_keeps_it(world: World) -> None:
    job_id = command(world, "start", "--delay", "0.2s", "--merge-stderr", "--", "sh", "-c", TURNS).stdout.strip()
    assert command(world, "wait", job_id).returncode == 0
    assert command(world, "result", job_id).stdout == BOTH


def test_the_limit_counts_both(world: World) -> None:
    noisy = "while :; do echo 123456789 >&2; done"
    done = command(world, "run", "--merge-stderr", "--max-output", "20k", "--", "sh", "-c", noisy)
    assert (done.returncode, len(done.stdout)) == (143, 20480)
    assert "more than its output limit" in done.stderr


def test_the_detail_of_a_failure_is_its_last_output(world: World) -> None:
    job_id = command(world, "start", "--merge-stderr", "--", "sh", "-c", "echo no such luck >&2; exit 3").stdout.strip()
    command(world, "wait", job_id)
    assert "no such luck" in command(world, "status", job_id).stdout
    assert os.path.getsize(world.job(job_id) / "stderr.log") == 0
