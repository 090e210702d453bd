"""A second cluster engine, of which the package knows nothing: its nodes are processes of this machine.

It is found by its entry point only, see ``install``. What it knows of its jobs stands in files, so that its two
halves and several programs agree.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pytest

from supervisor.engines.cluster.factory import ClusterFactory
from supervisor.engines.cluster.interface import JobReport, QueueState, Submission
from supervisor.errors import InvalidArguments
from supervisor.system import processes

NAME = "toy"


def _queue() -> Path:
    return Path(os.environ["TOY_CLUSTER"])


class ToySyncBackend:
    """The cluster, to a thread."""

    def submit(self, submission: Submission) -> str:
        there = _queue() / submission.key
        if there.exists():
            return there.read_text("ascii")
        script = 'setsid "$@" </dev/null >engine.log 2>&1 & echo $!'
        command = ["sh", "-c", script, "sh", *submission.command]
        said = subprocess.run(command, check=True, capture_output=True, text=True, cwd=submission.directory)
        found = processes.read_process(int(said.stdout))
        handle = f"{said.stdout.strip()}-{found.start if found is not None else 0}"
        there.write_text(handle, "ascii")
        return handle

    def observe(self, keys: Collection[str]) -> Mapping[str, JobReport]:
        reports = {}
        for key in keys:
            if (_queue() / key).exists():
                queue_state = QueueState.RUNNING if processes.is_alive(*self._identity(key)) else QueueState.ENDED
                reports[key] = JobReport(queue_state=queue_state, handle=key)
        return reports

    def cancel(self, key: str, *, nudge: bool = False) -> bool:
        if (_queue() / key).exists():
            processes.send_signal(*self._identity(key), signal.SIGUSR1 if nudge else signal.SIGTERM)
        return True

    def collect(self, handle: str) -> JobReport | None:
        del handle
        return None

    def _identity(self, key: str) -> tuple[int, int]:
        pid, _, start = (_queue() / key).read_text("ascii").partition("-")
        return int(pid), int(start)


class ToyBackend:
    """The cluster, to a supervisor."""

    name = NAME

    def __init__(self) -> None:
        self._cluster = ToySyncBackend()

    async def submit(self, submission: Submission) -> str:
        return self._cluster.submit(submission)

    async def observe(self, keys: Collection[str]) -> Mapping[str, JobReport]:
        return self._cluster.observe(keys)

    async def cancel(self, key: str, *, nudge: bool = False) -> None:
        self._cluster.cancel(key, nudge=nudge)

    async def collect(self, handle: str) -> JobReport | None:
        return self._cluster.collect(handle)

    async def recover(self, keys: Collection[str]) -> Mapping[str, str]:
        return {key: key for key in self._cluster.observe(keys)}


def _check(options: Mapping[str, Any]) -> dict[str, Any]:
    if unknown := options.keys() - {"colour"}:
        message = f"the toy engine has no option {min(unknown)!r}; it has colour"
        raise InvalidArguments(message)
    return dict(options)


FACTORY = ClusterFactory(
    name=NAME,
    backend=ToyBackend,
    sync_backend=ToySyncBackend,
    options={"colour": "any colour"},
    check=_check,
)


def install(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the engine installed, as a package would be: a ``dist-info`` on the path that names its entry point."""
    site = directory / "site"
    info = site / "toy_cluster_engine-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-cluster-engine\nVersion: 1\n", "utf-8")
    (info / "entry_points.txt").write_text(f"[supervisor.engines]\n{NAME} = toy_cluster:FACTORY\n", "utf-8")
    (site / "toy_cluster.py").write_text(Path(__file__).read_text("utf-8"), "utf-8")
    monkeypatch.syspath_prepend(site)
    queue = directory / "queue"
    queue.mkdir()
    monkeypatch.setenv("TOY_CLUSTER", str(queue))
