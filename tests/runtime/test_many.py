"""Many jobs started in one transaction: all of them, or none."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from supervisor import (
    IdempotencyConflict,
    InvalidArguments,
    JobSpec,
    Settings,
    Supervisor,
    SupervisorError,
    open_supervisor,
)
from supervisor.errors import GroupNotFound, StateFull
from supervisor.jobdir.records import GRANTED, ORDERS, STDIN
from supervisor.runtime import many
from supervisor.store import Layout
from supervisor.testing import FakeEngine, Script


@pytest.fixture
async def sup(state_dir: Path) -> AsyncIterator[Supervisor]:
    async with open_supervisor(Settings(state_dir=state_dir), engine=FakeEngine(Script(seconds=None))) as opened:
        yield opened


def request(number: int = 0, **options: Any) -> JobSpec:
    return JobSpec(argv=("job", str(number)), groups=("g",), **options)


def directories(state_dir: Path) -> Iterator[Path]:
    return (path.parent for path in state_dir.glob("*/*/job.json"))


def files(state_dir: Path, name: str) -> int:
    return sum((directory / name).exists() for directory in directories(state_dir))


async def test_jobs_that_fit_run_and_the_others_wait_in_order_with_orders(sup: Supervisor, state_dir: Path) -> None:
    await sup.set_group("g", limit=2)
    jobs = await sup.start_many([request(number, stdin=b"input") for number in range(100)])
    assert [job.argv[1] for job in jobs] == [str(number) for number in range(100)]
    assert [job.status for job in jobs] == ["running"] * 2 + ["queued"] * 98
    assert [(job.queue_reason, job.queue_position) for job in jobs[2:]] == [("limit", n) for n in range(1, 99)]
    for job in jobs[2::50]:
        assert attrs.evolve(await sup.status(job.job_id), elapsed_ms=0) == attrs.evolve(job, elapsed_ms=0)
    assert files(state_dir, ORDERS) == files(state_dir, STDIN) == 98
    assert files(state_dir, GRANTED) == 2


async def test_jobs_with_room_have_no_orders_and_none_waits(sup: Supervisor, state_dir: Path) -> None:
    await sup.set_group("g")
    jobs = await sup.start_many([request(number) for number in range(150)])
    assert {job.status for job in jobs} == {"running"}
    assert files(state_dir, ORDERS) == 0


async def test_jobs_in_no_group_start_as_well(sup: Supervisor) -> None:
    jobs = await sup.start_many([JobSpec(argv=("a",)), JobSpec(argv=("b",), hold=True)])
    assert [(job.status, job.queue_reason) for job in jobs] == [("running", None), ("queued", "held")]
    assert await sup.start_many([]) == []


REFUSED = [
    (JobSpec(argv=()), InvalidArguments),
    (JobSpec(argv=("a",), groups=("unknown",)), GroupNotFound),
    (request(weight=4), InvalidArguments),
    (JobSpec(argv=("a",), idempotency_key="first"), IdempotencyConflict),
    (JobSpec(argv=("a",), idempotency_key="old"), IdempotencyConflict),
    (["a"], InvalidArguments),
]


@pytest.mark.parametrize(("refused", "error"), REFUSED)
async def test_one_refusal_refuses_all_and_says_which(
    refused: JobSpec, error: type[SupervisorError], sup: Supervisor, state_dir: Path
) -> None:
    await sup.set_group("g", limit=3)
    await sup.start(["another"], idempotency_key="old")
    specs = [request(idempotency_key="first"), request(1), refused, request(2)]
    with pytest.raises(error) as caught:
        await sup.start_many(specs)
    assert caught.value.details["index"] == 2
    assert len((await sup.list()).jobs) == len(list(directories(state_dir))) == 1
    assert (await sup.groups())[0].running == 0


async def test_a_group_that_is_removed_meanwhile_refuses_all(
    sup: Supervisor, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(many, "check_ticket", lambda *_: [])
    with pytest.raises(GroupNotFound) as caught:
        await sup.start_many([JobSpec(argv=("a",)), *map(request, range(40))])
    assert caught.value.details["index"] == 1
    assert (await sup.list()).jobs == ()
    assert list(directories(state_dir)) == []


async def test_a_disk_that_fills_up_refuses_all(
    sup: Supervisor, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sup.set_group("g", limit=1)
    numbers, make = itertools.count(), Layout.make_job

    def fail(layout: Layout, *arguments: Any) -> str:
        if next(numbers) == 3:
            message = "full"
            raise StateFull(message)
        return make(layout, *arguments)

    monkeypatch.setattr(Layout, "make_job", fail)
    with pytest.raises(StateFull) as caught:
        await sup.start_many([request(number) for number in range(6)])
    assert caught.value.details["index"] == 3
    assert list(directories(state_dir)) == []
    assert len(await sup.start_many([request(number) for number in range(6)])) == 6


async def test_a_key_gives_one_job(sup: Supervisor, state_dir: Path) -> None:
    await sup.set_group("g")
    old = await sup.start(["job", "0"], idempotency_key="old", groups=("g",))
    specs = [request(idempotency_key="old"), request(1, idempotency_key="new"), request(1, idempotency_key="new")]
    first, second, third = await sup.start_many(specs)
    assert first.job_id == old.job_id
    assert second.job_id == third.job_id
    assert len(list(directories(state_dir))) == 2


async def test_a_key_that_another_process_uses_meanwhile_gives_its_job(
    sup: Supervisor, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sup.set_group("g", limit=1)
    made = many._made  # between the check and the commit

    async def meanwhile(*arguments: Any) -> Any:
        monkeypatch.setattr(many, "_made", made)
        found = await made(*arguments)
        await sup.start(["job", "1"], idempotency_key="new", groups=("g",))
        return found

    monkeypatch.setattr(many, "_made", meanwhile)
    jobs = await sup.start_many(
        [request(number, idempotency_key="new" if number == 1 else None) for number in range(3)]
    )
    assert [job.status for job in jobs] == ["queued", "running", "queued"]
    assert len((await sup.list()).jobs) == len(list(directories(state_dir))) == 3


async def test_the_jobs_survive_their_supervisor(state_dir: Path) -> None:
    settings = Settings(state_dir=state_dir)
    async with open_supervisor(settings, engine=FakeEngine(Script(seconds=None))) as first:
        await first.set_group("g", limit=1)
        jobs = await first.start_many([request(number, env={"A": str(number)}) for number in range(50)])
    for directory in directories(state_dir):
        if directory.name == jobs[7].job_id:
            assert b"A=7\0" in (directory / ORDERS).read_bytes()
            assert os.stat(directory / ORDERS).st_mode & 0o777 == 0o600


async def test_jobs_that_are_to_end_while_many_are_committed_in_a_thread_refuse_none(
    sup: Supervisor, state_dir: Path
) -> None:
    await sup.set_group("g", limit=1)
    first = await sup.start(request())
    jobs = await sup.start_many([request(number, start_within_seconds=0) for number in range(100)])
    assert len(list(directories(state_dir))) == 101
    with trio.fail_after(30):
        ends = [await sup.wait(job.job_id) for job in jobs]
    assert {(end.status, end.reason) for end in ends} == {("cancelled", "start_expired")}
    await sup.cancel(first.job_id)
