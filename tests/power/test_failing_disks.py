"""A disk that refuses to sync: the start fails, or the end says so."""

from __future__ import annotations

from pathlib import Path

import pytest

import supervisor
from supervisor.jobdir import records
from supervisor.jobs.catalog import Catalog
from supervisor.system import processes
from tests.power.conftest import Life

pytestmark = pytest.mark.skipif(not processes.HAVE_PROC, reason="needs /proc")


@pytest.mark.parametrize(("error", "code"), [("EIO", "state_busy"), ("ENOSPC", "state_full"), ("EDQUOT", "state_full")])
async def test_a_job_that_cannot_be_synced_is_not_started(life: Life, error: str, code: str) -> None:
    async with supervisor.open_supervisor(life.settings()) as sup:
        life.fail(error, "job.json")
        with pytest.raises(supervisor.SupervisorError, match="cannot make the job directory") as caught:
            await sup.start(["true"])
        assert caught.value.code == code
        assert (await sup.list()).jobs == ()
        life.mend()
        assert (await sup.run(["true"])).ok


async def test_a_command_whose_claim_cannot_be_synced_is_not_launched(life: Life, tmp_path: Path) -> None:
    async with supervisor.open_supervisor(life.settings()) as sup:
        life.fail("EIO", "result.json")
        job = (await sup.run(["touch", str(tmp_path / "ran")])).job
        assert (job.status, job.reason) == ("failed", "launch_failed")
        result = await sup.result(job.job_id)
        assert result.error is not None
        assert "its records cannot be written to the disk: Input/output error" in result.error.message
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["stderr.log", "process.json"])
async def test_an_end_that_cannot_be_synced_says_so(life: Life, name: str) -> None:
    async with supervisor.open_supervisor(life.settings()) as sup:
        job = await sup.start(["sh", "-c", "read go; printf hello"], stdin_open=True)
        life.fail("EIO", name)
        await sup.send(job.job_id, b"go\n")
        job = await sup.wait(job.job_id)
        assert (job.status, (await sup.result(job.job_id)).value) == ("done", "hello")
        (warning,) = job.warnings
        assert f"{name}: Input/output error" in warning
        directory = life.top / life.path
    with Catalog(life.settings("process")) as catalog:
        assert catalog.status(job.job_id).warnings == job.warnings
    (found,) = directory.glob(f"*/{job.job_id}")
    assert name in (records.read(str(found), records.EXIT) or {})["unsynced"]


async def test_a_change_that_cannot_be_synced_is_an_error(life: Life) -> None:
    async with supervisor.open_supervisor(life.settings()) as sup:
        await sup.set_group("g", limit=1)
        life.fail("EIO", "groups")
        with pytest.raises(supervisor.SupervisorError, match=r"cannot write .*g\.json: Input/output error"):
            await sup.set_group("g", limit=2)
        life.mend()
        await sup.set_group("g", limit=3)
        assert [group.limit for group in await sup.groups()] == [3]


async def test_a_bad_value_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERVISOR_DURABILITY", "disk")
    with pytest.raises(
        supervisor.InvalidSettings, match="SUPERVISOR_DURABILITY is 'disk'; it accepts process or power"
    ):
        supervisor.Settings()
