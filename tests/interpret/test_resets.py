"""The end of a usage limit: every wording, over time zones and changes of the clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.interpret.claude import Claude
from supervisor.interpret.codex import Codex
from supervisor.interpret.resets import GUESS_SECONDS, find_reset, retry_after_ms

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.interpret import Outcome

NOW = datetime(2026, 11, 28, 4, 0, tzinfo=UTC)
NOW_NS = int(NOW.timestamp()) * 10**9
BERLIN = ZoneInfo("Europe/Berlin")
ZONES = sorted(name for name in available_timezones() if name != "localtime" and not name.startswith("posix"))


def at(text: str, *, now_ns: int = NOW_NS, field: float | None = None) -> tuple[str, str] | None:
    found = find_reset(field, (text,), now_ns, zone=BERLIN)
    return None if found is None else (found.details()["resets_at"], found.source)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("You've hit your session limit \u00b7 resets 8pm (America/New_York)", "2026-11-29T01:00:00Z"),
        ("You've hit your limit. Try again at 7:58 PM.", "2026-11-28T18:58:00Z"),
        ("You're out of extra usage \u00b7 resets 9am", "2026-11-28T08:00:00Z"),
        ("You've hit your limit \u00b7 resets Nov 30, 9am", "2026-11-30T08:00:00Z"),
        ("You've hit your usage limit. Try again at Dec 1st, 2026 9:15 AM.", "2026-12-01T08:15:00Z"),
        ("resets Monday 9:00", "2026-11-30T08:00:00Z"),
        ("resets Sat 4am", "2026-12-05T03:00:00Z"),  # that of today is over
        ("resets Sat 9am (UTC)", "2026-11-28T09:00:00Z"),
        ("resets at 16:30 UTC", "2026-11-28T16:30:00Z"),
        ("resets 12 a.m. (UTC)", "2026-11-29T00:00:00Z"),
        ("resets 12pm (UTC)", "2026-11-28T12:00:00Z"),
        ("try again in 2 days 17 hours 14 minutes", "2026-11-30T21:14:00Z"),
        ("Please try again in 20s", "2026-11-28T04:00:20Z"),
        ("Please try again in 1.5s", "2026-11-28T04:00:02Z"),
        ("resets in 1 week and 2 hours", "2026-12-05T06:00:00Z"),
        ("Claude AI usage limit reached|1795842000", "2026-11-28T05:00:00Z"),
        ("Claude AI usage limit reached|1795842000001", "2026-11-28T05:00:01Z"),
    ],
)
def test_every_wording_names_its_moment(text: str, moment: str) -> None:
    assert at(text) == (moment, "text")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "try again later",
        "resets 9",  # neither a half of the day, nor minutes
        "resets 13pm",
        "resets 0am",
        "resets 25:00",
        "resets 9:75",
        "resets 9am (Mars/Olympus)",
        "resets 77pm (../../etc/passwd)",
        "resets Feb 31, 9am (UTC)",
        "limit reached|1795838400",  # this moment
        "limit reached|1795838399",
        "limit reached|99999999999",
        "try again in 300 days",
        "resets Nov 1, 2026 9am",
        "resets in 0 s",
        "resets in " + "9" * 9 + " weeks",
        "preset 9am",
        "resets " + "9" * 100_000,
    ],
)
def test_a_text_without_a_time_to_come_is_a_guess(text: str) -> None:
    assert at(text) == ("2026-11-28T04:05:00Z", "guess")
    assert GUESS_SECONDS == 300


def test_an_end_within_the_second_or_the_minute_of_the_reset_waits_for_no_other_day() -> None:
    begin_ns = NOW_NS - 10**9
    for ended_ns in (begin_ns + 1, NOW_NS - 1):  # the last second before it
        assert at("resets 5am", now_ns=ended_ns) == ("2026-11-28T04:00:00Z", "text")
        assert at("", now_ns=ended_ns, field=NOW.timestamp()) == ("2026-11-28T04:00:00Z", "field")
        assert at("limit reached|1795838400", now_ns=ended_ns) == ("2026-11-28T04:00:00Z", "text")
    for seconds in (0, 1, 59):  # the message is older than the end of the run
        assert at("resets 5am", now_ns=NOW_NS + seconds * 10**9 + 1) == (
            f"2026-11-28T04:05:{seconds + 1:02}Z" if seconds < 59 else "2026-11-28T04:06:00Z",
            "guess",
        )
    assert at("resets 5am", now_ns=NOW_NS + 60 * 10**9) == ("2026-11-29T04:00:00Z", "text")


def test_a_field_comes_before_the_text_unless_it_is_over() -> None:
    text = "resets 9am (UTC)"
    later = NOW.timestamp() + 60
    assert at(text, field=later) == ("2026-11-28T04:01:00Z", "field")
    assert at(text, field=later - 0.25) == ("2026-11-28T04:01:00Z", "field")  # rounded up
    for unusable in (NOW.timestamp(), 0.0, -1.0, float("inf"), float("nan"), 1e30):
        assert at(text, field=unusable) == ("2026-11-28T09:00:00Z", "text"), unusable


def test_without_the_time_of_the_end_only_an_absolute_time_counts() -> None:
    assert at("resets 9am (UTC)", now_ns=0) is None
    assert at("try again in 5 minutes", now_ns=0) is None
    assert at("limit reached|1795842000", now_ns=0) == ("2026-11-28T05:00:00Z", "text")
    assert at("", now_ns=0, field=1795842000) == ("2026-11-28T05:00:00Z", "field")
    assert at("", now_ns=0, field=17) is None


@pytest.mark.parametrize(
    ("now", "text", "moment"),
    [
        # 2026-10-25, 03:00 becomes 02:00: 02:30 is shown twice, and the later one is safe.
        (datetime(2026, 10, 24, 22, tzinfo=UTC), "resets 2:30am (Europe/Berlin)", "2026-10-25T01:30:00Z"),
        # Between the two the later one is still to come.
        (datetime(2026, 10, 25, 0, 45, tzinfo=UTC), "resets 2:30am (Europe/Berlin)", "2026-10-25T01:30:00Z"),
        # 2027-03-28, 02:00 becomes 03:00: 02:30 is never shown.
        (datetime(2027, 3, 28, 0, tzinfo=UTC), "resets 2:30am (Europe/Berlin)", "2027-03-28T01:30:00Z"),
        (datetime(2026, 12, 31, 23, 30, tzinfo=UTC), "resets Jan 1, 1am (UTC)", "2027-01-01T01:00:00Z"),
    ],
)
def test_a_change_of_the_clock_makes_no_reset_too_early(now: datetime, text: str, moment: str) -> None:
    assert at(text, now_ns=int(now.timestamp()) * 10**9) == (moment, "text")


@given(
    now=st.datetimes(datetime(2020, 1, 1), datetime(2035, 12, 31)),  # noqa: DTZ001  # in UTC
    zone=st.sampled_from(ZONES),
    ahead=st.integers(1, 21 * 60),
    style=st.sampled_from(["%I:%M %p", "%H:%M", "%I:%M%p"]),
)
def test_a_clock_time_is_read_as_it_was_meant(now: datetime, zone: str, ahead: int, style: str) -> None:
    begin = now.replace(tzinfo=UTC, second=0, microsecond=0)
    meant = begin + timedelta(minutes=ahead)
    shown = meant.astimezone(ZoneInfo(zone))
    found = find_reset(None, (f"resets {shown.strftime(style)} ({zone})",), int(begin.timestamp()) * 10**9)
    assert found is not None
    assert found.source == "text"
    # The clock of the zone may show this time once more, an hour or less later; never is the answer too early.
    late = found.at - meant.timestamp()
    assert late >= 0
    if late:
        assert found.at <= meant.timestamp() + 26 * 3600
        again = datetime.fromtimestamp(found.at, ZoneInfo(zone)).strftime("%H:%M")
        assert again == shown.strftime("%H:%M") or late <= 2 * 3600


@given(
    now=st.datetimes(datetime(2020, 1, 1), datetime(2035, 12, 31)),  # noqa: DTZ001  # in UTC
    zone=st.sampled_from(ZONES),
    ahead=st.integers(2 * 60, 6 * 24 * 60),
)
def test_a_date_is_read_as_it_was_meant(now: datetime, zone: str, ahead: int) -> None:
    begin = now.replace(tzinfo=UTC, second=0, microsecond=0)
    meant = begin + timedelta(minutes=ahead)
    shown = meant.astimezone(ZoneInfo(zone))
    text = f"try again at {shown.strftime('%b %d, %I:%M %p')} ({zone})"
    found = find_reset(None, (text,), int(begin.timestamp()) * 10**9)
    assert found is not None
    assert 0 <= found.at - meant.timestamp() <= 2 * 3600


@given(days=st.integers(0, 20), hours=st.integers(0, 23), minutes=st.integers(0, 59), ended_ns=st.integers(1, 2**61))
def test_a_duration_is_counted_from_the_end(days: int, hours: int, minutes: int, ended_ns: int) -> None:
    text = f"try again in {days} days {hours} hours {minutes} minutes"
    seconds = days * 86400 + hours * 3600 + minutes * 60
    assert retry_after_ms(text) == seconds * 1000
    found = find_reset(None, (text,), ended_ns)
    assert found is not None
    ended = -(-ended_ns // 10**9)
    if seconds or ended_ns // 10**9 in range(1, ended):  # no duration at all is over, unless the second goes on
        assert (found.at, found.source) == (ended + seconds, "text")
    else:
        assert (found.at, found.source) == (ended + GUESS_SECONDS, "guess")


@given(text=st.text(max_size=300), ended_ns=st.integers(0, 2**63))
def test_no_text_breaks_it(text: str, ended_ns: int) -> None:
    for each in (text, f"resets {text}", f"try again at {text}", f"resets in {text}", f"limit reached|{text}"):
        found = find_reset(None, (each,), ended_ns)
        assert found is None or found.at > ended_ns // 10**9 or not ended_ns


def test_codex_says_when_its_limit_ends(outcome_of: Callable[..., Outcome]) -> None:
    said = "You've hit your usage limit. Upgrade to Pro or try again in 2 days 17 hours 14 minutes."
    lines = '{"type":"turn.started"}\n{"type":"turn.failed","error":{"message":"' + said + '"}}\n'
    verdict = Codex().verdict(outcome_of(lines.encode(), exit_code=1, ended_ns=NOW_NS))
    assert verdict.code == "rate_limited"
    assert verdict.details["resets_at"] == "2026-11-30T21:14:00Z"
    assert verdict.details["resets_at_source"] == "text"
    assert verdict.retry_after_ms == 234_840_000


def test_times_are_counted_from_when_they_were_written(outcome_of: Callable[..., Outcome]) -> None:
    said = "You've hit your usage limit. Try again in 20 minutes."
    lines = ('{"type":"turn.started"}\n{"type":"turn.failed","error":{"message":"' + said + '"}}\n').encode()
    late_ns = NOW_NS + 7200 * 10**9
    for written_ns, resets_at, wait in (
        (NOW_NS, "2026-11-28T04:20:00Z", 0),
        (late_ns - 600 * 10**9, "2026-11-28T06:10:00Z", 600_000),
        (late_ns + 1, "2026-11-28T06:20:00Z", 1_200_000),  # nothing of it was written after its end
        (0, "2026-11-28T06:20:00Z", 1_200_000),  # that is not known
    ):
        seen = outcome_of(lines, exit_code=1, ended_ns=late_ns, read_written_ns=lambda at=written_ns: at)
        verdict = Codex().verdict(seen)
        assert (verdict.details["resets_at"], verdict.retry_after_ms) == (resets_at, wait)


def test_an_account_without_credit_has_no_guess(outcome_of: Callable[..., Outcome]) -> None:
    stdout = (
        b'{"type":"result","subtype":"success","is_error":true,"api_error_status":400,'
        b'"result":"Credit balance is too low"}\n'
    )
    verdict = Claude().verdict(outcome_of(stdout, exit_code=1, ended_ns=NOW_NS))
    assert (verdict.code, verdict.retryable) == ("billing_error", False)
    assert "resets_at" not in verdict.details
