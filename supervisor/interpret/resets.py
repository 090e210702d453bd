"""When a usage limit ends, by the output of the run that met it.

Fields decide whether there is a limit at all. The functions here only say how long it lasts, and so look at
the text of a message that is known to be about a limit. They never answer with a time too early: a clock time that
occurs twice, as daylight saving ends, is the later one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Final, Literal

import attrs

__all__ = ["GUESS_SECONDS", "Reset", "Source", "find_reset", "retry_after_ms"]

Source = Literal["field", "text", "guess"]

GUESS_SECONDS: Final = 300
"""How long a limit is taken to last if the output does not say it."""
_LONGEST_SECONDS: Final = 62 * 86400
"""The longest known windows are a week and a month; a moment long after that is a misreading."""
_JUST_OVER_SECONDS: Final = 60
_READ_CHARACTERS: Final = 4096
_EARLIEST_EPOCH: Final = 1_500_000_000

_UNITS_MS: Final[Mapping[str, int]] = {
    "ms": 1,
    "s": 1000,
    "m": 60_000,
    "h": 3_600_000,
    "d": 86_400_000,
    "w": 604_800_000,
}
_PART: Final = (
    r"\d{1,9}(?:\.\d{1,3})?\s?"
    r"(?:ms|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?|w|weeks?)\b"
)
_WAIT: Final = re.compile(
    rf"\b(?:(?:again|retry|retrying|wait|retry-after:?)\s(?:in\s|after\s)?|resets?\sin\s)"
    rf"((?:{_PART}[\s,]{{0,2}}(?:and\s)?){{1,5}})",
    re.IGNORECASE,
)
_ONE_PART: Final = re.compile(r"(\d+(?:\.\d+)?)\s?(ms|milli|[smhdw])", re.IGNORECASE)
_EPOCH: Final = re.compile(r"\blimit reached\|(\d{9,13})\b", re.IGNORECASE)
_CLOCK: Final = re.compile(
    r"\b(?:resets?|try\sagain|available\sagain)\s(?:at\s|on\s)?"
    r"(?:(?P<weekday>mon|tue|wed|thu|fri|sat|sun)[a-z]{0,6},?\s(?:at\s)?)?"
    r"(?:(?P<month>jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]{0,6}\.?\s"
    r"(?P<day>\d{1,2})(?:st|nd|rd|th)?(?:,?\s(?P<year>20\d\d))?,?\s(?:at\s)?)?"
    r"(?P<hour>\d{1,2})(?!\d)(?::(?P<minute>\d\d))?(?:\s?(?P<half>[ap])\.?m\b\.?)?"
    r"(?:\s?\((?P<zone>[a-z0-9_+-]{1,30}(?:/[a-z0-9_+-]{1,30}){0,2})\)|\s(?P<utc>utc|gmt|z)\b)?",
    re.IGNORECASE,
)
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


@attrs.frozen(slots=True)
class Reset:
    """The end of a usage limit.

    Attributes:
        at: in whole seconds since the epoch, rounded up.
        source: ``field`` of the output, ``text`` of a message, or ``guess`` if neither names a time.
    """

    at: int
    source: Source

    def details(self) -> dict[str, Any]:
        """Return the members of the details of an error: ``resets_at`` (ISO 8601, UTC) and ``resets_at_source``."""
        moment = datetime.fromtimestamp(self.at, UTC).isoformat().replace("+00:00", "Z")
        return {"resets_at": moment, "resets_at_source": self.source}


def find_reset(field: float | None, texts: Iterable[str], said_ns: int, *, zone: tzinfo | None = None) -> Reset | None:
    """Return when a limit ends that a run has met.

    Args:
        field: seconds since the epoch, from a field of the output; it comes before the texts.
        texts: messages about the limit. The first that names a time decides.
        said_ns: when the texts were written, in nanoseconds since the epoch: not before they were; 0 if that is not
            known. A time that was over then is ignored; one that is over only now is not.
        zone: of clock times whose zone is not named; ``None`` is the zone of this machine, where the programs that
            write such times run.

    Returns:
        ``None`` only if ``said_ns`` is 0 and no absolute time is named.
    """
    said = -(-said_ns // 1_000_000_000)
    since = max(said_ns // 1_000_000_000, min(said, 1))
    if field is not None and _is_ahead(moment := _up(field), since):
        return Reset(moment, "field")
    for text in texts:
        for read, begin in ((_epoch, since), (_duration, said), (_clock, since)):
            found = read(text[:_READ_CHARACTERS], begin, zone)
            if found is not None and _is_ahead(found, since):
                return Reset(found, "text")
    return Reset(said + GUESS_SECONDS, "guess") if said else None


def retry_after_ms(text: str) -> int | None:
    """Return the time to wait that ``text`` names ("try again in 1 minute 20 seconds"), or ``None``."""
    match = _WAIT.search(text[:_READ_CHARACTERS])
    if match is None:
        return None
    parts = _ONE_PART.findall(match[1])
    return round(sum(float(number) * _UNITS_MS["ms" if unit == "milli" else unit] for number, unit in _lower(parts)))


def _lower(parts: Iterable[tuple[str, str]]) -> Iterable[tuple[str, str]]:
    return ((number, unit.lower()) for number, unit in parts)


def _up(seconds: float) -> int:
    try:
        return int(-(-seconds // 1))
    except (OverflowError, ValueError):  # infinite, or not a number
        return 0


def _is_ahead(moment: int, said: int) -> bool:
    if not said:
        return moment >= _EARLIEST_EPOCH and moment < 2 * _EARLIEST_EPOCH
    return said < moment <= said + _LONGEST_SECONDS


def _epoch(text: str, _ended: int, _zone: tzinfo | None) -> int | None:
    match = _EPOCH.search(text)
    if match is None:
        return None
    moment = int(match[1])
    return moment if moment < 10**11 else -(-moment // 1000)  # of seconds, or of milliseconds


def _duration(text: str, said: int, _zone: tzinfo | None) -> int | None:
    wait = retry_after_ms(text)
    return None if wait is None or not said else said - (-wait // 1000)


def _clock(text: str, said: int, zone: tzinfo | None) -> int | None:
    """Return the first moment after ``said`` at which a clock shows the time that ``text`` names.

    The last output may be some seconds younger than the message, and not a whole day: a time that is
    just over is returned.
    """
    match = _CLOCK.search(text)
    if match is None or not said or not (match["minute"] or match["half"] or match["zone"]):
        return None
    from zoneinfo import ZoneInfo

    try:
        if match["utc"]:
            zone = UTC
        elif match["zone"]:
            zone = ZoneInfo(match["zone"])
        now = datetime.fromtimestamp(said, zone)
        hour = int(match["hour"])
        if match["half"]:
            if not 1 <= hour <= 12:
                return None
            hour = hour % 12 + 12 * (match["half"].lower() == "p")
        clock = now.replace(tzinfo=None, hour=hour, minute=int(match["minute"] or 0), second=0, microsecond=0)
        if match["month"]:
            return _on_date(match, clock, now.replace(tzinfo=None), zone)
        if match["weekday"]:
            clock += timedelta(days=(_WEEKDAYS.index(match["weekday"].lower()) - clock.weekday()) % 7)
        step = timedelta(days=7 if match["weekday"] else 1)  # of the calendar: the same clock time
        moment = _moment(clock, zone)
        return moment if moment > said - _JUST_OVER_SECONDS else _moment(clock + step, zone)
    except (LookupError, ValueError, OverflowError, OSError):  # no such zone, no such day
        return None


def _on_date(match: re.Match[str], clock: datetime, now: datetime, zone: tzinfo | None) -> int:
    month, day = _MONTHS.index(match["month"].lower()) + 1, int(match["day"])
    if match["year"]:
        return _moment(clock.replace(year=int(match["year"]), month=month, day=day), zone)
    moment = clock.replace(month=month, day=day)
    return _moment(moment.replace(year=moment.year + 1) if moment < now - timedelta(days=1) else moment, zone)


def _moment(clock: datetime, zone: tzinfo | None) -> int:
    """Return when a clock in ``zone`` shows ``clock``: the later time if it does so twice."""
    shown = (clock.replace(fold=fold) for fold in (0, 1))
    return int(max((each.replace(tzinfo=zone) if zone else each).timestamp() for each in shown))
