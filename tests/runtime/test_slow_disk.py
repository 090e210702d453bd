"""A disk that is slow to commit: with durability ``power`` the event loop goes on meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
import trio

from supervisor import Settings, State, open_supervisor
from supervisor.errors import StateFull
from supervisor.store.sqlite import Connection
from supervisor.testing import FakeEngine, Script

T = TypeVar("T")
PATIENCE_SECONDS = 60.0


class SlowDisk:
    """Has each commit in a thread wait until the event loop lets it go on, and notes those on the event loop."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_slow = self.is_full = False
        self.on_loop = self.in_thread = 0
        self.asked = trio.Event()
        self._waiting: list[threading.Event] = []
        self._loop, self._token = threading.get_ident(), trio.lowlevel.current_trio_token()
        write = Connection.write

        def slowly(index: Connection, action: Callable[[], T], *, single: bool = False) -> T:
            if self.is_full:
                message = "no room"
                raise StateFull(message)
            result = write(index, action, single=single)
            if threading.get_ident() != self._loop:
                go_on = threading.Event()
                trio.from_thread.run_sync(self._enter, go_on, trio_token=self._token)
                assert go_on.wait(PATIENCE_SECONDS)
            elif self.is_slow:
                self.on_loop += 1
            return result

        monkeypatch.setattr(Connection, "write", slowly)

    def _enter(self, go_on: threading.Event) -> None:
        if self.is_slow:
            self._waiting.append(go_on)
            self.asked.set()
        else:
            go_on.set()

    async def serve(self) -> None:
        """Be slow until cancelled: let each commit go on from the event loop."""
        self.is_slow = True
        try:
            while True:
                await self.asked.wait()
                self.in_thread += 1
                self._waiting.pop(0).set()
                if not self._waiting:
                    self.asked = trio.Event()
        finally:
            self.is_slow = False
            for go_on in self._waiting:
                go_on.set()


@pytest.fixture
def settings(state_dir: Path) -> Settings:
    return Settings(state_dir=state_dir, durability="power")


@pytest.mark.parametrize("turn", ["with the end of a job", "alone"])
async def test_the_loop_goes_on_while_a_turn_waits_for_the_disk(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, turn: str
) -> None:
    engine = FakeEngine(Script(seconds=None))
    with trio.fail_after(PATIENCE_SECONDS):
        async with open_supervisor(settings, engine=engine) as sup, trio.open_nursery() as nursery:
            await sup.set_group("g", limit=1)
            first, second = await sup.start(["a"], groups="g"), await sup.start(["b"], groups="g")
            assert second.status is State.QUEUED
            disk = SlowDisk(monkeypatch)
            async with sup.events(second.job_id) as events:
                nursery.start_soon(disk.serve)
                if turn == "alone":
                    await sup.set_group("g", limit=2)
                else:
                    engine.command(first.job_id).finish()
                while (await anext(events)).status is not State.RUNNING:
                    pass
            nursery.cancel_scope.cancel()
            assert (disk.on_loop, disk.in_thread > 0) == (0, True)


async def test_the_loop_goes_on_while_ends_are_committed_late(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = FakeEngine(Script(seconds=None))
    with trio.fail_after(PATIENCE_SECONDS):
        async with open_supervisor(settings, engine=engine) as sup, trio.open_nursery() as nursery:
            job = await sup.start(["a"])
            disk = SlowDisk(monkeypatch)
            disk.is_full = True
            engine.command(job.job_id).finish()
            assert (await sup.wait(job.job_id)).status is State.DONE
            disk.is_full = False
            nursery.start_soon(disk.serve)
            await disk.asked.wait()  # the janitor tries again
            nursery.cancel_scope.cancel()
            assert disk.on_loop == 0
