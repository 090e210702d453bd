"""The windows of budgets: an hour, a day, a week or all time, by the clock of a time zone. Pure, but for the zones.

A day begins at midnight, a week on Monday. A day with a change of the clock has 23 or 25 hours, and begins at the
change if midnight does not exist.
"""

from __future__ import annotations

import contextlib
import functools
import os
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final

__all__ = ["WINDOWS", "Span", "local_zone", "span_of", "zone_of"]

WINDOWS: Final = ("hour", "day", "week", "total")

Span = tuple[int, int | None]
"""When a window began and when it ends, in nanoseconds of the wall clock; ``None`` for never."""

_HOUR_NS: Final = 3600 * 10**9
_SECOND_NS: Final = 10**9
_EVER: Final[Span] = (-(2**62), None)
_LAST_NS: Final = 2**63 - 1 - 8 * 86400 * _SECOND_NS
_LOCAL_TIME: Final = "/etc/localtime"
_ZONES: Final = "zoneinfo/"
_spans: Final[dict[tuple[str, str], Span]] = {}


@functools.lru_cache(64)
def zone_of(name: str) -> tzinfo:
    """Return a time zone by its name in the IANA database; ``UTC`` is known without that.

    Raises:
        ValueError: there is no such zone on this machine.
    """
    if name == "UTC":
        return UTC
    from zoneinfo import ZoneInfo  # 5 ms, for groups with budgets only

    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:  # ZoneInfoNotFoundError is a KeyError
        message = f"there is no time zone {name!r:.80} on this machine"
        raise ValueError(message) from error


def local_zone() -> str:
    """Return the name of the time zone of this process, ``UTC`` if it has none."""
    names = [os.environ.get("TZ", "").removeprefix(":")]
    with contextlib.suppress(OSError):
        names.append(os.path.realpath(_LOCAL_TIME))
    for name in names:
        with contextlib.suppress(ValueError):
            found = name.rpartition(_ZONES)[2]
            if found:
                zone_of(found)
                return found
    return "UTC"


def span_of(window: str, zone: str, now_ns: int) -> Span:
    """Return the window in which a moment of the wall clock lies.

    Raises:
        ValueError: there is no such zone on this machine.
    """
    if window == "total":
        return _EVER
    now_ns = min(max(now_ns, 0), _LAST_NS)
    known = _spans.get((window, zone))
    if known is not None and known[1] is not None and known[0] <= now_ns < known[1]:
        return known
    span = _spans[window, zone] = _found(window, zone_of(zone), now_ns)
    return span


def _found(window: str, zone: tzinfo, now_ns: int) -> Span:
    now = datetime.fromtimestamp(now_ns // _SECOND_NS, UTC).astimezone(zone)
    if window == "hour":
        offset_ns = int((now.utcoffset() or timedelta()).total_seconds()) * _SECOND_NS
        begin_ns = (now_ns + offset_ns) // _HOUR_NS * _HOUR_NS - offset_ns
        return begin_ns, begin_ns + _HOUR_NS
    first = now.date() - timedelta(days=now.weekday() if window == "week" else 0)
    days = 7 if window == "week" else 1
    return _midnight(first.toordinal(), zone), _midnight(first.toordinal() + days, zone)


def _midnight(ordinal: int, zone: tzinfo) -> int:
    """Return when a day begins: the earlier of two midnights, or the change of the clock in place of a missing one."""
    return int(datetime.fromordinal(ordinal).replace(tzinfo=zone).timestamp()) * _SECOND_NS
