"""The plots of a run, as SVG that is legible on a light page and on a dark one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks.figures import OURS, Figure, number
from benchmarks.peers.baselines import BARE, ORIGINAL
from benchmarks.report import Run

__all__ = ["PLOTS", "draw"]

_INK: Final = "#747c87"
"""Between black and white, so it is legible on both."""
_FAINT: Final = "#8b949e55"
_OURS: Final = "#1f83d6"
_ORIGINAL: Final = "#d55e00"
_OTHERS: Final = (
    "#009e73", "#cc79a7", "#b88400", "#7a68d8", "#3aa0a8", "#b0603f", "#6b8e23", "#c23b6b",
    "#5a7fb5", "#9c6b30", "#a05fb5", "#4f9a4f", "#c9803a",
)  # fmt: skip
_MARKERS: Final = "osD^vPX*<>"
_STYLE: Final[Mapping[str, Any]] = {
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": _INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "grid.color": _FAINT,
    "legend.frameon": False,
    "legend.labelcolor": _INK,
    "savefig.transparent": True,
    "svg.fonttype": "none",
    "svg.hashsalt": "benchmarks",
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
}


def _colours(names: Sequence[str]) -> dict[str, str]:
    fixed = {OURS: _OURS, BARE: _INK, ORIGINAL: _ORIGINAL}
    others = iter(_OTHERS)
    return {name: fixed.get(name) or next(others) for name in names}


def _names(figures: Sequence[Figure]) -> list[str]:
    """Return all contenders, in the order of their first figure."""
    return list(dict.fromkeys(name for figure in figures for name in figure.values))


def _shown(name: str) -> str:
    return "trio-supervisor" if name == OURS else name


def _curves(axes: Any, figures: Sequence[Figure], colours: Mapping[str, str]) -> None:
    """Draw a line for each contender: medians, and whiskers from the lowest value to the highest."""
    for turn, name in enumerate(_names(figures)):
        points = [(figure.at, figure.values[name]) for figure in figures if name in figure.values]
        middles = [median(values) for _, values in points]
        below = [middle - min(values) for middle, (_, values) in zip(middles, points, strict=True)]
        above = [max(values) - middle for middle, (_, values) in zip(middles, points, strict=True)]
        axes.errorbar(
            [at for at, _ in points],
            middles,
            yerr=[below, above],
            label=_shown(name),
            color=colours[name],
            linewidth=2.6 if name == OURS else 1.4,
            linestyle="--" if name == BARE else "-",
            marker=_MARKERS[turn % len(_MARKERS)],
            markersize=5,
            capsize=2,
            elinewidth=0.8,
            zorder=3 if name == OURS else 2,
        )
    axes.grid(visible=True, axis="y")
    axes.set_xscale("log")
    ats = sorted({figure.at for figure in figures if figure.at is not None})
    axes.set_xticks(ats, [f"{at:,.0f}" for at in ats])
    axes.minorticks_off()
    axes.set_xlabel(figures[0].along)


def _throughput(run: Run, pyplot: Any) -> Any:
    figures = [figure for figure in run.figures if figure.case == "throughput"]
    if not figures:
        return None
    picture, axes = pyplot.subplots(figsize=(7.5, 4))
    _curves(axes, figures, _colours(_names(figures)))
    axes.set_ylim(bottom=0)
    axes.set_ylabel("jobs a second")
    axes.set_title("From a start to a recorded exit")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return picture


def _growth(run: Run, pyplot: Any) -> Any:
    rates = [figure for figure in run.figures if figure.case == "growth" and figure.more_is_better]
    lists = [figure for figure in run.figures if figure.case == "lists" and figure.at is not None]
    statuses = [figure for figure in run.figures if figure.case == "growth" and not figure.more_is_better]
    if not rates or not lists:
        return None
    picture, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.6))
    _curves(left, rates, _colours(_names(rates)))
    left.set_ylim(bottom=0)
    left.set_ylabel("jobs a second")
    left.set_title("Starts, while so many are kept")
    left.legend()
    for figures, factor, words, colour in (
        (lists, 1.0, "list of 50", _OURS),
        (statuses, 1e-3, "status, the root opened for it", _OTHERS[0]),
    ):
        ats = [figure.at for figure in figures]
        right.plot(
            ats,
            [median(figure.values[OURS]) * factor for figure in figures],
            label=words,
            color=colour,
            marker="o",
            markersize=4,
            linewidth=2,
        )
    right.grid(visible=True, axis="y")
    right.set_xscale("log")
    kept = sorted({figure.at for figure in [*lists, *statuses] if figure.at is not None})
    right.set_xticks(kept, [f"{at:,.0f}" for at in kept], rotation=30)
    right.minorticks_off()
    right.set_ylim(bottom=0)
    right.set_xlabel("jobs kept")
    right.set_ylabel("ms")
    right.set_title("Answers, while so many are kept")
    right.legend()
    return picture


def _latency(run: Run, pyplot: Any) -> Any:
    wanted = (("starts", "A start, until it is acknowledged"), ("exits", "An exit, until the waiter knows"))
    panels = [
        (next((figure for figure in run.figures if figure.case == case and figure.at in {None, 1}), None), words)
        for case, words in wanted
    ]
    if any(figure is None for figure, _ in panels):
        return None
    from matplotlib.ticker import FuncFormatter, LogLocator

    names = _names([figure for figure, _ in panels if figure is not None])
    colours = _colours(names)
    picture, both = pyplot.subplots(1, 2, figsize=(9, 0.6 + 0.36 * len(names)), sharey=True)
    for axes, (figure, words) in zip(both, panels, strict=True):
        assert figure is not None
        for place, name in enumerate(reversed(names)):
            values = figure.values.get(name)
            if values is None:
                axes.annotate("-", (0.5, place), xycoords=("axes fraction", "data"), ha="center", va="center")
                continue
            middle = median(values)
            axes.plot([min(values), max(values)], [place, place], color=colours[name], linewidth=2)
            axes.plot([middle], [place], color=colours[name], marker="o", markersize=8 if name == OURS else 6)
            axes.annotate(number(middle), (middle, place), (0, 7), textcoords="offset points", ha="center", fontsize=8)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.minorticks_off()
        axes.set_yticks(range(len(names)), [_shown(name) for name in reversed(names)])
        axes.set_ylim(-0.6, len(names) - 0.2)
        axes.grid(visible=True, axis="x")
        axes.set_xlabel("ms, on a logarithmic scale")
        axes.set_title(words)
    return picture


PLOTS: Final[Mapping[str, Callable[[Run, Any], Any]]] = {
    "performance-throughput.svg": _throughput,
    "performance-latency.svg": _latency,
    "performance-growth.svg": _growth,
}
"""The name of each plot, and the function that draws it; the function returns nothing without figures."""


def draw(run: Run, folder: Path) -> list[str]:
    """Draw the plots of a run into ``folder`` and return the names of the files.

    The same run always gives the same files.
    """
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    drawn: list[str] = []
    style: Any = dict(_STYLE)
    with mpl.rc_context(style):
        for name, make in PLOTS.items():
            picture = make(run, plt)
            if picture is None:
                continue
            picture.savefig(folder / name, format="svg", metadata={"Date": None, "Creator": None})
            plt.close(picture)
            text = (folder / name).read_text(encoding="utf-8")
            (folder / name).write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n", encoding="utf-8")
            drawn.append(name)
    return drawn
