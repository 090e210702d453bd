"""Pages of an overview that is hard to bring about."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from supervisor.jobs.overview import Overview
from supervisor.model import GroupInfo, PauseInfo, Spend
from supervisor.web.page.rendering import attention_in_words, sections_of

NOW = datetime.now(UTC)
COUNTS = {"running": 0, "waiting": 0, "ended": 0, "failed": 0}


def attention_of(**members: object) -> str:
    overview = Overview(at=NOW, counts=COUNTS, **members)  # type: ignore[arg-type]
    return sections_of(overview, Spend(key=None), may_change=False, owner=True)[0].html


def test_what_needs_attention_is_said_in_the_section_and_in_words() -> None:
    assert "Nothing needs attention." in attention_of()
    assert "2 deliveries were given up" in attention_of(dead_deliveries=2)
    assert "1 delivery was given up" in attention_of(dead_deliveries=1)
    assert "3 jobs wait, and no process is there to launch them" in attention_of(unattended=3)
    paused = GroupInfo(name="g", paused=(PauseInfo(by="rate_limited", until=NOW + timedelta(days=400)),))
    assert "by a usage limit until <time" in attention_of(groups=(paused,))
    overview = Overview(at=NOW, counts={**COUNTS, "failed": 1}, groups=(paused,), dead_deliveries=1, unattended=1)
    assert attention_in_words(overview) == (
        "Needs attention: 1 job ended badly; 1 group paused; "
        "1 job waits, and no process is there to launch it; 1 delivery given up."
    )


def test_only_more_than_the_passage_of_time_changes_the_key_of_a_section() -> None:
    def keys(later: float, waited: float) -> dict[str, str]:
        group = GroupInfo(name="g", waiting=1, oldest_wait_seconds=waited)
        overview = Overview(at=NOW + timedelta(seconds=later), counts=COUNTS, groups=(group,), ends=((1, 0),) * 60)
        return {each.name: each.key for each in sections_of(overview, Spend(key=None), may_change=True, owner=True)}

    assert keys(0, 5) == keys(10, 15)
    assert keys(0, 5)["groups"] != keys(0, 50)["groups"]


def test_the_spending_of_the_day_is_a_number_without_a_budget() -> None:
    def numbers(spent: Spend | None) -> str:
        overview = Overview(at=NOW, counts=COUNTS)
        return sections_of(overview, spent, may_change=False, owner=True)[1].html

    assert "Spent" not in numbers(Spend(key=None, jobs=3))
    assert '$12.50 <span class="part">45.0k tokens</span>' in numbers(Spend(key=None, cost_usd=12.5, tokens=45_000))
    assert "45.0k tokens, 2 estimated" in numbers(Spend(key=None, tokens=45_000, estimated=2))
    assert "<dd>$12.50 </dd>" in numbers(Spend(key=None, cost_usd=12.5))
    assert "not known now" in numbers(None)
