"""Fleets of agents that meet a usage limit of their account, on a mock clock."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trio
import trio.testing

from supervisor import GroupInfo, JobSpec, Settings, State, Supervisor, open_supervisor
from supervisor.admission import groups
from supervisor.engines.interface import LaunchRequest
from supervisor.jobs.explaining import explain
from supervisor.testing import FakeEngine, Script

INF = math.inf
RUN_SECONDS = 100
RESET = timedelta(minutes=10)


def line(**members: object) -> str:
    return json.dumps(members) + "\n"


def news(status: str, resets_at: datetime, utilization: float) -> str:
    info = {"status": status, "resetsAt": resets_at.timestamp(), "rateLimitType": "five_hour"}
    return line(type="rate_limit_event", rate_limit_info={**info, "utilization": utilization})


class Account:
    """Agents of one account: from the eleventh run on each is rejected until the reset."""

    def __init__(self) -> None:
        self.runs = 0
        self.done: Counter[str] = Counter()
        self.rejected: list[str] = []
        self.resets_at: datetime | None = None
        self.now: Callable[[], datetime] = lambda: datetime.now(UTC)

    def script(self, request: LaunchRequest) -> Script:
        prompt = request.argv[-1].decode()
        self.runs += 1
        if self.runs == 11:
            self.resets_at = (self.now() + RESET).replace(microsecond=0)
        if self.resets_at is not None and self.now() < self.resets_at:
            self.rejected.append(prompt)
            failed = line(type="result", subtype="success", is_error=True, api_error_status=429, result="limit")
            return Script(stdout=news("rejected", self.resets_at, 1.0) + failed, seconds=5, exit_code=1)
        self.done[prompt] += 1
        return Script(
            stdout=line(type="result", subtype="success", is_error=False, result="ok", total_cost_usd=0.25),
            seconds=RUN_SECONDS,
        )


def group_now(sup: Supervisor) -> GroupInfo:
    """Return the group without a thread: the mock clock jumps while one works."""
    return groups.group_info(sup._catalog.index, "agents")


async def test_a_fleet_waits_for_the_reset_and_every_job_comes_back(
    state_dir: Path,
    autojump_clock: trio.testing.MockClock,  # noqa: ARG001
) -> None:
    account = Account()
    engine = FakeEngine(account.script)
    account.now = engine.time
    async with open_supervisor(Settings(state_dir=state_dir), engine=engine) as sup:
        await sup.set_group("agents", limit=4)
        prompts = [f"task {number}" for number in range(30)]
        specs = [
            JobSpec(argv=["claude", "-p", prompt], kind="claude", groups=["agents"], deadline_seconds=INF)
            for prompt in prompts
        ]
        jobs = await sup.start_many(specs)
        await trio.sleep(2 * RUN_SECONDS + 10)
        assert account.resets_at is not None
        (pause,) = group_now(sup).paused
        assert pause.by == "rate_limited"
        assert pause.until == account.resets_at + timedelta(minutes=1)
        rejected = len(account.rejected)
        assert 1 <= rejected <= 4, "only those that were launched before the first of them said so"
        await trio.sleep_until(trio.current_time() + (account.resets_at - engine.time()).total_seconds() + 59)
        assert account.runs == 10 + rejected, "nothing starts before the minute is over"
        waits = await sup.status(jobs[-1].job_id)
        assert (waits.queue_reason, waits.next_attempt_at) == ("rate_limited", pause.until)
        why = explain(sup._catalog, waits.job_id).waits_for  # without a thread, as in group_now
        assert [(each.reason, each.until) for each in why] == [("rate_limited", pause.until)]
        launched = account.runs
        await trio.sleep(62)
        assert launched < account.runs <= launched + 4
        ends = [await sup.wait(job.job_id) for job in jobs]
        assert [end.status for end in ends] == [State.DONE] * 30
        assert account.done == Counter(prompts), "each prompt is finished once"
        assert len(account.rejected) == rejected, "after the reset there is no limit any more"
        assert Counter(end.attempt for end in ends) == {1: 30 - rejected, 2: rejected}
        assert all(end.attempt == end.maximum_attempts for end in ends), "a wait for a limit is no failure"
        assert sum(end.cost_usd or 0 for end in ends) == 30 * 0.25
        assert group_now(sup).paused == ()


async def test_a_rejection_in_the_output_of_a_running_job_pauses_the_group_at_once(
    state_dir: Path,
    autojump_clock: trio.testing.MockClock,  # noqa: ARG001
) -> None:
    engine = FakeEngine(Script(seconds=None))
    async with open_supervisor(Settings(state_dir=state_dir), engine=engine) as sup:
        await sup.set_group("agents", limit=3)
        await sup.start(["claude"], kind="claude", groups=["agents"], deadline_seconds=INF)
        command = await engine.next()
        resets_at = (engine.time() + RESET).replace(microsecond=0)
        async with sup.events() as events:
            command.write(news("allowed_warning", resets_at, 0.95))
            async for event in events:
                if event.job.progress and event.job.progress["limit"]:
                    break
            await trio.sleep(1)
            for _ in range(2):
                await sup.start(["claude"], kind="claude", groups=["agents"], deadline_seconds=INF)
            assert group_now(sup).paused == ()
            assert len(engine.running("agents")) == 1, "the limit is nearly used up: one at a time"
            command.write(news("allowed", resets_at, 0.5))
            await engine.next()
            await engine.next()
            command.write(news("rejected", resets_at, 1.0))
            await trio.sleep(1)
        (pause,) = group_now(sup).paused
        assert (pause.by, pause.until) == ("rate_limited", resets_at + timedelta(minutes=1))
        assert "five_hour" in (pause.detail or "")
        assert len(engine.running("agents")) == 3


async def test_probes_find_the_end_that_nothing_names(
    state_dir: Path,
    autojump_clock: trio.testing.MockClock,  # noqa: ARG001
) -> None:
    begin: list[datetime] = []

    def script(_: LaunchRequest) -> Script:
        begin.append(engine.time())
        if begin[-1] - begin[0] < timedelta(minutes=12):
            text = line(type="result", subtype="success", is_error=True, api_error_status=429, result="limit")
            return Script(stdout=text, exit_code=1)
        return Script(stdout=line(type="result", subtype="success", is_error=False, result="ok"), seconds=60)

    engine = FakeEngine(script)
    async with open_supervisor(Settings(state_dir=state_dir), engine=engine) as sup:
        await sup.set_group("agents", limit=10)
        jobs = await sup.start_many([JobSpec(argv=["claude"], kind="claude", groups=["agents"])] * 10)
        for job in jobs:
            assert (await sup.wait(job.job_id)).status is State.DONE
    rejected = [each for each in begin if each - begin[0] < timedelta(minutes=12)]
    assert len(begin) == len(rejected) + 10, "every job is done once"
    gaps = [later - earlier for earlier, later in itertools.pairwise(rejected)]
    pauses = [gap for gap in gaps if gap >= timedelta(minutes=4)]
    # The mock clock may jump while a thread works: a pause may look longer, never shorter.
    for pause, minutes in zip(pauses, (5, 10, 20, 40), strict=False):
        assert pause >= timedelta(minutes=minutes), pauses
    assert pauses
    assert all(gap < timedelta(minutes=4) for gap in gaps[: len(gaps) - len(pauses)]), "one probe each time"


async def test_the_next_attempt_continues_the_session_that_met_the_limit(
    state_dir: Path,
    autojump_clock: trio.testing.MockClock,  # noqa: ARG001
) -> None:
    """Unless its model never answered: then there is no session to continue, and the attempt begins a new one.

    A run that continues a session and gets no answer leaves that session as it was.
    """
    launched: list[LaunchRequest] = []
    tokens = iter([0, 900, 0, 1])

    def script(request: LaunchRequest) -> Script:
        launched.append(request)
        session_id = request.argv[2].decode()
        if (output := next(tokens)) == 1:
            return Script(
                stdout=line(type="result", subtype="success", is_error=False, result="ok", session_id=session_id)
            )
        failed = line(
            type="result",
            subtype="success",
            is_error=True,
            api_error_status=429,
            result="limit",
            session_id=session_id,
            usage={"output_tokens": output},
        )
        return Script(stdout=failed, exit_code=1)

    engine = FakeEngine(script)
    async with open_supervisor(Settings(state_dir=state_dir), engine=engine) as sup:
        await sup.set_group("agents")
        first = await sup.start(
            ["claude", "-p", "count the stars", "--output-format", "json"],
            kind="claude",
            groups=["agents"],
            stdin=b"and the planets",
        )
        last = await sup.wait(first.job_id)
    assert last.status is State.DONE
    begun, anew, *continued = [request.argv for request in launched]
    assert first.session_id == begun[2].decode()
    assert begun[:2] == (b"claude", b"--session-id")
    assert begun[3:] == (b"-p", b"count the stars", b"--output-format", b"json")
    assert launched[0].stdin == b"and the planets"
    assert anew[:2] == (b"claude", b"--session-id")
    assert anew[2] != begun[2]
    assert anew[3:] == begun[3:]
    assert launched[1].stdin == b"and the planets"
    assert continued == [(b"claude", b"--resume", anew[2], b"-p", b"--output-format", b"json")] * 2
    assert b"continue" in (launched[2].stdin or b"")
    assert last.session_id == anew[2].decode()
    assert (last.attempt, last.maximum_attempts) == (4, 4)
    assert [json.loads((Path(each.directory) / "job.json").read_text())["argv"] for each in launched] == [
        ["claude", "-p", "count the stars", "--output-format", "json"]
    ] * 4


async def test_a_pause_ends_to_the_microsecond_when_it_was_asked_to(state_dir: Path) -> None:
    async with open_supervisor(Settings(state_dir=state_dir), engine=FakeEngine()) as sup:
        await sup.set_group("agents")
        for microsecond in (1, 666_159, 999_999):
            until = datetime(2026, 11, 28, 19, 16, 17, microsecond, tzinfo=UTC) + timedelta(days=30)
            await sup.pause_group("agents", until=until)
            (pause,) = group_now(sup).paused
            assert pause.until == until
