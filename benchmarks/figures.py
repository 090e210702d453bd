"""A measured figure, and how several are shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import attrs

__all__ = ["Figure", "paired", "table"]


@attrs.frozen
class Figure:
    """Something measured, beside what it is held against.

    Attributes:
        name: what was measured.
        unit: of both columns.
        ours: one value a round.
        limit_name: what stands beside it.
        limits: its value in the same round.
        goal: what the ratio should be, in words.
    """

    name: str
    unit: str
    ours: Sequence[float]
    limit_name: str = ""
    limits: Sequence[float] = ()
    goal: str = ""

    @property
    def ratios(self) -> list[float]:
        """Ours over the limit, round by round."""
        return [ours / limit for ours, limit in zip(self.ours, self.limits, strict=False) if limit]

    def to_json(self) -> dict[str, Any]:
        """Return everything, JSON-ready."""
        return {**attrs.asdict(self), "median": median(self.ours), "ratios": self.ratios}


def paired(rounds: int, ours: Callable[[], float], limit: Callable[[], float]) -> tuple[list[float], list[float]]:
    """Measure both in turn, ``rounds`` times: a machine that slows down slows both."""
    pairs = [(limit(), ours()) for _ in range(rounds)]
    return [pair[1] for pair in pairs], [pair[0] for pair in pairs]


def _spread(values: Sequence[float]) -> str:
    middle = f"{median(values):.3g}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.3g}-{max(values):.3g})"


def table(figures: Sequence[Figure]) -> str:
    """Return the figures as a plain table."""
    head = ("figure", "unit", "ours", "beside", "its figure", "ratio", "goal")
    rows = [
        (
            figure.name,
            figure.unit,
            _spread(figure.ours),
            figure.limit_name,
            _spread(figure.limits) if figure.limits else "",
            _spread(figure.ratios) if figure.ratios else "",
            figure.goal,
        )
        for figure in figures
    ]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]]) + "\n"
