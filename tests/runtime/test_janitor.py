from __future__ import annotations

import json
import math
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from supervisor import Job, JobElsewhere, JobNotFound, Settings, Supervisor, open_supervisor
from supervisor.errors import StateBusy
from supervisor.jobdir import records
from supervisor.jobs import retention
from supervisor.jobs.catalog import Catalog
from supervisor.runtime.entry import Entry
from supervisor.runtime.janitor import Janitor
from supervisor.runtime.messages import Create
from supervisor.runtime.registry_actor import Registry
from supervisor.store import Index
from supervisor.store.rows import dump, row_of_record
from supervisor.store.state_root import new_job_id, workspace_key
from supervisor.system import processes
from supervisor.testing import FakeEngine, Script

Clock = trio.testing.MockClock


@pytest.fixture
def settings(state_dir: Path) -> Settings:
    return Settings(state_dir=state_dir)


@pytest.fixture
async def endless(settings: Settings) -> AsyncIterator[tuple[Supervisor, FakeEngine]]:
    engine = FakeEngine(Script(seconds=None))
    async with open_supervisor(settings, engine=engine) as sup:
        yield sup, engine


async def quiet() -> None:
    await trio.testing.wait_all_tasks_blocked()


async def until(holds: Callable[[], bool]) -> None:
    """Let the janitor tick until something holds."""
    with trio.fail_after(600):
        while not holds():  # noqa: ASYNC110  # it sets no event
            await trio.sleep(1)


def directories(settings: Settings) -> set[str]:
    return {path.name for path in settings.state_dir.glob("*-*/*")}


def trash(settings: Settings) -> list[str]:
    return os.listdir(settings.state_dir / ".trash")


def owner_of(settings: Settings, job: Job) -> str:
    with Catalog(settings) as catalog:
        row = catalog.index.get(job.job_id)
        assert row is not None
        return row.owner


# ---------------------------------------------------------------- expiry and the cap


async def test_an_expired_job_is_gone_at_once_and_its_files_soon(
    state_dir: Path,
    autojump_clock: Clock,  # noqa: ARG001
) -> None:
    settings = Settings(state_dir=state_dir, job_ttl=0)
    async with open_supervisor(settings, engine=FakeEngine()) as sup:
        job = await sup.start(["tool"])
        await quiet()
        with pytest.raises(JobNotFound):
            await sup.status(job.job_id)
        assert (await sup.list()).jobs == ()
        await until(lambda: not directories(settings) and not trash(settings))
        assert sup._catalog.index.row_count() == 0


async def test_a_job_that_has_just_expired_stays_for_a_process_that_may_be_reading_it(
    state_dir: Path,
    autojump_clock: Clock,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Such as ``run --ttl 0``, which lost its result to the janitor of another supervisor."""
    async with open_supervisor(Settings(state_dir=state_dir, job_ttl=0), engine=FakeEngine()) as sup:
        register(sup, os.getppid())
        job = await sup.start(["tool"])
        await quiet()
        with pytest.raises(JobNotFound):
            await sup.status(job.job_id)
        await trio.sleep(40)  # a round of the janitor
        assert list(await sup.prune()) == []
        assert directories(sup.settings) == {job.job_id}
        monkeypatch.setattr(retention, "READING_NS", 0)  # a minute has passed, on the clock of this machine
        await until(lambda: not directories(sup.settings))


def register(sup: Supervisor, pid: int) -> None:
    """Register a supervisor of another process."""
    process = processes.read_process(pid)
    assert process is not None
    name = f"{pid}.{process.start}.{processes.boot_id()[:12]}.{processes.pid_namespace()}.0123abcd"
    Path(sup._catalog.layout.owners.path(name)).touch(mode=0o600)


async def test_a_job_is_kept_for_its_time_to_live(settings: Settings, autojump_clock: Clock) -> None:  # noqa: ARG001
    async with open_supervisor(settings, engine=FakeEngine()) as sup:
        job = await sup.wait((await sup.start(["tool"])).job_id)
        assert job.completed_at is not None
        assert job.expires_at is not None
        assert (job.expires_at - job.completed_at).total_seconds() == settings.job_ttl == 86400
        await trio.sleep(120)
        assert await sup.status(job.job_id) == job
        assert directories(settings) == {job.job_id}


async def test_a_live_job_does_not_expire(state_dir: Path, autojump_clock: Clock) -> None:  # noqa: ARG001
    settings = Settings(state_dir=state_dir, job_ttl=0, job_max_count=0)
    async with open_supervisor(settings, engine=FakeEngine(Script(seconds=None))) as sup:
        job = await sup.start(["tool"], deadline_seconds=math.inf)
        await trio.sleep(120)
        await sup.start(["another"], deadline_seconds=math.inf)
        assert await sup.prune() == []
        assert (await sup.status(job.job_id)).status == "running"


async def test_the_cap_is_applied_by_start_and_fetched_jobs_go_first(state_dir: Path) -> None:
    settings = Settings(state_dir=state_dir, job_max_count=2)
    async with open_supervisor(settings, engine=FakeEngine()) as sup:
        jobs = []

        async def finish_one() -> None:
            jobs.append(await sup.wait((await sup.start(["tool"])).job_id))

        for _ in range(3):
            await finish_one()
        assert directories(settings) == {job.job_id for job in jobs}  # three: the third was live when it was counted
        await sup.result(jobs[1].job_id)
        await finish_one()
        assert directories(settings) == {jobs[number].job_id for number in (0, 2, 3)}
        await finish_one()
        assert directories(settings) == {jobs[number].job_id for number in (2, 3, 4)}
        with pytest.raises(JobNotFound):
            await sup.status(jobs[0].job_id)


async def test_the_cap_is_per_workspace(state_dir: Path, tmp_path: Path) -> None:
    settings = Settings(state_dir=state_dir, job_max_count=1)
    (tmp_path / "other").mkdir()
    async with open_supervisor(settings, engine=FakeEngine()) as sup:
        for workspace in (tmp_path, tmp_path / "other") * 3:
            await sup.wait((await sup.start(["tool"], workspace=workspace)).job_id)
        assert len(directories(settings)) == 4


async def test_prune_forgets_what_is_beyond_the_cap_and_empties_the_trash(settings: Settings) -> None:
    async with open_supervisor(settings, engine=FakeEngine()) as sup:
        jobs = [await sup.wait((await sup.start(["tool"])).job_id) for _ in range(4)]
    async with open_supervisor(attrs.evolve(settings, job_max_count=1), engine=FakeEngine()) as sup:
        assert sorted(await sup.prune()) == sorted(job.job_id for job in jobs[:3])
    assert directories(settings) == {jobs[3].job_id}
    assert trash(settings) == []


# ---------------------------------------------------------------- adoption


async def test_a_job_that_was_left_is_adopted(settings: Settings, mock_clock: Clock) -> None:
    engine = FakeEngine(Script(seconds=None))
    async with open_supervisor(settings, engine=engine) as sup:
        job = await sup.start(["tool"])
        first = owner_of(settings, job)
    async with open_supervisor(settings, engine=engine) as sup, sup.events() as events:
        await quiet()
        assert owner_of(settings, job) != first
        assert sup._catalog.layout.owners.is_alive(owner_of(settings, job))
        engine.commands[0].finish()
        event = await anext(events)
        assert (event.job_id, event.previous, event.status) == (job.job_id, "running", "done")
    assert mock_clock.current_time() == 0


async def test_a_job_of_a_supervisor_that_lives_is_left_to_it(
    settings: Settings,
    endless: tuple[Supervisor, FakeEngine],
    autojump_clock: Clock,  # noqa: ARG001
) -> None:
    sup, engine = endless
    job = await sup.start(["tool"], deadline_seconds=math.inf)
    first = owner_of(settings, job)
    async with open_supervisor(settings, engine=engine) as other:
        await trio.sleep(90)
        assert owner_of(settings, job) == first
        assert other._registry.entries == {}


async def test_a_job_is_adopted_when_its_supervisor_leaves(
    settings: Settings,
    autojump_clock: Clock,  # noqa: ARG001
) -> None:
    engine = FakeEngine(Script(seconds=None))
    async with open_supervisor(settings, engine=engine) as other:
        async with open_supervisor(settings, engine=engine) as sup:
            job = await sup.start(["tool"], deadline_seconds=math.inf)
            await trio.sleep(5)
            assert other._registry.entries == {}
        await until(lambda: job.job_id in other._registry.entries)
        engine.commands[0].finish(4)
        assert (await other.wait(job.job_id)).exit_code == 4


def leave_behind(settings: Settings, **changes: Any) -> tuple[str, Path]:
    """Make a running job that was taken on by a supervisor which is not here."""
    pid, start = processes.own_identity()
    born = {"host": processes.host_id(), "boot": processes.boot_id(), "ns": processes.pid_namespace(), **changes}
    record: dict[str, Any] = {"v": 1, "job_id": new_job_id(), "kind": "raw", "argv": ["tool"], "workspace": "/"}
    record |= {"labels": {}, "created_ns": time.time_ns(), "deadline_seconds": 1, "ttl_seconds": 60, "digest": "d"}
    record |= {"idempotency_key": None, "owner": f"{pid}.{start}.{born['boot'][:12]}.{born['ns']}.00000000", **born}
    with Catalog(settings) as catalog:
        row = row_of_record(workspace_key("/"), record, dump(record))
        directory = catalog.layout.make_job(row.workspace_key, row.job_id, json.dumps(record).encode())
        process: dict[str, object] = {"pid": pid, "start": start, "boot": born["boot"], "ns": born["ns"]}
        process |= {"keeper_pid": pid, "keeper_start": start, "deadline_boot_ns": 1}
        records.create(
            directory, records.PROCESS, {**process, "started_ns": 1, "started_boot_ns": processes.ticks_to_ns(start)}
        )
        catalog.index.write(lambda: catalog.index.insert(row))
    return row.job_id, Path(directory)


@pytest.mark.parametrize("where", [{"ns": "1"}, {"boot": "0" * 32, "host": "another"}])
async def test_a_job_of_another_host_or_container_is_left_alone(
    settings: Settings,
    autojump_clock: Clock,  # noqa: ARG001
    where: dict[str, str],
) -> None:
    """The pids in its records are ours by accident: here, those of this very process."""
    job_id, directory = leave_behind(settings, **where)
    async with open_supervisor(settings, engine=FakeEngine()) as sup:
        await trio.sleep(90)
        assert sup._registry.entries == {}
        assert (await sup.status(job_id)).status in {"queued", "running"}
        for ask in (sup.wait(job_id, timeout=5), sup.cancel(job_id)):
            with pytest.raises(JobElsewhere):
                await ask
    assert sorted(os.listdir(directory)) == ["job.json", "process.json"]


async def test_what_died_with_an_earlier_boot_is_lost(settings: Settings) -> None:
    job_id, _ = leave_behind(settings, boot="0" * 32)
    async with open_supervisor(settings, engine=FakeEngine()) as sup:
        job = await sup.status(job_id)
        assert (job.status, job.reason, job.exit_code) == ("failed", "lost", None)


async def test_supervisors_that_died_are_forgotten(settings: Settings, autojump_clock: Clock) -> None:  # noqa: ARG001
    async with open_supervisor(settings, engine=FakeEngine()) as sup:
        own = (await sup.start(["tool"])).job_id
        assert own
        stale = settings.state_dir / ".owners" / f"1.1.{processes.boot_id()[:12]}.{processes.pid_namespace()}.0"
        stale.touch()
        await until(lambda: not stale.exists())
        assert len(os.listdir(settings.state_dir / ".owners")) == 1
    assert os.listdir(settings.state_dir / ".owners") == []


async def test_a_long_log_is_checkpointed(
    endless: tuple[Supervisor, FakeEngine],
    settings: Settings,
    autojump_clock: Clock,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from supervisor.runtime import janitor

    sup, _ = endless
    await sup.start(["tool"], deadline_seconds=math.inf)
    log = settings.state_dir / "registry.db-wal"
    assert os.stat(log).st_size > 0
    monkeypatch.setattr(janitor, "_CHECKPOINT_BYTES", 0)
    await until(lambda: os.stat(log).st_size == 0)


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), MemoryError(), RuntimeError("no new thread")])
async def test_what_the_janitor_meets_ends_no_supervisor(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    met = trio.Event()

    def refused(*_: object, **__: object) -> None:
        met.set()
        raise error

    async with open_supervisor(Settings(state_dir=state_dir), engine=FakeEngine()) as sup:
        with monkeypatch.context() as patch:
            patch.setattr(Index, "expired", refused)
            patch.setattr(Janitor, "_checkpoint", refused)
            await sup.run(["x"])
            sup._registry.generation += 1
            with trio.fail_after(60):
                await met.wait()
        assert (await sup.run(["x"])).job.status == "done"


async def test_a_commit_that_finds_no_thread_refuses_and_goes_on(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(*_: object, **__: object) -> None:
        message = "can't start new thread"
        raise RuntimeError(message)

    def busy(*_: object, **__: object) -> None:
        message = "locked"
        raise StateBusy(message)

    async with open_supervisor(Settings(state_dir=state_dir), engine=FakeEngine()) as sup:
        done = (await sup.run(["x"])).job.job_id
        with monkeypatch.context() as patch:
            patch.setattr(Registry, "_commit", busy)
            patch.setattr("supervisor.runtime.registry_actor.trio.to_thread.run_sync", refused)
            entry = Entry(attrs.evolve(sup._catalog.row(done), job_id="0" * 32), str(state_dir))
            await sup._registry.send(Create(entry, 10, lambda: None))
            with trio.fail_after(30):
                await entry.started.wait()
            assert isinstance(entry.problem, StateBusy)
        assert (await sup.run(["x"])).job.status == "done"
