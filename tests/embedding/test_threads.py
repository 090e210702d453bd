"""The supervisor from plain threads."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import trio

from supervisor import (
    BlockingSupervisor,
    InternalError,
    InvalidArguments,
    InvalidSettings,
    JobNotFound,
    JobRunning,
    Settings,
    StateBusy,
    SupervisorClosed,
    open_supervisor,
    open_supervisor_asyncio,
)
from supervisor.jobs.catalog import Catalog
from supervisor.runtime import registry_actor
from supervisor.testing import FakeEngine, Script

from .conftest import PATIENCE, portal_threads

UNKNOWN = "0" * 32


def until(condition: Callable[[], Any]) -> None:
    give_up = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up, "it did not come"
        time.sleep(0.001)


def waiters(sup: BlockingSupervisor, job_id: str) -> int:
    count: int = sup._through().target._registry.entries[job_id].waiters
    return count


@pytest.fixture
def interrupt() -> Iterator[Callable[[Callable[[], Any]], None]]:
    """Press Ctrl-C, once, as soon as a condition holds."""
    threads: list[threading.Thread] = []
    main = threading.main_thread().ident
    assert main is not None

    def press(condition: Callable[[], Any]) -> None:
        def watch() -> None:
            until(condition)
            signal.pthread_kill(main, signal.SIGINT)

        threads.append(threading.Thread(target=watch))
        threads[-1].start()

    yield press
    for each in threads:
        each.join(PATIENCE)


# ---------------------------------------------------------------- the same API


def test_the_whole_life_of_a_job(settings: Settings) -> None:
    with BlockingSupervisor(settings) as sup:
        assert sup.settings is settings
        job = sup.start(["sh", "-c", "echo one; echo two >&2; exit 3"], labels={"a": "b"})
        with sup.follow(job.job_id) as chunks:
            assert b"".join(chunks) == b"one\n"
        with sup.follow(job.job_id, "stderr") as chunks:
            assert b"".join(chunks) == b"two\n"
        assert sup.wait(job.job_id, timeout=PATIENCE).exit_code == 3
        assert sup.status(job.job_id).status == "failed"
        assert [each.job_id for each in sup.list(labels={"a": "b"}).jobs] == [job.job_id]
        assert not sup.result(job.job_id).ok
        sup.forget(job.job_id)
        with pytest.raises(JobNotFound):
            sup.status(job.job_id)
        assert sup.run(["cat"], stdin=b"42", kind="json").value == 42
        assert sup.prune() == []
        sleeper = sup.start(["sleep", "600"])
        with pytest.raises(JobRunning):
            sup.wait(sleeper.job_id, timeout=0)
        with sup.events(sleeper.job_id) as events:
            assert sup.cancel(sleeper.job_id).status == "cancelled"
            assert next(event for event in events if event.status.terminal).status == "cancelled"


def test_from_several_threads_at_once(settings: Settings) -> None:
    with BlockingSupervisor(settings, engine=FakeEngine()) as sup, ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda number: sup.run(["tool", str(number)]), range(40)))
    assert [each.job.argv[1] for each in results] == [str(number) for number in range(40)]


def test_two_on_one_root(settings: Settings) -> None:
    with BlockingSupervisor(settings) as one, BlockingSupervisor(settings) as two:
        job = one.start(["sleep", "600"])
        assert two.cancel(job.job_id).status == "cancelled"
        assert one.wait(job.job_id).status == "cancelled"


def test_a_trio_program_beside_both_facades_on_one_root(settings: Settings) -> None:
    async def in_asyncio(job_id: str) -> str:
        async with open_supervisor_asyncio(settings) as sup:
            return str((await sup.status(job_id)).status)

    def in_a_thread(job_id: str) -> str:
        with BlockingSupervisor(settings) as sup:
            return str(sup.cancel(job_id).status)

    async def main() -> None:
        async with open_supervisor(settings) as sup:
            job = await sup.start(["sleep", "600"])
            assert await trio.to_thread.run_sync(lambda: asyncio.run(in_asyncio(job.job_id))) == "running"
            assert await trio.to_thread.run_sync(in_a_thread, job.job_id) == "cancelled"
            assert (await sup.wait(job.job_id)).status == "cancelled"

    trio.run(main)


def test_events_say_when_they_lagged(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.runtime.events._MAX_EVENTS", 4)
    with BlockingSupervisor(settings, engine=FakeEngine()) as sup, sup.events() as events:
        for _ in range(10):
            sup.run(["tool"])
        assert next(events).lagged > 0
        assert next(events).lagged == 0


# ---------------------------------------------------------------- errors


def test_errors_arrive_as_themselves(settings: Settings) -> None:
    error = LookupError("mine")
    with pytest.raises(LookupError) as caught, BlockingSupervisor(settings) as sup:  # noqa: PT012
        with pytest.raises(JobNotFound):
            sup.wait(UNKNOWN)
        with pytest.raises(InvalidArguments):
            sup.start([])
        with pytest.raises(JobNotFound), sup.follow(UNKNOWN):
            raise AssertionError
        with sup.events():
            raise error
    assert caught.value is error


def test_only_inside_of_its_block(settings: Settings, endless: FakeEngine) -> None:
    sup = BlockingSupervisor(settings, engine=endless)
    with pytest.raises(SupervisorClosed):
        sup.list()
    with sup:
        with pytest.raises(SupervisorClosed), sup:
            raise AssertionError
        assert sup.list().jobs == ()
    with pytest.raises(SupervisorClosed):
        sup.list()
    with pytest.raises(SupervisorClosed):
        _ = sup.settings


def test_what_cannot_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERVISOR_JOB_TTL", "soon")
    with pytest.raises(InvalidSettings, match="SUPERVISOR_JOB_TTL"), BlockingSupervisor():
        raise AssertionError
    assert portal_threads() == []


def test_a_break_down(settings: Settings, endless: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise LookupError

    with pytest.raises(InternalError) as caught, BlockingSupervisor(settings, engine=endless) as sup:  # noqa: PT012
        job = sup.start(["tool"])
        monkeypatch.setattr(registry_actor.Registry, "_announce", broken)
        with pytest.raises((SupervisorClosed, InternalError)):
            sup.cancel(job.job_id)
        for each in portal_threads():
            each.join(PATIENCE)
    assert isinstance(caught.value.__cause__, LookupError)


# ---------------------------------------------------------------- interrupts


def test_an_interrupt_ends_a_wait_and_nothing_else(
    settings: Settings,
    endless: FakeEngine,
    interrupt: Callable[[Callable[[], Any]], None],
) -> None:
    with BlockingSupervisor(settings, engine=endless) as sup:
        job = sup.start(["tool"])
        interrupt(lambda: waiters(sup, job.job_id) == 1)
        with pytest.raises(KeyboardInterrupt):
            sup.wait(job.job_id)
        assert waiters(sup, job.job_id) == 0
        assert sup.status(job.job_id).status == "running"
        sup.cancel(job.job_id)


def test_an_interrupt_stops_the_job_of_run(
    settings: Settings,
    endless: FakeEngine,
    interrupt: Callable[[Callable[[], Any]], None],
) -> None:
    with BlockingSupervisor(settings, engine=endless) as sup:
        interrupt(lambda: any(waiters(sup, job.job_id) for job in sup.list().jobs))
        with pytest.raises(KeyboardInterrupt):
            sup.run(["tool"])
        assert [job.status for job in sup.list().jobs] == ["cancelled"]


def test_a_second_interrupt_comes_out_at_once(
    state_dir: Path,
    interrupt: Callable[[Callable[[], Any]], None],
) -> None:
    stubborn = FakeEngine(Script(seconds=None, stop_seconds=600))
    with BlockingSupervisor(Settings(state_dir=state_dir, stop_grace_seconds=1.5), engine=stubborn) as sup:
        interrupt(lambda: any(waiters(sup, job.job_id) for job in sup.list().jobs))
        interrupt(lambda: any(job.stop_requested for job in sup.list().jobs))
        with pytest.raises(KeyboardInterrupt):
            sup.run(["tool"])
        (job,) = sup.list().jobs
        assert job.status == "running"
        assert sup.wait(job.job_id).status == "cancelled"


def test_an_interrupted_iterator_loses_nothing(
    settings: Settings,
    tmp_path: Path,
    interrupt: Callable[[Callable[[], Any]], None],
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with BlockingSupervisor(settings) as sup:
        job = sup.start(["sh", "-c", f"read line < {gate}; echo $line; echo end"])
        with sup.follow(job.job_id) as chunks:
            interrupt(lambda: getattr(chunks, "_pending", None) is not None)
            with pytest.raises(KeyboardInterrupt):
                next(chunks)
            gate.write_text("hello\n", encoding="ascii")
            assert b"".join(chunks) == b"hello\nend\n"


# ---------------------------------------------------------------- the end


def test_closing_under_a_call(settings: Settings, endless: FakeEngine) -> None:
    sup = BlockingSupervisor(settings, engine=endless)
    with ThreadPoolExecutor(2) as pool:
        with sup:
            job = sup.start(["tool"])
            waiting = pool.submit(sup.wait, job.job_id)
            running = pool.submit(sup.run, ["tool"])
            until(lambda: sum(waiters(sup, each.job_id) for each in sup.list().jobs) == 2)
        for call in (waiting, running):
            assert isinstance(call.exception(PATIENCE), SupervisorClosed)
    assert all(command.stop_reason is None for command in endless.commands)


def test_leaving_the_block_lets_jobs_go_on(settings: Settings) -> None:
    with BlockingSupervisor(settings) as sup:
        job_id = sup.start(["sleep", "600"]).job_id
    with Catalog(settings) as catalog:
        assert catalog.status(job_id).status == "running"
        catalog.cancel(job_id)


def test_thrown_away_without_leaving_the_block(settings: Settings) -> None:
    sup = BlockingSupervisor(settings, engine=FakeEngine())
    sup.__enter__()  # and never left
    (thread,) = portal_threads()
    del sup
    gc.collect()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_an_engine_that_cannot_be_served(settings: Settings) -> None:
    class Broken(FakeEngine):
        async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
            del task_status
            message = "not today"
            raise LookupError(message)

    with pytest.raises(LookupError, match="not today"), BlockingSupervisor(settings, engine=Broken()):
        raise AssertionError


# ---------------------------------------------------------------- when Trio itself breaks down


BREAKS_DOWN = """
    import os, sys, threading, time, trio
    from supervisor import BlockingSupervisor, Settings, SupervisorError
    from supervisor.testing import FakeEngine, Script

    what, met = sys.argv[1], []

    async def break_down():
        def abort(_):
            raise LookupError

        with trio.CancelScope() as scope:
            scope.cancel()
            await trio.lowlevel.wait_task_rescheduled(abort)

    def ask(sup, job_id):
        try:
            if what == "wait":
                sup.wait(job_id)
            elif what == "run":
                sup.run(["x"])
            else:
                with sup.events() as events:
                    for _ in events:
                        pass
        except SupervisorError as error:
            met.append(error)

    sup = BlockingSupervisor(Settings(), engine=FakeEngine(Script(seconds=None))).__enter__()
    thread = threading.Thread(target=ask, args=(sup, sup.start(["x"]).job_id), daemon=True)
    portal = sup._through()
    thread.start()
    while not portal._unfinished:
        time.sleep(0.001)
    portal.soon(portal._calls.start_soon, break_down)
    thread.join(30)
    try:
        sup.list()
    except SupervisorError as error:
        met.append(error)
    print(thread.is_alive(), *(type(error).__name__ for error in met), len(portal._unfinished), flush=True)
    os._exit(0)
"""


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize("what", ["wait", "run", "events"])
def test_a_call_comes_back_when_trio_itself_breaks_down(what: str) -> None:
    """Its tasks stay where they stand then; a caller that waits for one must not."""
    argv = [sys.executable, "-c", textwrap.dedent(BREAKS_DOWN), what]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=90)
    assert done.stdout == "False InternalError InternalError 0\n", done


def test_calls_that_are_done_are_forgotten(settings: Settings, endless: FakeEngine) -> None:
    with BlockingSupervisor(settings, engine=endless) as sup:
        portal = sup._through()
        job = sup.start(["x"])
        assert sup.status(job.job_id).status == "running"
        with sup.events(job.job_id), pytest.raises(JobRunning):
            sup.wait(job.job_id, timeout=0)
        sup.cancel(job.job_id)
        until(lambda: not portal._unfinished)


def test_no_descriptors_for_the_thread_of_trio(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(trio, "run", refused)
        with pytest.raises(StateBusy) as raised, BlockingSupervisor(settings):
            pass
    assert raised.value.retryable
    with BlockingSupervisor(settings) as sup:
        assert sup.list().jobs == ()
