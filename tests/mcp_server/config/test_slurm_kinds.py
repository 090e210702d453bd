"""Kinds that run on a cluster, through the real ``supervisor mcp``: on fake Slurm, or with ``--slurm`` on Slurm."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trio
from mcp import Client, StdioServerParameters

KINDS = """
[kind.where]
description = "Tells where it runs, and what it was given."
command = ["sh", "-c", "echo $SLURM_JOB_PARTITION $SLURM_CPUS_PER_TASK $1; cat", "where", "{word}"]
stdin = "from the caller"
engine = "slurm"
deadline_seconds = 600
parameters.word = {}

[kind.where.engine_options]
partition = "small"
cpus = 2

[kind.hold]
description = "Runs until it is stopped."
command = ["sleep", "600"]
engine = "slurm"
engine_options = { shared_dir = "SHARED", partition = "nowhere" }
"""


@pytest.mark.usefixtures("slurm", "state_dir")
async def test_a_kind_runs_where_its_file_says(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared"
    monkeypatch.setenv("SUPERVISOR_SHARED_DIR", str(shared))  # for the kind that names none
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "kinds.toml"
    file.write_text(KINDS.replace("SHARED", str(tmp_path / "another")))
    file.chmod(0o600)
    server = StdioServerParameters(
        command=sys.executable,
        args=["-m", "supervisor", "mcp", "--config", str(file)],
        env=dict(os.environ),
        cwd=str(tmp_path),
    )
    real = request.config.getoption("--slurm")
    with trio.fail_after(90):
        async with Client(server) as host:

            async def call(tool: str, /, **arguments: Any) -> Mapping[str, Any]:
                shape: Mapping[str, Any] = (await host.call_tool(tool, arguments)).structured_content
                return shape

            begun = await call("where", word="x y")
            assert (begun["ok"], begun["engine"], begun["status"]) == (True, "slurm", "queued")
            waited = await call("job_wait", job_id=begun["job_id"])
            assert waited["status"] == "done"
            result = await call("job_result", job_id=begun["job_id"])
            assert result["value"] == f"{'small 2 ' if real else ''}x y\nfrom the caller"
            assert (shared / begun["job_id"]).is_dir()
            refused = await call("hold")  # by the cluster: a job, and its answer has the words of sbatch
            assert (refused["ok"], refused["error"]["code"]) == (False, "launch_failed")
            assert "artition" in refused["error"]["message"]
    if not real:
        first = request.getfixturevalue("slurm").calls("sbatch")[0].split()
        assert {"--partition=small", "--cpus-per-task=2", "--time=13"} <= set(first)
