"""What ``ClusterEngine`` makes of a backend: the cost of a round with very many jobs."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
import trio

from supervisor.engines.cluster.engine import ClusterEngine
from supervisor.engines.cluster.interface import QueueState
from supervisor.engines.cluster.slurm.backend import Slurm
from supervisor.engines.cluster.slurm.factory import FACTORY
from supervisor.jobdir import records
from supervisor.store.state_root import new_job_id


def a_queue_of(count: int, shared: Path, squeue: Path) -> list[str]:
    """Make job directories and a ``squeue`` that lists them; 10,000 waiting jobs would take Slurm minutes to accept."""
    shared.mkdir(mode=0o700)
    directories = [f"{shared}/{new_job_id()}" for _ in range(count)]
    lines = []
    for number, directory in enumerate(directories):
        os.mkdir(directory, 0o700)
        note = {"handle": str(number), "submitted_ns": time.time_ns(), "confirmed": True}
        records.replace(directory, records.SUBMISSION, note)
        lines.append(f"{number}|PENDING|Priority|supervisor-{os.path.basename(directory)}\n")
    squeue.unlink()
    squeue.with_name("queue").write_text("".join(lines), encoding="ascii")
    squeue.write_text('#!/bin/sh\nexec cat "${0%/*}/queue"\n', encoding="ascii")
    squeue.chmod(0o755)
    return directories


@pytest.mark.slow
async def test_a_round_with_ten_thousand_jobs(fake_slurm: Any, tmp_path: Path, record_property: Any) -> None:
    directories = await trio.to_thread.run_sync(
        a_queue_of, 10_000, tmp_path / "shared", fake_slurm.directory / "squeue"
    )
    engine = ClusterEngine(Slurm(), FACTORY.client)
    with trio.fail_after(110):
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.serve)
            handles = [await engine.adopt(directory, None) for directory in directories]
            while any(handle.queue_reason is None for handle in handles):  # noqa: ASYNC110  # until the first round
                await trio.sleep(0.1)
            cpu, wall = [], []
            for _ in range(5):
                begun, used = time.perf_counter(), time.process_time()
                await engine._apply_reports(await engine._backend.observe(()))
                wall.append(time.perf_counter() - begun)
                cpu.append(time.process_time() - used)
            nursery.cancel_scope.cancel()
    assert {handle.word.queue_state for handle in handles} == {QueueState.QUEUED}
    assert len(fake_slurm.calls("sbatch")) == 0
    took = sorted(cpu)[2]
    print(f"a round with 10,000 jobs: {sorted(wall)[2] * 1e3:.0f} ms, {took * 1e3:.0f} ms of CPU time")  # noqa: T201
    record_property("round_cpu_seconds", took)
    assert took < 1
