"""An overview shows each unfinished job as it is now, and no more rows than were asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor import Retry, Settings, open_supervisor
from supervisor.jobs.catalog import Catalog
from supervisor.jobs.overview import Overview, overview_of
from supervisor.model import to_json
from supervisor.testing import FakeEngine, Script


@pytest.fixture
def settings(state_dir: Path) -> Settings:
    return Settings(state_dir=state_dir)


@pytest.fixture
def catalog(settings: Settings) -> Iterator[Catalog]:
    with Catalog(settings) as opened:
        yield opened


def ids(overview: Overview) -> list[list[str]]:
    return [[job.job_id for job in jobs] for jobs in (overview.running, overview.waiting, overview.ended)]


async def test_jobs_are_shown_by_what_they_do(settings: Settings, catalog: Catalog) -> None:
    engine = FakeEngine(lambda request: Script(seconds=None if request.argv[0] == b"slow" else 0))
    async with open_supervisor(settings, engine=engine) as sup:
        await sup.set_group("few", limit=1)
        await sup.pause_group("few")
        ended = [(await sup.wait((await sup.start(["true"])).job_id)).job_id for _ in range(3)]
        waiting = [(await sup.start(["true"], groups=["few"])).job_id for _ in range(3)]
        held = (await sup.start(["true"], hold=True)).job_id
        running = (await sup.start(["slow"])).job_id
        found = overview_of(catalog, running=10, waiting=10, ended=10)
        assert ids(found) == [[running], [*waiting, held], ended[::-1]]
        assert found.counts == {"running": 1, "waiting": 4, "ended": 3, "failed": 0}
        assert [(group.name, group.waiting) for group in found.groups] == [("few", 3)]
        assert found.waiting[0].queue_position == 1
        assert len(found.directories) == 5
        few = overview_of(catalog, running=1, waiting=2, ended=1)
        assert ids(few) == [[running], waiting[:2], ended[-1:]]
        assert few.counts == found.counts
        shape = found.to_json()
        assert shape["running"][0] == {name: held for name, held in to_json(found.running[0]).items() if name != "ok"}
        await sup.cancel(held)
        await sup.cancel(running)
        assert ids(overview_of(catalog, running=9, waiting=9, ended=2)) == [[], waiting, [running, held]]


async def test_a_root_without_jobs_has_an_overview(tmp_path: Path) -> None:
    with Catalog(Settings(state_dir=tmp_path / "none"), create=False) as catalog:
        found = overview_of(catalog, running=1, waiting=1, ended=1)
    assert (ids(found), found.groups, found.counts) == (
        [[], [], []],
        (),
        {"running": 0, "waiting": 0, "ended": 0, "failed": 0},
    )
    assert not (tmp_path / "none").exists()


async def test_failures_need_attention_until_their_results_are_fetched(settings: Settings, catalog: Catalog) -> None:
    engine = FakeEngine(lambda request: Script(exit_code=0 if request.argv[0] == b"true" else 1))
    async with open_supervisor(settings, engine=engine) as sup:
        good, one, other = [(await sup.wait((await sup.start([name])).job_id)).job_id for name in ("true", "a", "b")]
        retry = Retry(maximum_attempts=2, initial_interval=0, retry_on=["job_failed"])
        last = (await sup.wait((await sup.start(["c"], retry=retry)).job_id)).job_id
        assert (await sup.status(last)).attempt == 2
        found = overview_of(catalog, running=9, waiting=9, ended=9)
        assert [job.job_id for job in found.failures] == [last, other, one]  # not the attempt that was tried again
        assert found.counts["failed"] == 3
        assert sum(well for well, _ in found.ends) == 1
        assert sum(badly for _, badly in found.ends) == 4
        assert len(found.ends) == 60
        few = overview_of(catalog, running=9, waiting=9, ended=9, failures=1)
        assert ([job.job_id for job in few.failures], few.counts["failed"]) == ([last], 3)
    # A supervisor of this thread that is about to write would make the catalog give up: that a result was fetched
    # is recorded only if no other process writes.
    for job_id in (one, good):
        catalog.result(job_id)
    left = overview_of(catalog, running=9, waiting=9, ended=9)
    assert [job.job_id for job in left.failures] == [last, other]


async def test_an_overview_of_a_label_has_nothing_of_other_jobs(settings: Settings, catalog: Catalog) -> None:
    engine = FakeEngine(lambda request: Script(seconds=None if request.argv[0] == b"slow" else 0, exit_code=1))
    async with open_supervisor(settings, engine=engine) as sup:
        mine: list[str] = []
        for labels in ({"who": "me"}, {"who": "you"}, {}):
            made = [await sup.start(["slow"], labels=labels), await sup.start(["true"], labels=labels, hold=True)]
            made.append(await sup.wait((await sup.start(["false"], labels=labels)).job_id))
            mine += [job.job_id for job in made if labels == {"who": "me"}]
        found = overview_of(catalog, running=9, waiting=9, ended=9, label=("who", "me"))
        assert ids(found) == [[mine[0]], [mine[1]], [mine[2]]]
        assert [job.job_id for job in found.failures] == mine[2:]
        assert found.counts == {"running": 1, "waiting": 1, "ended": 1, "failed": 1}
        assert sum(badly for _, badly in found.ends) == 1
        every = overview_of(catalog, running=9, waiting=9, ended=9)
        assert every.counts == {"running": 3, "waiting": 3, "ended": 3, "failed": 3}
        for job in (*every.running, *every.waiting):
            await sup.cancel(job.job_id)
