"""The fakes for users' tests, where they do more than an engine must."""

from __future__ import annotations

import inspect
import signal
import textwrap
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from supervisor import Retry, Settings, open_supervisor, testing
from supervisor.engines.interface import LaunchRequest
from supervisor.testing import FakeEngine, Script
from tests.clock import jumping_clock


@pytest.fixture
def settings(state_dir: Path) -> Settings:
    return Settings(state_dir=state_dir)


def example() -> Callable[..., Awaitable[None]]:
    """Return the test that the module's docstring shows."""
    shown = inspect.getdoc(testing) or ""
    _, _, rest = shown.partition("::\n")
    code = rest[: rest.index("\nA test can also")]
    names: dict[str, Any] = {}
    exec(textwrap.dedent(code), names)
    found: Callable[..., Awaitable[None]] = names["test_the_report_is_read"]
    return found


async def test_the_example_of_the_documentation(autojump_clock: trio.testing.MockClock, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    await example()(autojump_clock, tmp_path)


async def test_a_script_exits_with_0_at_once(settings: Settings) -> None:
    async with open_supervisor(settings, engine=FakeEngine()) as sup:
        result = await sup.run(["anything"])
    assert (result.value, result.job.exit_code, result.job.elapsed_ms) == ("", 0, 0)


async def test_a_script_may_depend_on_the_request(settings: Settings) -> None:
    def script(request: LaunchRequest) -> Script:
        return Script(stdout=(request.stdin or b"").upper(), exit_code=len(request.argv))

    async with open_supervisor(settings, engine=FakeEngine(script)) as sup:
        result = await sup.run(["tr", "a-z", "A-Z"], stdin=b"shout")
        assert result.job.exit_code == 3
        assert (await anext_chunk(sup, result.job.job_id)) == b"SHOUT"


async def anext_chunk(sup: Any, job_id: str) -> bytes:
    async with sup.follow(job_id) as chunks:
        data: bytes = await anext(chunks)
        return data


async def test_the_requests_can_be_read_back(settings: Settings, tmp_path: Path) -> None:
    engine = FakeEngine(Script(seconds=None))
    async with open_supervisor(settings, engine=engine) as sup:
        job = await sup.start(["a", "b"], workspace=tmp_path, env={"NAME": "value"}, stdin=b"in", deadline_seconds=9)
        (command,) = engine.commands
        assert engine.command(job.job_id) is command
        assert (command.argv, command.pid, command.running) == (("a", "b"), job.pid, True)
        request = command.request
        assert (request.env, request.stdin, request.deadline_seconds) == ({b"NAME": b"value"}, b"in", 9)
        assert request.workspace == str(tmp_path)
        command.finish()
        await sup.wait(job.job_id)
        assert not command.running
    with pytest.raises(KeyError):
        engine.command("0" * 32)


async def test_no_process_has_the_pid_of_a_fake(settings: Settings) -> None:
    engine = FakeEngine()
    async with open_supervisor(settings, engine=engine) as sup:
        pids = [(await sup.start(["a"])).pid or 0 for _ in range(2)]
    most = int(Path("/proc/sys/kernel/pid_max").read_text(encoding="ascii"))  # noqa: ASYNC240
    assert most < pids[0] < pids[1]


async def test_a_command_led_by_the_test(settings: Settings) -> None:
    engine = FakeEngine(Script(seconds=None))
    async with open_supervisor(settings, engine=engine) as sup:
        job = await sup.start(["a"], kind="json")
        command = engine.command(job.job_id)
        async with sup.follow(job.job_id) as chunks:
            command.write('{"a": ')
            assert await anext(chunks) == b'{"a": '
            command.write(b"1}")
            assert await anext(chunks) == b"1}"
        command.write("warning", stream="stderr")
        assert (await sup.status(job.job_id)).stderr_bytes == 7
        command.finish()
        assert (await sup.wait(job.job_id)).status == "done"
        assert (await sup.result(job.job_id)).value == {"a": 1}
        command.finish(1)  # too late
        assert command.ended is not None
        assert command.ended.exit.exit_code == 0
        with pytest.raises(RuntimeError, match="has ended"):
            command.write("more")


@pytest.mark.parametrize(
    ("exit_code", "signal", "reason"),
    [(0, None, "exited"), (3, None, "nonzero_exit"), (0, 11, "killed_by_signal"), (None, None, "lost")],
)
async def test_the_ways_to_finish(settings: Settings, exit_code: int | None, signal: int | None, reason: str) -> None:
    engine = FakeEngine(Script(seconds=None))
    async with open_supervisor(settings, engine=engine) as sup:
        job = await sup.start(["a"])
        engine.command(job.job_id).finish(exit_code, signal=signal)
        ended = await sup.wait(job.job_id)
    assert ended.reason == reason
    assert (ended.exit_code, ended.signal) == (None if signal else exit_code, signal)


async def test_next_waits_for_each_launch_once(settings: Settings) -> None:
    engine = FakeEngine()
    seen: list[tuple[str, ...]] = []

    async def watch() -> None:
        while len(seen) < 3:
            command = await engine.next()
            seen.append(command.argv)

    async with open_supervisor(settings, engine=engine) as sup, trio.open_nursery() as nursery:
        await sup.start(["first"])
        nursery.start_soon(watch)
        await trio.testing.wait_all_tasks_blocked()
        assert seen == [("first",)]
        await sup.start(["second"])
        await sup.start(["third"])
    assert seen == [("first",), ("second",), ("third",)]


async def test_output_past_the_limit_stops_it(state_dir: Path) -> None:
    settings = Settings(state_dir=state_dir, job_max_output_bytes=3)
    engine = FakeEngine(Script(stdout="123", seconds=None))
    async with open_supervisor(settings, engine=engine) as sup:
        job = await sup.start(["a"])
        assert job.stop_requested is None
        engine.commands[0].write("4")
        ended = await sup.wait(job.job_id)
    assert (ended.status, ended.reason) == ("failed", "output_limit")


async def test_a_year_passes_for_the_times_on_record(settings: Settings, mock_clock: trio.testing.MockClock) -> None:
    year = 365 * 86400
    engine = FakeEngine(Script(seconds=year))
    async with open_supervisor(settings, engine=engine) as sup:
        job = await sup.start(["a"], deadline_seconds=2 * year)
        mock_clock.jump(year - 1)
        await trio.testing.wait_all_tasks_blocked()
        assert (await sup.status(job.job_id)).status == "running"
        mock_clock.jump(1)
        ended = await sup.wait(job.job_id)
    assert ended.status == "done"
    assert ended.elapsed_ms == year * 1000


@pytest.mark.parametrize("away", [5, 20])
async def test_time_goes_on_while_no_supervisor_is_open(
    settings: Settings,
    mock_clock: trio.testing.MockClock,
    away: int,
) -> None:
    engine = FakeEngine(Script(stdout="out", seconds=10, exit_code=4))
    async with open_supervisor(settings, engine=engine) as sup:
        job = await sup.start(["a"])
    mock_clock.jump(away)
    async with open_supervisor(settings, engine=engine) as sup:
        if away < 10:
            assert (await sup.status(job.job_id)).status == "running"
            mock_clock.jump(10 - away)
        ended = await sup.wait(job.job_id)
    assert (ended.status, ended.exit_code, ended.elapsed_ms, ended.stdout_bytes) == ("failed", 4, 10_000, 3)


def test_time_goes_on_from_one_run_to_the_next(settings: Settings) -> None:
    engine = FakeEngine(Script(seconds=10))
    ids = []

    async def begin() -> None:
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, trio.testing.MockClock)
        async with open_supervisor(settings, engine=engine) as sup:
            ids.append((await sup.start(["a"])).job_id)
            clock.jump(4)
            await trio.testing.wait_all_tasks_blocked()

    async def go_on() -> None:
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, trio.testing.MockClock)
        clock.jump(1000)  # before the engine reads this clock, so it does not count
        async with open_supervisor(settings, engine=engine) as sup:
            assert (await sup.status(ids[0])).status == "running"
            clock.jump(5.5)
            await trio.testing.wait_all_tasks_blocked()
            assert (await sup.status(ids[0])).status == "running"
            clock.jump(0.5)
            assert (await sup.wait(ids[0])).elapsed_ms == 10_000

    trio.run(begin, clock=trio.testing.MockClock())
    trio.run(go_on, clock=trio.testing.MockClock())


async def test_a_deadline_goes_on_while_no_supervisor_is_open(
    settings: Settings,
    mock_clock: trio.testing.MockClock,
) -> None:
    engine = FakeEngine(Script(seconds=None))
    async with open_supervisor(settings, engine=engine) as sup:
        early = await sup.start(["a"], deadline_seconds=10)
        late = await sup.start(["b"], deadline_seconds=100)
    mock_clock.jump(50)
    async with open_supervisor(settings, engine=engine) as sup:
        ended = await sup.wait(early.job_id)
        assert (ended.status, ended.elapsed_ms) == ("timeout", 10_000)
        # A janitor has adopted it with its remaining 50 seconds, by a clock that loses some milliseconds.
        mock_clock.jump(49)
        await trio.testing.wait_all_tasks_blocked()
        assert (await sup.status(late.job_id)).stop_requested is None
        mock_clock.jump(1)
        assert (await sup.wait(late.job_id)).status == "timeout"


async def test_a_launch_takes_its_time(settings: Settings, mock_clock: trio.testing.MockClock) -> None:
    engine = FakeEngine(Script(launch_seconds=3, seconds=None))
    jobs = []
    async with open_supervisor(settings, engine=engine) as sup:

        async def start() -> None:
            jobs.append(await sup.start(["a"]))

        async with trio.open_nursery() as nursery, sup.events() as events:
            nursery.start_soon(start)
            created = await anext(events)
            assert created.status == "queued"
            assert (await sup.status(created.job_id)).status == "queued"
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(2.9)
            await trio.testing.wait_all_tasks_blocked()
            assert not jobs
            mock_clock.jump(0.1)
            assert (await anext(events)).status == "running"
        assert jobs[0].status == "running"


async def test_a_stranger_is_judged_by_the_evidence(settings: Settings, autojump_clock: trio.testing.MockClock) -> None:  # noqa: ARG001
    first, second = FakeEngine(Script(seconds=5)), FakeEngine()
    async with open_supervisor(settings, engine=first) as one, open_supervisor(settings, engine=second) as two:
        job = await one.start(["a"])
        assert (await two.wait(job.job_id)).status == "done"
        assert second.commands == ()


Clock = trio.testing.MockClock


@pytest.fixture
def patient_clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that jumps only when the work in threads is done."""
    return jumping_clock(monkeypatch, threshold=0.01)


async def test_a_group_limits_fake_commands_by_the_mock_clock(settings: Settings, patient_clock: Clock) -> None:  # noqa: ARG001
    engine = FakeEngine(Script(seconds=20))
    most = 0
    async with open_supervisor(settings, engine=engine) as sup:
        await sup.set_group("three", limit=3)
        async with sup.events() as events:
            jobs = [await sup.start(["a"], groups=["three"]) for _ in range(7)]
            left = len(jobs)
            async for event in events:
                most = max(most, len(engine.running("three")))
                assert engine.running("another") == ()
                left -= event.status.terminal
                if not left:
                    break
        assert [(await sup.status(job.job_id)).status for job in jobs] == ["done"] * 7
    assert most == 3
    starts = [command.deadline_at - command.request.deadline_seconds for command in engine.commands]
    assert [round(start - starts[0]) // 20 for start in starts] == [0, 0, 0, 1, 1, 1, 2]


async def test_a_pause_ends_by_the_mock_clock(settings: Settings, patient_clock: Clock) -> None:  # noqa: ARG001
    engine = FakeEngine(Script(seconds=None))
    async with open_supervisor(settings, engine=engine) as sup:
        await sup.set_group("g")
        await sup.pause_group("g", until=engine.time() + timedelta(seconds=100))
        job = await sup.start(["a"], groups="g")
        assert (job.status, job.queue_reason) == ("queued", "paused")
        await trio.sleep(80)
        assert engine.commands == ()
        (group,) = await sup.groups()
        assert group.oldest_wait_seconds == pytest.approx(80, abs=5)
        assert (await engine.next()).job_id == job.job_id
        job = await sup.status(job.job_id)
        assert job.started_at is not None
        assert (job.started_at - job.created_at).total_seconds() == pytest.approx(100, abs=5)


@pytest.mark.parametrize(("later", "first"), [(290, "urgent"), (310, "patient")])
async def test_a_point_of_priority_is_worth_the_aging_time(
    settings: Settings, mock_clock: Clock, later: int, first: str
) -> None:
    engine = FakeEngine(Script(seconds=None))
    async with open_supervisor(settings, engine=engine) as sup:
        await sup.set_group("g", limit=1, aging_seconds=300)
        await sup.start(["running"], groups="g")
        await sup.start(["patient"], groups="g")
        mock_clock.jump(later)
        await sup.start(["urgent"], groups="g", priority=1)
        (await engine.next()).finish()
        assert (await engine.next()).argv == (first,)


async def test_waiting_jobs_are_launched_after_a_restart(settings: Settings, patient_clock: Clock) -> None:
    engine = FakeEngine(Script(seconds=10))
    async with open_supervisor(settings, engine=engine) as sup:
        await sup.set_group("g", limit=1)
        await sup.start(["first"], groups="g")
        waiting = await sup.start(["second"], groups="g", stdin=b"input", env={"A": "b"})
    assert [command.argv for command in engine.running("g")] == [("first",)]
    patient_clock.jump(10)
    async with open_supervisor(settings, engine=engine) as sup:
        await engine.next()
        second = await engine.next()
        assert (second.job_id, second.request.stdin, second.request.env) == (waiting.job_id, b"input", {b"A": b"b"})
        assert engine.running("g") == (second,)
        ended = await sup.wait(waiting.job_id)
        assert (ended.status, ended.elapsed_ms) == ("done", 10_000)


async def test_any_thread_may_ask_for_the_time(settings: Settings, mock_clock: Clock) -> None:
    engine = FakeEngine()
    before = engine.time()
    async with open_supervisor(settings, engine=engine):
        begin = engine.time()
        mock_clock.jump(86400)
        assert await trio.to_thread.run_sync(engine.time) == begin + timedelta(days=1) == engine.time()
    mock_clock.jump(86400)
    assert before <= begin
    assert await trio.to_thread.run_sync(engine.time) == begin + timedelta(days=1)  # no supervisor is open


async def test_delays_and_dependencies_follow_the_mock_clock(settings: Settings, patient_clock: Clock) -> None:  # noqa: ARG001
    engine = FakeEngine(Script(seconds=20))
    async with open_supervisor(settings, engine=engine) as sup:
        begin = engine.time()
        delayed = await sup.start(["a"], delay_seconds=30)
        at = await sup.start(["b"], not_before=begin + timedelta(seconds=60))
        after = await sup.start(["c"], after=[at.job_id])
        never = await sup.start(["d"], hold=True, start_within_seconds=50)
        assert {job.status for job in (delayed, at, after, never)} == {"queued"}
        begun = [(await sup.wait(job.job_id)).started_at for job in (delayed, at, after)]
        assert [when and (when - begin).total_seconds() for when in begun] == pytest.approx([30, 60, 80], abs=5)
        assert (await sup.wait(never.job_id)).reason == "start_expired"


async def test_a_time_is_met_at_once(settings: Settings, patient_clock: Clock) -> None:  # noqa: ARG001
    """Not at the next check, which comes up to a second later."""
    engine = FakeEngine(Script(seconds=1))
    async with open_supervisor(settings, engine=engine) as sup:
        delays = [0.3, 7.6, 20.2]
        jobs = [await sup.start(["a"], delay_seconds=delay) for delay in delays]
        ended = [await sup.wait(job.job_id) for job in jobs]
        late = [
            (job.started_at - job.created_at).total_seconds() - delay
            for job, delay in zip(ended, delays, strict=True)
            if job.started_at is not None
        ]
        assert late == pytest.approx([0.1, 0.1, 0.1], abs=0.1)


async def test_retries_follow_the_mock_clock(settings: Settings, patient_clock: Clock) -> None:  # noqa: ARG001
    engine = FakeEngine(Script(exit_code=75))
    policy = Retry(maximum_attempts=3, initial_interval=20, backoff_coefficient=2, jitter=0, retry_on=[75])
    async with open_supervisor(settings, engine=engine) as sup:
        begin = engine.time()
        job = await sup.start(["tool"], retry=policy)
        last = await sup.wait(job.job_id)
        assert (last.attempt, last.exit_code) == (3, 75)
        begun = [(await sup.status(command.job_id)).started_at for command in engine.commands]
        assert [when and (when - begin).total_seconds() for when in begun] == pytest.approx([0, 20, 60], abs=5)


# ---------------------------------------------------------------- pauses and signals


async def test_a_paused_command_does_not_go_on_and_its_deadline_falls(
    settings: Settings, mock_clock: trio.testing.MockClock
) -> None:
    engine = FakeEngine(Script(seconds=10))
    async with open_supervisor(settings, engine=engine) as sup:
        job = await sup.start(["x"], deadline_seconds=60)
        mock_clock.jump(4)
        async with sup.events(job.job_id) as events:
            assert (await sup.pause(job.job_id)).paused
            assert (await anext(events)).job.paused
        assert engine.command(job.job_id).paused
        mock_clock.jump(20)
        assert (await sup.status(job.job_id)).paused
        assert not (await sup.resume(job.job_id)).paused
        mock_clock.jump(6)
        ended = await sup.wait(job.job_id)
        assert (ended.status, ended.elapsed_ms) == ("done", 30_000)
        second = await sup.start(["x"], deadline_seconds=9)
        await sup.pause(second.job_id)
        mock_clock.jump(9)
        ended = await sup.wait(second.job_id)
        assert (ended.status, ended.elapsed_ms) == ("timeout", 9_000)


async def test_a_pause_holds_a_deadline(settings: Settings, mock_clock: trio.testing.MockClock) -> None:
    engine = FakeEngine(Script(seconds=None))
    async with open_supervisor(settings, engine=engine) as sup:
        job = await sup.start(["x"], deadline_seconds=10)
        mock_clock.jump(4)
        before = job.deadline_at
        await sup.pause(job.job_id, hold_deadline=True)
        mock_clock.jump(100)
        resumed = await sup.resume(job.job_id)
        assert before is not None
        assert resumed.deadline_at is not None
        assert (resumed.deadline_at - before).total_seconds() == pytest.approx(100, abs=0.01)
        mock_clock.jump(6)
        ended = await sup.wait(job.job_id)
        assert (ended.status, ended.elapsed_ms) == ("timeout", 110_000)


async def test_signals_are_noted_and_a_cancel_ends_a_paused_command(settings: Settings) -> None:
    engine = FakeEngine(Script(seconds=None))
    async with open_supervisor(settings, engine=engine) as sup:
        job = await sup.start(["x"])
        command = engine.command(job.job_id)
        await sup.signal(job.job_id, "USR1")
        assert command.signals == [signal.SIGUSR1]
        await sup.pause(job.job_id)
        ended = await sup.cancel(job.job_id, signal="INT")
        assert (ended.status, ended.signal, command.stop_signal) == ("cancelled", signal.SIGINT, signal.SIGINT)
        again = await sup.rerun(job.job_id, ["y"])
        assert engine.command(again.job_id).argv == ("y",)
