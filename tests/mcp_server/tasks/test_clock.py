"""A jump of the wall clock neither ends a function nor deletes its result."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import trio.testing

from supervisor.mcp_server.tasks.records import TaskRecords
from supervisor.mcp_server.tasks.state import Status
from tests.mcp_server.tasks.in_memory import World

YEAR_NS = 365 * 24 * 3600 * 10**9


def jump(monkeypatch: pytest.MonkeyPatch, by_ns: int) -> None:
    now_ns = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now_ns() + by_ns)


@pytest.mark.parametrize("by_ns", [YEAR_NS, 10 * YEAR_NS, -YEAR_NS])
async def test_a_function_goes_on(world: World, monkeypatch: pytest.MonkeyPatch, by_ns: int) -> None:
    async with world.open(), world.peer() as peer:
        made = await peer.call("think", about=1)
        await world.begun.wait()
        jump(monkeypatch, by_ns)
        other = await peer.call("think", about=2)  # checks the expiry of all tasks
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert (await peer.get(made["taskId"]))["status"] == "working"
        world.gate.set()
        for each in (made, other):
            assert (await peer.until(each["taskId"]))["status"] == "completed"


@pytest.mark.parametrize("by_ns", [YEAR_NS, -YEAR_NS])
def test_what_has_ended_is_kept(state_dir: Path, monkeypatch: pytest.MonkeyPatch, by_ns: int) -> None:
    records = TaskRecords(state_dir)
    made = records.make("tool", None, 60_000)
    records.end(made, Status.COMPLETED, result={"content": []})
    jump(monkeypatch, by_ns)
    for each in (records, again := TaskRecords(state_dir)):
        assert each.find(made.task_id) == made
        assert list(each.all()) == [made]
        each.close()
    del again


def test_the_boot_clock_is_believed(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from supervisor.system import processes

    records = TaskRecords(state_dir)
    made = records.make("tool", None, 60_000)
    boottime_ns = processes.boottime_ns
    monkeypatch.setattr(processes, "boottime_ns", lambda: boottime_ns() + 62 * 10**9)
    jump(monkeypatch, 62 * 10**9)
    assert records.find(made.task_id) is None
    assert not list(records.all())
    records.close()
