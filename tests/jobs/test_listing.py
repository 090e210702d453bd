"""Lists of jobs: the same whether they are put together at a glance or with a look at every job."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from supervisor import Settings, Supervisor, open_supervisor
from supervisor.errors import InvalidArguments
from supervisor.jobs.catalog import Catalog
from supervisor.jobs.listing import no_job, page_at_a_glance, page_of, query_of
from supervisor.model import JobPage
from supervisor.testing import FakeEngine, Script


@pytest.fixture
def settings(state_dir: Path) -> Settings:
    return Settings(state_dir=state_dir)


@pytest.fixture
async def sup(settings: Settings) -> AsyncIterator[Supervisor]:
    async with open_supervisor(settings, engine=FakeEngine()) as opened:
        yield opened


@pytest.fixture
def catalog(settings: Settings) -> Iterator[Catalog]:
    with Catalog(settings) as opened:
        yield opened


def ids(page: JobPage | None) -> list[str]:
    assert page is not None
    return [job.job_id for job in page.jobs]


@pytest.mark.parametrize("text", ["\udc80", "a\0b", "💥", "", "'\""])
async def test_any_text_is_found_again_as_a_label(sup: Supervisor, text: str) -> None:
    for given in (text, f"{text}\0other", f"{text}x"):
        await sup.run(["tool"], labels={"name": given, f"n{given}": "value"})
    found = (await sup.list(labels={"name": text})).jobs
    assert [job.labels["name"] for job in found] == [text]
    assert (await sup.list(labels={f"n{text}": "value"})).jobs == found


async def test_pages_by_label_are_full_though_sqlite_cannot_tell_some_apart(sup: Supervisor) -> None:
    wanted = []
    for _ in range(4):
        wanted.append((await sup.run(["tool"], labels={"name": "a\0b"})).job_id)
        await sup.run(["tool"], labels={"name": "a\0c"})
        await sup.run(["tool"], labels={"name": "a"})
    page = await sup.list(labels={"name": "a\0b"}, limit=3)
    assert ids(page) == wanted[:0:-1]
    assert page.next_cursor is not None
    page = await sup.list(labels={"name": "a\0b"}, limit=3, cursor=page.next_cursor)
    assert ids(page) == wanted[:1]
    assert page.next_cursor is None


async def test_ended_jobs_are_seen_at_a_glance(sup: Supervisor, catalog: Catalog) -> None:
    made = [(await sup.run(["tool"])).job_id for _ in range(5)]
    query = query_of(None, "done", None, 3, None)
    page = page_at_a_glance(catalog, query, no_job)
    assert ids(page) == made[:1:-1]
    assert page == page_of(catalog, query)
    again = page_at_a_glance(catalog, query, no_job)
    assert again is not None
    assert again.jobs[0] is catalog.status(made[-1])  # put together once


async def test_a_glance_does_not_tell_of_a_job_that_lives(settings: Settings, catalog: Catalog) -> None:
    async with open_supervisor(settings, engine=FakeEngine(Script(seconds=None))) as sup:
        job = await sup.start(["tool"])
        query = query_of(None, None, None, 3, None)
        assert page_at_a_glance(catalog, query, no_job) is None
        page = page_at_a_glance(catalog, query, sup.glance)
        assert ids(page) == [job.job_id]
        assert ids(await sup.list()) == [job.job_id]


async def test_a_directory_that_is_gone_is_told_and_not_remembered(sup: Supervisor, catalog: Catalog) -> None:
    check_without_its_directory(catalog, (await sup.run(["tool"])).job_id)


def check_without_its_directory(catalog: Catalog, job_id: str) -> None:
    query = query_of(None, None, None, 3, None)
    before = page_at_a_glance(catalog, query, no_job)
    assert before is not None
    assert before.jobs[0].detail is None
    directory = Path(catalog.directory(catalog.row(job_id)))
    directory.rename(directory.with_name("aside"))
    damaged = page_at_a_glance(catalog, query, no_job)
    assert damaged is not None
    assert "missing" in (damaged.jobs[0].detail or "")
    directory.with_name("aside").rename(directory)
    assert page_at_a_glance(catalog, query, no_job) == before


async def test_more_labels_than_a_job_can_have_are_refused(sup: Supervisor, catalog: Catalog) -> None:
    many = {f"{number}": "x" for number in range(64)}
    assert (await sup.list(labels=many)).jobs == ()
    with pytest.raises(InvalidArguments, match="more than 64 labels"):
        await sup.list(labels={**many, "one": "more"})
    with pytest.raises(InvalidArguments, match="more than 64 labels"):
        catalog.list(labels={f"{number}": "x" for number in range(1000)})
