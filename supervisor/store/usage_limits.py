"""How a group waits out a usage limit that one of its jobs has met.

The end of that job says when the limit ends. The group is paused until a minute after that, and then starts its jobs
over another minute, not all at once. If nothing says when the limit ends, the group is paused for 5 minutes and then
starts one job at a time, as a probe: the first that succeeds ends that, and each that meets the limit again doubles the
pause, up to an hour. All that counts from when the job said so. If its end is recorded only after the pause would be
over, since all processes that watched it were killed, there is no pause, but the same careful restart.

The output of a running job may say that a limit is nearly used up. Then the group starts one job at a time, until the
output of a job says otherwise, or the limit ends.

A pause counts by the boot clock of the boot in which it began, so a clock that is set does not change it. After a
reboot it counts by the wall clock; a clock that shows a time more than a day before its begin has it ended.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from supervisor.store.tickets import Moment

__all__ = [
    "CAUSE",
    "LimitState",
    "describe",
    "error_of",
    "is_limited",
    "is_over",
    "known_end_ns",
    "state_after",
    "state_by_utilization",
]

CAUSE: Final = "rate_limited"
"""Of the pause, and the code of an error by a usage limit."""

_MINUTE_NS: Final = 60 * 10**9
_MARGIN_NS: Final = _MINUTE_NS
"""After the time at which the limit is said to end: that is often shown without its seconds."""
_SPREAD_NS: Final = _MINUTE_NS
_SPREAD_OVER: Final = 60
"""How many jobs of a group without a limit of its own start in the first minute."""
_FIRST_MINUTES: Final = 5
_MAX_MINUTES: Final = 60
_HOUR_NS: Final = 60 * _MINUTE_NS
_DAY_NS: Final = 24 * _HOUR_NS
_CAREFUL_FROM: Final = 0.9
"""The utilization from which a group starts one job at a time."""
_MAX_CAREFUL_NS: Final = 32 * _DAY_NS


class LimitState(NamedTuple):
    """What a group knows about the limit that its jobs have met.

    Attributes:
        until_ns: the end of the pause, by the wall clock.
        since_ns: its begin, by the wall clock.
        boot: the boot in which it began.
        until_boot_ns: its end, by the clock of this boot.
        round: how many pauses in a row had no known end; 0 if the end is known.
        careful_until_ns: until when it starts one job at a time, by the wall clock.
        careful_for: the name of the limit that is nearly used up.
    """

    until_ns: int
    since_ns: int
    boot: str
    until_boot_ns: int
    round: int = 0
    careful_until_ns: int = 0
    careful_for: str = ""

    @classmethod
    def of(cls, held: Mapping[str, Any]) -> LimitState | None:
        """Return what a file holds, ``None`` if it is not a state."""
        values: list[object] = [held.get(name, cls._field_defaults.get(name)) for name in cls._fields]
        match values:
            case [int(until_ns), int(since_ns), str(boot), int(until_boot_ns), int(number), int(careful_ns), str(name)]:
                return cls(until_ns, since_ns, boot, until_boot_ns, number, careful_ns, name)
            case _:
                return None

    @classmethod
    def decode(cls, text: str | None) -> LimitState | None:
        """Return what a row of the index holds, ``None`` for no state."""
        return None if text is None else cls.of(json.loads(text))

    def encode(self) -> str:
        """Return the text of the row."""
        return json.dumps(self._asdict())

    def left_ns(self, now: Moment) -> int:
        """Return after which time the pause ends; 0 or less for a pause that has ended, so long ago."""
        if now.boot == self.boot:
            return self.until_boot_ns - now.boot_ns
        if now.wall_ns < self.since_ns - _DAY_NS:
            return 0
        return self.until_ns - now.wall_ns

    def slots(self, most: int | None, now: Moment) -> int | None:
        """Return how much weight may run after the pause, in a group with the limit ``most``; ``None`` for any.

        One job may run whatever its weight is, or no heavy job could.
        """
        if self.round or self.careful_until_ns > now.wall_ns:
            return 1
        ended_ns = -self.left_ns(now)
        return None if ended_ns >= _SPREAD_NS else 1 + max(0, ended_ns) * (most or _SPREAD_OVER) // _SPREAD_NS

    def step_ns(self, most: int | None, now: Moment) -> int | None:
        """Return after which time ``slots`` returns more; ``None`` for not by time alone."""
        if self.round:
            return None
        if (careful_ns := self.careful_until_ns - now.wall_ns) > 0:
            return careful_ns
        slots = self.slots(most, now)
        if slots is None:
            return None
        return max(1, -(-slots * _SPREAD_NS // (most or _SPREAD_OVER)) + self.left_ns(now))


def is_limited(error: Mapping[str, Any] | None) -> bool:
    """Whether a job ended by a usage limit; ``error`` is its error, as in its row."""
    return error is not None and error.get("code") == CAUSE


def state_after(
    error: Mapping[str, Any], started_ns: int, ended_ns: int, before: LimitState | None, now: Moment
) -> LimitState | None:
    """Return the state of a group after one of its jobs has met a limit; ``None`` if that changes nothing.

    Args:
        error: of the job, as in its row.
        started_ns: when it was launched.
        ended_ns: when it ended.
        before: the state of the group.
        now: the time by both clocks.
    """
    details: Mapping[str, Any] = error.get("details") or {}
    until_ns, number = known_end_ns(details), 0
    in_force = before is not None and before.left_ns(now) > 0
    if until_ns is None:
        if in_force:
            return None
        is_probe = before is not None and started_ns >= before.until_ns
        number = (before.round if before is not None else 0) + 1 if is_probe else 1
        minutes = min(_MAX_MINUTES, _FIRST_MINUTES * 2 ** min(number - 1, 10))
        guess_ns = _moment_ns(details) or ended_ns + _FIRST_MINUTES * _MINUTE_NS
        until_ns = guess_ns + (minutes - _FIRST_MINUTES) * _MINUTE_NS
    elif before is not None and in_force and not before.round and until_ns <= before.until_ns:
        return None
    if until_ns <= now.wall_ns:
        if before is not None and (before.round or before.left_ns(now) > -_SPREAD_NS):
            return None  # what it knows is younger, or its restart goes on
        until_ns = now.wall_ns
    state = _state(until_ns, number, now)
    if before is not None:  # another limit may nearly be used up
        state = state._replace(careful_until_ns=before.careful_until_ns, careful_for=before.careful_for)
    return state


def _state(until_ns: int, number: int, now: Moment) -> LimitState:
    return LimitState(until_ns, now.wall_ns, now.boot, now.boot_ns + until_ns - now.wall_ns, number)


def error_of(limit: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the error of a run whose output says that a limit has rejected it; ``None`` for other news of a limit."""
    if limit.get("status") != "rejected":
        return None
    details: dict[str, Any] = {"limit": limit.get("name")}
    try:
        moment = datetime.fromtimestamp(-(-limit["resets_at"] // 1), UTC)
        details |= {"resets_at": moment.isoformat(), "resets_at_source": "field"}
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        pass
    return {"code": CAUSE, "details": details}


def state_by_utilization(limit: Mapping[str, Any], before: LimitState | None, now: Moment) -> LimitState | None:
    """Return the state of a group after news of a limit that rejects nothing; ``None`` if that changes nothing.

    Args:
        limit: the news, see ``supervisor.interpret.progress.Progress``.
        before: the state of the group.
        now: the time by both clocks.
    """
    utilization, name = limit.get("utilization"), str(limit.get("name") or "")
    if not isinstance(utilization, float | int):
        return None
    long_ago = _state(now.wall_ns, 0, now)._replace(until_boot_ns=now.boot_ns - _SPREAD_NS)
    state = before or long_ago
    if utilization < _CAREFUL_FROM:
        is_over = state.careful_until_ns > now.wall_ns and state.careful_for == name
        return state._replace(careful_until_ns=0, careful_for="") if is_over else None
    resets_at = limit.get("resets_at")
    ahead_ns = int(resets_at * 10**9) - now.wall_ns if isinstance(resets_at, float | int) else 0
    until_ns = now.wall_ns + (min(ahead_ns, _MAX_CAREFUL_NS) if ahead_ns > 0 else _HOUR_NS)
    if until_ns <= state.careful_until_ns:
        return None
    return state._replace(careful_until_ns=until_ns, careful_for=name)


def describe(error: Mapping[str, Any], state: LimitState, job_id: str) -> str:
    """Return the text of a pause, for people."""
    details: Mapping[str, Any] = error.get("details") or {}
    known = "its end is not known" if state.round else f"its end is {details['resets_at']}"
    named = f" {details['limit']}" if details.get("limit") else ""
    return f"job {job_id} has met the usage limit{named} of its account; {known}"


def is_over(error: Mapping[str, Any], now: Moment) -> bool:
    """Whether the pause that an error names has ended."""
    until_ns = known_end_ns(error.get("details") or {})
    return until_ns is not None and until_ns <= now.wall_ns


def known_end_ns(details: Mapping[str, Any]) -> int | None:
    """Return the end of the pause that the details of an error name, by the wall clock; ``None`` for none."""
    if details.get("resets_at_source") not in {"field", "text"}:
        return None
    moment_ns = _moment_ns(details)
    return None if moment_ns is None else moment_ns + _MARGIN_NS


def _moment_ns(details: Mapping[str, Any]) -> int | None:
    try:
        return int(datetime.fromisoformat(details["resets_at"]).timestamp()) * 10**9
    except (ValueError, TypeError, KeyError, OverflowError):
        return None
