"""A run as a whole: its JSON, and its tables."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

import attrs
import click

from benchmarks.figures import OURS, Figure, Goal, Taken, number, spread

__all__ = ["Run", "line_of", "markdown", "table"]

_FORMAT: Final = 2
_HEAD: Final = ("figure", "unit", "who", "median", "lowest - highest", "ours/its", "goal", "")


@attrs.define(kw_only=True)
class Run:
    """Figures that were taken together.

    Attributes:
        machine: the description of the machine.
        load: the load average before and after.
        size: how much was measured.
        peers: the peers by name: version, and what of each was measured.
        figures: in the order in which they were taken.
        failed: by case, its error.
    """

    machine: Mapping[str, Any]
    load: Sequence[float]
    size: str
    peers: Mapping[str, Mapping[str, str]]
    figures: list[Figure] = attrs.field(factory=list[Figure])
    failed: dict[str, str] = attrs.field(factory=dict[str, str])

    def take_over(self, other: Run, cases: Collection[str]) -> None:
        """Add the figures and failures of another run, except those of ``cases``."""
        added = [figure for figure in other.figures if figure.case not in cases]
        self.figures += [attrs.evolve(figure, taken=figure.taken or other.taken) for figure in added]
        self.failed |= {case: why for case, why in other.failed.items() if case not in cases}
        self.peers = {**other.peers, **self.peers}

    def put_in(self, other: Run) -> None:
        """Replace the figures and failures of this run by those of another run for the same cases."""
        cases = {*other.failed, *(figure.case for figure in other.figures)}
        self.figures = [figure for figure in self.figures if figure.case not in cases]
        self.failed = {case: why for case, why in self.failed.items() if case not in cases}
        self.take_over(other, ())

    @property
    def taken(self) -> Taken:
        """How its figures are taken."""
        held = self.machine
        return Taken(size=self.size, file_system=held["file_system"], commit=held["commit"], load=self.load[0])

    def save(self, path: Path) -> None:
        """Write everything to a file."""
        held = {**attrs.asdict(self, recurse=False), "figures": [figure.to_json() for figure in self.figures]}
        text = json.dumps({"format": _FORMAT, **held}, indent=1) + "\n"
        aside = path.with_name(f"{path.name}.new")
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)

    @classmethod
    def load_from(cls, path: Path) -> Run:
        """Read a file that ``save`` has written.

        Raises:
            ValueError: the file has another content.
        """
        held = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(held, dict) or held.pop("format", None) != _FORMAT:
            message = f"{path} does not hold the figures of a run of this version; take them again"
            raise ValueError(message)
        figures = [Figure.from_json(figure) for figure in held.pop("figures")]
        return cls(**held, figures=figures)


def _verdict(goal: Goal, figure: Figure) -> str:
    met = goal.met(figure)
    return "not measured" if met is None else "met" if met else "NOT MET"


def _goal(goal: Goal) -> str:
    return f"{goal.sign} {goal.value:g}{'x' if goal.of else ''}"


def rows(figure: Figure) -> Iterator[tuple[str, ...]]:
    """Yield a row for each contender, this package first, and one for each missing contender."""
    for name, values in figure.values.items():
        goals = [goal for goal in figure.goals if goal.of == ("" if name == OURS else name)]
        ratios = [] if name == OURS else figure.ratios(name)
        yield (
            figure.name if name == OURS else "",
            figure.unit if name == OURS else "",
            name,
            number(median(values)),
            spread(values),
            f"{number(median(ratios))}x" if ratios else "",
            ", ".join(map(_goal, goals)),
            ", ".join(_verdict(goal, figure) for goal in goals),
        )
    for name, reason in figure.missing.items():
        yield ("", "", name, "-", reason, "", "", "")


def _colour(cell: str) -> str:
    return {"met": "green", "NOT MET": "red"}.get(cell.strip(), "")


def table(figures: Sequence[Figure], *, colour: bool = False) -> str:
    """Return the figures as a table for a terminal."""
    blocks = [list(rows(figure)) for figure in figures]
    flat = [row for block in blocks for row in block]
    # Reasons for missing figures have a column of their own width.
    measured = [_HEAD, *(row for row in flat if row[3] != "-")]
    widths = [max(len(row[column]) for row in measured) for column in range(len(_HEAD))]
    widths[2] = max([len(row[2]) for row in flat], default=widths[2])
    lines = [_line(_HEAD, widths, colour=False)]
    lines.append("-" * len(lines[0]))
    for figure, block in zip(figures, blocks, strict=True):
        lines += [_line(row, widths, colour=colour) for row in block]
        lines += [f"    ({figure.note})"] if figure.note else []
        lines.append("")
    return "\n".join(lines[:-1]) + "\n"


def _line(row: Sequence[str], widths: Sequence[int], *, colour: bool) -> str:
    pairs = enumerate(zip(row, widths, strict=True))
    cells = [cell.rjust(width) if at in {3, 5} else cell.ljust(width) for at, (cell, width) in pairs]
    if colour:
        cells = [click.style(cell, fg=_colour(cell)) if _colour(cell) else cell for cell in cells]
    return "  ".join(cells).rstrip()


def line_of(*cells: str) -> str:
    """Return a row of a table for the pages."""
    return "|" + "".join(f" {cell} |" if cell else " |" for cell in cells)


def markdown(figures: Sequence[Figure]) -> str:
    """Return the figures as a table for the pages in ``docs/``; missing contenders are below it, with the reason."""
    lines = ["| figure | who | median | lowest - highest | ours / its | goal |", "|---|---|--:|--:|--:|---|"]
    for figure in figures:
        for row in rows(figure):
            name, unit, who, middle, between, ratio, goal, met = row
            if middle == "-":
                continue
            what = f"{name}, {unit}" if name else ""
            held = f"{goal}: {met.lower()}" if goal else ""
            lines.append(line_of(what, who, middle, between, ratio, held))
    reasons: dict[tuple[str, str], None] = {}
    for figure in figures:
        reasons.update(dict.fromkeys(figure.missing.items()))
    if reasons:
        lines += ["", "Not in it: " + "; ".join(f"{who}: {reason}" for who, reason in reasons) + "."]
    return "\n".join(lines) + "\n"
