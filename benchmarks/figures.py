"""A measured figure, its goals, and the measurement of contenders in turn."""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any, Final, Literal

import attrs
import cattrs

__all__ = [
    "OURS",
    "Cannot",
    "Figure",
    "Goal",
    "Taken",
    "Together",
    "interleaved",
    "median_us",
    "number",
    "parted",
    "spread",
]

OURS: Final = "ours"
_HOLDS: Final = {"<=": operator.le, ">=": operator.ge}


class Cannot(Exception):
    """A contender is not installed, or cannot do what is measured; the message says why."""


@attrs.frozen
class Goal:
    """A goal for a figure of this package.

    Attributes:
        sign: of the comparison.
        value: in the figure's unit, or a ratio.
        of: the contender that the ratio refers to; empty for none.
    """

    sign: Literal["<=", ">="]
    value: float
    of: str = ""

    def met(self, figure: Figure) -> bool | None:
        """Whether it is met; ``None`` if the contender was not measured."""
        values = figure.ratios(self.of) if self.of else figure.values[OURS]
        return _HOLDS[self.sign](median(values), self.value) if values else None


@attrs.frozen(kw_only=True)
class Taken:
    """How a figure was taken: a file may hold figures of several runs.

    Attributes:
        size: how much was measured.
        file_system: the one below the state roots.
        commit: the commit that was measured.
        load: the load average of the minute before.
    """

    size: str
    file_system: str
    commit: str
    load: float


@attrs.frozen(kw_only=True)
class Figure:
    """One measured quantity.

    Attributes:
        case: the case that measured it.
        name: what it is.
        unit: of all values.
        values: by contender, one value a round; this package's first.
        goals: the goals for this package.
        missing: by contender, why it has no figure.
        at: the quantity named by ``along``, for a figure that is one point of a curve.
        along: the horizontal axis of that curve.
        note: what a reader has to know.
        taken: how it was taken; the runner sets it.
    """

    case: str
    name: str
    unit: str
    values: Mapping[str, Sequence[float]]
    goals: Sequence[Goal] = ()
    missing: Mapping[str, str] = attrs.field(factory=dict[str, str])
    at: float | None = None
    along: str = ""
    note: str = ""
    taken: Taken | None = None

    @property
    def more_is_better(self) -> bool:
        """Whether larger values are better, as for a rate."""
        return self.unit.endswith("/s")

    def ratios(self, whose: str) -> list[float]:
        """This package's values over the contender's, round by round; empty if the contender was not measured."""
        theirs = self.values.get(whose, ())
        return [ours / other for ours, other in zip(self.values[OURS], theirs, strict=False) if other]

    def to_json(self) -> dict[str, Any]:
        """Return everything, JSON-ready, with derived values for human readers."""
        return {
            **attrs.asdict(self),
            "medians": {name: median(values) for name, values in self.values.items()},
            "ratios": {name: median(self.ratios(name)) for name in self.values if name != OURS},
            "met": [goal.met(self) for goal in self.goals],
        }

    @classmethod
    def from_json(cls, held: Mapping[str, Any]) -> Figure:
        """Return the figure from which ``to_json`` made ``held``."""
        return cattrs.structure(held, cls)


def interleaved(
    rounds: int, contenders: Mapping[str, Callable[[], float]]
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Measure all contenders in turn, ``rounds`` times: a machine that slows down slows all of them.

    Every other round runs backwards, so no contender always follows the same one. Returns the values and,
    for each contender without values, the reason. An error of this package is raised.
    """
    values: dict[str, list[float]] = {name: [] for name in contenders}
    missing: dict[str, str] = {}
    for turn in range(rounds):
        order = list(contenders) if turn % 2 == 0 else list(contenders)[::-1]
        for name in order:
            if name in missing:
                continue
            try:
                values[name].append(contenders[name]())
            except Cannot as reason:
                missing[name] = str(reason)
            except Exception as error:
                if name == OURS:
                    raise
                missing[name] = f"failed: {error!r}"[:200]
    return {name: found for name, found in values.items() if name not in missing}, missing


def median_us(times: int, call: Callable[[], object]) -> float:
    """Return the median duration of a call, in microseconds."""
    taken: list[float] = []
    for _ in range(times):
        begun = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begun)
    return median(taken) * 1e6


def parted(
    rounds: int, parts: Sequence[str], contenders: Mapping[str, Callable[[], Mapping[str, float]]]
) -> Iterator[tuple[str, dict[str, list[float]], dict[str, str]]]:
    """Measure contenders that give several values at a time; yield for each part what `interleaved` returns."""
    found: dict[str, list[Mapping[str, float]]] = {name: [] for name in contenders}

    def measure(name: str) -> float:
        found[name].append(contenders[name]())
        return 0

    values, missing = interleaved(rounds, {name: partial(measure, name) for name in contenders})
    for part in parts:
        yield part, {name: [each[part] for each in found[name]] for name in values}, missing


class Together:
    """Contenders that are measured together, call by call in turn; each fetches its own value."""

    def __init__(self, measure: Callable[[], Mapping[str, float]]) -> None:
        self._measure = measure
        self._left: dict[str, float] = {}

    def one(self, name: str) -> Callable[[], float]:
        """Return a function that returns one contender's value, and measures if it has none left."""

        def value() -> float:
            if name not in self._left:
                self._left = dict(self._measure())
            return self._left.pop(name)

        return value


def number(value: float) -> str:
    """Return a value with three significant digits."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    places = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{places}f}" if abs(value) < 1e9 else f"{value:.3g}"


def spread(values: Sequence[float]) -> str:
    """Return the lowest and the highest value; empty for a single one."""
    return "" if len(values) < 2 else f"{number(min(values))} - {number(max(values))}"
