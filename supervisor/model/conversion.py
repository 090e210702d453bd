"""The one converter of the values of the public functions, to JSON and back; ``supervisor.model`` has the names too.

Times are aware UTC ``datetime`` objects in the values and ISO 8601 strings on the wire.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from supervisor.errors import SupervisorError
from supervisor.metrics import Metrics
from supervisor.model.job import ErrorInfo, Job, JobPage
from supervisor.model.job_json import job_to_json, page_to_json, seconds_to_json, time_to_json
from supervisor.model.request import JobSpec
from supervisor.model.results import JobEvent, Result
from supervisor.states import Reason, State

if TYPE_CHECKING:
    import cattrs

    from supervisor.model.explanation import Explanation
    from supervisor.model.groups import GroupInfo
    from supervisor.model.schedules import ScheduleInfo
    from supervisor.model.spending import SpendReport

__all__ = ["converter", "error_to_json", "to_json"]


def _time_from_json(text: str, _: type[datetime]) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def _plain(member: State | Reason) -> str:
    return member.value


@cache
def converter() -> cattrs.Converter:
    """Return the converter, which is made once."""
    import cattrs  # import and generated functions are half the cost of this module to a command without JSON
    from cattrs.gen import make_dict_unstructure_fn, override

    made = cattrs.Converter(forbid_extra_keys=False)
    made.register_unstructure_hook(datetime, time_to_json)
    made.register_structure_hook(datetime, _time_from_json)
    made.register_unstructure_hook(State, _plain)  # else the JSON has members, not plain strings
    made.register_unstructure_hook(Reason, _plain)
    made.register_unstructure_hook(
        JobSpec,
        make_dict_unstructure_fn(JobSpec, made, stdin=override(omit=True), env=override(omit=True)),
    )
    made.register_unstructure_hook(
        Job,
        make_dict_unstructure_fn(
            Job,
            made,
            deadline_seconds=override(unstruct_hook=seconds_to_json),
            ttl_seconds=override(unstruct_hook=seconds_to_json),
        ),
    )
    return made


def to_json(
    obj: Job
    | Result
    | JobPage
    | JobEvent
    | GroupInfo
    | ScheduleInfo
    | Explanation
    | SpendReport
    | ErrorInfo
    | Metrics
    | SupervisorError,
) -> dict[str, Any]:
    """Return the JSON-ready shape of the public contract for ``obj``.

    A ``Job`` gives ``{"ok": true, "job_id": ..., ...}``; a ``Result`` its success or failure
    shape; a ``JobPage`` ``{"ok": true, "jobs": [...], "next_cursor": ...}``; a ``SupervisorError``
    ``{"ok": false, "error": {...}}``. The value of a ``Result`` is neither
    copied nor walked: it can be large and deep.
    """
    shape: dict[str, Any]
    match obj:
        case Job():
            shape = job_to_json(obj)
        case JobPage():
            shape = page_to_json(obj)
        case Result(error=None):
            shape = {"ok": True, "job_id": obj.job_id, "kind": obj.kind, "value": obj.value}
            if obj.encoding is not None:
                shape["encoding"] = obj.encoding
            shape |= _changes(obj)
            shape["job"] = to_json(obj.job)
        case Result():
            error = converter().unstructure(obj.error)
            shape = {"ok": False, "error": error, **_changes(obj), "job": to_json(obj.job)}
        case JobEvent():
            previous = None if obj.previous is None else obj.previous.value
            shape = {"job": to_json(obj.job), "previous": previous, "lagged": obj.lagged}
            shape |= {"previous_queue_reason": obj.previous_queue_reason, "previous_paused": obj.previous_paused}
        case SupervisorError():
            shape = error_to_json(obj)
        case ErrorInfo() | Metrics():
            shape = converter().unstructure(obj)
        case _:
            from supervisor.model.spending import (
                SpendReport,  # few answers have one, and attrs takes a while to make it
            )

            shape = obj.to_json() if isinstance(obj, SpendReport) else {"ok": True, **converter().unstructure(obj)}
    return shape


def _changes(result: Result) -> dict[str, Any]:
    return {} if result.changes is None else {"changes": dict(result.changes)}


def error_to_json(error: SupervisorError, job: Job | None = None) -> dict[str, Any]:
    """Return the failure shape of the contract."""
    info = ErrorInfo(
        code=error.code,
        message=error.message,
        repair=error.repair,
        retryable=error.retryable,
        retry_after_ms=error.retry_after_ms,
        details=error.details,
    )
    shape: dict[str, Any] = {"ok": False, "error": to_json(info)}
    if job is not None:
        shape["job"] = to_json(job)
    return shape
