"""The public class in Trio, on a fake engine and, where time matters, a fake clock."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from supervisor import (
    IdempotencyConflict,
    InvalidArguments,
    JobEvent,
    JobNotFound,
    JobRunning,
    JobSpec,
    LaunchFailed,
    Settings,
    StateBusy,
    StateCorrupt,
    Supervisor,
    SupervisorClosed,
    open_supervisor,
)
from supervisor.engines.interface import LaunchRequest
from supervisor.engines.local import stopping
from supervisor.jobdir.facts import Ended, Launched
from supervisor.jobs import validation
from supervisor.runtime import opening, registry_actor
from supervisor.store import Index
from supervisor.system.inotify import Inotify
from supervisor.testing import FakeEngine, Script

Clock = trio.testing.MockClock

YEAR = 365 * 86400
UNKNOWN = "0" * 32


@pytest.fixture
def settings(state_dir: Path) -> Settings:
    return Settings(state_dir=state_dir)


@pytest.fixture
def endless() -> FakeEngine:
    """Commands that run until a test ends or stops them."""
    return FakeEngine(Script(seconds=None))


@pytest.fixture
async def sup(settings: Settings, endless: FakeEngine) -> AsyncIterator[Supervisor]:
    async with open_supervisor(settings, engine=endless) as opened:
        yield opened


@pytest.fixture(autouse=True)
async def _patience(nursery: trio.Nursery) -> AsyncIterator[None]:
    """End a test that hangs: under a mock clock, no time-out of Trio does that."""
    over = threading.Event()

    async def watch() -> None:
        if not await trio.to_thread.run_sync(over.wait, 20, abandon_on_cancel=True):
            message = "the test hangs"
            raise TimeoutError(message)

    nursery.start_soon(watch)
    yield
    over.set()


async def quiet() -> None:
    """Let every task run until it waits."""
    await trio.testing.wait_all_tasks_blocked()


# ---------------------------------------------------------------- from start to end


async def test_a_job_from_its_start_to_its_end(sup: Supervisor, endless: FakeEngine, tmp_path: Path) -> None:
    job = await sup.start(["tool", "--flag"], workspace=tmp_path, labels={"team": "a"}, deadline_seconds=9)
    assert (job.status, job.reason, job.exit_code, job.result_available) == ("running", None, None, False)
    assert (job.argv, job.workspace, job.labels, job.kind) == (("tool", "--flag"), str(tmp_path), {"team": "a"}, "raw")
    assert job.started_at is not None
    assert job.deadline_at is not None
    assert (job.deadline_at - job.started_at).total_seconds() == 9
    endless.command(job.job_id).write("out")
    assert (await sup.status(job.job_id)).stdout_bytes == 3
    endless.command(job.job_id).finish()
    ended = await sup.wait(job.job_id)
    assert (ended.status, ended.reason, ended.exit_code, ended.result_available) == ("done", "exited", 0, True)
    assert ended == await sup.status(job.job_id)
    assert (await sup.result(job.job_id)).value == "out"


async def test_a_cancellation_while_it_opens_is_not_lost(settings: Settings) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        async with open_supervisor(settings, engine=FakeEngine()):
            raise AssertionError
    assert scope.cancelled_caught


@pytest.mark.parametrize("error", [StateBusy("locked"), OSError(errno.EMFILE, os.strerror(errno.EMFILE))])
async def test_a_supervisor_that_cannot_be_put_together_says_so(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    def refuse(*_: Any) -> None:
        raise error

    monkeypatch.setattr(opening, "Supervisor", refuse)
    with trio.fail_after(30), pytest.raises(StateBusy):
        async with open_supervisor(settings, engine=FakeEngine()):
            pass


async def test_a_kind_that_cannot_be_loaded_now_is_worth_another_try(
    sup: Supervisor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_descriptor(_: str) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(validation, "get_interpreter", no_descriptor)
    with pytest.raises(StateBusy) as raised:
        await sup.start(["tool"])
    assert raised.value.retryable
    assert (await sup.list()).jobs == ()


async def test_a_spec_says_the_same_as_arguments(sup: Supervisor, tmp_path: Path) -> None:
    spec = JobSpec(argv=("tool",), workspace=str(tmp_path), kind="json", labels={"a": "b"}, deadline_seconds=7)
    job = await sup.start(spec)
    assert (job.argv, job.workspace, job.kind, job.labels, job.deadline_seconds) == (
        ("tool",),
        str(tmp_path),
        "json",
        {"a": "b"},
        7,
    )


@pytest.mark.parametrize(
    "beside",
    [{"kind": "json"}, {"workspace": "/"}, {"labels": {}}, {"deadline_seconds": 1}, {"stdin": b""}],
    ids=lambda beside: next(iter(beside)),
)
async def test_nothing_is_given_beside_a_spec(sup: Supervisor, beside: dict[str, Any]) -> None:
    for call in (sup.start, sup.run):
        with pytest.raises(InvalidArguments, match="whole request"):
            await call(JobSpec(argv=("tool",)), **beside)
    assert (await sup.list()).jobs == ()


async def test_a_launch_that_fails_still_is_a_job(settings: Settings) -> None:
    engine = FakeEngine(Script(launch_error="tool: command not found", launch_status=127))
    async with open_supervisor(settings, engine=engine) as sup:
        job = await sup.start(["tool"])
        assert (job.status, job.reason, job.detail) == ("failed", "launch_failed", "tool: command not found")
        assert job.started_at is None
        assert job == await sup.wait(job.job_id)
        result = await sup.result(job.job_id)
    assert result.error is not None
    assert (result.error.code, result.error.retryable, result.error.details) == (
        "launch_failed",
        False,
        {"exit_status": 127},
    )


async def test_a_job_that_runs_has_no_result(sup: Supervisor) -> None:
    job = await sup.start(["tool"])
    for ask in (sup.result(job.job_id), sup.forget(job.job_id)):
        with pytest.raises(JobRunning) as raised:
            await ask
        assert raised.value.details == {"job_id": job.job_id, "status": "running"}


async def test_a_result_can_be_consumed_once(sup: Supervisor, endless: FakeEngine) -> None:
    job = await sup.start(["tool"])
    endless.commands[0].finish()
    await sup.wait(job.job_id)
    assert (await sup.result(job.job_id, consume=True)).ok
    for ask in (sup.result(job.job_id), sup.status(job.job_id), sup.wait(job.job_id), sup.cancel(job.job_id)):
        with pytest.raises(JobNotFound):
            await ask


async def test_a_finished_job_can_be_forgotten(sup: Supervisor, endless: FakeEngine) -> None:
    job = await sup.start(["tool"])
    endless.commands[0].finish(1)
    await sup.wait(job.job_id)
    await sup.forget(job.job_id)
    with pytest.raises(JobNotFound):
        await sup.status(job.job_id)
    with pytest.raises(JobNotFound):
        await sup.forget(job.job_id)


@pytest.mark.parametrize("job_id", [UNKNOWN, "", "../../etc", "A" * 32, UNKNOWN + "\n", "💥"])
async def test_what_is_not_kept_is_not_found(sup: Supervisor, job_id: str) -> None:
    async def follow() -> None:
        async with sup.follow(job_id):
            pytest.fail("followed")

    async def events() -> None:
        async with sup.events(job_id):
            pytest.fail("subscribed")

    asks: list[Callable[[], Any]] = [
        lambda: sup.status(job_id),
        lambda: sup.wait(job_id),
        lambda: sup.result(job_id),
        lambda: sup.cancel(job_id),
        lambda: sup.forget(job_id),
        follow,
        events,
    ]
    for ask in asks:
        with pytest.raises(JobNotFound):
            await ask()


# ---------------------------------------------------------------- deadlines and graces


@pytest.mark.parametrize("deadline", [0, 0.5, 60, YEAR])
async def test_a_deadline_stops_a_job_on_time(sup: Supervisor, mock_clock: Clock, deadline: float) -> None:
    job = await sup.start(["tool"], deadline_seconds=deadline)
    if deadline:
        mock_clock.jump(deadline * 0.999)
        await quiet()
        held = await sup.status(job.job_id)
        assert (held.status, held.stop_requested) == ("running", None)
        mock_clock.jump(deadline * 0.001 + 1e-6)
    ended = await sup.wait(job.job_id, timeout=0.1)
    assert (ended.status, ended.reason, ended.signal, ended.exit_code) == ("timeout", "deadline", 15, None)
    assert ended.elapsed_ms == pytest.approx(deadline * 1000, abs=1)
    result = await sup.result(job.job_id)
    assert result.error is not None
    assert result.error.code == "job_timeout"


async def test_the_settings_give_the_deadline_of_those_who_name_none(state_dir: Path, mock_clock: Clock) -> None:
    settings = Settings(state_dir=state_dir, job_max_seconds=30)
    async with open_supervisor(settings, engine=FakeEngine(Script(seconds=None))) as sup:
        job = await sup.start(["tool"])
        assert job.deadline_seconds == 30
        mock_clock.jump(30)
        assert (await sup.wait(job.job_id)).status == "timeout"


async def test_infinity_is_no_deadline(sup: Supervisor, mock_clock: Clock) -> None:
    job = await sup.start(["tool"], deadline_seconds=math.inf)
    assert (job.deadline_seconds, job.deadline_at) == (None, None)
    mock_clock.jump(100 * YEAR)
    await quiet()
    assert (await sup.status(job.job_id)).status == "running"


async def test_a_natural_end_at_the_deadline_wins(settings: Settings, mock_clock: Clock) -> None:
    async with open_supervisor(settings, engine=FakeEngine(Script(seconds=10))) as sup:
        job = await sup.start(["tool"], deadline_seconds=10)
        mock_clock.jump(10)
        ended = await sup.wait(job.job_id)
    assert (ended.status, ended.reason, ended.exit_code) == ("done", "exited", 0)


@pytest.mark.parametrize("grace", [0, 5, 3600])
async def test_a_stubborn_job_ends_when_its_grace_is_over(state_dir: Path, mock_clock: Clock, grace: float) -> None:
    settings = Settings(state_dir=state_dir, stop_grace_seconds=grace)
    async with open_supervisor(settings, engine=FakeEngine(Script(seconds=None, stop_seconds=math.inf))) as sup:
        job = await sup.start(["tool"], deadline_seconds=10)
        mock_clock.jump(10)
        await quiet()
        if grace:
            held = await sup.status(job.job_id)
            assert (held.status, held.stop_requested) == ("running", "deadline")
            mock_clock.jump(grace - 0.5)
            await quiet()
            assert (await sup.status(job.job_id)).status == "running"
            mock_clock.jump(0.5)
        ended = await sup.wait(job.job_id)
    assert (ended.status, ended.signal, ended.elapsed_ms) == ("timeout", 9, (10 + grace) * 1000)
    assert ended.stop_requested is None


async def test_a_job_that_ends_in_its_grace_was_stopped_all_the_same(settings: Settings, mock_clock: Clock) -> None:
    engine = FakeEngine(Script(stdout="{}", seconds=None, stop_seconds=3, stop_exit_code=0))
    async with open_supervisor(settings, engine=engine) as sup:
        job = await sup.start(["tool"], kind="json", deadline_seconds=1)
        mock_clock.jump(1)
        await quiet()
        mock_clock.jump(3)
        ended = await sup.wait(job.job_id)
    assert (ended.status, ended.exit_code, ended.elapsed_ms) == ("timeout", 0, 4000)


async def test_many_deadlines_each_on_its_own_time(sup: Supervisor, mock_clock: Clock) -> None:
    jobs = [await sup.start(["tool"], deadline_seconds=seconds) for seconds in range(1, 21)]
    for number in range(1, 21):
        mock_clock.jump(1)
        await quiet()
        states = [(await sup.status(job.job_id)).status.value for job in jobs]
        assert states == ["timeout"] * number + ["running"] * (20 - number)


# ---------------------------------------------------------------- cancelling


async def test_cancel_returns_when_nothing_is_left(settings: Settings, mock_clock: Clock) -> None:
    engine = FakeEngine(Script(seconds=None, stop_seconds=3))
    cancelled = []
    async with open_supervisor(settings, engine=engine) as sup:
        job = await sup.start(["tool"])
        async with trio.open_nursery() as nursery:

            async def cancel() -> None:
                cancelled.append(await sup.cancel(job.job_id))

            nursery.start_soon(cancel)
            nursery.start_soon(cancel)
            await quiet()
            held = await sup.status(job.job_id)
            assert (held.status, held.stop_requested) == ("running", "cancelled")
            assert not cancelled
            mock_clock.jump(3)
        cancelled.append(await sup.cancel(job.job_id))
    assert [(each.status, each.reason, each.signal) for each in cancelled] == [("cancelled", "cancelled", 15)] * 3


async def test_a_finished_job_is_not_changed_by_cancel(sup: Supervisor, endless: FakeEngine) -> None:
    job = await sup.start(["tool"])
    endless.commands[0].finish(3)
    ended = await sup.wait(job.job_id)
    assert await sup.cancel(job.job_id) == ended
    assert ended.status == "failed"


async def test_giving_up_a_cancel_does_not_take_it_back(settings: Settings, mock_clock: Clock) -> None:
    async with open_supervisor(settings, engine=FakeEngine(Script(seconds=None, stop_seconds=3))) as sup:
        job = await sup.start(["tool"])
        with trio.move_on_after(0):
            await sup.cancel(job.job_id)
        await quiet()
        assert (await sup.status(job.job_id)).stop_requested in {None, "cancelled"}
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sup.cancel, job.job_id)
                await quiet()
                scope.cancel()
        mock_clock.jump(3)
        assert (await sup.wait(job.job_id)).status == "cancelled"


async def test_the_first_reason_to_stop_stays(settings: Settings, mock_clock: Clock) -> None:
    engine = FakeEngine(Script(seconds=None, stop_seconds=3))
    async with open_supervisor(settings, engine=engine) as sup, trio.open_nursery() as nursery:
        job = await sup.start(["tool"], deadline_seconds=10)
        mock_clock.jump(10)
        await quiet()
        nursery.start_soon(sup.cancel, job.job_id)
        await quiet()
        mock_clock.jump(3)
        assert (await sup.wait(job.job_id)).status == "timeout"


async def test_a_cancel_during_the_launch_is_kept(settings: Settings, mock_clock: Clock) -> None:
    engine = FakeEngine(Script(seconds=None, launch_seconds=2))
    async with (
        open_supervisor(settings, engine=engine) as sup,
        sup.events() as events,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(sup.start, ["tool"])
        job = (await anext(events)).job
        nursery.start_soon(sup.cancel, job.job_id)
        await quiet()
        mock_clock.jump(2)
        assert (await sup.wait(job.job_id)).status == "cancelled"


async def test_a_job_that_was_cancelled_by_others_before_its_launch_is_cancelled(
    settings: Settings,
    mock_clock: Clock,
) -> None:
    """The command line may record that the job is never launched; a later launch must report the same."""
    engine = FakeEngine(Script(launch_seconds=2))
    async with (
        open_supervisor(settings, engine=engine) as sup,
        sup.events() as events,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(sup.start, ["tool"])
        job = (await anext(events)).job
        (directory,) = settings.state_dir.glob(f"*/{job.job_id}")
        assert stopping.cancel_queued(str(directory), "command line")
        await quiet()
        mock_clock.jump(2)
        ended = await sup.wait(job.job_id)
    assert (ended.status, ended.reason) == ("cancelled", "cancelled")
    assert engine.commands == ()


async def test_stopping_one_job_leaves_the_others(sup: Supervisor, endless: FakeEngine) -> None:
    jobs = [await sup.start(["tool", str(number)]) for number in range(3)]
    await sup.cancel(jobs[1].job_id)
    assert [command.running for command in endless.commands] == [True, False, True]


# ---------------------------------------------------------------- waiting


@pytest.mark.parametrize("timeout", [-1, 0, 0.5, 3600])
async def test_a_wait_that_times_out_says_that_the_job_runs(
    sup: Supervisor,
    autojump_clock: Clock,  # noqa: ARG001
    timeout: float,
) -> None:
    job = await sup.start(["tool"], deadline_seconds=math.inf)
    before = trio.current_time()
    with pytest.raises(JobRunning) as raised:
        await sup.wait(job.job_id, timeout=timeout)
    assert trio.current_time() - before == pytest.approx(max(0, timeout), abs=0.01)
    assert raised.value.retry_after_ms == job.poll_after_ms
    assert (await sup.status(job.job_id)).stop_requested is None


async def test_all_who_wait_are_woken_by_the_end(sup: Supervisor, endless: FakeEngine, mock_clock: Clock) -> None:
    job = await sup.start(["tool"])
    told = []

    async def wait() -> None:
        told.append(await sup.wait(job.job_id))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(wait)
        await quiet()
        endless.commands[0].finish(9)
    assert told == [await sup.status(job.job_id)] * 5
    assert mock_clock.current_time() == 0  # and not by looking again


async def test_giving_up_a_wait_changes_nothing(sup: Supervisor, autojump_clock: Clock) -> None:  # noqa: ARG001
    job = await sup.start(["tool"], deadline_seconds=math.inf)
    with trio.move_on_after(5) as scope:
        await sup.wait(job.job_id)
    assert scope.cancelled_caught
    held = await sup.status(job.job_id)
    assert (held.status, held.stop_requested) == ("running", None)


# ---------------------------------------------------------------- the scoped twin


async def test_run_returns_the_result(settings: Settings) -> None:
    async with open_supervisor(settings, engine=FakeEngine(Script(stdout="[1]"))) as sup:
        result = await sup.run(["tool"], kind="json")
    assert (result.ok, result.value) == (True, [1])


async def test_what_run_has_started_is_kept_from_before_its_launch_to_its_result(settings: Settings) -> None:
    """Its end and the start of another job may both be on record before its task runs again."""
    wanted: list[bool] = []

    def script(request: LaunchRequest) -> Script:
        wanted.append(request.job_id in sup._registry.protected)
        return Script(stdout=b"out")

    settings = Settings(state_dir=settings.state_dir, job_max_count=1)
    async with open_supervisor(settings, engine=FakeEngine(script)) as sup:
        assert (await sup.run(["tool"])).value == "out"
        assert not sup._registry.protected
        await sup.wait((await sup.start(["tool"])).job_id)  # whose caller has an id, and may come for it or not
    assert wanted == [True, False]


async def test_cancelling_run_stops_its_job(settings: Settings, mock_clock: Clock) -> None:
    engine = FakeEngine(Script(seconds=None, stop_seconds=2))
    async with open_supervisor(settings, engine=engine) as sup:
        scope = trio.CancelScope()

        async def run() -> None:
            with scope:
                await sup.run(["tool"])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            command = await engine.next()
            await quiet()
            scope.cancel()
            await quiet()
            assert (command.running, command.stop_reason) == (True, "cancelled")
            mock_clock.jump(2)
        assert command.ended is not None
        assert (command.stop_reason, command.ended.stopped) == ("cancelled", "cancelled")
        assert (await sup.status(command.job_id)).status == "cancelled"


async def test_a_deadline_ends_run_with_an_error_result(settings: Settings, autojump_clock: Clock) -> None:  # noqa: ARG001
    async with open_supervisor(settings, engine=FakeEngine(Script(seconds=None))) as sup:
        result = await sup.run(["tool"], deadline_seconds=60)
    assert result.error is not None
    assert result.error.code == "job_timeout"


async def test_run_waits_no_longer_than_the_grace_and_a_little(state_dir: Path, autojump_clock: Clock) -> None:
    class Undying(FakeEngine):
        """No command ends, not even when it is stopped."""

        def submit(self, request: LaunchRequest, accepted: Any = None) -> Any:
            running = super().submit(request, accepted)

            class Endless:
                launched = Launched(pid=2, started_ns=1)
                stop_seen = queue_reason = None
                started = running.started
                seconds_left = running.seconds_left

                async def wait(self) -> Ended:
                    await trio.sleep_forever()
                    raise AssertionError

                async def stop(self, why: str, by: str) -> None:
                    pass

            return Endless()

    settings = Settings(state_dir=state_dir, stop_grace_seconds=7)
    async with open_supervisor(settings, engine=Undying(Script(seconds=None))) as sup:
        await sup.start(["tool"])  # the workspace is known from now on, without a thread
        before = autojump_clock.current_time()
        with trio.move_on_after(10):
            await sup.run(["tool"])
        took = autojump_clock.current_time() - before
    assert 17 <= took < 30


# ---------------------------------------------------------------- events


async def test_events_come_in_order(sup: Supervisor, endless: FakeEngine) -> None:
    async with sup.events() as events:
        job = await sup.start(["tool"])
        endless.commands[0].finish(1)
        seen = [await anext(events) for _ in range(3)]
    assert [(event.previous, event.status) for event in seen] == [
        (None, "queued"),
        ("queued", "running"),
        ("running", "failed"),
    ]
    assert {event.job_id for event in seen} == {job.job_id}
    assert {event.lagged for event in seen} == {0}


async def test_events_of_one_job_are_its_own(sup: Supervisor, endless: FakeEngine) -> None:
    first = await sup.start(["first"])
    await quiet()
    async with sup.events(first.job_id) as events:
        await sup.start(["second"])
        for command in reversed(endless.commands):
            command.finish()
        event = await anext(events)
    assert (event.job_id, event.previous, event.status) == (first.job_id, "running", "done")


async def test_a_slow_reader_is_told_how_much_it_missed(settings: Settings) -> None:
    everything: list[JobEvent] = []

    async with open_supervisor(settings, engine=FakeEngine()) as sup:

        async def keep_up() -> None:
            async with sup.events() as events:
                everything.extend([event async for event in events])

        async with trio.open_nursery() as nursery, sup.events() as slow:
            nursery.start_soon(keep_up)
            await quiet()
            for _ in range(150):
                await sup.wait((await sup.start(["tool"])).job_id)
            await quiet()
            seen = [await anext(slow) for _ in range(256)]
            sup.close()  # ends the iterations
    assert {event.lagged for event in everything} == {0}
    assert len(everything) >= 300
    assert seen[0].lagged == len(everything) - 256
    assert {event.lagged for event in seen[1:]} == {0}
    assert [(event.job_id, event.status) for event in seen] == [
        (event.job_id, event.status) for event in everything[-256:]
    ]


async def test_events_end_with_the_supervisor(settings: Settings, endless: FakeEngine) -> None:
    seen: list[str] = []

    async with trio.open_nursery() as nursery, open_supervisor(settings, engine=endless) as sup:

        async def read() -> None:
            async with sup.events() as events:
                seen.extend([event.status async for event in events])

        nursery.start_soon(read)
        await quiet()
        await sup.start(["tool"])
        await quiet()
    assert seen == ["queued", "running"]


# ---------------------------------------------------------------- lists


async def test_a_list_is_newest_first_and_comes_in_pages(sup: Supervisor, endless: FakeEngine) -> None:
    jobs = [await sup.start(["tool", str(number)]) for number in range(5)]
    endless.commands[2].finish()
    await sup.wait(jobs[2].job_id)
    newest_first = [job.job_id for job in reversed(jobs)]
    page = await sup.list(limit=2)
    assert [job.job_id for job in page.jobs] == newest_first[:2]
    late = await sup.start(["late"])  # moves nothing
    page = await sup.list(limit=2, cursor=page.next_cursor)
    assert [job.job_id for job in page.jobs] == newest_first[2:4]
    page = await sup.list(limit=2, cursor=page.next_cursor)
    assert ([job.job_id for job in page.jobs], page.next_cursor) == (newest_first[4:], None)
    assert [job.job_id for job in (await sup.list(limit=1)).jobs] == [late.job_id]
    assert [job.job_id for job in (await sup.list(state="done")).jobs] == [jobs[2].job_id]
    assert len((await sup.list(state="running")).jobs) == 5


async def test_a_list_can_be_of_a_workspace_or_of_labels(sup: Supervisor, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    here = await sup.start(["a"], workspace=tmp_path, labels={"team": "x", "n": "1"})
    there = await sup.start(["b"], workspace=tmp_path / "other", labels={"team": "x"})

    async def ids(**filters: Any) -> list[str]:
        return [job.job_id for job in (await sup.list(**filters)).jobs]

    assert await ids(workspace=tmp_path) == [here.job_id]
    assert await ids(workspace=tmp_path / "nowhere") == []
    assert await ids(labels={"team": "x"}) == [there.job_id, here.job_id]
    assert await ids(labels={"team": "x", "n": "1"}) == [here.job_id]
    assert await ids(labels={"team": "X"}) == []


# ---------------------------------------------------------------- idempotency


async def test_the_same_key_and_request_is_the_same_job(sup: Supervisor, endless: FakeEngine) -> None:
    def again(**changes: Any) -> Any:
        request = {"stdin": b"in", "env": {"A": "1"}, "idempotency_key": "k", **changes}
        return sup.start(["tool"], **request)

    first = await again()
    assert (await again()).job_id == first.job_id
    assert (await again(env={"A": "2"}, deadline_seconds=9, labels={"x": "y"})).job_id == first.job_id
    endless.commands[0].finish(2)
    ended = await sup.wait(first.job_id)
    assert await again() == ended
    assert len(endless.commands) == 1


@pytest.mark.parametrize(
    "change",
    [{"argv": ["other"]}, {"kind": "json"}, {"stdin": b""}, {"stdin": None}, {"env": {"B": "1"}}, {"env": None}],
)
async def test_the_same_key_with_another_request_is_a_conflict(
    sup: Supervisor,
    endless: FakeEngine,
    change: dict[str, Any],
) -> None:
    request: dict[str, Any] = {"argv": ["tool"], "stdin": b"in", "env": {"A": "1"}, "idempotency_key": "k"}
    first = await sup.start(**request)
    with pytest.raises(IdempotencyConflict) as raised:
        await sup.start(**request | change)
    assert raised.value.details == {"job_id": first.job_id}
    assert len(endless.commands) == 1


async def test_a_key_belongs_to_its_workspace(sup: Supervisor, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    first = await sup.start(["tool"], workspace=tmp_path, idempotency_key="k")
    second = await sup.start(["tool"], workspace=tmp_path / "other", idempotency_key="k")
    assert first.job_id != second.job_id


async def test_of_many_at_once_under_one_key_one_starts(sup: Supervisor, endless: FakeEngine) -> None:
    ids = []

    async def start() -> None:
        ids.append((await sup.start(["tool"], idempotency_key="k")).job_id)

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(start)
    assert len(ids) == 10
    assert len(set(ids)) == len(endless.commands) == 1
    assert len(list(sup.settings.state_dir.glob("*/*/job.json"))) == 1


async def test_a_key_is_free_when_its_job_is_forgotten_or_expired(state_dir: Path) -> None:
    settings = Settings(state_dir=state_dir, job_ttl=0)
    async with open_supervisor(settings, engine=FakeEngine()) as sup:
        ids = set()
        for _ in range(3):
            job = await sup.start(["tool"], idempotency_key="k")
            ids.add(job.job_id)
            await quiet()
    assert len(ids) == 3


async def test_a_job_that_was_never_launched_gives_its_key_back(settings: Settings, mock_clock: Clock) -> None:
    scripts = iter([Script(launch_seconds=60), Script(seconds=None)])
    engine = FakeEngine(lambda _: next(scripts))
    async with open_supervisor(settings, engine=engine) as sup, trio.open_nursery() as nursery, sup.events() as events:
        nursery.start_soon(sup.start, JobSpec(argv=("tool",), idempotency_key="k"))
        first = (await anext(events)).job
        await quiet()
        mock_clock.jump(10)  # past the patience of `start`
        await quiet()
        nursery.cancel_scope.cancel()
    async with open_supervisor(settings, engine=engine) as sup:
        ended = await sup.status(first.job_id)
        assert (ended.status, ended.reason) == ("failed", "launch_failed")
        error = (await sup.result(first.job_id)).error
        assert error is not None
        assert (error.retryable, error.details["never_launched"]) == (True, True)
        second = await sup.start(["tool"], idempotency_key="k")
        assert second.job_id != first.job_id
        assert second.status == "running"
        assert len(engine.commands) == 1


# ---------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"argv": []}, "argv is empty"),
        ({"argv": "tool --flag"}, "it accepts a sequence"),
        ({"argv": b"tool"}, "it accepts a sequence"),
        ({"argv": ["tool", 3]}, "argv must hold strings"),
        ({"argv": [b"tool"]}, "argv must hold strings"),
        ({"argv": ["tool", []]}, "argv must hold strings"),
        ({"argv": ["tool", "\ud800"]}, "argv holds a character"),
        ({"env": {"A": "\ud800"}}, "env holds 'A'"),
        ({"workspace": "\ud800"}, "workspace is"),
        ({"idempotency_key": "\ud800"}, "idempotency_key"),
        ({"argv": [""]}, "the command is an empty string"),
        ({"argv": ["tool", "a\0b"]}, "NUL"),
        ({"workspace": ""}, "workspace is ''"),
        ({"workspace": "a\0b"}, "workspace is"),
        ({"kind": "no-such-kind"}, "no kind 'no-such-kind'"),
        ({"labels": {"a": 1}}, "labels must map"),
        ({"labels": {1: "a"}}, "labels must map"),
        ({"labels": {"": "a"}}, "label ''"),
        ({"labels": {"a": "b" * 1024}}, "label 'a'"),
        ({"labels": {str(number): "" for number in range(65)}}, "more than 64 labels"),
        ({"env": {"A": 1}}, "env must map"),
        ({"env": {"": "a"}}, "env holds ''"),
        ({"stdin": bytes((64 << 20) + 1)}, "stdin has more than 67108864 bytes"),
        ({"env": {"A=B": "a"}}, "env holds 'A=B'"),
        ({"env": {"A\0": "a"}}, "env holds"),
        ({"env": {"A": "a\0"}}, "env holds 'A'"),
        ({"deadline_seconds": -1}, "deadline_seconds is -1"),
        ({"deadline_seconds": math.nan}, "deadline_seconds is nan"),
        ({"deadline_seconds": -math.inf}, "deadline_seconds is -inf"),
        ({"deadline_seconds": 1e10}, "deadline_seconds is"),
        ({"deadline_seconds": True}, "deadline_seconds is True"),
        ({"deadline_seconds": "60"}, "deadline_seconds is '60'"),
        ({"idempotency_key": ""}, "idempotency_key"),
        ({"idempotency_key": "a" * 257}, "idempotency_key"),
        ({"idempotency_key": "a\nb"}, "idempotency_key"),
        ({"idempotency_key": 5}, "idempotency_key"),
        ({"stdin": "text"}, "stdin must be bytes"),
        ({"cwd": "/"}, "there is no option 'cwd'; it must be one of workspace, kind, deadline_seconds, stdin, env,"),
        ({"argv": JobSpec(argv=["tool"]), "cwd": None}, "there is no option 'cwd'"),
    ],
)
async def test_arguments_of_start_are_checked_before_anything_is_done(
    sup: Supervisor,
    endless: FakeEngine,
    arguments: dict[str, Any],
    named: str,
) -> None:
    with pytest.raises(InvalidArguments) as raised:
        await sup.start(**{"argv": ["tool"], **arguments})
    assert named in raised.value.message
    with pytest.raises(InvalidArguments):
        await sup.run(**{"argv": ["tool"], **arguments})
    assert endless.commands == ()
    assert list(sup.settings.state_dir.glob("*-*/*")) == []


@pytest.mark.parametrize("words", [["a" * 4096], ["tool", "\udcff"], ["tool", "\n\x1b[31m💥"], ["tool", ""]])
async def test_every_command_line_that_the_system_takes_is_taken(
    sup: Supervisor,
    endless: FakeEngine,
    words: list[str],
) -> None:
    job = await sup.start(words)
    assert job.argv == endless.commands[0].argv == tuple(words)
    assert (await sup.list()).jobs[0].argv == tuple(words)


async def test_a_label_may_hold_any_text(sup: Supervisor) -> None:
    job = await sup.start(["tool"], labels={"a": "\ud800", "💥": "\0\n'\""})
    assert (await sup.list()).jobs[0].labels == job.labels == {"a": "\ud800", "💥": "\0\n'\""}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"limit": 0}, "limit is 0"),
        ({"limit": 1001}, "limit is 1001"),
        ({"limit": True}, "limit is True"),
        ({"limit": 2.5}, "limit is 2.5"),
        ({"limit": "5"}, "limit is '5'"),
        ({"state": "sleeping"}, "state is 'sleeping'"),
        ({"cursor": ""}, "cursor is ''"),
        ({"cursor": "-1"}, "cursor is"),
        ({"cursor": "1" * 19}, "cursor is"),
        ({"cursor": "٣"}, "cursor is"),
        ({"workspace": ""}, "workspace is ''"),
        ({"workspace": "\ud800"}, "workspace is"),
        ({"labels": {"a": 1}}, "labels"),
    ],
)
async def test_arguments_of_list_are_checked(sup: Supervisor, arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidArguments) as raised:
        await sup.list(**arguments)
    assert named in raised.value.message


async def test_there_are_two_streams_to_follow(sup: Supervisor) -> None:
    job = await sup.start(["tool"])
    with pytest.raises(InvalidArguments, match="stdin"):
        async with sup.follow(job.job_id, stream="stdin"):
            pytest.fail("followed")


# ---------------------------------------------------------------- following


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors in /proc")
async def test_all_who_follow_share_one_inotify_instance(sup: Supervisor, endless: FakeEngine) -> None:
    def instances() -> int:
        links = []
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                links.append(os.readlink(f"/proc/self/fd/{name}"))
        return links.count("anon_inode:inotify")

    before = instances()
    jobs = [await sup.start(["x"]) for _ in range(3)]
    commands = [await endless.next() for _ in jobs]
    async with contextlib.AsyncExitStack() as stack:
        readers = [
            await stack.enter_async_context(sup.follow(job.job_id, stream))
            for job in jobs
            for stream in ("stdout", "stderr")
            for _ in range(5)
        ]
        assert instances() - before <= 1
        for command in commands:
            command.write(b"hello")
        for reader in readers[:5] + readers[10:15]:
            with trio.fail_after(30):
                assert await anext(reader) == b"hello"
    assert instances() - before <= 1


async def test_who_follows_without_inotify_looks_again(
    sup: Supervisor, endless: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Inotify, "open", lambda: None)
    job = await sup.start(["x"])
    command = await endless.next()
    async with sup.follow(job.job_id) as blind:
        command.write(b"hello")
        assert await anext(blind) == b"hello"
        monkeypatch.undo()
        async with sup.follow(job.job_id) as told:
            assert told._watched
            assert not blind._watched
            assert await anext(told) == b"hello"


async def test_following_ends_when_the_job_has_ended_and_all_is_read(sup: Supervisor, endless: FakeEngine) -> None:
    job = await sup.start(["tool"])
    read: list[bytes] = []

    async def follow(stream: str) -> None:
        async with sup.follow(job.job_id, stream=stream) as chunks:
            read.extend([chunk async for chunk in chunks])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow, "stdout")
        await quiet()
        endless.commands[0].write(bytes(100_000))
        await quiet()
        endless.commands[0].write("end")
        endless.commands[0].finish()
    assert b"".join(read) == bytes(100_000) + b"end"
    assert max(map(len, read)) <= 65536
    read.clear()
    await follow("stderr")
    assert read == []
    await follow("stdout")  # and again from the beginning, although it has ended
    assert b"".join(read) == bytes(100_000) + b"end"


# ---------------------------------------------------------------- opening, leaving, closing


async def test_a_closed_supervisor_says_so(settings: Settings, endless: FakeEngine) -> None:
    async with open_supervisor(settings, engine=endless) as sup:
        job = await sup.start(["tool"])

    async def follow() -> None:
        async with sup.follow(job.job_id):
            pytest.fail("followed")

    async def events() -> None:
        async with sup.events():
            pytest.fail("subscribed")

    uses: list[Callable[[], Any]] = [
        lambda: sup.start(["tool"]),
        lambda: sup.run(["tool"]),
        lambda: sup.status(job.job_id),
        sup.list,
        lambda: sup.wait(job.job_id),
        lambda: sup.result(job.job_id),
        lambda: sup.cancel(job.job_id),
        lambda: sup.forget(job.job_id),
        sup.prune,
        follow,
        events,
    ]
    for use in uses:
        with pytest.raises(SupervisorClosed), trio.fail_after(60):
            await use()
    assert endless.commands[0].stop_reason is None


async def test_a_waiter_learns_that_the_supervisor_is_closed(settings: Settings, endless: FakeEngine) -> None:
    told = []

    async def expect(ask: Callable[[], Any]) -> None:
        with pytest.raises(SupervisorClosed):
            await ask()
        told.append(ask)

    async with trio.open_nursery() as nursery, open_supervisor(settings, engine=endless) as sup:
        job = await sup.start(["tool"])
        stubborn = await sup.start(["tool"])
        endless.command(stubborn.job_id).script = Script(seconds=None, stop_seconds=math.inf)
        nursery.start_soon(expect, lambda: sup.wait(job.job_id))
        nursery.start_soon(expect, lambda: sup.wait(job.job_id, timeout=100))
        nursery.start_soon(expect, lambda: sup.cancel(stubborn.job_id))
        await quiet()
    assert len(told) == 3
    assert endless.command(job.job_id).stop_reason is None


async def test_a_start_that_is_under_way_when_it_is_closed_starts_or_says_so(
    settings: Settings,
    endless: FakeEngine,
) -> None:
    refused = 0
    jobs = []

    async def start(sup: Supervisor) -> None:
        nonlocal refused
        try:
            jobs.append(await sup.start(["tool"]))
        except SupervisorClosed:
            refused += 1

    for checkpoints in range(12):
        async with trio.open_nursery() as nursery, open_supervisor(settings, engine=endless) as sup:
            for _ in range(5):
                nursery.start_soon(start, sup)
            for _ in range(checkpoints):
                await trio.lowlevel.checkpoint()
    assert len(jobs) + refused == 60
    assert refused
    async with open_supervisor(settings, engine=endless) as sup:
        for job in jobs:
            assert (await sup.status(job.job_id)).status == "running"
        kept = (await sup.list(limit=1000)).jobs
        assert {job.status.value for job in kept} <= {"running", "failed"}
        assert sum(job.status == "running" for job in kept) == len(endless.commands)


@pytest.mark.parametrize("way", ["leave", "raise", "cancel"])
async def test_leaving_lets_jobs_go_on(settings: Settings, endless: FakeEngine, way: str) -> None:
    job = None
    with trio.CancelScope() as scope:
        try:
            async with open_supervisor(settings, engine=endless) as sup:
                job = await sup.start(["tool"])
                if way == "raise":
                    raise LookupError
                if way == "cancel":
                    scope.cancel()
                    await trio.sleep_forever()
        except LookupError:
            assert way == "raise"
    assert job is not None
    command = endless.command(job.job_id)
    assert (command.running, command.stop_reason) == (True, None)
    async with open_supervisor(settings, engine=endless) as sup:
        assert (await sup.status(job.job_id)).status == "running"
        command.write("late")
        command.finish()
        assert (await sup.wait(job.job_id)).status == "done"
        assert (await sup.result(job.job_id)).value == "late"


async def test_an_error_of_the_caller_comes_out_as_itself(settings: Settings, endless: FakeEngine) -> None:
    mine = ValueError("mine")

    async def use() -> None:
        async with open_supervisor(settings, engine=endless) as sup:
            await sup.start(["tool"])
            raise mine from LookupError()

    with pytest.raises(ValueError, match="mine") as raised:
        await use()
    assert raised.value is mine
    assert isinstance(mine.__cause__, LookupError)


async def test_an_error_of_ours_comes_out_as_itself(settings: Settings, endless: FakeEngine) -> None:
    with pytest.raises(JobNotFound):
        async with open_supervisor(settings, engine=endless) as sup:
            await sup.status(UNKNOWN)


@pytest.mark.parametrize("inside", [[ValueError()], [ValueError(), LookupError()]])
async def test_a_group_of_the_caller_stays_that_group(settings: Settings, inside: list[Exception]) -> None:
    mine = ExceptionGroup("mine", inside)
    with pytest.raises(ExceptionGroup) as raised:
        async with open_supervisor(settings, engine=FakeEngine()):
            raise mine
    assert raised.value is mine


async def test_errors_of_both_sides_come_out_as_a_group(settings: Settings) -> None:
    class Failing(FakeEngine):
        async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
            try:
                await super().serve(task_status=task_status)
            finally:
                raise LookupError

    with pytest.raises(ExceptionGroup) as raised:
        async with open_supervisor(settings, engine=Failing()):
            raise ValueError
    assert raised.group_contains(ValueError)
    assert raised.group_contains(LookupError)


async def test_an_unusable_state_root_is_refused_bare(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Exception, match="file") as raised:
        async with open_supervisor(Settings(state_dir=tmp_path / "file"), engine=FakeEngine()):
            pytest.fail("opened")
    assert not isinstance(raised.value, BaseExceptionGroup)


async def test_two_supervisors_on_one_root_see_the_same(settings: Settings, endless: FakeEngine) -> None:
    async with (
        open_supervisor(settings, engine=endless) as one,
        open_supervisor(settings, engine=endless) as two,
    ):
        job = await one.start(["tool"])
        assert (await two.status(job.job_id)).status == "running"
        assert [each.job_id for each in (await two.list()).jobs] == [job.job_id]
        cancelled = await two.cancel(job.job_id)
        assert cancelled.status == "cancelled"
        assert (await one.wait(job.job_id)).status == "cancelled"
        assert (await one.status(job.job_id)) == (await two.status(job.job_id)) == cancelled


async def test_waiting_for_a_job_that_another_is_about_to_launch_does_not_harm_it(
    settings: Settings,
    mock_clock: Clock,
) -> None:
    """Its deadline begins with the launch, which is not on record here."""
    engine = FakeEngine(Script(launch_seconds=3, seconds=5))
    other = FakeEngine()
    ended = []
    async with (
        open_supervisor(settings, engine=engine) as one,
        open_supervisor(settings, engine=other) as two,
        one.events() as events,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(one.start, ["tool"])
        job = (await anext(events)).job

        async def wait() -> None:
            ended.append(await two.wait(job.job_id))

        nursery.start_soon(wait)
        await quiet()
        for _ in range(20):
            mock_clock.jump(1)
            await quiet()
    assert [each.status for each in ended] == ["done"]


# ---------------------------------------------------------------- defects and busy stores


async def test_a_crash_of_one_actor_costs_its_own_job_only(settings: Settings) -> None:
    def script(request: LaunchRequest) -> Script:
        if request.argv[0] == b"bad":
            message = "a defect"
            raise RuntimeError(message)
        return Script(seconds=None)

    engine = FakeEngine(script)
    async with open_supervisor(settings, engine=engine) as sup:
        good = await sup.start(["good"])
        bad = await sup.start(["bad"])
        assert (bad.status, bad.reason) == ("failed", "lost")
        error = (await sup.result(bad.job_id)).error
        assert error is not None
        assert error.code == "internal_error"
        assert "a defect" in error.message
        after = await sup.start(["after"])
        for job in (good, after):
            engine.command(job.job_id).finish()
            assert (await sup.wait(job.job_id)).status == "done"


@pytest.mark.parametrize("also_stop", [False, True])
async def test_a_crash_while_a_job_runs_stops_it(settings: Settings, also_stop: bool) -> None:  # noqa: FBT001
    class Crashing(FakeEngine):
        def submit(self, request: LaunchRequest, accepted: Any = None) -> Any:
            running = super().submit(request, accepted)
            if request.argv[0] != b"bad":
                return running

            class Broken:
                launched = Launched(pid=2, started_ns=1)
                waited = False
                stop_seen = queue_reason = None
                started = running.started
                seconds_left = running.seconds_left

                async def wait(self) -> Ended:
                    if not self.waited:
                        self.waited = True
                        message = "a defect"
                        raise RuntimeError(message)
                    return await running.wait()

                async def stop(self, why: str, by: str) -> None:
                    if also_stop:
                        message = "another defect"
                        raise RuntimeError(message)
                    await running.stop(why, by)

            return Broken()

    engine = Crashing(Script(seconds=None))
    async with open_supervisor(settings, engine=engine) as sup:
        good = await sup.start(["good"])
        bad = await sup.start(["bad"])
        ended = await sup.wait(bad.job_id)
        assert (ended.status, ended.reason) == ("failed", "lost")
        assert engine.command(bad.job_id).running is also_stop
        assert (await sup.status(good.job_id)).status == "running"
        engine.command(good.job_id).finish()
        assert (await sup.wait(good.job_id)).status == "done"


async def test_a_crash_of_the_registry_ends_the_supervisor(
    settings: Settings,
    endless: FakeEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def crash(*_: object) -> None:
        message = "a defect"
        raise RuntimeError(message)

    async def use() -> None:
        async with open_supervisor(settings, engine=endless) as sup:
            job = await sup.start(["tool"])
            monkeypatch.setattr(registry_actor.Registry, "_apply", crash)
            endless.commands[0].finish()
            await sup.wait(job.job_id)
            pytest.fail("settled")

    with pytest.raises(ExceptionGroup) as raised:
        await use()
    assert raised.group_contains(RuntimeError, match="a defect")
    monkeypatch.undo()
    async with open_supervisor(Settings(state_dir=settings.state_dir), engine=endless) as sup:
        assert (await sup.status(endless.commands[0].job_id)).status == "done"


@pytest.fixture
def holder(settings: Settings) -> Callable[[], sqlite3.Connection]:
    """Stand in for another process that holds the lock of the index until it rolls back."""

    def hold() -> sqlite3.Connection:
        connection = sqlite3.connect(settings.state_dir / "registry.db", isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        return connection

    return hold


async def test_a_locked_registry_is_waited_for_without_stopping_anything(
    sup: Supervisor,
    endless: FakeEngine,
    holder: Callable[[], sqlite3.Connection],
) -> None:
    first = await sup.start(["first"])
    started = []

    async def start() -> None:
        started.append(await sup.start(["second"]))

    lock = holder()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(start)
        endless.commands[0].finish()
        await quiet()
        assert not started
        assert (await sup.status(first.job_id)).status == "running"  # not on record, so not said yet
        lock.execute("ROLLBACK")
        lock.close()
        assert (await sup.wait(first.job_id)).status == "done"
    assert started[0].status == "running"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    def index(*arguments: Any, **options: Any) -> Index:
        return Index(*arguments, **options | {"wait_seconds": 0.02})

    monkeypatch.setattr(registry_actor, "Index", index)


@pytest.mark.usefixtures("impatient")
async def test_a_registry_that_stays_locked_refuses_new_jobs_and_forgets_no_end(
    settings: Settings,
    endless: FakeEngine,
    holder: Callable[[], sqlite3.Connection],
) -> None:
    async with open_supervisor(settings, engine=endless) as sup:
        job = await sup.start(["first"])
        await quiet()
        lock = holder()
        with pytest.raises(StateBusy) as raised:
            await sup.start(["second"])
        assert raised.value.retryable
        assert len(endless.commands) == 1
        assert [path.name for path in settings.state_dir.glob("*-*/*")] == [job.job_id]
        endless.commands[0].finish(5)
        assert (await sup.wait(job.job_id)).exit_code == 5
        lock.execute("ROLLBACK")
        lock.close()
        ended = await sup.status(job.job_id)
        assert (ended.status, ended.exit_code) == ("failed", 5)
        assert (await sup.start(["third"])).status == "running"
    async with open_supervisor(settings, engine=endless) as sup:
        assert (await sup.status(job.job_id)).exit_code == 5


async def test_many_starts_share_transactions(
    sup: Supervisor,
    endless: FakeEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = 0
    write = Index.write

    def counted(self: Index, action: Callable[[], Any], *, single: bool = False) -> Any:
        nonlocal written
        written += 1
        return write(self, action, single=single)

    await sup.start(["first"])
    monkeypatch.setattr(Index, "write", counted)
    async with trio.open_nursery() as nursery:
        for number in range(200):
            nursery.start_soon(sup.start, ["tool", str(number)])
    assert len(endless.commands) == 201
    assert written <= 40


# ---------------------------------------------------------------- what an engine may do


async def test_an_engine_may_refuse_without_a_record(settings: Settings) -> None:
    class Refusing(FakeEngine):
        async def launch(self, request: LaunchRequest) -> Any:
            await trio.lowlevel.checkpoint()
            message = f"no room for {request.job_id}"
            raise LaunchFailed(message)

    async with open_supervisor(settings, engine=Refusing()) as sup:
        job = await sup.start(["tool"])
    assert (job.status, job.reason) == ("failed", "launch_failed")
    assert job.detail == f"no room for {job.job_id}"


async def test_an_engine_may_count_the_deadline_on_the_boot_clock(settings: Settings, mock_clock: Clock) -> None:
    class Early(FakeEngine):
        async def launch(self, request: LaunchRequest) -> Any:
            command, launched = await super().launch(request)
            return command, Launched(pid=2, started_ns=launched.started_ns, deadline_boot_ns=1)

    async with open_supervisor(settings, engine=Early(Script(seconds=None))) as sup:
        job = await sup.start(["tool"], deadline_seconds=1000)
        assert (await sup.wait(job.job_id, timeout=1)).status == "timeout"
    assert mock_clock.current_time() == 0


async def test_an_error_in_a_follow_block_comes_out_as_itself(settings: Settings, endless: FakeEngine) -> None:
    async with open_supervisor(settings, engine=endless) as sup:
        job = await sup.start(["tool"])
        with pytest.raises(ValueError, match="mine"):  # noqa: PT012  # the block is what is tested
            async with sup.follow(job.job_id):
                message = "mine"
                raise ValueError(message)
        assert (await sup.cancel(job.job_id)).status == "cancelled"


async def test_a_result_that_was_fetched_is_noted_before_the_next_job_needs_room(state_dir: Path) -> None:
    settings = Settings(state_dir=state_dir, job_max_count=2)
    async with open_supervisor(settings, engine=FakeEngine(Script(stdout=b"x"))) as sup:
        first, second = [await sup.start(["tool"]) for _ in range(2)]
        for job in (first, second):
            await sup.wait(job.job_id)
        assert (await sup.result(second.job_id)).value == "x"
        for _ in range(2):
            await sup.run(["tool"])
        assert (await sup.status(first.job_id)).status == "done"
        with pytest.raises(JobNotFound):
            await sup.status(second.job_id)


async def test_what_is_large_or_gone_is_not_read_on_the_event_loop(state_dir: Path) -> None:
    large = b"x" * 100_000
    async with open_supervisor(Settings(state_dir=state_dir), engine=FakeEngine(Script(stdout=large))) as sup:
        job = await sup.start(["tool"])
        await sup.wait(job.job_id)
        assert sup._catalog.result_at_a_glance(job.job_id) is None
        assert (await sup.result(job.job_id)).value == large.decode()
    async with open_supervisor(Settings(state_dir=state_dir), engine=FakeEngine(Script(stdout=b"y"))) as sup:
        job = await sup.start(["tool"])
        await sup.wait(job.job_id)
        seen = sup._catalog.result_at_a_glance(job.job_id)
        assert seen is not None
        assert seen[0].value == "y"
        os.unlink(f"{sup._catalog.directory(sup._catalog.row(job.job_id))}/result.json")
        assert sup._catalog.result_at_a_glance(job.job_id) is None
        with pytest.raises(StateCorrupt):
            await sup.result(job.job_id)
