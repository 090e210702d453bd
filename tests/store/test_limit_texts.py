"""Every wording of a usage limit, from the output of an agent to the pause of its group and to its next attempt."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import attrs
import pytest

from supervisor.admission import groups
from supervisor.interpret.resets import GUESS_SECONDS
from supervisor.jobdir.facts import Ended
from supervisor.jobs.catalog import Catalog
from supervisor.jobs.outcome import view_of
from supervisor.model import Exit
from supervisor.settings import Settings
from tests.store import test_series
from tests.store.test_series import ONCE, agents
from tests.store.test_usage_limits import BEGIN, SECOND, Clocks

FIXTURES = Path(__file__).parents[1] / "interpret" / "fixtures"
NEW_YORK = ZoneInfo("America/New_York")
SOON = int(BEGIN.timestamp()) + 7200
MINUTE = timedelta(minutes=1)


@attrs.define
class World(test_series.World):
    """Its clocks are set by the tests."""

    clocks: Clocks


@pytest.fixture
def world(state_dir: Path) -> Iterator[World]:
    made = World(Catalog(Settings(state_dir=state_dir)), Clocks())
    made.catalog.layout.clock.source = made.clocks
    yield made
    made.catalog.close()


def lines(*messages: dict[str, Any]) -> str:
    return "".join(json.dumps(each) + "\n" for each in messages)


def result(text: str = "limit", **more: Any) -> dict[str, Any]:
    shape = {"type": "result", "subtype": "success", "is_error": True, "api_error_status": 429, "result": text}
    return {**shape, "session_id": "5e55", **more}


def codex(text: str) -> str:
    return lines(
        {"type": "thread.started", "thread_id": "5e55"},
        {"type": "turn.started"},
        {"type": "item.completed", "item": {"type": "agent_message", "text": "I begin."}},
        {"type": "turn.failed", "error": {"message": f"You've hit your usage limit. {text}"}},
    )


def event(resets_at: int = SOON) -> dict[str, Any]:
    info = {"status": "rejected", "resetsAt": resets_at, "rateLimitType": "five_hour"}
    return {"type": "rate_limit_event", "rate_limit_info": info}


def clock(hour: int, minute: int = 0, zone: ZoneInfo | None = None) -> datetime:
    """Return when a clock shows this time next."""
    now = BEGIN.astimezone(zone)
    shown = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
    return (shown if shown > now else shown + timedelta(days=1)).astimezone(UTC)


AT = datetime.fromtimestamp(SOON, UTC)
GUESS = BEGIN + timedelta(seconds=GUESS_SECONDS)
STALE = int(BEGIN.timestamp()) - 60
TEXTS: dict[str, tuple[str, str, datetime]] = {
    "event": ("claude", lines(event(), result()), AT),
    "event in an array": ("claude", json.dumps([event(), result()]), AT),
    "event, over when it was written": ("claude", lines(event(STALE), result()), GUESS),
    "zone": (
        "claude",
        lines(result("You've hit your session limit \u00b7 resets 8pm (America/New_York)")),
        clock(20, zone=NEW_YORK),
    ),
    "no zone": ("claude", lines(result("You've hit your limit \u00b7 resets 11pm")), clock(23)),
    "date": (
        "claude",
        lines(result("You've hit your weekly limit \u00b7 resets Dec 1, 9am (UTC)")),
        datetime(2026, 12, 1, 9, tzinfo=UTC),
    ),
    "epoch": ("claude", lines(result(f"Claude AI usage limit reached|{SOON}")), AT),
    "epoch, over when it was written": ("claude", lines(result(f"Claude AI usage limit reached|{STALE}")), GUESS),
    "seconds": (
        "claude",
        lines(result("Rate limited. Please try again in 90s.")),
        BEGIN + timedelta(seconds=90),
    ),
    "nothing": ("claude", lines(result("You've hit your limit")), GUESS),
    "codex, clock": ("codex", codex("Try again at 7:58 PM."), clock(19, 58)),
    "codex, duration": (
        "codex",
        codex("Try again in 2 days 17 hours 14 minutes."),
        BEGIN + timedelta(days=2, hours=17, minutes=14),
    ),
    "codex, nothing": ("codex", codex("Upgrade to Pro."), GUESS),
}
NO_LIMITS = ("credit-too-low", "out-of-extra-usage")


def end(world: World, kind: str, stdout: str, seen_after: timedelta = timedelta()) -> str:
    """Have an agent of the group end with this output; return its id.

    ``seen_after``: how long after its last output its end is observed, as after a kill of all that watched it.
    """
    agents(world)
    argv = {"claude": ["claude", "-p", "x"], "codex": ["codex", "exec", "--json", "x"]}[kind]
    row = world.launch(world.job(policy=ONCE, groups=["agents"], kind=kind, argv=argv))
    path = world.directory(row) / "result.json"
    path.write_text(stdout, encoding="utf-8")
    os.utime(path, ns=(world.clocks.wall, world.clocks.wall))
    world.clocks.pass_time(seen_after.total_seconds())
    world.exit(row, 1)
    assert world.catalog.status(row.job_id).status == "failed"
    return row.job_id


@pytest.mark.parametrize("seen_after", [timedelta(), timedelta(seconds=59), timedelta(days=20)], ids=str)
@pytest.mark.parametrize("name", TEXTS)
def test_a_limit_pauses_the_group_and_the_job_comes_back(world: World, name: str, seen_after: timedelta) -> None:
    """The pause counts from when the limit was named, however late the end of the job is observed."""
    kind, stdout, expected = TEXTS[name]
    first = world.row(end(world, kind, stdout, seen_after))
    error = (first.ended or {})["error"]
    assert error["code"] == "rate_limited"
    assert datetime.fromisoformat(error["details"]["resets_at"]) == expected
    is_guess = error["details"]["resets_at_source"] == "guess"
    assert is_guess == (expected == GUESS)
    assert first.retried_by is not None
    second = world.row(first.retried_by)
    assert second.request.get("resumed", False) is (kind == "codex"), "this agent has said something before"
    pauses = groups.group_info(world.index, "agents").paused
    if seen_after >= timedelta(days=1):  # the limit is over
        assert pauses == ()
        assert world.index.standing(second) == ("launching", None)
        return
    # A time without an end is followed by a probe, without the margin.
    assert [pause.until for pause in pauses] == [expected if is_guess else expected + MINUTE]
    assert world.index.standing(second) == ("rate_limited", 1)
    assert world.index.take_turns().grants == []


@pytest.mark.parametrize("said", ["resets 12:30pm", "Claude AI usage limit reached|{}", None])
def test_a_program_that_lingers_after_its_limit_is_reset_comes_back_at_once(world: World, said: str | None) -> None:
    """It was known to end, long after it had named a time that is over by then."""
    half_past = int(BEGIN.astimezone().replace(hour=12, minute=30).timestamp())
    world.clocks.wall = (half_past - 600) * SECOND
    message = [result(said.format(half_past))] if said else [event(half_past), result()]
    first = world.row(end(world, "claude", lines(*message), timedelta(hours=2)))
    error = (first.ended or {})["error"]
    assert datetime.fromisoformat(error["details"]["resets_at"]) == datetime.fromtimestamp(half_past, UTC)
    assert error["retry_after_ms"] == 0
    assert groups.group_info(world.index, "agents").paused == ()


@pytest.mark.parametrize("at", [0, 2**62])
def test_a_program_that_sets_the_times_of_its_output_is_believed_within_its_life(world: World, at: int) -> None:
    row = world.launch(world.job(kind="claude"))
    directory = world.directory(row)
    (directory / "result.json").write_text("x", encoding="utf-8")
    os.utime(directory / "result.json", ns=(at, at))
    world.clocks.pass_time(1)
    seen = view_of(row, str(directory), Ended(exit=Exit(exit_code=1, ended_ns=world.clocks.wall)))
    assert seen.said_ns == (world.clocks.wall if at else row.started_ns)


@pytest.mark.parametrize("name", NO_LIMITS)
def test_what_only_a_person_can_end_is_not_waited_for(world: World, name: str) -> None:
    run = json.loads((FIXTURES / "claude" / f"{name}.json").read_text(encoding="utf-8"))
    first = world.row(end(world, "claude", run["stdout"]))
    assert (first.ended or {})["error"]["code"] == "billing_error"
    assert first.retried_by is None
    assert groups.group_info(world.index, "agents").paused == ()
