"""How many inotify instances a supervisor takes: a user may have 128."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

import supervisor

if TYPE_CHECKING:
    from tests.process.conftest import World

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs inotify")

PATIENCE = 60


def instances() -> int:
    held = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            held += os.readlink(f"/proc/self/fd/{name}") == "anon_inode:inotify"
        except FileNotFoundError:
            continue
    return held


async def test_one_for_what_is_written_and_one_for_records(world: World) -> None:
    before = instances()
    gate = world.fifo()
    other = world.host().start("sh", "-c", 'read line < "$1"', "sh", str(gate))
    async with supervisor.open_supervisor() as sup, trio.open_nursery() as nursery:
        agent = await sup.start(["sh", "-c", 'echo {}; read line < "$1"', "sh", str(gate)], kind="claude")
        nursery.start_soon(sup.wait, other)  # the records of a job of another process are watched
        async with sup.follow(agent.job_id) as one, sup.follow(agent.job_id, "stderr"):
            with trio.fail_after(PATIENCE):
                assert await one.__anext__() == b"{}\n"
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert instances() - before == 2
        gate.open(2)
        with trio.fail_after(PATIENCE):
            await sup.wait(agent.job_id)
