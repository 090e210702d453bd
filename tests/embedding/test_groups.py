"""The calls about groups and waiting jobs, from threads and from asyncio."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest

from supervisor import (
    BlockingSupervisor,
    GroupNotFound,
    InvalidArguments,
    JobSpec,
    Settings,
    open_supervisor_asyncio,
)
from supervisor.testing import FakeEngine, Script

from .conftest import Run


class _Awaited:
    """Calls of either facade, awaited if need be."""

    def __init__(self, sup: Any) -> None:
        self._sup = sup

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: Any, **options: Any) -> Any:
            found = getattr(self._sup, name)(*arguments, **options)
            return await found if isinstance(found, Awaitable) else found

        return call


async def use(sup: Any, engine: FakeEngine) -> None:
    sup = _Awaited(sup)
    made = await sup.set_group("g", limit=1, aging_seconds=60)
    assert (made.name, made.limit, made.aging_seconds) == ("g", 1, 60)
    first = await sup.start(["first"], groups=["g"])
    second = await sup.start(["second"], groups=["g"], priority=1)
    (third,) = await sup.start_many([JobSpec(argv=("third",), groups=("g",), hold=True)])
    assert [(job.status, job.queue_reason) for job in (first, second, third)] == [
        ("running", None),
        ("queued", "limit"),
        ("queued", "held"),
    ]
    paused = await sup.pause_group("g", reason="lunch")
    assert [(each.by, each.detail) for each in paused.paused] == [("user", "lunch")]
    assert (await sup.status(second.job_id)).queue_reason == "paused"
    (group,) = await sup.groups()
    assert (group.running, group.waiting) == (1, 2)
    assert (await sup.resume_group("g")).paused == ()
    assert (await sup.release(third.job_id)).queue_position == 2
    assert (await sup.move(third.job_id, first=True)).queue_position == 1
    assert (await sup.hold(second.job_id)).queue_reason == "held"
    assert (await sup.metrics()).groups["g"].waiting == 2
    with pytest.raises(InvalidArguments):
        await sup.remove_group("g")
    engine.command(first.job_id).finish()
    await sup.wait(first.job_id)
    await sup.cancel(second.job_id)
    await sup.cancel(third.job_id)
    await sup.remove_group("g")
    with pytest.raises(GroupNotFound):
        await sup.pause_group("g")


def test_from_threads(state_dir: Path) -> None:
    engine = FakeEngine(Script(seconds=None))
    with BlockingSupervisor(Settings(state_dir=state_dir), engine=engine) as sup:
        calls = use(sup, engine)
        with pytest.raises(StopIteration):  # no call of this facade waits for an event loop
            calls.send(None)
    assert inspect.getcoroutinestate(calls) == inspect.CORO_CLOSED


def test_from_asyncio(state_dir: Path, run: Run[None]) -> None:
    async def main() -> None:
        engine = FakeEngine(Script(seconds=None))
        async with open_supervisor_asyncio(Settings(state_dir=state_dir), engine=engine) as sup:
            await use(sup, engine)

    run(main())
