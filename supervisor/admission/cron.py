"""Cron expressions in a time zone: the instants at which a schedule is due.

``cronsim`` evaluates an expression in the local time of the zone, without a zone. This module maps the local times to
instants: a local time that occurs twice is its first occurrence, and one that does not exist is the instant at which
the clocks are set forward. So the instants increase with the local times, whatever the zone does.

Instants are whole seconds, in nanoseconds since the epoch, as all times of the index.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from supervisor.errors import InvalidArguments

__all__ = ["Cron", "local_zone"]

_MACROS: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_MAX_CHARACTERS: Final = 1000
_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001  # local times have no zone here, as cronsim takes them
_LAST: Final = datetime(2250, 1, 1)  # noqa: DTZ001  # SQLite holds no later one in nanoseconds
_FIRST_USED: Final = datetime(2026, 1, 1)  # noqa: DTZ001
_SECOND: Final = timedelta(seconds=1)
_ACCEPTS: Final = (
    "five fields (minute, hour, day of month, month, day of week), or six with seconds first, or @hourly, @daily, "
    "@weekly, @monthly, @yearly"
)


class Cron:
    """A cron expression in a time zone.

    Args:
        expression: five fields, or six with seconds first; or a name such as ``@daily``.
        zone: a name of the time zone database, such as ``Europe/Berlin``.

    Raises:
        InvalidArguments: it cannot be understood, or never fires; there is no such zone here.
    """

    def __init__(self, expression: str, zone: str) -> None:
        """Parse both."""
        self._zone = _zone(zone)
        self._fields = _checked(expression)

    def following(self, since_ns: int) -> int | None:
        """Return the first instant after a time; ``None`` if there is none in the next 50 years."""
        return self._first(since_ns, reverse=False)

    def preceding(self, until_ns: int) -> int | None:
        """Return the last instant that is not after a time; ``None`` if there is none in the 50 years before."""
        return self._first(until_ns, reverse=True)

    def _first(self, at_ns: int, *, reverse: bool) -> int | None:
        # The first local time that is tried is the one before the clocks show it again, or after they have skipped it.
        for local in self._locals(at_ns, reverse=reverse):
            instant = self._instant(local)
            if instant <= at_ns if reverse else instant > at_ns:
                return instant
        return None

    def _locals(self, at_ns: int, *, reverse: bool) -> Iterator[datetime]:
        """Yield the local times of the expression from the one that clocks show at a time, in one direction."""
        shown = datetime.fromtimestamp(at_ns // 10**9, self._zone)
        begin = shown.replace(tzinfo=None, fold=0)
        if shown.fold:  # the instants of these local times are those of the first occurrence
            begin = self._end_of_fold(shown)
        if begin > _LAST or begin < _EPOCH:
            return
        for local in CronSim(self._fields, begin + _SECOND if reverse else begin, reverse=reverse):
            if local > _LAST or local < _EPOCH:
                return
            yield local

    def _end_of_fold(self, shown: datetime) -> datetime:
        """Return the last local time that occurs twice, for one in its second occurrence."""
        local = shown.replace(tzinfo=None, fold=0)
        low, high = 0, 24 * 3600  # no zone has set its clocks back by more than a day
        while high - low > 1:
            middle = (low + high) // 2
            if self._is_twice(local + middle * _SECOND):
                low = middle
            else:
                high = middle
        return local + low * _SECOND

    def _is_twice(self, local: datetime) -> bool:
        offsets = [local.replace(tzinfo=self._zone, fold=fold).utcoffset() for fold in (0, 1)]
        return (offsets[0] or timedelta()) > (offsets[1] or timedelta())

    def _instant(self, local: datetime) -> int:
        """Return when the clocks show a local time first, or skip it."""
        first, second = (local.replace(tzinfo=self._zone, fold=fold) for fold in (0, 1))
        before, after = first.utcoffset() or timedelta(), second.utcoffset() or timedelta()
        if before >= after:  # it occurs once, or twice
            return _nanoseconds(local - before)
        # It is skipped: ``before`` counts until the clocks are set forward, and ``after`` from then on.
        low, high = local - after, local - before
        while high - low > _SECOND:
            middle = low + ((high - low) // 2 // _SECOND) * _SECOND
            if (middle.replace(tzinfo=UTC).astimezone(self._zone).utcoffset() or timedelta()) == before:
                low = middle
            else:
                high = middle
        return _nanoseconds(high)


def _nanoseconds(moment: datetime) -> int:
    return ((moment - _EPOCH) // _SECOND) * 10**9


def _checked(expression: str) -> str:
    """Return the fields of an expression that fires."""
    fields = " ".join(_MACROS.get(expression.strip().lower(), expression).split())
    if len(expression) > _MAX_CHARACTERS:
        message = f"cron is {expression!r:.80}; it must have at most {_MAX_CHARACTERS} characters"
        raise InvalidArguments(message)
    try:
        if next(CronSim(fields, _FIRST_USED), None) is not None:
            return fields
    except (CronSimError, ValueError, AssertionError) as error:
        if "day-of-month" not in str(error) or not _would_fire_in_other_months(fields):
            message = f"cron is {expression!r:.80}: {str(error).lower() or 'not understood'}"
            raise InvalidArguments(message, repair=f"Give {_ACCEPTS}.") from error
    message = f"cron is {expression!r:.80}: it never fires, as none of its months has such a day"
    raise InvalidArguments(message, repair="Correct the day of the month, the month or the day of the week.")


def _would_fire_in_other_months(fields: str) -> bool:
    words = fields.split()
    words[-2:-1] = ["*"]
    try:
        CronSim(" ".join(words), _FIRST_USED)
    except (CronSimError, ValueError, AssertionError):
        return False
    return True


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError) as error:  # OSError for a directory of the database
        message = f"tz is {name!r:.80}, which is no time zone that this machine knows"
        repair = "Give a name such as Europe/Berlin or UTC. Where no zone is known, install the package tzdata."
        raise InvalidArguments(message, repair=repair) from error


def local_zone() -> str:
    """Return the name of the time zone of this machine, ``UTC`` where it is not known."""
    names = [os.environ.get("TZ", "").removeprefix(":")]
    try:
        names.append(os.path.realpath("/etc/localtime").partition("/zoneinfo/")[2])
        with open("/etc/timezone", encoding="ascii", errors="replace") as file:
            names.append(file.readline().strip())
    except OSError:
        pass
    for name in filter(None, names):
        try:
            _zone(name)
        except InvalidArguments:
            continue
        return name
    return "UTC"
