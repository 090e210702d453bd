"""Quantities that vary from job to job: a number, or a distribution written as text. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import Final

import attrs

from supervisor.text.durations import finite_seconds
from supervisor.text.sizes import parse_size

__all__ = ["ACCEPTS", "Spread", "parse_bytes", "parse_number", "parse_spread"]

ACCEPTS: Final = "a number, uniform:LOW:HIGH, exp:MEAN[:MAX] or lognormal:MEDIAN:P99[:MAX]"

_DEFAULT_TAIL: Final = 10
"""The default maximum, as a multiple of the mean or of the 99th percentile."""
_Z99: Final = 2.3263478740408408
"""The 99th percentile of the standard normal distribution."""


@attrs.frozen(slots=True)
class Spread:
    """A quantity that varies.

    Attributes:
        text: the text that describes it.
        form: ``fixed``, ``uniform``, ``exp`` or ``lognormal``.
        values: the parameters of the form: the number; low and high; mean; median and 99th percentile.
        maximum: the upper bound of all values.
    """

    text: str
    form: str
    values: tuple[float, ...]
    maximum: float

    def draw(self, random: Random) -> float:
        """Return the next value."""
        match self.form, self.values:
            case "uniform", (low, high):
                return random.uniform(low, high)
            case "exp", (mean,):
                return min(random.expovariate(1 / mean), self.maximum)
            case "lognormal", (median, p99):
                return min(random.lognormvariate(math.log(median), math.log(p99 / median) / _Z99), self.maximum)
            case _:
                return self.values[0]

    @property
    def mean(self) -> float:
        """The approximate mean, without the effect of ``maximum``."""
        match self.form, self.values:
            case "uniform", (low, high):
                return (low + high) / 2
            case "lognormal", (median, p99):
                return min(median * math.exp((math.log(p99 / median) / _Z99) ** 2 / 2), self.maximum)
            case _:
                return self.values[0]


def parse_number(text: str) -> float:
    """Parse a finite number of at least 0.

    Raises:
        ValueError: it is no such number.
    """
    number = float(text)
    if not math.isfinite(number) or number < 0:
        raise ValueError(text)
    return number


def parse_bytes(text: str) -> float:
    """Parse a number of bytes, or a size with a unit.

    Raises:
        ValueError: it is neither.
    """
    try:
        return parse_number(text)
    except ValueError:
        return parse_size(text)


def parse_spread(given: object, parse: Callable[[str], float] = finite_seconds) -> Spread:
    """Parse a spread, given as a number or a text; ``parse`` parses each number in it, by default as a duration.

    Raises:
        ValueError: it is no spread.
    """
    if isinstance(given, bool) or not isinstance(given, str | int | float):
        raise ValueError(given)
    text = str(given).strip()
    form, *rest = text.split(":")
    if not rest:
        number = parse(form)
        return Spread(text, "fixed", (number,), number)
    numbers = [parse(each) for each in rest]
    match form, numbers:
        case "uniform", [low, high] if low <= high:
            return Spread(text, form, (low, high), high)
        case "exp", [mean, *maximum] if len(maximum) <= 1 and mean > 0:
            return Spread(text, form, (mean,), _maximum(mean, maximum))
        case "lognormal", [median, p99, *maximum] if len(maximum) <= 1 and 0 < median <= p99:
            return Spread(text, form, (median, p99), _maximum(p99, maximum))
        case _:
            raise ValueError(given)


def _maximum(typical: float, given: list[float]) -> float:
    if not given:
        return typical * _DEFAULT_TAIL
    if given[0] < typical:
        raise ValueError(given)
    return given[0]
