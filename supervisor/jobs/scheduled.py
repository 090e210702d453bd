"""The request of a schedule: as it stands in its file, and as the start of a job that an instant makes of it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any, Final

import attrs

from supervisor.errors import InvalidArguments
from supervisor.model import JobSpec, Limits, from_ns
from supervisor.retry import Retry
from supervisor.store.schedule_files import Schedule

__all__ = ["FiredSpec", "check_repeatable", "key_of", "request_of", "spec_of_schedule"]

_NO_DEADLINE: Final = "none"
_OF_ONE_START: Final = {
    "idempotency_key": "its jobs have keys of their own",
    "after": "those jobs end once",
    "not_before": "its instants say when",
    "delay_seconds": "its instants say when; --jitter delays them",
    "hold": "its jobs would wait for ever; pause the schedule instead",
}
"""The options that make no sense for the second job of a schedule, and why."""
_APART: Final = frozenset({"stdin", *_OF_ONE_START})


@attrs.frozen(slots=True, kw_only=True)
class FiredSpec(JobSpec):
    """The request of a job of a schedule.

    Attributes:
        schedule: the name of the schedule.
        instant_ns: the instant that it is for; ``None`` for a job that was started out of turn.
        settings: the umask, the niceness and the resource limits that it has, by their numbers.
    """

    schedule: str
    instant_ns: int | None = None
    settings: tuple[int, int, dict[int, tuple[int, int]]] | None = None

    def members(self) -> dict[str, Any]:
        """Return the members of ``job.json`` about the schedule."""
        instant = {} if self.instant_ns is None else {"instant_ns": self.instant_ns}
        return {"schedule": self.schedule, **instant}


def key_of(name: str, instant_ns: int) -> str:
    """Return the idempotency key of the job of an instant."""
    return f"schedule:{name}:{from_ns(instant_ns):%Y-%m-%dT%H:%M:%SZ}"


def check_repeatable(spec: JobSpec) -> None:
    """Raise ``InvalidArguments`` for a request that no schedule can have."""
    for name, why in _OF_ONE_START.items():
        if getattr(spec, name):
            message = f"{name} is given, and a schedule cannot have it: {why}"
            raise InvalidArguments(message, repair="Add the schedule without it.", details={"argument": name})
    if spec.spool != "disk":
        message = "spool is memory, and the environment and the input of a schedule are on disk"
        raise InvalidArguments(message, repair="Add the schedule without it.", details={"argument": "spool"})


def request_of(spec: JobSpec, workspace: str) -> dict[str, Any]:
    """Return a request as it stands in the file of a schedule, without its input; ``workspace`` is its real path.

    A request without an environment gets that of this process, as a start does.
    """
    held: dict[str, Any] = {}
    for field in attrs.fields(JobSpec):
        value = getattr(spec, field.name)
        if field.name not in _APART and value != field.default and value not in ((), {}):
            held[field.name] = _plain(value)
    env = dict(os.environ if spec.env is None else spec.env)
    inherited = os.environ.get("PWD")
    if inherited is not None and env.get("PWD") == inherited and os.path.realpath(inherited) != workspace:
        env["PWD"] = workspace  # as a start does
    return {**held, "workspace": workspace, "env": env}


def _plain(value: Any) -> Any:
    match value:
        case Retry() | Limits():
            return value.to_record()
        case float() if math.isinf(value):
            return _NO_DEADLINE
        case Mapping():
            return dict(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]  # JSON
        case tuple():
            return list(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]  # JSON
        case _:
            return value


def spec_of_schedule(
    schedule: Schedule,
    stdin: bytes | None,
    key: str,
    at_ns: int,
    *,
    instant_ns: int | None,
    after: tuple[str, ...] = (),
) -> FiredSpec:
    """Return the start that a schedule makes.

    Args:
        schedule: as its file says.
        stdin: its input.
        key: the idempotency key of the job.
        at_ns: when the job fires. As it waits for that time, and that has come, any process can launch it.
        instant_ns: see ``FiredSpec``.
        after: the jobs whose ends it waits for.

    Raises:
        InvalidArguments: a newer version has written the request.
    """
    request = dict(schedule.request)
    if "retry" in request:
        request["retry"] = Retry.from_record(request["retry"])
    if "limits" in request:
        request["limits"] = Limits.of(request)
    if request.get("deadline_seconds") == _NO_DEADLINE:
        request["deadline_seconds"] = math.inf
    if "window" in request:
        request["window"] = tuple(request["window"])
    umask, nice, limits = schedule.settings
    try:
        return FiredSpec(
            **request,
            stdin=stdin,
            idempotency_key=key,
            not_before=from_ns(at_ns),
            after=[("any", job_id) for job_id in after],
            schedule=schedule.name,
            instant_ns=instant_ns,
            settings=(umask, nice, dict(limits)),
        )
    except TypeError as error:
        message = f"the request of schedule {schedule.name} is not understood: {error}"
        raise InvalidArguments(message, repair="Use the version of this package that has added it.") from error
