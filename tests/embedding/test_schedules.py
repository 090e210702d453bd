"""The calls about schedules, in Trio, from asyncio and from threads."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from supervisor import (
    BlockingSupervisor,
    InvalidArguments,
    JobSpec,
    ScheduleInfo,
    ScheduleNotFound,
    Settings,
    open_supervisor,
    open_supervisor_asyncio,
    to_json,
)
from supervisor.testing import FakeEngine, Script


async def use(sup: Any) -> None:
    async def ask(found: Any) -> Any:
        return await found if inspect.isawaitable(found) or isinstance(found, Awaitable) else found

    made = await ask(sup.add_schedule("s", ["tool"], cron="0 0 1 1 *", tz="UTC", labels={"a": "b"}))
    assert isinstance(made, ScheduleInfo)
    assert (made.argv, made.tz, made.overlap, made.catch_up_window_seconds) == (("tool",), "UTC", "skip", 3600)
    assert made.next_at == datetime(made.next_at.year, 1, 1, tzinfo=UTC)
    assert to_json(made).items() >= {"ok": True, "name": "s", "argv": ["tool"], "last_job_id": None}.items()
    with pytest.raises(InvalidArguments, match="already"):
        await ask(sup.add_schedule("s", ["tool"], cron="@daily"))
    with pytest.raises(InvalidArguments, match="keys of their own"):
        await ask(sup.add_schedule("t", ["tool"], cron="@daily", idempotency_key="k"))
    with pytest.raises(InvalidArguments, match="there is no option"):
        await ask(sup.add_schedule("t", ["tool"], cron="@daily", unknown=1))
    spec = JobSpec(argv=["other"])
    changed = await ask(sup.add_schedule("s", spec, cron="@daily", overlap="allow_all", replace=True))
    assert (changed.argv, changed.overlap) == (("other",), "allow_all")
    assert (await ask(sup.pause_schedule("s"))).next_at is None
    job = await ask(sup.run_schedule("s"))
    assert (job.argv, job.schedule) == (("other",), "s")
    assert (await ask(sup.resume_schedule("s"))).last_job_id == job.job_id
    assert [each.name for each in await ask(sup.schedules())] == ["s"]
    await ask(sup.remove_schedule("s"))
    assert await ask(sup.schedules()) == ()
    for call in (sup.pause_schedule, sup.resume_schedule, sup.run_schedule, sup.remove_schedule):
        with pytest.raises(ScheduleNotFound):
            await ask(call("s"))


async def test_in_trio(state_dir: Path) -> None:
    async with open_supervisor(Settings(state_dir=state_dir), engine=FakeEngine(Script())) as sup:
        await use(sup)


def test_from_asyncio(state_dir: Path) -> None:
    async def main() -> None:
        async with open_supervisor_asyncio(Settings(state_dir=state_dir), engine=FakeEngine(Script())) as sup:
            await use(sup)

    asyncio.run(main())


def test_from_threads(state_dir: Path) -> None:
    with BlockingSupervisor(Settings(state_dir=state_dir), engine=FakeEngine(Script())) as sup:
        coroutine = use(sup)
        with pytest.raises(StopIteration):  # it awaits nothing
            coroutine.send(None)
