"""Engines found by their names: those built in, those of other packages, and those that are not installed here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from supervisor import InvalidArguments, Settings, open_supervisor
from supervisor.engines import registry
from supervisor.errors import JobElsewhere
from supervisor.jobdir import records
from supervisor.jobs.catalog import Catalog
from supervisor.testing import FakeEngine, Script
from tests.engines import toy_cluster


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A second cluster engine is installed; its options."""
    toy_cluster.install(tmp_path, monkeypatch)
    return {"shared_dir": str(tmp_path / "shared"), "colour": "red"}


def test_an_unknown_engine_is_an_error_that_names_those_that_are_known(toy: dict[str, str]) -> None:
    del toy
    for use in (registry.factory, lambda name: registry.make_engine(name, "/")):
        with pytest.raises(InvalidArguments, match="engine is 'kubernetes'; it must be one of local, slurm, toy"):
            use("kubernetes")


async def test_a_fake_engine_takes_the_place_of_this_machine(state_dir: Path) -> None:
    engine = FakeEngine(Script(stdout="faked\n"))
    async with open_supervisor(Settings(state_dir=state_dir), engine=engine) as sup:
        for name in ("local", "fake", None):
            assert (await sup.run(["tool"], engine=name)).value == "faked\n"
    assert len(engine.commands) == 3


async def test_an_engine_of_another_package_runs_jobs(state_dir: Path, toy: dict[str, str]) -> None:
    with trio.fail_after(30):
        async with open_supervisor(Settings(state_dir=state_dir)) as sup:
            with pytest.raises(InvalidArguments, match="no option 'shape'"):
                await sup.start(["true"], engine="toy", engine_options={**toy, "shape": "round"})
            result = await sup.run(["echo", "hi"], engine="toy", engine_options=toy)
            assert (result.value, result.job.engine) == ("hi\n", "toy")
            local = await sup.run(["echo", "here"])
            assert (local.value, local.job.engine) == ("here\n", "local")
            left = await sup.start(["sleep", "600"], engine="toy", engine_options=toy)
    with Catalog(Settings(state_dir=state_dir)) as catalog:
        assert catalog.status(left.job_id).engine == "toy"
        assert catalog.cancel(left.job_id).status == "cancelled"


async def test_the_next_supervisor_adopts_a_job_of_an_engine_of_another_package(
    state_dir: Path, toy: dict[str, str]
) -> None:
    with trio.fail_after(30):
        async with open_supervisor(Settings(state_dir=state_dir)) as sup:
            job = await sup.start(["sh", "-c", "sleep 0.3; exit 5"], engine="toy", engine_options=toy)
        async with open_supervisor(Settings(state_dir=state_dir)) as sup:
            assert (await sup.wait(job.job_id)).exit_code == 5


async def test_nothing_is_decided_about_a_job_whose_engine_is_not_installed(
    state_dir: Path, toy: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even by the next supervisor, whose janitor would rule that a local job in this state never runs."""
    async with open_supervisor(Settings(state_dir=state_dir)) as sup:
        job = await sup.start(["sleep", "600"], engine="toy", engine_options=toy)
    directory = f"{toy['shared_dir']}/{job.job_id}"
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(sys, "path", [each for each in sys.path if not each.endswith("/site")])
        with Catalog(Settings(state_dir=state_dir)) as catalog:
            shown = catalog.status(job.job_id)
            assert not shown.status.terminal
            assert shown.detail is not None
            assert "'toy'" in shown.detail
            with pytest.raises(JobElsewhere, match="'toy'") as raised:
                catalog.cancel(job.job_id)
            assert "installed" in raised.value.repair
        async with open_supervisor(Settings(state_dir=state_dir)) as sup:
            with pytest.raises(JobElsewhere, match="'toy'"):
                await sup.wait(job.job_id, timeout=0)
            assert job.job_id not in sup._registry.entries
    assert records.read(directory, records.EXIT) is None
    assert records.read(directory, records.STOP) is None
    with Catalog(Settings(state_dir=state_dir)) as catalog:
        assert catalog.cancel(job.job_id).status == "cancelled"


def test_the_command_line_runs_jobs_on_an_engine_of_another_package(
    state_dir: Path, toy: dict[str, str], tmp_path: Path
) -> None:
    def supervisor(*words: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join((str(tmp_path / "site"), *filter(None, [os.environ.get("PYTHONPATH")])))
        return subprocess.run(
            [sys.executable, "-m", "supervisor", "run", "--state-dir", str(state_dir), "--engine", *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={**os.environ, "PYTHONPATH": path},
        )

    done = supervisor("toy", "--shared-dir", toy["shared_dir"], "--", "echo", "hi")
    assert (done.returncode, done.stdout) == (0, "hi\n"), done.stderr
    refused = supervisor("kubernetes", "--", "echo", "hi")
    assert refused.returncode == 2
    assert "it must be one of local, slurm, toy" in refused.stderr
