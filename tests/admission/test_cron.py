"""The instants of cron expressions in time zones, compared with clocks that are watched minute by minute."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import hypothesis
import pytest
from hypothesis import strategies as st

from supervisor.admission.cron import Cron, local_zone
from supervisor.errors import InvalidArguments

MINUTE = timedelta(minutes=1)
ZONES = (
    "America/New_York",
    "America/St_Johns",
    "Antarctica/Troll",  # two hours
    "Asia/Kolkata",  # none
    "Australia/Lord_Howe",  # half an hour
    "Europe/Berlin",
    "Pacific/Apia",  # has skipped a day
    "UTC",
)


def ns(moment: datetime) -> int:
    return int(moment.timestamp()) * 10**9


def at(text: str) -> int:
    return ns(datetime.fromisoformat(text))


def after(cron: Cron, since: str, count: int, zone: str = "Europe/Berlin") -> list[str]:
    found: list[str] = []
    instant: int | None = at(since)
    for _ in range(count):
        assert instant is not None
        instant = cron.following(instant)
        assert instant is not None
        found.append(datetime.fromtimestamp(instant // 10**9, ZoneInfo(zone)).isoformat())
    return found


def test_a_local_time_that_occurs_twice_runs_once() -> None:
    assert after(Cron("30 2 * * *", "Europe/Berlin"), "2026-10-24T12:00+02:00", 2) == [
        "2026-10-25T02:30:00+02:00",
        "2026-10-26T02:30:00+01:00",
    ]
    assert after(Cron("*/30 * * * *", "Europe/Berlin"), "2026-10-25T01:45+02:00", 4) == [
        "2026-10-25T02:00:00+02:00",
        "2026-10-25T02:30:00+02:00",
        "2026-10-25T03:00:00+01:00",
        "2026-10-25T03:30:00+01:00",
    ]


def test_a_local_time_that_does_not_exist_runs_at_the_next_that_does() -> None:
    assert after(Cron("30 2 * * *", "Europe/Berlin"), "2027-03-27T12:00+01:00", 2) == [
        "2027-03-28T03:00:00+02:00",
        "2027-03-29T02:30:00+02:00",
    ]
    assert after(Cron("*/30 * * * *", "Europe/Berlin"), "2027-03-28T01:15+01:00", 3) == [
        "2027-03-28T01:30:00+01:00",
        "2027-03-28T03:00:00+02:00",
        "2027-03-28T03:30:00+02:00",
    ]
    # The whole of 30 December 2011 did not exist.
    assert after(Cron("@daily", "Pacific/Apia"), "2011-12-29T12:00-10:00", 2, "Pacific/Apia") == [
        "2011-12-31T00:00:00+14:00",
        "2012-01-01T00:00:00+14:00",
    ]


def test_six_fields_begin_with_seconds() -> None:
    assert after(Cron("*/20 59 23 31 12 *", "UTC"), "2026-11-28T00:00Z", 3, "UTC") == [
        "2026-12-31T23:59:00+00:00",
        "2026-12-31T23:59:20+00:00",
        "2026-12-31T23:59:40+00:00",
    ]


def test_29_february_is_found_in_both_directions() -> None:
    cron = Cron("0 0 29 2 *", "UTC")
    assert after(cron, "2096-03-01T00:00Z", 1, "UTC") == ["2104-02-29T00:00:00+00:00"]
    assert cron.preceding(at("2104-02-28T00:00Z")) == at("2096-02-29T00:00Z")


@pytest.mark.parametrize("expression", ["0 0 31 2 *", "0 0 30,31 2 *", "0 0 31 4,6,9,11 *", "* 0 0 30 2 *"])
def test_an_expression_that_never_fires_is_an_error_that_says_so(expression: str) -> None:
    with pytest.raises(InvalidArguments, match="it never fires, as none of its months has such a day"):
        Cron(expression, "UTC")


@pytest.mark.parametrize(
    ("expression", "what"),
    [
        ("", "wrong number of fields"),
        ("* * * *", "wrong number of fields"),
        ("* * * * * * *", "wrong number of fields"),
        ("60 * * * *", "bad minute"),
        ("* 24 * * *", "bad hour"),
        ("* * 0 * *", "bad day-of-month"),
        ("0 0 32 2 *", "bad day-of-month"),
        ("* * * 13 *", "bad month"),
        ("* * * * 8", "bad day-of-week"),
        ("*/0 * * * *", "bad minute"),
        ("5-1 * * * *", "bad minute"),
        ("@fortnightly", "wrong number of fields"),
        ("² * * * *", "bad minute"),
        ("* " * 600, "1000 characters"),
    ],
)
def test_a_wrong_expression_is_an_error_that_names_the_field(expression: str, what: str) -> None:
    with pytest.raises(InvalidArguments, match=what):
        Cron(expression, "UTC")


@pytest.mark.parametrize("zone", ["", "Mars/Olympus", "Europe", "../../etc/passwd", "/etc/localtime", "a\0b", "é"])
def test_a_zone_that_is_not_known_is_an_error(zone: str) -> None:
    with pytest.raises(InvalidArguments, match="no time zone that this machine knows"):
        Cron("@daily", zone)


def test_the_zone_of_this_machine_is_a_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    Cron("@daily", local_zone())
    monkeypatch.setenv("TZ", ":America/New_York")
    assert local_zone() == "America/New_York"
    monkeypatch.setenv("TZ", "EST5EDT,M3.2.0,M11.1.0")  # a rule, which the database does not have
    Cron("@daily", local_zone())


# ---------------------------------------------------------------- against clocks that are watched


def changes(zone: ZoneInfo, year: int) -> list[datetime]:
    """Return the hours in which the clocks of a zone were set in a year; 1 July where they were not."""
    begin = datetime(year, 1, 1, tzinfo=UTC)
    days = [begin + timedelta(days=day) for day in range(366)]
    found: list[datetime] = []
    for day, following in itertools.pairwise(days):
        if day.astimezone(zone).utcoffset() != following.astimezone(zone).utcoffset():
            hours = [day + timedelta(hours=hour) for hour in range(25)]
            pairs = itertools.pairwise(hours)
            found += [a for a, b in pairs if a.astimezone(zone).utcoffset() != b.astimezone(zone).utcoffset()]
    return found or [datetime(year, 7, 1, tzinfo=UTC)]


def watched(minutes: set[int], hours: set[int], zone: ZoneInfo, begin: datetime, end: datetime) -> Iterator[int]:
    """Yield the instants in (begin, end]: minutes at which the clocks show a time that they have not shown before."""

    def shows(moment: datetime) -> datetime:
        return moment.astimezone(zone).replace(tzinfo=None, fold=0)

    moment = begin - timedelta(hours=30)  # as they may show a time for the second time from the begin on
    latest = shows(moment)
    while moment < end:
        moment += MINUTE
        is_due = False
        while latest < shows(moment):  # more than one minute where they skip some
            latest += MINUTE
            is_due = is_due or (latest.minute in minutes and latest.hour in hours)
        if is_due and moment > begin:
            yield ns(moment)


@hypothesis.given(
    zone=st.sampled_from(ZONES),
    year=st.sampled_from([2011, 2026, 2027]),
    minutes=st.sets(st.integers(0, 59), min_size=1, max_size=4),
    hours=st.sets(st.integers(0, 23), min_size=1),
    data=st.data(),
)
@hypothesis.settings(max_examples=40)
def test_instants_are_the_minutes_at_which_clocks_show_a_time_first(
    zone: str, year: int, minutes: set[int], hours: set[int], data: st.DataObject
) -> None:
    here = ZoneInfo(zone)
    begin = data.draw(st.sampled_from(changes(here, year))) - timedelta(hours=data.draw(st.integers(0, 4)))
    end = begin + timedelta(hours=8)
    cron = Cron(f"{','.join(map(str, minutes))} {','.join(map(str, hours))} * * *", zone)
    expected = list(watched(minutes, hours, here, begin, end))
    forward: list[int] = []
    instant = cron.following(ns(begin))
    while instant is not None and instant <= ns(end):
        forward.append(instant)
        instant = cron.following(instant)
    assert forward == expected
    backward: list[int] = []
    instant = cron.preceding(ns(end))
    while instant is not None and instant > ns(begin):
        backward.append(instant)
        instant = cron.preceding(instant - 1)
    assert backward[::-1] == expected
