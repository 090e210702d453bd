"""What engines say about the limits of a job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from supervisor.errors import FeatureUnavailable

if TYPE_CHECKING:
    from supervisor.model import Limits

__all__ = ["Granted", "LimitsJobs", "asked", "granted", "refuse"]

_REPAIR = "Start it with --limits best-effort, or where it can be limited: `supervisor doctor` says what is possible."


class Granted(NamedTuple):
    """What an engine does with the limits of a job.

    Attributes:
        lacking: the names of the controllers (``memory``, ``cpu``, ``pids``) that the job has to do without.
        options: options of the engine that set the others, for an engine that does it in this way.
    """

    lacking: tuple[str, ...] = ()
    options: Mapping[str, Any] = {}


@runtime_checkable
class LimitsJobs(Protocol):
    """An engine that can limit what a job uses."""

    async def check_limits(self, limits: Limits) -> Granted:
        """Return what it does with the limits of a job.

        Raises:
            FeatureUnavailable: it must not run without them.
        """
        ...


def asked(limits: Limits) -> tuple[str, ...]:
    """Return the names of the controllers that limits need."""
    values = {"memory": limits.memory_bytes, "cpu": limits.cpus, "pids": limits.pids}
    return tuple(name for name, value in values.items() if value is not None)


def granted(
    limits: Limits, missing: Mapping[str, str], options: Mapping[str, Any] | None = None, *, lasts: bool = True
) -> Granted:
    """Return what an engine does that has no limits of the names in ``missing``, which say why.

    Raises:
        FeatureUnavailable: the job must not run without one of them. It may be tried again unless the answer ``lasts``.
    """
    lacking = tuple(name for name in asked(limits) if name in missing)
    if lacking and limits.required:
        raise refuse(lacking[0], missing[lacking[0]], lasts=lasts)
    return Granted(lacking, options or {})


def refuse(name: str, why: str, *, lasts: bool = True) -> FeatureUnavailable:
    """Return the error of a limit that cannot be set, or cannot be set now."""
    message = f"the job cannot be limited ({name}): {why}"
    repair = _REPAIR if lasts else f"Try again. {_REPAIR}"
    return FeatureUnavailable(message, repair=repair, retryable=not lasts, details={"controller": name})
