"""Ends of jobs that waited and are not launched: recorded by any process, and explained.

The queue decides that such a job ends, from the rows of the index. The request to stop it holds the cause, so that each
process that observes the end comes to the same words about it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from supervisor.states import Reason
from supervisor.store.queue.queries import End

__all__ = ["detail_of", "details_of", "rule_out_end"]

_BY: Final = "the queue"
_HAD_TO: Final[Mapping[object, str]] = {
    "ok": "be done",
    "any": "end",
    "failed": "end otherwise than done",
    "start": "be launched",
}
_FOR: Final[Mapping[object, str]] = {
    "held": "on hold",
    "dependency": "for {}",
    "not_before": "for its time",
    "retry": "for its time",
    "paused": "while {} was paused",
    "rate_limited": "while {} waited out a usage limit",
    "budget": "for the budget of {}",
    "limit": "for room in {}",
}


def rule_out_end(directory: str, end: End) -> bool:
    """Rule that a waiting job is never launched, with the cause; return ``False`` when it was.

    The next observation of the job records its end.

    Raises:
        OSError: that cannot be found out, or recorded, now.
    """
    from supervisor.engines.local.stopping import rule_out  # a tenth of what a command loads, and few need it

    return rule_out(directory, _BY, end.why, json.loads(end.cause))


def detail_of(reason: Reason, cause: Mapping[str, Any]) -> str | None:
    """Return a sentence about the cause; ``None`` for one that no version writes."""
    if reason is Reason.DEPENDENCY_FAILED and isinstance(job_id := cause.get("job_id"), str):
        wanted = f"and it had to {_HAD_TO.get(cause.get('when'), 'be something else')}"
        status = cause.get("status")
        if status is None:
            return f"job {job_id:.40} is not there any more, {wanted}"
        how = f" ({cause['reason']})" if isinstance(cause.get("reason"), str) and cause["reason"] != "exited" else ""
        return f"job {job_id:.40} ended {status}{how}, {wanted}"
    seconds = _seconds(cause, "waited_ns")
    if reason is Reason.START_EXPIRED and seconds is not None:
        given = cause.get("names")
        names = " and ".join(map(str, given)) if isinstance(given, list) and given else "the jobs before it"  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        why = _FOR.get(cause.get("queue_reason"), "").format(names)
        return f"it waited {seconds:.1f} seconds {why}".rstrip()
    if reason is Reason.BUDGET and isinstance(cause.get("group"), str):
        return f"group {cause['group']:.64} has spent more than its budget of {cause.get('budget')!s:.80} allows"
    if reason is Reason.CANCELLED and cause.get("on_reboot") == "fail":
        return (
            f"the machine was started anew, and group {cause.get('group')!s:.64} ends its waiting jobs then (on_reboot)"
        )
    return None


def details_of(reason: Reason, cause: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts of the cause for a program."""
    if not cause:
        return {}
    if reason is Reason.DEPENDENCY_FAILED:
        return {"dependency": {name: cause.get(name) for name in ("job_id", "when", "status", "reason")}}
    if reason is Reason.BUDGET:
        return {name: cause.get(name) for name in ("group", "budget")}
    if reason is Reason.START_EXPIRED:
        return {
            "waited_seconds": _seconds(cause, "waited_ns"),
            "start_within_seconds": _seconds(cause, "start_within_ns"),
            "queue_reason": cause.get("queue_reason"),
            "waited_for": cause.get("names") or [],
        }
    return {}


def _seconds(cause: Mapping[str, Any], name: str) -> float | None:
    held = cause.get(name)
    return max(0.0, held / 1e9) if type(held) is int else None
