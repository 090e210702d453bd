"""Shared directories that are less than they should be: one that nodes do not see, one whose news comes late.

The nodes are in a mount namespace of their own, for which it takes root. The late one is a FUSE file system that
believes for seconds which files there are, as NFS does.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from pathlib import Path

import pytest
import trio

import supervisor
from supervisor.states import Reason, State
from tests.slurm.cluster import running

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can give the nodes a mount namespace"),
]

PATIENCE = 90.0
# Which names there are, and are not, may be old; what is in a file is not once it is opened: close-to-open, as NFS.
LATE = "attr_timeout=0,entry_timeout=3,negative_timeout=3"


@pytest.fixture
def shared(request: pytest.FixtureRequest, state_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if not request.config.getoption("--slurm"):
        pytest.skip("needs a Slurm cluster: run it with --slurm, or by `nox -s slurm`")
    assert state_dir.is_dir()
    monkeypatch.setenv("SUPERVISOR_STOP_GRACE_SECONDS", "0.5")
    monkeypatch.chdir(tmp_path)
    made = tmp_path / "shared"
    made.mkdir(mode=0o700)
    return made


@contextlib.contextmanager
def nodes(monkeypatch: pytest.MonkeyPatch, mount: Sequence[str]) -> Iterator[None]:
    """Have a cluster whose nodes have done a mount of their own."""
    count = str(len(mount))
    script = 'n=$0; m=; while [ "$n" -gt 0 ]; do m="$m \'$1\'"; shift; n=$((n - 1)); done; eval "mount $m" && exec "$@"'
    with running(("unshare", "--mount", "sh", "-c", script, count, *mount)) as cluster:
        for name, value in cluster.environment.items():
            monkeypatch.setenv(name, value)
        yield


@contextlib.asynccontextmanager
async def opened() -> AsyncGenerator[supervisor.Supervisor]:
    with trio.fail_after(PATIENCE):
        async with supervisor.open_supervisor() as sup:
            yield sup


async def start(sup: supervisor.Supervisor, shared: Path, script: str, **rest: object) -> supervisor.Job:
    options = {"shared_dir": str(shared)}
    return await sup.start(["sh", "-c", script], engine="slurm", engine_options=options, **rest)  # type: ignore[arg-type]


async def test_one_that_the_nodes_do_not_see(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with nodes(monkeypatch, ("-t", "tmpfs", "none", str(shared))):
        async with opened() as sup:
            job = await sup.wait((await start(sup, shared, "echo hi")).job_id)
    assert (job.status, job.reason) == (State.FAILED, Reason.LAUNCH_FAILED)
    assert job.detail is not None
    assert f"does the node see {shared}?" in job.detail


@pytest.fixture
def late(shared: Path, tmp_path: Path) -> Iterator[Path]:
    """Make ``shared`` a view of the directory that is returned, which lags behind it."""
    if shutil.which("bindfs") is None:
        pytest.skip("needs bindfs")
    behind = tmp_path / "behind"
    behind.mkdir(mode=0o700)
    process = subprocess.Popen(["bindfs", "-f", "-o", LATE, str(behind), str(shared)])
    try:
        give_up = time.monotonic() + PATIENCE
        while not os.path.ismount(shared) and process.poll() is None and time.monotonic() < give_up:
            time.sleep(0.02)  # mount tables tell nobody
        if not os.path.ismount(shared):
            pytest.skip("a FUSE file system cannot be mounted here")
        yield behind
    finally:
        subprocess.run(["umount", str(shared)], check=False)
        process.terminate()
        process.wait()


async def test_one_whose_news_comes_late(
    shared: Path, late: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with nodes(monkeypatch, ("--bind", str(late), str(shared))):
        async with opened() as sup:
            jobs = [
                await start(sup, shared, f"cat; echo ran >> runs{number}; exit {number}", stdin=b"in\n")
                for number in range(6)
            ]
            ended = [await sup.wait(job.job_id) for job in jobs]
            assert [(job.exit_code, job.stdout_bytes) for job in ended] == [(number, 3) for number in range(6)]
            assert [(tmp_path / f"runs{number}").read_text() for number in range(6)] == ["ran\n"] * 6
            sleeper = await start(sup, shared, "exec sleep 600")
            while (await sup.status(sleeper.job_id)).status is State.QUEUED:  # noqa: ASYNC110  # a node's word
                await trio.sleep(0.05)
            cancelled = await sup.cancel(sleeper.job_id)
            assert (cancelled.status, cancelled.signal) == (State.CANCELLED, 15)
            overdue = await sup.wait((await start(sup, shared, "exec sleep 600", deadline_seconds=3)).job_id)
            assert (overdue.status, overdue.reason) == (State.TIMEOUT, Reason.DEADLINE)
            assert 3000 <= overdue.elapsed_ms < 4000
            left = await start(sup, shared, "sleep 3; exit 5")
        async with opened() as sup:
            assert (await sup.wait(left.job_id)).exit_code == 5
