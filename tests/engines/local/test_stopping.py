"""When a stop by another process has lasted so long that something keeps the job from its end."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from supervisor.engines.local import stopping
from supervisor.jobdir import records
from supervisor.system import processes

GRACE = 300_000_000
STUCK = int(stopping.STUCK_SECONDS * 1e9)


def job(tmp_path: Path) -> str:
    """Return the directory of a job whose leader is this process, and which no keeper has."""
    directory = tmp_path / ("ab" * 16)
    directory.mkdir()
    pid, start = processes.own_identity()
    process = {"pid": pid, "start": start, "boot": processes.boot_id(), "ns": processes.pid_namespace()}
    process |= {"keeper_pid": pid, "keeper_start": start, "started_ns": 1, "started_boot_ns": 1, "ticks": False}
    records.replace(str(directory), records.JOB, {"grace_seconds": GRACE / 1e9})
    records.replace(str(directory), records.PROCESS, process)
    claim = f"keeper.{pid}.{start}.{processes.boot_id()[:12]}.{processes.pid_namespace()}"
    assert records.take_claim(str(directory), claim)
    return str(directory)


@pytest.mark.parametrize("signalled_by_another", [True, False])
def test_a_tree_is_overdue_only_after_its_grace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, signalled_by_another: bool
) -> None:
    """Another process may have sent its first signals just before this one, which then has sent none."""
    directory = job(tmp_path)
    cancel = stopping.Cancel(directory, "a test", lambda _: False)
    assert not cancel.overdue
    tree = cancel.step(now=True)
    assert tree is not None
    assert tree.process["pid"] == os.getpid()
    now = processes.boottime_ns()
    if signalled_by_another:
        stop: dict[str, Any] = records.read(directory, records.STOP) or {}
        records.replace(directory, records.STOP, {**stop, "signalled_boot_ns": now})
    assert not cancel.overdue
    monkeypatch.setattr(processes, "boottime_ns", lambda: now + GRACE)
    assert not cancel.overdue
    monkeypatch.setattr(processes, "boottime_ns", lambda: now + GRACE + STUCK)
    assert cancel.overdue
