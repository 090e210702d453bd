"""What a job may use of its machine at most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs

from supervisor.errors import InvalidArguments

__all__ = ["Limits"]

_LEAST_MEMORY: Final = 1 << 20
_MOST_MEMORY: Final = 1 << 50
_LEAST_CPUS: Final = 0.01
_MOST_CPUS: Final = 10_000
_MOST_PIDS: Final = 1 << 22
_ENFORCE: Final = ("require", "best-effort")


def _check(condition: object, message: str) -> None:
    if not condition:
        raise InvalidArguments(message)


@attrs.frozen(slots=True)
class Limits:
    """What all processes of a job may use together; ``None`` sets no limit.

    Attributes:
        memory_bytes: memory, 1 MiB to 1 PiB. There is no swap beside it. A job that needs more is ended by the kernel,
            all of its processes, and has ``failed``, reason ``memory_limit``.
        cpus: processors, 0.01 to 10,000: 0.5 is half of the time of one. A job that wants more is slower.
        pids: processes and threads at a time, 1 to 4,194,304. A further one cannot be made.
        enforce: ``"require"``: a job that cannot be limited is not started (``feature_unavailable``).
            ``"best-effort"``: it runs, and its ``warnings`` name the limits that it does not have.

    Raises:
        InvalidArguments: a value is out of range.
    """

    memory_bytes: int | None = None
    cpus: float | None = None
    pids: int | None = None
    enforce: str = "require"

    def __attrs_post_init__(self) -> None:
        """Check the values."""
        bounds: tuple[tuple[str, set[type], float, float], ...] = (
            ("memory_bytes", {int}, _LEAST_MEMORY, _MOST_MEMORY),
            ("cpus", {int, float}, _LEAST_CPUS, _MOST_CPUS),
            ("pids", {int}, 1, _MOST_PIDS),
        )
        for name, kinds, low, high in bounds:
            value = getattr(self, name)
            fits = value is None or (type(value) in kinds and low <= value <= high)
            _check(fits, f"{name} is {value!r:.80}; it must be a number from {low} to {high}, or None")
        _check(self.enforce in _ENFORCE, f"enforce is {self.enforce!r:.80}; it must be one of {' or '.join(_ENFORCE)}")

    def __bool__(self) -> bool:
        """Whether anything is limited."""
        return (self.memory_bytes, self.cpus, self.pids) != (None, None, None)

    @property
    def required(self) -> bool:
        """Whether the job must not run without them."""
        return self.enforce == "require"

    def to_record(self) -> dict[str, Any]:
        """Return the member ``limits`` of ``job.json``."""
        return attrs.asdict(self)

    @classmethod
    def of(cls, request: Mapping[str, Any]) -> Limits | None:
        """Return the limits in a ``job.json``; ``None`` without any, and for those that no version writes."""
        held = request.get("limits")
        try:
            return None if held is None else cls(**held)
        except (InvalidArguments, TypeError):
            return None

    @classmethod
    def is_known(cls, record: object) -> bool:
        """Whether this version understands the member ``limits`` of a ``job.json``."""
        return cls.of({"limits": record}) is not None
