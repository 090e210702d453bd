"""Draws ``states.svg`` when it is run: the states of a job, from the table in ``supervisor/states.py``.

This file has the position of each state. States, transitions and their names come from the table.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[1]))

from supervisor.states import TRANSITIONS, State

FILE: Final = Path(__file__).with_name("states.svg")
WIDTH, HEIGHT = 860, 400
BOX = (110, 40)
PLACES: Final = {
    State.QUEUED: (75, 60),
    State.RUNNING: (380, 60),
    State.DONE: (770, 60),
    State.FAILED: (770, 165),
    State.CANCELLED: (770, 270),
    State.TIMEOUT: (770, 365),
}
STYLE: Final = """
  rect { fill: #eef3fa; stroke: #35507a; stroke-width: 1.5 }
  rect.terminal { stroke-width: 3.5 }
  path { fill: none; stroke: #35507a; stroke-width: 1.3; marker-end: url(#head) }
  text { font: 13px sans-serif; fill: #1d2733 }
  text.state { font-weight: bold; text-anchor: middle; dominant-baseline: central }
  text.note { fill: #5b6675 }
"""


def events(source: State, target: State) -> list[str]:
    """Return the names of the events that lead from one state to another."""
    return [event.value for event, leads_to in TRANSITIONS[source].items() if leads_to is target]


def lines(x: float, y: float, texts: list[str]) -> Iterator[str]:
    """Yield texts below each other."""
    for number, text in enumerate(texts):
        yield f'<text x="{x:g}" y="{y + 15 * number:g}">{text}</text>'


def arrow(source: State, target: State) -> str:
    """Return the arrow between two boxes: horizontal between boxes at the same height, else down, then across."""
    (from_x, from_y), (to_x, to_y) = PLACES[source], PLACES[target]
    half_width, half_height = BOX[0] / 2, BOX[1] / 2
    if from_y == to_y:
        way = f"M {from_x + half_width:g} {from_y} H {to_x - half_width - 4:g}"
    else:
        way = f"M {from_x:g} {from_y + half_height:g} V {to_y} H {to_x - half_width - 4:g}"
    return f'<path d="{way}"/>'


def parts() -> Iterator[str]:
    """Yield everything that is drawn."""
    ends = TRANSITIONS[State.RUNNING]
    early = ends.items() <= TRANSITIONS[State.QUEUED].items()
    for source, ways in TRANSITIONS.items():
        for target in dict.fromkeys(ways.values()):
            again = early and source is State.QUEUED
            names = [name for name in events(source, target) if not (again and name in events(State.RUNNING, target))]
            if names:
                yield arrow(source, target)
                level = PLACES[source][1] == PLACES[target][1]
                x = PLACES[source][0] + (BOX[0] / 2 + 12 if level else 12)
                yield from lines(x, PLACES[target][1] - 8 - 15 * (len(names) - 1), names)
    if early:
        notes = (
            f"Each event of {State.RUNNING.value} is an event of",
            f"{State.QUEUED.value}, too: an end may be observed",
            "before the launch is recorded.",
        )
        for number, note in enumerate(notes):
            yield f'<text class="note" x="20" y="{HEIGHT - 170 + 17 * number}">{note}</text>'
    for state, (x, y) in PLACES.items():
        css = ' class="terminal"' if state.terminal else ""
        yield f'<rect{css} x="{x - BOX[0] / 2:g}" y="{y - BOX[1] / 2:g}" width="{BOX[0]}" height="{BOX[1]}" rx="6"/>'
        yield f'<text class="state" x="{x}" y="{y}">{state.value}</text>'


def svg() -> str:
    """Return the picture.

    Raises:
        KeyError: a state has no entry in ``PLACES``.
    """
    title = "The states of a job and the events between them"
    head = 'id="head" viewBox="0 0 10 10" refX="8" refY="5" markerWidth="7" markerHeight="7" orient="auto"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">',
            f"<style>{STYLE}</style>",
            f'<defs><marker {head}><polygon points="0,0 10,5 0,10" fill="#35507a"/></marker></defs>',
            '<rect x="0" y="0" width="100%" height="100%" style="fill: white; stroke: none"/>',
            *parts(),
            "</svg>",
            "",
        ],
    )


if __name__ == "__main__":
    FILE.write_text(svg(), encoding="utf-8")
