"""The values that the public functions take and return, and the one converter for them.

All classes are frozen and slotted. Attributes bear the names of the JSON contract; times
are aware UTC ``datetime`` objects here and ISO 8601 strings on the wire, durations carry
their unit in the name.

Each name is imported when it is first used: attrs compiles the methods of a class each time it is made, which takes
about a millisecond, and a command that only reads needs few of them.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import cattrs

    from supervisor.model.conversion import error_to_json, to_json
    from supervisor.model.explanation import EvidenceInfo, Explanation, WaitInfo
    from supervisor.model.groups import GroupInfo, GroupOptions, PauseInfo
    from supervisor.model.job import FINGERPRINT, ErrorInfo, Exit, Job, JobPage
    from supervisor.model.limits import Limits
    from supervisor.model.request import JobOptions, JobSpec
    from supervisor.model.results import JobEvent, Result
    from supervisor.model.spending import Spend, SpendReport

    converter: cattrs.Converter

__all__ = [
    "FINGERPRINT",
    "MAX_LABELS",
    "ErrorInfo",
    "EvidenceInfo",
    "Exit",
    "Explanation",
    "GroupInfo",
    "GroupOptions",
    "Job",
    "JobEvent",
    "JobOptions",
    "JobPage",
    "JobSpec",
    "Limits",
    "PauseInfo",
    "Result",
    "Spend",
    "SpendReport",
    "WaitInfo",
    "converter",
    "error_to_json",
    "from_ns",
    "to_json",
    "to_ns",
]

MAX_LABELS: Final = 64
"""The most labels that a job may have, and that a list may be filtered by."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def from_ns(wall_ns: int) -> datetime:
    """Return the UTC time ``wall_ns`` nanoseconds after the epoch, rounded down to a microsecond."""
    return _EPOCH + timedelta(0, 0, wall_ns // 1000)  # a float of seconds has too few digits


def to_ns(time: datetime) -> int:
    """Return the nanoseconds from the epoch to a time, which has a time zone."""
    return (time - _EPOCH) // timedelta(microseconds=1) * 1000


_HOME: Final = {
    **dict.fromkeys(["error_to_json", "to_json"], "conversion"),
    **dict.fromkeys(["EvidenceInfo", "Explanation", "WaitInfo"], "explanation"),
    **dict.fromkeys(["GroupInfo", "GroupOptions", "PauseInfo"], "groups"),
    **dict.fromkeys(["FINGERPRINT", "ErrorInfo", "Exit", "Job", "JobPage"], "job"),
    "Limits": "limits",
    **dict.fromkeys(["JobOptions", "JobSpec"], "request"),
    **dict.fromkeys(["JobEvent", "Result"], "results"),
    **dict.fromkeys(["Spend", "SpendReport"], "spending"),
}


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name == "converter":
        from supervisor.model import conversion

        value: object = conversion.converter()
    elif name in _HOME:
        value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    else:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
