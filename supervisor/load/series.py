"""Measured values and their percentiles. Pure."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from typing import Any, Final

__all__ = ["PERCENTILES", "Series", "percentile"]

PERCENTILES: Final = (50, 90, 99)


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return the measured value that ``percent`` of 100 values do not exceed, never a mean of two.

    ``ordered``: at least one value, in ascending order.
    """
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


class Series:
    """All measured values of one latency, 8 bytes each: a sample would falsify the highest percentiles."""

    __slots__ = ("_reported", "values")

    def __init__(self) -> None:
        self.values = array("d")
        self._reported = 0

    def add(self, value: float) -> None:
        """Add a value."""
        self.values.append(value)

    def recent(self) -> list[float]:
        """Return the values since the last call, in ascending order."""
        found = sorted(self.values[self._reported :])
        self._reported = len(self.values)
        return found

    def to_json(self, scale: float = 1000, digits: int = 3) -> dict[str, Any]:
        """Return the count, the percentiles and the maximum, times ``scale``; ``None`` if there are no values."""
        ordered = sorted(self.values)
        shape: dict[str, Any] = {"count": len(ordered)}
        for percent in PERCENTILES:
            shape[f"p{percent}"] = round(percentile(ordered, percent) * scale, digits) if ordered else None
        shape["max"] = round(ordered[-1] * scale, digits) if ordered else None
        return shape
