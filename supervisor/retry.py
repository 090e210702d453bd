"""When a job is tried again, and how long after its end. Pure: every process that records an end decides the same.

An attempt is a job of its own, and a series is the jobs of one request. Their ids are derived from the first one's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs

from supervisor.errors import InvalidArguments
from supervisor.states import Reason, State

__all__ = [
    "MAX_ATTEMPTS",
    "MAX_INTERVAL_SECONDS",
    "MAX_WAITS",
    "Retry",
    "attempt_id",
    "counts_apart",
    "delay_of",
    "is_rate_limited",
    "never_ran",
]

MAX_ATTEMPTS: Final = 1000
MAX_WAITS: Final = 1000
"""How often a job waits out a usage limit at most, each time for more than a minute, or is never launched."""
MAX_INTERVAL_SECONDS: Final = 90 * 86400
_MAX_COEFFICIENT: Final = 1000
_MAX_NAMES: Final = 100
_USUAL_INTERVALS: Final = 100
"""``maximum_interval`` in initial intervals, where it is not given."""
_CODE: Final = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII)
_LOST: Final = "job_lost"
_RATE_LIMITED: Final = "rate_limited"


def _names(given: Iterable[str | int]) -> tuple[str, ...]:
    if isinstance(given, str | int):
        given = (given,)
    return tuple(str(each) for each in given)


def _check(condition: object, message: str) -> None:
    if not condition:
        raise InvalidArguments(message)


def _is_name(text: str) -> bool:
    if text.isascii() and text.isdecimal():
        return text[0] != "0" and int(text[:4]) <= 255
    return _CODE.fullmatch(text) is not None


def _is_number(held: object, low: float, high: float) -> bool:
    return type(held) in {int, float} and low <= held <= high  # type: ignore[operator]  # they are numbers


@attrs.frozen(slots=True)
class Retry:
    """How often a job is tried, after which ends, and how long after each.

    A job is tried again if its error is ``retryable``, or if its error code or exit code is named in ``retry_on``. A
    cancelled job never is. The names are those of Temporal's RetryPolicy. Times are in seconds.

    Attributes:
        maximum_attempts: how often at most, the first time included: 1 to 1000. Attempts that end with the error code
            ``rate_limited`` are counted by themselves: up to the same number, or up to 1000 if a group of the job
            waits out such limits. With them count attempts whose command was never launched, since the processes that
            were to do so were killed: those are always followed by another one.
        initial_interval: from the end of the first attempt to the launch of the second, 0 to 90 days.
        backoff_coefficient: each interval is the one before times this, 1 to 1000.
        maximum_interval: no interval is longer, but for the ``retry_after_ms`` of an error; ``None`` is 100 times the
            first.
        jitter: 0 to 1: an interval is shortened by up to this part of it, as the id of the attempt says.
        retry_on: error codes (``"job_failed"``, ``"job_timeout"``, ...) and exit codes (1 to 255) that are tried again.
        never_retry_on: error codes and exit codes that are not, whatever else is said.
        retry_lost: whether a job that is ``lost`` is tried again: it may have run, to its end as well.

    Raises:
        InvalidArguments: a value is out of range.
    """

    maximum_attempts: int = 3
    initial_interval: float = 1.0
    backoff_coefficient: float = 2.0
    maximum_interval: float | None = None
    jitter: float = 0.2
    retry_on: tuple[str, ...] = attrs.field(default=(), converter=_names)
    never_retry_on: tuple[str, ...] = attrs.field(default=(), converter=_names)
    retry_lost: bool = False

    def __attrs_post_init__(self) -> None:
        """Check the values."""
        most = self.maximum_attempts
        _check(
            type(most) is int and 1 <= most <= MAX_ATTEMPTS,
            f"maximum_attempts is {most!r:.80}; it must be from 1 to {MAX_ATTEMPTS}",
        )
        limits: tuple[tuple[str, float, float], ...] = (
            ("initial_interval", 0, MAX_INTERVAL_SECONDS),
            ("backoff_coefficient", 1, _MAX_COEFFICIENT),
            ("maximum_interval", 0, MAX_INTERVAL_SECONDS),
            ("jitter", 0, 1),
        )
        for name, low, high in limits:
            value = getattr(self, name)
            fits = (value is None and name == "maximum_interval") or _is_number(value, low, high)
            _check(fits, f"{name} is {value!r:.80}; it must be a number from {low} to {high}")
        for name in ("retry_on", "never_retry_on"):
            named = getattr(self, name)
            _check(len(named) <= _MAX_NAMES, f"{name} has more than {_MAX_NAMES} members")
            for each in named:
                _check(
                    _is_name(each), f"{name} has {each!r:.80}; it must be an error code, or an exit code from 1 to 255"
                )
        _check(type(self.retry_lost) is bool, f"retry_lost is {self.retry_lost!r:.80}; it must be true or false")
        _check(
            _LOST not in self.retry_on, f"retry_on has {_LOST!r}: the job may have run; say retry_lost if it may again"
        )

    def to_record(self) -> dict[str, Any]:
        """Return the member ``retry`` of ``job.json``."""
        return attrs.asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Retry:
        """Return the policy in a ``job.json``.

        Raises:
            InvalidArguments, TypeError: no version writes such a record.
        """
        return cls(**record)

    @classmethod
    def is_known(cls, record: object) -> bool:
        """Whether this version understands the member ``retry`` of a ``job.json``."""
        try:
            return bool(cls.from_record(record))  # type: ignore[arg-type]  # that is the question
        except (InvalidArguments, TypeError):
            return False

    def interval(self, number: int) -> float:
        """Return the seconds after the failure of this number, from 1, without jitter."""
        longest = self.maximum_interval
        if longest is None:
            longest = min(_USUAL_INTERVALS * self.initial_interval, MAX_INTERVAL_SECONDS)
        try:
            return min(self.initial_interval * float(self.backoff_coefficient) ** (number - 1), longest)
        except OverflowError:
            return longest


def attempt_id(series_id: str, attempt: int) -> str:
    """Return the job id of an attempt; the first one's is the id of the series."""
    if attempt == 1:
        return series_id
    from hashlib import sha256  # an import of 10 ms, and most commands need no id

    return sha256(f"{series_id}.{attempt}".encode("ascii")).hexdigest()[:32]


def is_rate_limited(ended: Mapping[str, Any]) -> bool:
    """Whether an attempt has met a usage limit; ``ended`` is its outcome, as in its row."""
    return bool(ended["error"]) and ended["error"].get("code") == _RATE_LIMITED


def never_ran(ended: Mapping[str, Any]) -> bool:
    """Whether it is proved that the command of an attempt was never launched; ``ended`` is as for the others."""
    return ended["reason"] == Reason.LAUNCH_FAILED.value and ended.get("never_launched") is True


def counts_apart(ended: Mapping[str, Any]) -> bool:
    """Whether the end of an attempt is no failure of its command; ``ended`` is as for the others."""
    return is_rate_limited(ended) or never_ran(ended)


def delay_of(
    policy: Retry,
    state: str,
    ended: Mapping[str, Any],
    *,
    attempt: int,
    limited: int,
    next_id: str,
    waits_out: bool = False,
) -> float | None:
    """Return how many seconds after its end an attempt is followed by another one; ``None`` if it is the last.

    An attempt that has met a usage limit in a group that waits it out has no delay: the pause of the group has it wait.
    One that was never launched is repeated, whatever the policy says of failures.

    Args:
        policy: of the series.
        state: in which the attempt has ended.
        ended: its outcome, as in its row.
        attempt: its number, from 1.
        limited: how many attempts before it have met a usage limit, or were never launched.
        next_id: the job id of the next attempt, which the jitter is derived from.
        waits_out: whether a group of the job waits out usage limits.
    """
    error: Mapping[str, Any] = ended["error"] or {}
    waits = waits_out and is_rate_limited(ended)
    if state in {State.DONE.value, State.CANCELLED.value} or not _is_wanted(policy, ended, error, waits=waits):
        return None
    number = limited + 1 if counts_apart(ended) else attempt - limited
    if waits:
        return 0.0 if number <= MAX_WAITS else None
    if number >= (MAX_WAITS if never_ran(ended) else policy.maximum_attempts):
        return None
    interval = policy.interval(number)
    spread = policy.jitter * int(next_id[16:], 16) / 2**64 * interval
    wait = (error.get("retry_after_ms") or 0) / 1000
    delay = interval - spread
    if wait > delay:  # and not all jobs at the moment at which a limit is reset
        delay = wait + spread
    return min(delay, MAX_INTERVAL_SECONDS) if math.isfinite(delay) else MAX_INTERVAL_SECONDS


def _is_wanted(policy: Retry, ended: Mapping[str, Any], error: Mapping[str, Any], *, waits: bool) -> bool:
    """Whether an attempt that ended like this is to be followed by another one."""
    names = {error.get("code"), None if ended["exit_code"] is None else str(ended["exit_code"])}
    if not names.isdisjoint(policy.never_retry_on):
        return False
    if ended["reason"] == Reason.LOST.value:  # it may have run to its end
        return policy.retry_lost
    return waits or never_ran(ended) or bool(error.get("retryable")) or not names.isdisjoint(policy.retry_on)
