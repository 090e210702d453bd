"""Jobs of a newer version stay readable, and this version neither repairs nor finishes nor stops them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from click.testing import CliRunner

from supervisor import to_json
from supervisor.cli.app import app
from supervisor.errors import JobElsewhere, JobRunning
from supervisor.jobdir import records
from supervisor.jobs.catalog import Catalog
from supervisor.model import Job
from supervisor.runtime.opening import open_supervisor
from supervisor.settings import Settings
from supervisor.states import state_of
from supervisor.store import Row
from supervisor.store.rows import dump
from supervisor.store.state_root import new_job_id
from supervisor.testing import FakeEngine
from tests.store.test_index import make

NEWER: list[dict[str, Any]] = [{"made_up": ["x"]}, {"v": 2}, {"v": 2, "made_up": [{"job_id": "0" * 32}]}]


@pytest.fixture
def catalog(state_dir: Path) -> Any:
    with Catalog(Settings(state_dir=state_dir)) as made:
        yield made


def content(directory: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(Path(directory).iterdir())}


def rewrite(directory: str, name: str, **changes: Any) -> None:
    """Rewrite a record as another version would write it; ``...`` removes a member."""
    held = {**(records.read(directory, name, newer=True) or {}), **changes}
    Path(directory, name).write_text(dump({key: value for key, value in held.items() if value is not ...}) + "\n")


def renew(catalog: Catalog, row: Row, **changes: Any) -> Row:
    """Give a job a request that only a newer version knows, in its directory and in the index."""
    rewrite(catalog.directory(row), records.JOB, **changes)
    spec = Path(catalog.directory(row), records.JOB).read_text().strip()
    catalog.index.write(lambda: catalog.index._db.execute("UPDATE jobs SET spec = ? WHERE seq = ?", (spec, row.seq)))
    found = catalog.index.get(row.job_id)
    assert found is not None
    return found


def queued(catalog: Catalog, **changes: Any) -> Row:
    """Make a job that waits, whose supervisor is gone."""
    model = make(catalog, ended=0)
    row = attrs.evolve(model, job_id=new_job_id(), state="queued", completed_ns=None, outcome=None, pid=None)
    row.started_ns = row.expires_ns = row._request = None
    row.spec = dump({**model.request, "job_id": row.job_id, **changes})
    catalog.layout.make_job(row.workspace_key, row.job_id, (row.spec + "\n").encode())
    assert catalog.index.write(lambda: catalog.index.insert(row))
    return row


@pytest.mark.parametrize("names", [[records.PROCESS], [records.STOP], [records.EXIT], [records.PROCESS, records.EXIT]])
def test_a_record_of_a_newer_shape_is_left_as_it_is(catalog: Catalog, names: list[str]) -> None:
    row = make(catalog)
    directory = catalog.directory(row)
    process = records.read(directory, records.PROCESS) or {}
    known: dict[str, dict[str, object]] = {
        records.STOP: {"why": "cancelled", "signalled_boot_ns": 5, "gone": True},
        records.EXIT: {**{name: process[name] for name in ("pid", "start", "boot")}, "exit_code": 0, "ended_ns": 9},
    }
    for name in {*names, records.EXIT} & known.keys():
        records.create(directory, name, known[name])
    for name in names:
        rewrite(directory, name, v=2)
    before = content(directory)

    job = catalog.status(row.job_id)
    assert job.status == "running"
    assert job.detail is not None
    assert all(name in job.detail for name in names)
    assert "newer version" in job.detail
    assert [each.status for each in catalog.list().jobs] == ["running"]
    assert [each.status for each in catalog.wait([row.job_id], timeout=0)] == ["running"]
    with pytest.raises(JobRunning):
        catalog.result(row.job_id)
    with pytest.raises(JobElsewhere, match="newer version"):
        catalog.cancel(row.job_id)
    catalog.prune()
    assert content(directory) == before
    assert catalog.index.get(row.job_id) == row
    assert catalog.index.set_aside is None

    for name in names:  # as this version would have written it
        rewrite(directory, name, v=1)
    assert catalog.status(row.job_id).status == ("cancelled" if records.STOP in names else "done")


@pytest.mark.parametrize("change", NEWER)
def test_the_end_of_a_job_with_a_newer_request_is_shown_and_not_committed(
    catalog: Catalog, change: dict[str, Any], state_dir: Path
) -> None:
    row = renew(catalog, make(catalog), **change)
    directory = catalog.directory(row)
    process = records.read(directory, records.PROCESS) or {}
    Path(directory, records.STDOUT).write_text("output")
    end: dict[str, object] = {name: process[name] for name in ("pid", "start", "boot")}
    records.create(directory, records.EXIT, {**end, "exit_code": 0, "ended_ns": row.created_ns + 1})
    for _ in range(2):
        assert catalog.status(row.job_id).status == "done"
        assert [job.status for job in catalog.list().jobs] == ["done"]
        assert catalog.result(row.job_id).value == "output"
        assert [job.status for job in catalog.wait([row.job_id], timeout=60)] == ["done"]
        found = catalog.index.get(row.job_id)
        assert found is not None
        assert not found.finished
        os.unlink(state_dir / "registry.db")  # a rebuild does not commit it either
    renew(catalog, found, **{**dict.fromkeys(change, ...), "v": 1})
    assert catalog.status(row.job_id).status == "done"
    found = catalog.index.get(row.job_id)
    assert found is not None
    assert found.finished


@pytest.mark.parametrize("change", NEWER)
def test_a_queued_job_with_a_newer_request_is_left_to_wait(
    catalog: Catalog, change: dict[str, Any], state_dir: Path
) -> None:
    row = queued(catalog, **change)
    directory = catalog.directory(row)
    with pytest.raises(JobElsewhere, match="newer version"):
        catalog.cancel(row.job_id)
    assert [job.status for job in catalog.wait([row.job_id], timeout=0)] == ["queued"]
    os.unlink(state_dir / "registry.db")
    assert catalog.status(row.job_id).status == "queued"
    assert catalog.prune() == []
    assert os.listdir(directory) == [records.JOB]


@pytest.mark.parametrize("change", NEWER)
async def test_a_supervisor_adopts_no_job_with_a_newer_request(state_dir: Path, change: dict[str, Any]) -> None:
    settings = Settings(state_dir=state_dir)
    with Catalog(settings) as catalog:
        rows = [queued(catalog, **change), renew(catalog, make(catalog), **change)]
        plain = make(catalog)
    before = [content(catalog.directory(row)) for row in rows]
    async with open_supervisor(settings, engine=FakeEngine()) as sup:
        with trio.fail_after(60):
            while plain.job_id not in sup._registry.entries:  # noqa: ASYNC110  # the janitor sets no event
                await trio.sleep(0.01)
        assert not {row.job_id for row in rows} & sup._registry.entries.keys()
        assert [(await sup.status(row.job_id)).status for row in rows] == ["queued", "running"]
        assert len((await sup.list()).jobs) == 4
        with pytest.raises(JobElsewhere, match="newer version"):
            await sup.cancel(rows[0].job_id)
    assert [content(catalog.directory(row)) for row in rows] == before


async def test_an_own_job_that_ends_in_an_unknown_state_costs_no_other_job(state_dir: Path) -> None:
    settings = Settings(state_dir=state_dir)
    engine = FakeEngine()
    async with open_supervisor(settings, engine=engine) as sup:
        job = await sup.start(["x"], labels={"mine": "yes"})
        with Catalog(settings) as other:
            change = "UPDATE jobs SET state = 'skipped', completed_ns = created_ns, outcome = ? WHERE job_id = ?"
            ended = make(other, ended=0).outcome
            other.index.write(lambda: other.index._db.execute(change, (ended, job.job_id)))
        ended_job = await sup.wait(job.job_id)
        assert ended_job.status.terminal
        assert sum((await sup.metrics()).jobs.values()) == 1
        assert (await sup.run(["x"])).job.status == "done"


def unknown(catalog: Catalog, *, ended: bool) -> Job:
    row = make(catalog, ended=0 if ended else None)
    catalog.index.write(lambda: catalog.index._db.execute(f"UPDATE jobs SET state = 'dozing' WHERE seq = {row.seq}"))
    return catalog.status(row.job_id)


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("words", [["status", "JOB"], ["list", "--all"], ["wait", "--timeout", "0", "JOB"]])
def test_the_command_line_shows_an_unknown_state(catalog: Catalog, words: list[str], ended: bool) -> None:  # noqa: FBT001
    job = unknown(catalog, ended=ended)
    line = [job.job_id if word == "JOB" else word for word in words]
    answer = CliRunner().invoke(app, [*line, "--state-dir", str(catalog.settings.state_dir)])
    assert "dozing" in answer.output
    assert answer.exit_code in {0, 1, 75}


@pytest.mark.parametrize("ended", [False, True])
def test_a_task_of_a_job_in_an_unknown_state_works_or_is_completed(catalog: Catalog, ended: bool) -> None:  # noqa: FBT001
    pytest.importorskip("mcp")
    from supervisor.mcp_server.tasks import jobs as tasks

    job = unknown(catalog, ended=ended)
    assert tasks.ends_with_result(job) is ended
    assert json.loads(json.dumps(to_json(job)))["status"] == "dozing"
    assert state_of("dozing", ended=ended) == job.status
