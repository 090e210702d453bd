"""Compares a run with the page's: ``python -m benchmarks --check`` names what fell by more than a tenth.

Machines differ and are shared, so no times are compared. Each run has ratios to its own contenders, and these are
compared: a slow machine slows both sides of a ratio.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Final, Literal

import attrs

from benchmarks.figures import OURS, Figure
from benchmarks.report import Run
from supervisor.system.file_systems import file_system_of

__all__ = ["Compared", "compare", "place_like", "pooled", "told"]

MOST_LOST: Final = 0.1
"""A figure that lost more has fallen."""

_WHATEVER_THE_MACHINE: Final = frozenset({"KiB", "kB", "bytes"})
"""Units of figures that stand for themselves; others need a contender beside them."""

_SHARED_MEMORY: Final = Path("/dev/shm")


@attrs.frozen(kw_only=True)
class Compared:
    """A figure of both runs; 1 is the page's median, and less is worse, also for a time.

    Attributes:
        case: the case that measured it.
        name: what it is.
        beside: the contenders of the ratios; empty for a figure that stands for itself.
        rounds: of this run.
        before: of the page's run, which lie around 1.
    """

    case: str
    name: str
    beside: Sequence[str]
    rounds: Sequence[float]
    before: Sequence[float]

    @property
    def kept(self) -> float:
        """The part of the page's figure that this run reaches."""
        return median(self.rounds)

    @property
    def verdict(self) -> Literal["fell", "noisy", "held"]:
        """``noisy``: the median fell, and yet the best round of this run reaches the worst one of the page."""
        if self.kept >= 1 - MOST_LOST:
            return "held"
        return "fell" if max(self.rounds) < min(self.before) else "noisy"


def _oriented(figure: Figure, value: float, middle: float) -> float:
    return value / middle if figure.more_is_better else middle / value


def _parts(figure: Figure, beside: Sequence[str], page: Figure) -> list[float]:
    """Return for each round the median, over the contenders, of the part that is kept of the page's ratio."""
    if not beside:
        middle = median(page.values[OURS])
        return [_oriented(page, value, middle) for value in figure.values[OURS] if value and middle]
    middles = {name: median(page.ratios(name)) for name in beside}
    columns = [
        [_oriented(page, ratio, middle) for ratio in figure.ratios(name) if ratio]
        for name, middle in middles.items()
        if middle
    ]
    return [median(each) for each in zip(*columns, strict=False)]


def compare(page: Run, run: Run) -> tuple[list[Compared], dict[str, list[str]]]:
    """Return what stands in both runs, and the names of the other figures of this run by the reason."""
    held = {(figure.case, figure.name): figure for figure in page.figures}
    found: list[Compared] = []
    without: dict[str, list[str]] = {}
    for figure in run.figures:
        before = held.get((figure.case, figure.name))
        reason = "are not on the page" if before is None else ""
        if before is not None:
            was, now = before.taken or page.taken, figure.taken or run.taken
            beside = [name for name in before.values if name != OURS and before.ratios(name) and figure.ratios(name)]
            if was.size != now.size:
                reason = f"have {was.size} size on the page"
            elif was.file_system != now.file_system:
                reason = f"have the state root on {was.file_system} on the page"
            elif not beside and figure.unit not in _WHATEVER_THE_MACHINE:
                reason = "have no contender in both runs"
            else:
                rounds, around = _parts(figure, beside, before), _parts(before, beside, before)
                if rounds and around:
                    found.append(
                        Compared(case=figure.case, name=figure.name, beside=beside, rounds=rounds, before=around)
                    )
                else:
                    reason = "are zero"
        if reason:
            without.setdefault(reason, []).append(figure.name)
    return found, without


def pooled(run: Run, again: Run) -> Run:
    """Return a run whose figures have the rounds of both; figures that only one has stay as they are."""
    more = {(figure.case, figure.name): figure for figure in again.figures}

    def both(figure: Figure) -> Figure:
        other = more.get((figure.case, figure.name))
        if other is None:
            return figure
        values = {name: [*of, *other.values[name]] for name, of in figure.values.items() if name in other.values}
        return attrs.evolve(figure, values=values)

    return attrs.evolve(run, figures=[both(figure) for figure in run.figures], failed=run.failed | again.failed)


def _percent(part: float) -> str:
    return f"{abs(1 - part) * 100:.0f} %"


def _line(each: Compared) -> str:
    worst, best = min(each.rounds), max(each.rounds)
    beside = f"beside {', '.join(each.beside)}" if each.beside else "by itself"
    around = f"the page's rounds are from {min(each.before):.2f} to {max(each.before):.2f}"
    return (
        f"  {each.case}: {each.name}\n"
        f"    {_percent(each.kept)} less than on the page, {beside};"
        f" rounds from {worst:.2f} to {best:.2f} of it, {around}"
    )


def told(page: Run, run: Run, found: Sequence[Compared], without: Mapping[str, Sequence[str]]) -> str:
    """Return the comparison in words: what fell, what is too noisy to tell, and what to do."""
    parts: list[str] = []
    by_verdict = {verdict: [each for each in found if each.verdict == verdict] for verdict in ("fell", "noisy", "held")}
    for verdict, title in (
        ("fell", f"fell by more than {MOST_LOST * 100:.0f} %"),
        ("noisy", "too noisy to tell: the median fell, and the rounds of both runs overlap"),
    ):
        if by_verdict[verdict]:
            parts.append(f"{title}:\n" + "\n".join(map(_line, by_verdict[verdict])))
    parts += [f"{case} failed: {reason}" for case, reason in run.failed.items()]
    for reason, names in without.items():
        shown = "; ".join(names[:5]) + (f"; and {len(names) - 5} more" if len(names) > 5 else "")
        parts.append(f"not compared, {len(names)} figures that {reason}: {shown}")
    for fact in ("processor", "cores", "kernel", "python"):
        if page.machine.get(fact) != run.machine.get(fact):
            parts.append(f"another {fact}: {page.machine.get(fact)} on the page, {run.machine.get(fact)} here")
    counts = ", ".join(f"{len(each)} {verdict}" for verdict, each in by_verdict.items())
    parts.append(f"{len(found)} figures compared with the page of {page.machine['date'][:10]}: {counts}.")
    if by_verdict["fell"]:
        cases = " ".join(dict.fromkeys(each.case for each in by_verdict["fell"]))
        parts.append(
            f"What to do: measure the commit of the page ({page.machine['commit']}) on this machine, too:"
            f" `nox -s benchmarks -- --check {cases}` in a worktree of it. If it falls there, the machine is another"
            " one, and the page needs a new run. If not, `git bisect` finds the commit; if the loss is the price of"
            " something else, say so on the page and make it anew."
        )
    elif by_verdict["noisy"]:
        cases = " ".join(dict.fromkeys(each.case for each in by_verdict["noisy"]))
        parts.append(f"What to do: `nox -s benchmarks -- --check {cases}` while the machine does nothing else.")
    return "\n".join(parts) + "\n"


def place_like(wanted: str) -> Path | None:
    """Return a directory on such a file system: that of temporary files, or the shared memory; ``None`` for neither."""
    for place in (Path(tempfile.gettempdir()), _SHARED_MEMORY):
        if place.is_dir() and os.access(place, os.W_OK) and file_system_of(str(place.resolve())) == wanted:
            return place
    return None
