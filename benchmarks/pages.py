"""Makes the page in ``docs/`` and the README's table from a run: ``python -m benchmarks report FILE``.

All text between the marks ``<!-- figures -->`` and ``<!-- end of figures -->`` is generated from the file, and a
test compares it; the rest of a page is written by hand.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Final

import attrs

from benchmarks.figures import OURS, Figure, number
from benchmarks.peers.baselines import BARE, ORIGINAL
from benchmarks.plots import draw
from benchmarks.report import Run, line_of, markdown

__all__ = ["KEPT", "PAGE", "figures_in", "headlines", "main", "renewed", "tables"]

_ROOT: Final = Path(__file__).parents[1]
PAGE: Final = _ROOT / "docs" / "performance.md"
KEPT: Final = _ROOT / "docs" / "performance.json"
"""The run that the page shows."""
_README: Final = _ROOT / "README.md"
_MARKED: Final = re.compile(r"(?<=^<!-- figures -->\n).*?(?=^<!-- end of figures -->$)", re.MULTILINE | re.DOTALL)

_TITLES: Final = {
    "throughput": "Jobs a second",
    "starts": "Starting",
    "exits": "Waiting",
    "statuses": "Asking for one",
    "lists": "Asking for many",
    "growth": "With many kept",
    "queueing": "With many waiting",
    "draining": "Through a queue",
    "sleeping": "With many running",
    "deadlines": "Deadlines",
    "stopping": "Stopping",
    "stops": "Stopping many",
    "containing": "Control groups",
    "durability": "Loss of power",
    "output": "Output",
    "pty": "Terminals",
    "reopening": "Opening again",
    "upgrade": "After an upgrade",
    "cold": "Whole processes",
    "mcp": "Through MCP",
    "events": "Events",
    "deliveries": "Deliveries",
    "embedding": "From asyncio and threads",
    "serve": "Page and event streams",
    "interpret": "Reading what agents say",
}
_PUBLISHED: Final = {
    "draining": (
        "Published, and not measured here: [issue 573](https://github.com/Nukesor/pueue/issues/573) of pueue (version"
        " 3.4.1, on the machine of its reporter) has 500 jobs added to a paused group, by a process each, in 2.3 s, and"
        " the next 500 in 4.8 s, 7.3 s, 10.1 s and 12.2 s: 219 a second with none waiting, 41 with 2,000."
    ),
}
"""By case, what others have published of tools that the session cannot install."""
_HEADLINES: Final = (
    ("throughput", r", 16 in flight"),
    ("growth", r"exit, 1,000 kept"),
    ("starts", r""),
    ("exits", r", idle"),
    ("statuses", r"own running"),
    ("statuses", r"finished job by another"),
    ("statuses", r"finished job by a fresh"),
    ("lists", r"out of 1?00?,000$"),
    ("sleeping", r"memory per running job"),
    ("sleeping", r"idle processor time, 1,000"),
    ("deadlines", r" of 1,000 "),
    ("output", r"to stdout"),
    ("reopening", r"until it is open"),
)


def _stands_beside(figure: Figure) -> str:
    """Return a figure's ratios to its limit and its peers, in words."""
    words: list[str] = []
    for name in (BARE, ORIGINAL, *figure.values):
        ratios = figure.ratios(name) if name in figure.values and name != OURS else []
        phrase = f"{number(median(ratios))} x {name}" if ratios else ""
        if phrase and phrase not in words:
            words.append(phrase)
    return "; ".join(words[:3])


def headlines(run: Run) -> str:
    """Return the short table, for the README."""
    lines = ["| | median | beside | goal |", "|---|--:|---|---|"]
    for case, pattern in _HEADLINES:
        for figure in run.figures:
            if figure.case != case or not re.search(pattern, figure.name):
                continue
            goals = [
                f"{goal.sign} {goal.value:g}{f' x {goal.of}' if goal.of else ''}: {'met' if met else 'not met'}"
                for goal in figure.goals
                if (met := goal.met(figure)) is not None and (goal.value != 1 or not goal.of)
            ]
            middle = f"{number(median(figure.values[OURS]))} {figure.unit}"
            taken = figure.taken or run.taken
            name = figure.name if taken.size == run.size else f"{figure.name} ({taken.size} size)"
            lines.append(line_of(name, middle, _stands_beside(figure), "; ".join(goals)))
    return f"{machine(run)}\n\n" + "\n".join(lines) + "\n"


def machine(run: Run) -> str:
    """Return where and when a run was made, in words."""
    held = run.machine
    return (
        f"{held['processor']}, {held['cores']} cores, {held['memory_gib']} GiB, Linux {held['kernel']}, "
        f"{held['python']}, state root on {held['file_system']}; commit `{held['commit']}`, {held['date'][:10]}, "
        f"{run.size} size; load average {run.load[0]} before and {run.load[-1]} after."
    )


def _otherwise(run: Run, figures: Sequence[Figure]) -> str:
    """Return how figures from another run were taken; empty for figures of this run."""
    own = run.taken
    others = dict.fromkeys(
        f"of {taken.size} size, state root on {taken.file_system}, commit `{taken.commit}`, load average {taken.load}"
        for taken in (figure.taken or own for figure in figures)
        if attrs.evolve(taken, load=own.load) != own
    )
    return f"Taken in another run: {'; '.join(others)}." if others else ""


def tables(run: Run) -> str:
    """Return all tables of a run, for the page."""
    took_part = [f"* *{name}* {about['version']}: {about['about']}." for name, about in run.peers.items()]
    parts = [machine(run), "\n".join(took_part)]
    pictures = {
        "throughput": ("performance-throughput.svg", "Jobs a second by jobs in flight"),
        "exits": ("performance-latency.svg", "What a start and an exit take"),
        "growth": ("performance-growth.svg", "Starts and answers by jobs kept"),
    }
    parts += [f"**{case}** failed: `{reason}`" for case, reason in run.failed.items()]
    for case, title in _TITLES.items():
        figures = [figure for figure in run.figures if figure.case == case]
        if not figures:
            continue
        parts.append(f"### {title}")
        if words := _otherwise(run, figures):
            parts.append(words)
        if case in pictures:
            parts.append(f"![{pictures[case][1]}]({pictures[case][0]})")
        parts.append(markdown(figures).rstrip())
        notes = dict.fromkeys(figure.note for figure in figures if figure.note)
        parts += [f"Note: {note}." for note in notes]
        parts += [_PUBLISHED[case]] if case in _PUBLISHED else []
    return "\n\n".join(["", *parts, ""]) + "\n"


def figures_in(text: str) -> str | None:
    """Return the text between the marks of a page, ``None`` without them."""
    found = _MARKED.search(text)
    return found[0] if found else None


def renewed(text: str, figures: str) -> str:
    """Return a page with these figures between its marks."""
    return _MARKED.sub(lambda _: figures, text)


def main(given: Sequence[str]) -> None:
    """Make the page, the plots and the README's table of a file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks report", description=__doc__)
    words = "what `python -m benchmarks --json FILE` has written; cases in later ones stand for those in earlier ones"
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help=words)
    run, *others = [Run.load_from(file) for file in parser.parse_args(given).files]
    for other in others:
        run.put_in(other)
    run.save(KEPT)
    for name in draw(run, PAGE.parent):
        sys.stdout.write(f"{PAGE.parent / name}\n")
    for page, figures in ((PAGE, tables(run)), (_README, f"\n{headlines(run)}\n")):
        text = page.read_text(encoding="utf-8")
        if figures_in(text) is None:
            sys.stdout.write(f"{page} has no marks for figures; they would be:\n{figures}\n")
        else:
            page.write_text(renewed(text, figures), encoding="utf-8")
            sys.stdout.write(f"{page}\n")
