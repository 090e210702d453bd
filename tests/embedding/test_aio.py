"""The supervisor awaited from asyncio, on both event loops."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import math
import os
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

import supervisor
from supervisor import (
    AsyncioSupervisor,
    InternalError,
    InvalidArguments,
    JobEvent,
    JobNotFound,
    JobRunning,
    Settings,
    StateUnsafe,
    SupervisorClosed,
    open_supervisor_asyncio,
)
from supervisor.embedding.portal import Portal
from supervisor.jobs.catalog import Catalog
from supervisor.runtime import registry_actor
from supervisor.runtime.follow import Chunks
from supervisor.system.notifier import Notifier
from supervisor.testing import FakeEngine, Script

from .conftest import PATIENCE, Run, new_loop, portal_threads

UNKNOWN = "0" * 32


def inside(sup: AsyncioSupervisor) -> Any:
    """Return the supervisor in the Trio thread."""
    return sup._portal.target


async def until_waited_for(sup: AsyncioSupervisor, job_id: str, times: int = 1) -> None:
    """Return when so many calls wait for the job in the Trio thread, which no event announces."""
    entry = inside(sup)._registry.entries[job_id]
    while entry.waiters != times:  # noqa: ASYNC110
        await asyncio.sleep(0.001)


# ---------------------------------------------------------------- the same API


def test_the_whole_life_of_a_job(run: Run[None], settings: Settings) -> None:
    async def main() -> None:
        async with open_supervisor_asyncio(settings) as sup:
            assert sup.settings is settings
            job = await sup.start(["sh", "-c", "echo one; echo two >&2; exit 3"], labels={"a": "b"})
            assert (await sup.wait(job.job_id, timeout=PATIENCE)).exit_code == 3
            assert (await sup.status(job.job_id)).status == "failed"
            assert [each.job_id for each in (await sup.list(labels={"a": "b"})).jobs] == [job.job_id]
            error = (await sup.result(job.job_id)).error
            assert error is not None
            assert error.code == "job_failed"
            async with sup.follow(job.job_id) as chunks:
                assert b"".join([chunk async for chunk in chunks]) == b"one\n"
            async with sup.follow(job.job_id, "stderr") as chunks:
                assert b"".join([chunk async for chunk in chunks]) == b"two\n"
            await sup.forget(job.job_id)
            with pytest.raises(JobNotFound):
                await sup.status(job.job_id)
            result = await sup.run(["cat"], stdin=b"42", kind="json")
            assert result.value == 42
            assert await sup.prune() == []
            sleeper = await sup.start(["sleep", "600"])
            with pytest.raises(JobRunning):
                await sup.result(sleeper.job_id)
            assert (await sup.cancel(sleeper.job_id)).status == "cancelled"

    run(main())


def test_leaving_the_block_lets_jobs_go_on(run: Run[str], settings: Settings) -> None:
    async def main() -> str:
        async with open_supervisor_asyncio(settings) as sup:
            job = await sup.start(["sleep", "600"])
        with pytest.raises(SupervisorClosed):
            await sup.status(job.job_id)
        return job.job_id

    job_id = run(main())
    with Catalog(settings) as catalog:
        assert catalog.status(job_id).status == "running"
        assert catalog.cancel(job_id).status == "cancelled"


def test_many_calls_at_once(run: Run[None], settings: Settings) -> None:
    async def main() -> None:
        async with open_supervisor_asyncio(settings, engine=FakeEngine()) as sup:
            results = await asyncio.gather(*(sup.run(["tool", str(number)]) for number in range(40)))
            assert [each.job.argv[1] for each in results] == [str(number) for number in range(40)]

    run(main())


def test_calls_from_the_loop_of_another_thread(settings: Settings, endless: FakeEngine) -> None:
    async def main() -> None:
        async with open_supervisor_asyncio(settings, engine=endless) as sup:
            job = await sup.start(["tool"])
            waiting = asyncio.create_task(sup.wait(job.job_id))
            await asyncio.to_thread(lambda: asyncio.run(sup.cancel(job.job_id)))
            assert (await waiting).status == "cancelled"

    asyncio.run(main())


def test_several_supervisors_in_one_process(run: Run[None], state_dir: Path, tmp_path: Path) -> None:
    async def main() -> None:
        here, there = Settings(state_dir=state_dir), Settings(state_dir=tmp_path / "other")
        async with (
            open_supervisor_asyncio(here) as one,
            open_supervisor_asyncio(here) as two,
            open_supervisor_asyncio(there) as three,
        ):
            job = await one.start(["sleep", "600"])
            waiting = asyncio.create_task(two.wait(job.job_id))
            with pytest.raises(JobNotFound):
                await three.status(job.job_id)
            assert (await two.cancel(job.job_id)).status == "cancelled"
            assert (await waiting).status == "cancelled"
            assert (await one.wait(job.job_id)).status == "cancelled"
            assert (await three.run(["echo", "x"])).value == "x\n"

    run(main())


def test_a_fake_command_is_led_from_asyncio(run: Run[None], state_dir: Path) -> None:
    engine = FakeEngine(Script(seconds=None))

    async def main() -> None:
        async with open_supervisor_asyncio(Settings(state_dir=state_dir, job_max_output_bytes=9), engine=engine) as sup:
            job = await sup.start(["tool"])
            waiting = asyncio.create_task(sup.wait(job.job_id))
            await until_waited_for(sup, job.job_id)
            engine.command(job.job_id).write("out")
            engine.command(job.job_id).finish(3)
            assert (await waiting).exit_code == 3
            verbose = await sup.start(["tool"])
            engine.command(verbose.job_id).write("much too long")
            assert (await sup.wait(verbose.job_id)).reason == "output_limit"

    run(main())
    engine.commands[0].finish()  # has no effect: it has ended, and no task serves it


# ---------------------------------------------------------------- cancellation


def test_cancelling_a_wait_ends_that_wait_and_nothing_else(
    run: Run[None],
    settings: Settings,
    endless: FakeEngine,
) -> None:
    async def main() -> None:
        async with open_supervisor_asyncio(settings, engine=endless) as sup:
            job = await sup.start(["tool"])
            one = asyncio.create_task(sup.wait(job.job_id))
            await until_waited_for(sup, job.job_id)
            other = asyncio.create_task(sup.wait(job.job_id))
            one.cancel("enough")
            with pytest.raises(asyncio.CancelledError):
                await one
            await until_waited_for(sup, job.job_id)  # the other's may not have begun
            assert not other.done()
            assert (await sup.status(job.job_id)).status == "running"
            await sup.cancel(job.job_id)
            assert (await other).status == "cancelled"

    run(main())


def test_a_cancelled_wait_is_over_in_the_trio_thread_too(
    run: Run[None],
    settings: Settings,
    endless: FakeEngine,
) -> None:
    async def main() -> None:
        async with open_supervisor_asyncio(settings, engine=endless) as sup:
            job = await sup.start(["tool"])
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await sup.wait(job.job_id)
            assert inside(sup)._registry.entries[job.job_id].waiters == 0

    run(main())


def test_cancelling_run_stops_its_job(run: Run[None], settings: Settings, endless: FakeEngine) -> None:
    async def main() -> None:
        async with open_supervisor_asyncio(settings, engine=endless) as sup, sup.events() as events:
            task = asyncio.create_task(sup.run(["tool"]))
            started = await anext(events)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await sup.status(started.job_id)).status == "cancelled"

    run(main())


def test_a_second_cancel_leaves_at_once_and_the_stop_goes_on(run: Run[None], state_dir: Path) -> None:
    stubborn = FakeEngine(Script(seconds=None, stop_seconds=math.inf))
    settings = Settings(state_dir=state_dir, stop_grace_seconds=1.5)

    async def main() -> None:
        async with open_supervisor_asyncio(settings, engine=stubborn) as sup, sup.events() as events:
            task = asyncio.create_task(sup.run(["tool"]))
            job_id = (await anext(events)).job_id
            task.cancel()
            while (await sup.status(job_id)).stop_requested is None:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            assert not task.done()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await sup.status(job_id)).status == "running"
            assert (await sup.wait(job_id)).status == "cancelled"

    run(main())


def test_a_task_group_cancels_its_calls(run: Run[None], settings: Settings, endless: FakeEngine) -> None:
    async def fail(events: AsyncIterator[JobEvent]) -> None:
        await anext(events)
        raise LookupError

    async def main() -> None:
        async with open_supervisor_asyncio(settings, engine=endless) as sup, sup.events() as events:
            with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012
                async with asyncio.TaskGroup() as group:
                    group.create_task(sup.run(["tool"]))
                    group.create_task(fail(events))
            assert [type(each) for each in caught.value.exceptions] == [LookupError]
            assert [job.status for job in (await sup.list()).jobs] == ["cancelled"]

    run(main())


def test_cancelled_while_opening(run: Run[None], settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = threading.Event()

    @contextlib.asynccontextmanager
    async def slow(*_: object, **__: object) -> AsyncIterator[None]:
        begun.set()
        await trio.sleep_forever()
        yield

    monkeypatch.setattr("supervisor.embedding.aio.open_supervisor", slow)

    async def open_it() -> None:
        async with open_supervisor_asyncio(settings):
            raise AssertionError

    async def main() -> None:
        task = asyncio.create_task(open_it())
        await asyncio.to_thread(begun.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert portal_threads() == []

    run(main())


# ---------------------------------------------------------------- what arrives as itself


def test_context_variables_arrive(run: Run[None], settings: Settings) -> None:
    request: contextvars.ContextVar[str] = contextvars.ContextVar("request", default="unset")
    seen: list[tuple[str, bool]] = []

    class Watching(os.PathLike[str]):
        def __fspath__(self) -> str:
            seen.append((request.get(), threading.current_thread() in portal_threads()))
            return "."

    async def ask(sup: AsyncioSupervisor, name: str) -> None:
        request.set(name)
        await sup.start(["tool"], workspace=Watching())

    async def main() -> None:
        async with open_supervisor_asyncio(settings, engine=FakeEngine()) as sup:
            await asyncio.gather(ask(sup, "one"), ask(sup, "two"))
        assert sorted(seen) == [("one", True), ("two", True)]
        assert request.get() == "unset"

    run(main())


def test_errors_arrive_as_themselves(run: Run[None], settings: Settings) -> None:
    async def main() -> None:
        async with open_supervisor_asyncio(settings) as sup:
            with pytest.raises(JobNotFound) as missing:
                await sup.wait(UNKNOWN)
            assert missing.value.details == {"job_id": UNKNOWN}
            with pytest.raises(InvalidArguments):
                await sup.start([])
            with pytest.raises(JobNotFound):
                async with sup.follow(UNKNOWN):
                    raise AssertionError
            with pytest.raises(InvalidArguments):
                async with sup.follow(UNKNOWN, "stdlog"):
                    raise AssertionError

    run(main())


def test_errors_of_the_block_come_out_as_themselves(run: Run[None], settings: Settings) -> None:
    error = LookupError("mine")

    async def main() -> None:
        async with open_supervisor_asyncio(settings, engine=FakeEngine()) as sup:
            job = await sup.start(["tool"])
            async with sup.events(), sup.follow(job.job_id):
                raise error

    with pytest.raises(LookupError) as caught:
        run(main())
    assert caught.value is error


def test_what_cannot_be_opened(run: Run[None], tmp_path: Path) -> None:
    place = tmp_path / "open to all"
    place.mkdir(mode=0o777)
    place.chmod(0o777)

    async def main() -> None:
        with pytest.raises(StateUnsafe):
            async with open_supervisor_asyncio(Settings(state_dir=place)):
                raise AssertionError
        assert portal_threads() == []

    run(main())


def test_a_defect_behind_an_iterator_arrives_as_itself(
    run: Run[None],
    settings: Settings,
    endless: FakeEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error = LookupError("in a nursery")

    async def broken(_: Chunks, _notifier: Notifier, *, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        raise error

    monkeypatch.setattr(Chunks, "serve", broken)

    async def main() -> None:
        async with open_supervisor_asyncio(settings, engine=endless) as sup:
            job = await sup.start(["tool"])
            async with sup.follow(job.job_id) as chunks:
                with pytest.raises(LookupError) as caught:
                    await anext(chunks)
                assert caught.value is error
            assert (await sup.status(job.job_id)).status == "running"

    run(main())


def test_every_call_raises_after_a_breakdown(
    run: Run[None],
    settings: Settings,
    endless: FakeEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []

    def broken(*_: object) -> None:
        raise LookupError

    async def main() -> None:
        async with open_supervisor_asyncio(settings, engine=endless) as sup:
            job = await sup.start(["tool"])
            waiting = asyncio.create_task(sup.wait(job.job_id))
            await until_waited_for(sup, job.job_id)
            monkeypatch.setattr(registry_actor.Registry, "_announce", broken)
            for call in (sup.cancel(job.job_id), waiting):
                with pytest.raises((SupervisorClosed, InternalError)):  # depending on which of the two was first
                    await call
            for each in portal_threads():
                await asyncio.to_thread(each.join)
            with pytest.raises(InternalError):
                await sup.status(job.job_id)
            told.append("all")

    with pytest.raises(InternalError) as caught:
        run(main())
    assert isinstance(caught.value.__cause__, LookupError)
    assert told == ["all"]


def test_what_is_in_memory_is_told_without_a_task(
    run: Run[None],
    settings: Settings,
    endless: FakeEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error = LookupError("at once")

    def broken(*_: object) -> None:
        raise error

    async def main() -> None:
        async with open_supervisor_asyncio(settings, engine=endless) as sup:
            job = await sup.start(["tool"])
            with monkeypatch.context() as patched:
                patched.setattr(supervisor.Supervisor, "status", broken)
                assert (await sup.status(job.job_id)).status == "running"
                patched.setattr(supervisor.Supervisor, "glance", broken)
                with pytest.raises(LookupError) as caught:
                    await sup.status(job.job_id)
                assert caught.value is error
            await sup.cancel(job.job_id)
            assert (await sup.status(job.job_id)).status == "cancelled"  # from the store

    run(main())


# ---------------------------------------------------------------- iterators


def test_events_come_in_order(run: Run[None], settings: Settings, endless: FakeEngine) -> None:
    async def main() -> None:
        async with open_supervisor_asyncio(settings, engine=endless) as sup, sup.events() as events:
            job = await sup.start(["tool"])
            await sup.cancel(job.job_id)
            seen = [(event.job_id, str(event.status)) async for event in take(events, 3)]
            assert seen == [(job.job_id, "queued"), (job.job_id, "running"), (job.job_id, "cancelled")]

    run(main())


async def take(items: AsyncIterator[Any], count: int) -> AsyncIterator[Any]:
    for _ in range(count):
        yield await anext(items)


def test_a_slow_reader_of_events_is_told_what_it_missed(
    run: Run[None],
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("supervisor.runtime.events._MAX_EVENTS", 4)

    async def main() -> None:
        async with open_supervisor_asyncio(settings, engine=FakeEngine()) as sup, sup.events() as events:
            await asyncio.gather(*(sup.run(["tool"]) for _ in range(20)))
            seen = [event async for event in take(events, 4)]
            assert seen[0].lagged > 0
            assert [event.lagged for event in seen[1:]] == [0, 0, 0]
            assert seen[0].lagged + 4 <= 20 * 3

    run(main())


def test_cancelling_a_wait_for_the_next_item_loses_none(
    run: Run[None],
    settings: Settings,
    tmp_path: Path,
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)

    async def main() -> None:
        async with open_supervisor_asyncio(settings) as sup:
            job = await sup.start(["sh", "-c", f"read line < {gate}; echo $line; echo end"])
            async with sup.follow(job.job_id) as chunks:
                for _ in range(5):
                    task = asyncio.ensure_future(anext(chunks))
                    await asyncio.sleep(0)
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
                await asyncio.to_thread(gate.write_text, "hello\n", encoding="ascii")
                assert b"".join([chunk async for chunk in chunks]) == b"hello\nend\n"

    run(main())


def test_two_readers_of_one_iterator_take_turns(run: Run[None], settings: Settings, endless: FakeEngine) -> None:
    async def main() -> None:
        async with open_supervisor_asyncio(settings, engine=endless) as sup, sup.events() as events:
            readers = [asyncio.ensure_future(anext(events)) for _ in range(2)]
            job = await sup.start(["tool"])
            assert [str((await each).status) for each in readers] == ["queued", "running"]
            await sup.cancel(job.job_id)

    run(main())


def test_leaving_an_iterator_unsubscribes(run: Run[None], settings: Settings) -> None:
    async def main() -> None:
        async with open_supervisor_asyncio(settings, engine=FakeEngine()) as sup:
            async with sup.events() as events:
                pending = asyncio.ensure_future(anext(events))
                await asyncio.sleep(0)
                assert len(inside(sup)._registry.subscriptions) == 1
            with pytest.raises(SupervisorClosed):
                await pending
            assert inside(sup)._registry.subscriptions == set()
            with pytest.raises(SupervisorClosed):
                await anext(events)

    run(main())


# ---------------------------------------------------------------- the end


def test_closing_under_calls_is_no_cancellation(run: Run[str], settings: Settings) -> None:
    async def main() -> str:
        async with open_supervisor_asyncio(settings) as sup:
            async with sup.events() as events:
                running = asyncio.create_task(sup.run(["sleep", "600"]))
                job_id = (await anext(events)).job_id
            waiting = asyncio.create_task(sup.wait(job_id))
            await until_waited_for(sup, job_id, 2)
        for task in (running, waiting):
            with pytest.raises(SupervisorClosed):
                await task
        return job_id

    job_id = run(main())
    with Catalog(settings) as catalog:
        assert catalog.status(job_id).stop_requested is None
        assert catalog.status(job_id).status == "running"
        catalog.cancel(job_id)


def test_a_loop_that_is_closed_without_leaving_the_block(loop_name: str, settings: Settings) -> None:
    loop = new_loop(loop_name)
    manager = open_supervisor_asyncio(settings)
    sup = loop.run_until_complete(manager.__aenter__())
    job = loop.run_until_complete(sup.start(["sleep", "600"]))
    (thread,) = portal_threads()
    loop.close()
    thread.join(PATIENCE)  # the program still holds on to everything
    assert not thread.is_alive()
    with Catalog(settings) as catalog:
        assert catalog.status(job.job_id).status == "running"
        catalog.cancel(job.job_id)
    del manager, sup


def test_a_loop_that_crashes(loop_name: str, settings: Settings) -> None:
    jobs: list[str] = []

    def crash() -> None:
        raise SystemExit(3)

    async def main() -> None:
        async with open_supervisor_asyncio(settings) as sup:
            jobs.append((await sup.start(["sleep", "600"])).job_id)
            asyncio.get_running_loop().call_soon(crash)
            await sup.wait(jobs[0])

    with pytest.raises(SystemExit), asyncio.Runner(loop_factory=lambda: new_loop(loop_name)) as runner:
        runner.run(main())
    assert portal_threads() == []
    with Catalog(settings) as catalog:
        assert catalog.status(jobs[0]).status == "running"
        catalog.cancel(jobs[0])


def test_a_block_that_is_thrown_away(run: Run[None], settings: Settings) -> None:
    async def main() -> None:
        manager = open_supervisor_asyncio(settings, engine=FakeEngine())
        await manager.__aenter__()
        (thread,) = portal_threads()
        del manager  # the loop finishes the generator
        await asyncio.to_thread(thread.join, PATIENCE)
        assert not thread.is_alive()

    run(main())


def test_no_thread_can_be_had(run: Run[None], settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        message = "can't start new thread"
        raise RuntimeError(message)

    async def main() -> None:
        with monkeypatch.context() as patched, pytest.raises(RuntimeError, match="new thread"):  # noqa: PT012
            patched.setattr(threading.Thread, "start", refuse)
            async with open_supervisor_asyncio(settings):
                raise AssertionError

    run(main())


def test_interrupted_before_a_call_arrived(settings: Settings) -> None:
    """As when a signal handler raises in the middle of ``submit``: the call is done even so."""
    from supervisor.embedding.portal import Call, nothing

    portal = Portal(lambda: supervisor.open_supervisor(settings, engine=FakeEngine()))
    opened = threading.Event()
    opening: Call[None] = Call(nothing)
    opening.on_done(opened.set)
    portal.start(opening)
    assert opened.wait(PATIENCE)
    call: Call[None] = Call(trio.sleep_forever)
    done = threading.Event()
    call.on_done(done.set)
    portal.cancel(call)
    assert done.wait(PATIENCE)
    with pytest.raises(SupervisorClosed):
        call.result()
    portal.stop()
    portal.join(PATIENCE)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="asyncio has no eager tasks")
def test_eager_tasks(settings: Settings) -> None:
    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        async with open_supervisor_asyncio(settings, engine=FakeEngine()) as sup:
            assert (await asyncio.create_task(sup.run(["tool"]))).ok

    asyncio.run(main())
