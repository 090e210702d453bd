"""No reader passes on what stands past the output limit: with a hole a command makes its output of any size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import trio

import supervisor
from supervisor.jobdir.output import Output
from supervisor.mcp_server.tools.jobs import read_output
from supervisor.settings import Settings
from supervisor.system import processes

if TYPE_CHECKING:
    from pathlib import Path

    from tests.process.conftest import World

pytestmark = pytest.mark.skipif(not processes.HAVE_PROC, reason="needs Linux")

PATIENCE = 60
LIMIT = 100_000
SPARSE = "echo one; truncate -s 1T /proc/self/fd/{descriptor}; exit 3"
STREAMS = {"stdout": 1, "stderr": 2}
streams = pytest.mark.parametrize("stream", STREAMS)


@pytest.fixture(autouse=True)
def _limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERVISOR_JOB_MAX_OUTPUT_BYTES", str(LIMIT))


def sparse(stream: str) -> str:
    redirect = "exec >&2; " if stream == "stderr" else ""
    return redirect + SPARSE.format(descriptor=STREAMS[stream])


def cli(world: World, *words: str) -> subprocess.CompletedProcess[bytes]:
    argv = [sys.executable, "-m", "supervisor", *words]
    return subprocess.run(argv, env=world.environment, capture_output=True, timeout=PATIENCE, check=False)


def ended(world: World, script: str) -> str:
    job_id = cli(world, "start", "--", "sh", "-c", script).stdout.decode().strip()
    cli(world, "wait", job_id)
    return job_id


@streams
def test_run(world: World, stream: str) -> None:
    done = cli(world, "run", "--", "sh", "-c", sparse(stream))
    assert b"more than its output limit" in done.stderr
    output = getattr(done, stream)
    assert output.startswith(b"one\n\0")
    assert output.count(b"\0") == LIMIT - 4


@streams
@pytest.mark.parametrize("follow", [(), ("--follow",)])
def test_logs(world: World, stream: str, follow: tuple[str, ...]) -> None:
    job_id = ended(world, sparse(stream))
    words = ["logs", *follow, *(["--stderr"] if stream == "stderr" else []), job_id]
    done = cli(world, *words)
    assert (done.returncode, len(done.stdout)) == (0, LIMIT)
    assert f"{stream} goes on past its limit of {LIMIT} bytes" in done.stderr.decode()
    shape = json.loads(cli(world, *words, "--json").stdout)
    assert (len(shape["value"]), shape["truncated"]) == (LIMIT, True)


@streams
async def test_follow(world: World, stream: str) -> None:
    del world
    async with supervisor.open_supervisor() as sup:
        job = await sup.start(["sh", "-c", sparse(stream)])
        for _ in range(2):  # while it runs, and after its end
            with trio.fail_after(PATIENCE):
                async with sup.follow(job.job_id, stream) as chunks:
                    assert sum([len(chunk) async for chunk in chunks]) == LIMIT
                assert (await sup.wait(job.job_id)).reason == "output_limit"


async def test_mcp(world: World) -> None:
    settings = Settings(state_dir=world.root)
    async with supervisor.open_supervisor(settings) as sup:
        job = await sup.wait((await sup.start(["sh", "-c", sparse("stdout")])).job_id)
        for offset, length in ((None, 10), (0, 10), (LIMIT - 5, 5), (1 << 39, 0)):
            piece = await read_output(settings, job, "stdout", offset=offset, limit=10)
            assert (len(piece["value"]), piece["size"], piece["truncated"]) == (length, LIMIT, True)


@pytest.mark.parametrize("size", [LIMIT - 1, LIMIT])
def test_up_to_the_limit_all_is_shown_and_nothing_said(world: World, size: int) -> None:
    job_id = ended(world, f"head -c {size} /dev/zero")
    done = cli(world, "logs", job_id)
    assert (len(done.stdout), done.stderr) == (size, b"")
    assert "truncated" not in json.loads(cli(world, "logs", "--json", job_id).stdout)


def test_a_reader_goes_on_where_a_command_has_made_its_output_short_again(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(b"abcdefgh")
    output = Output(str(tmp_path), "stdout", limit=5)
    assert (output.read(), output.read(), output.is_cut) == (b"abcde", b"", True)
    path.write_bytes(b"xy")
    os.utime(path, ns=(1, 1))
    assert (output.read(), output.restarts, output.is_cut) == (b"xy", 1, False)
    assert output.left() == 0
    output.close()
