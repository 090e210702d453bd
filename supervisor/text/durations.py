"""Reads durations: seconds as a number, or a text such as ``90s``, ``5m``, ``1h30m``, ``2d``."""

from __future__ import annotations

import math
import re
from typing import Final

__all__ = ["ACCEPTS", "finite_seconds", "parse_seconds"]

ACCEPTS: Final = "a number of seconds of at least 0, or a duration such as 90s, 5m, 1h30m or 2d"
"""What messages say about it; ``none`` is for those who allow it to add."""

_UNITS: Final = (86400, 3600, 60, 1)
_PARTS: Final = r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?"


def parse_seconds(held: object) -> float:
    """Return a duration in seconds; ``none`` is infinity.

    Raises:
        ValueError: it is no number of at least 0, and no text that describes one.
    """
    if isinstance(held, bool) or not isinstance(held, str | int | float):
        raise ValueError
    try:
        seconds = float(held)
    except OverflowError:  # an integer of more than 308 digits
        raise ValueError from None
    except ValueError:
        seconds = _with_units(str(held).strip().lower())
    if math.isnan(seconds) or seconds < 0:
        raise ValueError
    return seconds


def finite_seconds(held: object) -> float:
    """Return a duration in seconds that is not infinite.

    Raises:
        ValueError: it is no such duration.
    """
    seconds = parse_seconds(held)
    if math.isinf(seconds):
        raise ValueError
    return seconds


def _with_units(text: str) -> float:
    if text == "none":
        return math.inf
    found = re.fullmatch(_PARTS, text, re.ASCII)
    if found is None or not text:
        raise ValueError
    return math.fsum(float(number) * unit for number, unit in zip(found.groups(default=0), _UNITS, strict=True))
