"""The limits of a job, as they are given, recorded, and taken by engines."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import trio

import supervisor
from supervisor.engines.cluster.slurm.backend import Slurm
from supervisor.errors import FeatureUnavailable, InvalidArguments
from supervisor.model import Limits
from supervisor.testing import FakeEngine


@pytest.mark.parametrize(
    "given",
    [
        {"memory_bytes": 1},
        {"memory_bytes": 1e9},
        {"memory_bytes": True},
        {"cpus": 0},
        {"cpus": math.nan},
        {"cpus": math.inf},
        {"pids": 0},
        {"pids": 1.5},
        {"pids": "50"},
        {"enforce": "maybe"},
    ],
)
def test_a_limit_that_no_job_can_have_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidArguments, match=next(iter(given))):
        Limits(**given)


def test_limits_survive_the_record() -> None:
    limits = Limits(memory_bytes=200 << 20, cpus=0.5, pids=50, enforce="best-effort")
    assert Limits.of({"limits": limits.to_record()}) == limits
    assert Limits.of({}) is None
    assert not Limits()
    assert not Limits.is_known({**limits.to_record(), "gpus": 1}), "a newer version has more of them"


def test_slurm_limits_memory_and_processors_by_its_own_options_and_no_processes() -> None:
    granted = Slurm().limit(Limits(memory_bytes=(200 << 20) + 1, cpus=1.5))
    assert granted == ((), {"memory": "201M", "cpus": "2"})
    with pytest.raises(FeatureUnavailable, match="Slurm does not limit the processes"):
        Slurm().limit(Limits(pids=5))
    assert Slurm().limit(Limits(pids=5, enforce="best-effort")) == (("pids",), {})


def test_an_engine_that_limits_no_jobs_says_so(tmp_path: Path) -> None:
    async def main() -> None:
        settings = supervisor.Settings(state_dir=tmp_path / "state")
        async with supervisor.open_supervisor(settings, engine=FakeEngine()) as sup:
            with pytest.raises(FeatureUnavailable, match="does not limit jobs"):
                await sup.start(["tool"], limits=Limits(pids=5), workspace=str(tmp_path))
            job = await sup.start(["tool"], limits=Limits(pids=5, enforce="best-effort"), workspace=str(tmp_path))
            assert job.limits == {"memory_bytes": None, "cpus": None, "pids": None}
            assert "pids" in job.warnings[0]
            with pytest.raises(InvalidArguments, match="limits"):
                await sup.start(["tool"], limits={"pids": 5}, workspace=str(tmp_path))  # type: ignore[arg-type]

    trio.run(main)
