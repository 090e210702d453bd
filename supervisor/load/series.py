"""Measured values and their percentiles. Pure."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from typing import Any, Final

__all__ = ["PERCENTILES", "Series", "percentile"]

PERCENTILES: Final = (50, 90, 99)


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return the value that ``percent`` of 100 values do not exceed: one that was measured, never a mean of two.

    ``ordered``: the values from the least to the greatest, at least one.
    """
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


class Series:
    """Values of one kind, all of them kept: 8 bytes each are cheaper than being wrong about a tail."""

    __slots__ = ("_seen", "values")

    def __init__(self) -> None:
        """Begin with nothing."""
        self.values = array("d")
        self._seen = 0

    def add(self, value: float) -> None:
        """Take a value."""
        self.values.append(value)

    def recent(self) -> list[float]:
        """Return the values that have come since this was last asked, in order of size."""
        found = sorted(self.values[self._seen :])
        self._seen = len(self.values)
        return found

    def to_json(self, scale: float = 1000, digits: int = 3) -> dict[str, Any]:
        """Return the count, the percentiles and the greatest, each times ``scale``; ``None`` where there is none."""
        ordered = sorted(self.values)
        shape: dict[str, Any] = {"count": len(ordered)}
        for percent in PERCENTILES:
            shape[f"p{percent}"] = round(percentile(ordered, percent) * scale, digits) if ordered else None
        shape["max"] = round(ordered[-1] * scale, digits) if ordered else None
        return shape
