"""What the tests on a Slurm cluster share: a state root, a shared directory, and supervisors that can be killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

import supervisor
from supervisor.model import Job
from supervisor.store.state_root import is_job_id

PACKAGE = Path(supervisor.__file__).parents[1]
PATIENCE = 60.0

HOST = """
    import json, sys, time
    import trio, supervisor

    async def main():
        async with supervisor.open_supervisor() as sup:
            job = await sup.start(json.loads(sys.argv[1]), **json.loads(sys.argv[2]))
            print(job.job_id, flush=True)
            await trio.sleep_forever()

    trio.run(main)
"""


def written(path: Path) -> str:
    return path.read_text() if path.exists() else ""


class Site:
    """A cluster, and a state root and a shared directory for jobs on it."""

    def __init__(self, cluster: Any, shared: Path, work: Path) -> None:
        self.cluster = cluster
        self.shared = shared
        self.work = work
        self._hosts: list[subprocess.Popen[str]] = []

    async def start(self, sup: supervisor.Supervisor, script: str, *, argv: Any = None, **rest: Any) -> Job:
        """Start a shell script, or a command, on the cluster."""
        options = {"shared_dir": str(self.shared), **rest.pop("options", {})}
        return await sup.start(argv or ["sh", "-c", script], engine="slurm", engine_options=options, **rest)

    def host(self, script: str, **rest: Any) -> tuple[subprocess.Popen[str], str]:
        """Start a job from a program of its own; return that, and the job's id."""
        import json

        named = {"engine": "slurm", "engine_options": {"shared_dir": str(self.shared)}, **rest}
        host = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(HOST), json.dumps(["sh", "-c", script]), json.dumps(named)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(PACKAGE)},
            cwd=self.work,
            start_new_session=True,
        )
        self._hosts.append(host)
        assert host.stdout is not None
        job_id = host.stdout.readline().strip()
        assert is_job_id(job_id)
        return host, job_id

    def cli(self, *words: str) -> str:
        """Run our command line in a process of its own and return what it prints."""
        done = subprocess.run(
            [sys.executable, "-m", "supervisor", *words],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            cwd=self.work,
            env={**os.environ, "PYTHONPATH": str(PACKAGE)},
        )
        return done.stdout

    async def until(self, path: Path) -> str:
        """Wait until a job has written something into a file, and return it."""
        with trio.fail_after(PATIENCE):
            while not (text := written(path)):  # noqa: ASYNC110
                await trio.sleep(0.05)  # another machine's word, in principle: nothing tells us of it
        return text

    def state(self, job_id: str) -> list[str]:
        """Return the states of Slurm's jobs for one of ours."""
        words = ("squeue", "-h", "-t", "all", "-n", f"supervisor-{job_id}", "-o", "%T")
        states: list[str] = self.cluster.client(*words).stdout.split()
        return states

    def node(self, job_id: str) -> str:
        """Return the node that a job runs on."""
        words = ("squeue", "-h", "-n", f"supervisor-{job_id}", "-o", "%N")
        name: str = self.cluster.client(*words).stdout.strip()
        return name

    def close(self) -> None:
        for host in self._hosts:
            if host.poll() is None:
                host.send_signal(signal.SIGKILL)
            host.wait()
            assert host.stdout is not None
            host.stdout.close()
        self.cluster.client("scancel", "--me")


@pytest.fixture
def site(cluster: Any, state_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A state root on a cluster that is whole, before and after."""
    assert state_dir.is_dir()
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SUPERVISOR_STOP_GRACE_SECONDS", "0.5")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o700)
    made = Site(cluster, shared, work)
    try:
        yield made
    finally:
        cluster.mend()
        made.close()
