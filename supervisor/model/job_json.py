"""The JSON shapes of a job and of a page of jobs, made without the converter: importing that takes 20 ms.

The shapes are those that the converter gives, which a test compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import attrs

from supervisor.model.job import Job, JobPage
from supervisor.states import Reason, State

__all__ = ["job_to_json", "page_to_json", "seconds_to_json", "time_to_json"]

_FIELDS: Final = tuple(field.name for field in attrs.fields(Job))
_SECONDS: Final = ("deadline_seconds", "ttl_seconds")


def time_to_json(when: datetime) -> str:
    """Return a time as the contract has it: in UTC, with milliseconds."""
    return when.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds_to_json(seconds: float | None) -> float | None:
    """Return a whole number as an int, 1800 for 1800.0: the contract shows whole numbers, some parsers require them."""
    return int(seconds) if seconds is not None and seconds == seconds // 1 else seconds


def _plain(held: Any) -> Any:
    match held:
        case State() | Reason():
            return held.value
        case datetime():
            return time_to_json(held)
        case Mapping():
            return {name: _plain(value) for name, value in held.items()}  # pyright: ignore[reportUnknownVariableType]
        case list() | tuple():
            return [_plain(each) for each in held]  # pyright: ignore[reportUnknownVariableType]
        case _:
            return held


def job_to_json(job: Job) -> dict[str, Any]:
    """Return the shape of a job."""
    shape: dict[str, Any] = {"ok": True, **{name: _plain(getattr(job, name)) for name in _FIELDS}}
    return shape | {name: seconds_to_json(shape[name]) for name in _SECONDS}


def page_to_json(page: JobPage) -> dict[str, Any]:
    """Return the shape of a page of jobs."""
    return {"ok": True, "jobs": [job_to_json(job) for job in page.jobs], "next_cursor": page.next_cursor}
