"""A job whose actor meets that something has run out: it is cared for again, and ends as its command did."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from supervisor import Settings, StateBusy, open_supervisor
from supervisor.runtime import job_actor as actor
from supervisor.testing import FakeEngine, Script

Clock = trio.testing.MockClock


def out_of_descriptors() -> OSError:
    return OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def no_thread() -> RuntimeError:
    return RuntimeError("can't start new thread")


PASSING = [out_of_descriptors, MemoryError, no_thread, lambda: StateBusy("x"), lambda: OSError(errno.EIO, "x")]


class Scarce(FakeEngine):
    """Raises ``error`` out of the next calls of a method, after it has done what it does if ``done`` says so."""

    def __init__(self, script: Script, method: str, error: Callable[[], BaseException], *, done: bool) -> None:
        super().__init__(script)
        self.left = {method: 2}
        self._error = error
        self._done = done

    async def _maybe(self, method: str, call: Callable[..., Any], *args: Any, **named: Any) -> Any:
        refused = self.left.get(method, 0) > 0
        if refused:
            self.left[method] -= 1
        if not refused or self._done:
            made = await call(*args, **named)
        if refused:
            raise self._error()
        return made

    def submit(self, *args: Any) -> Any:
        return _Running(self, super().submit(*args))

    async def adopt(self, *args: Any, **named: Any) -> Any:
        return _Running(self, await self._maybe("adopt", super().adopt, *args, **named))


class _Running:
    def __init__(self, engine: Scarce, running: Any) -> None:
        self._engine = engine
        self._running = running

    def __getattr__(self, name: str) -> Any:
        return getattr(self._running, name)

    async def started(self) -> None:
        await self._engine._maybe("started", self._running.started)

    async def wait(self) -> Any:
        return await self._engine._maybe("wait", self._running.wait)

    async def stop(self, why: str, by: str) -> None:
        await self._engine._maybe("stop", self._running.stop, why, by)


@pytest.mark.parametrize("error", PASSING)
@pytest.mark.parametrize(("method", "done"), [("started", True), ("wait", False), ("wait", True)])
async def test_a_command_that_ran_is_no_failure(
    state_dir: Path,
    method: str,
    done: bool,  # noqa: FBT001
    error: Callable[[], BaseException],
    autojump_clock: Clock,  # noqa: ARG001
) -> None:
    engine = Scarce(Script(stdout="x\n", seconds=1), method, error, done=done)
    async with open_supervisor(Settings(state_dir=state_dir), engine=engine) as sup:
        with trio.fail_after(120):
            result = await sup.run(["x"])
        assert (result.job.status, result.value) == ("done", "x\n")
        assert len(engine.commands) == 1


@pytest.mark.parametrize("error", PASSING)
@pytest.mark.parametrize("how", ["deadline", "cancel"])
async def test_a_stop_that_could_not_be_asked_for_is_asked_for_again(
    state_dir: Path,
    how: str,
    error: Callable[[], BaseException],
    autojump_clock: Clock,  # noqa: ARG001
) -> None:
    engine = Scarce(Script(seconds=None), "stop", error, done=False)
    async with open_supervisor(Settings(state_dir=state_dir), engine=engine) as sup:
        job = await sup.start(["x"], deadline_seconds=5 if how == "deadline" else None)
        with trio.fail_after(120):
            ended = await (sup.wait(job.job_id) if how == "deadline" else sup.cancel(job.job_id))
        assert ended.status == ("timeout" if how == "deadline" else "cancelled")


async def test_a_launch_that_never_was_ends_as_that(
    state_dir: Path,
    autojump_clock: Clock,  # noqa: ARG001
) -> None:
    engine = Scarce(Script(seconds=None), "started", out_of_descriptors, done=False)
    async with open_supervisor(Settings(state_dir=state_dir), engine=engine) as sup:
        with trio.fail_after(120):
            job = await sup.wait((await sup.start(["x"])).job_id)
        assert (job.status, job.reason) == ("failed", "launch_failed")
        assert len(engine.commands) == 0


async def test_an_end_that_cannot_be_read_yet_is_read_later(
    state_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: Clock,  # noqa: ARG001
) -> None:
    refused = [out_of_descriptors(), MemoryError(), no_thread()]
    whole = actor.outcome_of

    def outcome_of(*args: Any, **named: Any) -> Any:
        if refused:
            raise refused.pop()
        return whole(*args, **named)

    monkeypatch.setattr(actor, "outcome_of", outcome_of)
    async with open_supervisor(Settings(state_dir=state_dir), engine=FakeEngine(Script(stdout="x", seconds=1))) as sup:
        with trio.fail_after(120):
            assert (await sup.run(["x"])).value == "x"
    assert refused == []


async def test_a_defect_is_not_tried_again(
    state_dir: Path,
    autojump_clock: Clock,  # noqa: ARG001
) -> None:
    engine = Scarce(Script(seconds=None), "wait", LookupError, done=False)
    async with open_supervisor(Settings(state_dir=state_dir), engine=engine) as sup:
        with trio.fail_after(120):
            job = await sup.wait((await sup.start(["x"])).job_id)
        assert (job.status, job.reason) == ("failed", "lost")
        assert "LookupError" in (job.detail or "")
