"""The budgets of groups as texts, the windows in which they count, and what a job asks for."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.store.budgets import Budget, BudgetSetting, merged, own_ask, shown_amount, typical_of
from supervisor.store.windows import local_zone, span_of, zone_of

SECOND = 10**9
HOUR = 3600 * SECOND
ZONES = [
    *("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe"),
    *("America/Havana", "America/Sao_Paulo", "Asia/Beirut", "Africa/Cairo", "Atlantic/Azores", "Pacific/Apia"),
]


@pytest.mark.parametrize(
    ("text", "setting", "shown"),
    [
        ("usd=20/day", ("usd", 20 * 10**9, "day"), "usd=20/day"),
        ("usd=0.50/hour", ("usd", 5 * 10**8, "hour"), "usd=0.5/hour"),
        ("usd=0.000000001/total", ("usd", 1, "total"), "usd=0.000000001/total"),
        ("tokens=2e6/week", ("tokens", 2 * 10**6, "week"), "tokens=2000000/week"),
        ("seconds=2h30m/day", ("seconds", 9000 * 1000, "day"), "seconds=9000/day"),
        ("seconds=1.5/day", ("seconds", 1500, "day"), "seconds=1.5/day"),
        ("starts=10/hour", ("starts", 10, "hour"), "starts=10/hour"),
        ("starts=0/total", ("starts", 0, "total"), "starts=0/total"),
    ],
)
def test_a_budget_is_a_text(text: str, setting: tuple[str, int, str], shown: str) -> None:
    found = BudgetSetting.parse(text)
    assert found == setting
    assert found.text == shown
    assert BudgetSetting.parse(shown) == found


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "usd",
            "usd=20",
            "usd=20/month",
            "eur=20/day",
            "usd=-1/day",
            "usd=nan/day",
            "usd=inf/day",
            "usd=1e99/day",
        ),
        *(
            "usd=0.0000000001/day",
            "tokens=1.5/day",
            "starts=2h/day",
            "usd=20/day ",
            "USD=20/day",
            "usd=two/day",
            20,
            None,
        ),
    ],
)
def test_other_texts_are_refused(text: Any) -> None:
    with pytest.raises(ValueError, match=r"^"):
        BudgetSetting.parse(text)


def test_a_change_keeps_the_budgets_that_it_does_not_name() -> None:
    before = ("usd=20/day", "tokens=5/hour")
    assert merged(before, ["usd=30/day"]) == ("usd=30/day", "tokens=5/hour")
    assert merged(before, ["usd=30/week"]) == (*before, "usd=30/week")
    assert merged(before, ["usd=none/day"]) == ("tokens=5/hour",)
    assert merged(before, ["usd=none/week"]) == before
    assert merged(before, ["none"]) == ()
    assert merged(before, ["none", "starts=1/day"]) == ("starts=1/day",)
    with pytest.raises(ValueError, match=r"^usd=30$"):
        merged(before, ["usd=30"])


@pytest.mark.parametrize(
    ("argv", "usd"),
    [
        (["claude", "-p", "hi"], None),
        (["claude", "-p", "--max-budget-usd", "2.5", "hi"], 2.5),
        (["claude", "-p", "--max-budget-usd=2.5"], 2.5),
        (["claude", "--max-budget-usd", "1", "--max-budget-usd", "3"], 3),
        (["claude", "-p", "--max-budget-usd"], None),
        (["claude", "-p", "--max-budget-usd", "much"], None),
        (["claude", "-p", "--", "--max-budget-usd", "2"], None),
        (["claude", "-p", "--max-budget-usd", "-2"], None),
    ],
)
def test_a_command_names_what_it_spends_at_most(argv: Sequence[str], usd: float | None) -> None:
    assert own_ask(argv) == (None if usd is None else usd * 10**9)


def budget(metric: str = "usd", limit: int = 100, **members: Any) -> Budget:
    given: dict[str, Any] = {"used": 0, "reserved": 0, "spent": 0, "typical": None, "running": 0, **members}
    return Budget(BudgetSetting(metric, limit, "day"), "hold", 0, 1, **given)


def test_a_job_asks_for_half_more_than_others_have_spent() -> None:
    assert budget(typical=11).ask(None) == 17
    assert budget(typical=90).ask(None) == 100, "never more than the limit, or none could run"
    assert budget(typical=11).ask(50) == 50
    assert budget(typical=11).ask(500) == 500, "what a command says is not made smaller"
    assert budget("tokens", typical=11).ask(50) == 17, "that was about money"
    assert budget("starts", typical=11).ask(None) == 1
    assert budget().ask(None) == 10, "as long as nothing is known"
    assert budget(limit=3).ask(None) == 1


def test_a_job_is_admitted_while_what_is_used_reserved_and_asked_for_fits() -> None:
    assert not budget(used=50, reserved=33, typical=11).blocks(None)
    assert budget(used=50, reserved=34, typical=11).blocks(None)
    assert not budget(used=50, reserved=40).blocks(10)
    assert budget(used=50, reserved=40).blocks(11)
    assert budget(limit=0, typical=0).blocks(1)


def test_as_long_as_nothing_is_known_one_job_runs_at_a_time() -> None:
    assert not budget().blocks(None)
    assert budget(running=1, reserved=10).blocks(None)
    assert not budget(running=1, reserved=10).blocks(20), "of this one it is known"
    assert budget("tokens", running=1, reserved=10).blocks(20)
    assert not budget("starts", running=1, reserved=1).blocks(None)
    assert not budget(running=1, reserved=10, typical=2).blocks(None)


def test_a_job_that_never_fits_is_hopeless() -> None:
    assert budget().is_hopeless(101)
    assert not budget(used=100).is_hopeless(100), "the next window"
    total = budget(used=100)
    total.end_ns = None
    assert total.is_hopeless(1)
    total.used = 99
    assert not total.is_hopeless(1)


def test_the_median_is_rounded_up() -> None:
    assert typical_of([]) is None
    assert typical_of([3, 1, 2]) == 2
    assert typical_of([1, 2]) == 2


def test_amounts_are_shown_exactly() -> None:
    assert shown_amount("usd", 123456789) == "0.123456789"
    assert shown_amount("usd", 2 * 10**9) == "2"
    assert shown_amount("seconds", 90500) == "90.5"


# ------------------------------------------------------------ windows


def local(span_ns: int | None, zone: str) -> datetime:
    assert span_ns is not None
    return datetime.fromtimestamp(span_ns // SECOND, ZoneInfo(zone))


@given(st.sampled_from(["hour", "day", "week"]), st.sampled_from(ZONES), st.integers(0, 2**61 // SECOND))
def test_a_moment_lies_in_its_window_and_windows_adjoin(window: str, zone: str, seconds: int) -> None:
    now_ns = seconds * SECOND + 1
    begin_ns, end_ns = span_of(window, zone, now_ns)
    assert end_ns is not None
    assert begin_ns <= now_ns < end_ns
    assert span_of(window, zone, begin_ns) == span_of(window, zone, end_ns - 1) == (begin_ns, end_ns)
    following = span_of(window, zone, end_ns)
    if window != "hour":  # a change of the clock by half an hour makes two hours overlap
        assert following[0] == end_ns
        first, last = local(begin_ns, zone), local(end_ns - SECOND, zone)
        assert (last.date() - first.date()).days == (0 if window == "day" else 6)
        before = local(begin_ns - SECOND, zone)
        assert before.date() < first.date()
        assert window == "day" or first.weekday() == 0


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Berlin", "2026-03-29T12:00", 23),
        ("Europe/Berlin", "2026-10-25T12:00", 25),
        ("Europe/Berlin", "2026-10-24T12:00", 24),
        ("Australia/Lord_Howe", "2026-04-05T12:00", 24.5),
        ("America/Havana", "2026-03-08T12:00", 23),  # midnight does not exist
        ("America/Havana", "2025-11-02T12:00", 25),
        ("America/Sao_Paulo", "2018-11-04T12:00", 23),  # midnight does not exist
        ("Asia/Beirut", "2026-03-29T12:00", 23),  # midnight does not exist
    ],
)
def test_days_with_a_change_of_the_clock_have_their_own_length(zone: str, day: str, hours: float) -> None:
    noon = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(zone))
    begin_ns, end_ns = span_of("day", zone, int(noon.timestamp()) * SECOND)
    assert end_ns is not None
    assert (end_ns - begin_ns) / HOUR == hours


def test_a_window_in_total_never_ends() -> None:
    for now_ns in (0, 10**18, 2**62):
        begin_ns, end_ns = span_of("total", "Europe/Berlin", now_ns)
        assert begin_ns <= now_ns
        assert end_ns is None


def test_a_zone_that_is_not_there_is_an_error() -> None:
    for name in ("Mars/Olympus", "", "../../etc/passwd", "/etc/passwd", "Europe"):
        with pytest.raises(ValueError, match="no time zone"):
            zone_of(name)
    assert zone_of("UTC") is UTC


def test_the_zone_of_this_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    assert local_zone() == "Asia/Tokyo"
    monkeypatch.setenv("TZ", ":America/New_York")
    assert local_zone() == "America/New_York"
    link = tmp_path / "localtime"
    monkeypatch.setattr("supervisor.store.windows._LOCAL_TIME", str(link))
    monkeypatch.setenv("TZ", "CET-1CEST")  # no name of a zone
    assert local_zone() == "UTC"
    for root in ("/usr/share/zoneinfo", "/var/db/timezone/zoneinfo"):
        link.unlink(missing_ok=True)
        os.symlink(f"{root}/Europe/Paris", link)
        assert local_zone() == "Europe/Paris"


def test_a_window_is_looked_up_once_and_again_after_its_end() -> None:
    now = time.time_ns()
    first = span_of("hour", "UTC", now)
    assert first[1] is not None
    assert span_of("hour", "UTC", first[1]) != first
    later = datetime.fromtimestamp(now / 1e9, UTC) - timedelta(hours=5)
    assert span_of("hour", "UTC", int(later.timestamp() * 1e9))[0] < first[0], "a clock that was set back"
