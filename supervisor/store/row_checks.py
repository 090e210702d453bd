"""What no version writes into a row of the index: in the request of the job, and in its outcome."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import NoneType
from typing import Any, Final

from supervisor.retry import MAX_ATTEMPTS
from supervisor.states import Reason, State, is_word
from supervisor.store.changes import MEMBER, is_valid
from supervisor.worktrees.record import is_request

__all__ = ["KNOWN_STATES", "LAST_NS", "MAYBE_NUMBER", "check_request", "wrong_in_outcome"]

LAST_NS: Final = 2**63 - 1
"""The last moment that SQLite can hold, in the year 2262."""
KNOWN_STATES: Final = frozenset(state.value for state in State)
"""The states of this version. A newer version may have others."""
MAYBE_NUMBER: Final = frozenset({int, NoneType})
_REASONS: Final = frozenset(reason.value for reason in Reason)


def _is_time(held: object) -> bool:
    return type(held) is int and 0 <= held <= LAST_NS


def _is_length(held: object) -> bool:
    return type(held) in {int, float} and 0 <= held < math.inf  # type: ignore[operator]  # they are numbers


def _is_key(held: object) -> bool:
    """Whether it is a text that SQLite can store: one without half surrogate pairs."""
    if type(held) is not str:
        return False
    if held.isascii():
        return True
    try:
        held.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_request(record: Mapping[str, Any]) -> None:
    """Raise ``KeyError`` or ``ValueError`` for a ``job.json`` that no version writes."""
    argv, labels, key, deadline = (
        record["argv"],
        record["labels"],
        record["idempotency_key"],
        record["deadline_seconds"],
    )
    what = None
    if not all(map(_is_key, (record["job_id"], record["kind"], record["digest"], record["owner"]))):
        what = "job_id, kind, digest or owner"
    elif type(record["workspace"]) is not str:
        what = "workspace"
    elif not _is_time(record["created_ns"]):
        what = "created_ns"
    elif not (key is None or _is_key(key)):
        what = "idempotency_key"
    elif not _is_length(record["ttl_seconds"]):
        what = "ttl_seconds"
    elif not (deadline is None or _is_length(deadline)):
        what = "deadline_seconds"
    elif not (isinstance(argv, list | tuple) and argv and set(map(type, argv)) == {str}):  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        what = "argv"
    elif not (isinstance(labels, Mapping) and {*map(type, labels), *map(type, labels.values())} <= {str}):  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType, reportUnknownMemberType]
        what = "labels"
    elif not isinstance(record.get("limits", {}), Mapping):
        what = "limits"
    elif type(record.get("session_id", "")) is not str:
        what = "session_id"
    elif "worktree" in record and not is_request(record["worktree"]):
        what = "worktree"
    elif "priority" in record:
        what = _wrong_ticket(record) or _wrong_series(record)
    if what is not None:
        raise ValueError(what)


def _wrong_ticket(record: Mapping[str, Any]) -> str | None:
    """Return what no ``job.json`` holds about the admission of a job."""
    groups: Any = record.get("groups", ())
    after: Any = record.get("after", ())
    if not (type(groups) in {list, tuple} and set(map(type, groups)) <= {str}):
        return "groups"
    if not (type(after) in {list, tuple} and all(map(_is_dependency, after))):
        return "after"
    if not (type(record["priority"]) is type(record["weight"]) is int and record["weight"] > 0):
        return "priority or weight"
    if type(record.get("schedule", "")) is not str:
        return "schedule"
    times = ("not_before_ns", "delay_ns", "start_within_ns", "created_boot_ns", "instant_ns")
    if not (type(record.get("hold", False)) is bool and all(_is_time(record.get(name, 0)) for name in times)):
        return "hold or a time"
    changes: Any = record.get(MEMBER, {})
    return None if isinstance(changes, dict) and is_valid(changes) else MEMBER  # pyright: ignore[reportUnknownArgumentType]


def _wrong_series(record: Mapping[str, Any]) -> str | None:
    """Return what no ``job.json`` holds about the attempts of a job."""
    if "retry" not in record:
        return "retry" if "attempt" in record else None
    policy: Any = record["retry"]
    if not (isinstance(policy, Mapping) and type(policy.get("maximum_attempts")) is int):  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]
        return "retry"
    numbers = record["attempt"], record.get("limited", 0)
    if set(map(type, numbers)) != {int} or not 0 <= numbers[1] < numbers[0] <= 2 * MAX_ATTEMPTS:
        return "attempt"
    names = record["series_id"], record.get("retry_of", "")
    return None if set(map(type, names)) == {str} else "series_id or retry_of"


def _is_dependency(held: Any) -> bool:
    try:
        return type(held["job_id"]) is type(held["when"]) is str
    except TypeError:  # it is no mapping
        return False


def wrong_in_outcome(ended: Mapping[str, Any], state: str) -> str | None:
    """Return the name of an invalid field of an outcome. Unknown states and reasons are those of a newer version."""
    reason = ended["reason"]
    known = reason in _REASONS and state in KNOWN_STATES
    if not is_word(reason) or (known and (reason == Reason.EXITED.value) is not (state == State.DONE.value)):
        return "reason"
    if not {type(ended["exit_code"]), type(ended["signal"]), type(ended["max_rss_bytes"])} <= MAYBE_NUMBER:
        return "exit_code, signal or max_rss_bytes"
    if not type(ended["stdout_bytes"]) is type(ended["stderr_bytes"]) is int:
        return "stdout_bytes"
    if not all(ended[name] is None or _is_length(ended[name]) for name in ("cost_usd", "cpu_seconds")):
        return "cost_usd or cpu_seconds"
    if type(ended.get("retried_by")) not in {str, NoneType}:
        return "retried_by"
    if type(ended.get("unsynced")) not in {str, NoneType}:
        return "unsynced"
    return None if type(ended["detail"]) in {str, NoneType} else "detail"
