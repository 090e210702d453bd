"""Draws ``rooms.svg`` when it is run: the rooms of the package and which of them imports which.

The rooms and what they are for come from the docstring of ``supervisor``, the arrows from the imports in the code.
"""

from __future__ import annotations

import ast
import itertools
import re
import sys
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[1]))

import supervisor

FILE: Final = Path(__file__).with_name("rooms.svg")
PACKAGE: Final = Path(supervisor.__file__).parent
BOX: Final = (100, 30)
GAP: Final = 36  # between neighbours on a floor; also the room that a passing arrow takes
FLOOR: Final = 64  # from one floor to the next
MARGIN: Final = 20
SWEEPS: Final = 12
STYLE: Final = """
  rect { fill: #eef3fa; stroke: #35507a; stroke-width: 1.5 }
  path { fill: none; stroke: #35507a; stroke-width: 1; stroke-opacity: 0.55; marker-end: url(#head) }
  text { font: bold 13px sans-serif; fill: #1d2733; text-anchor: middle; dominant-baseline: central }
"""


def rooms() -> dict[str, str]:
    """Return the rooms from the top down, each with what it is for."""
    table = (supervisor.__doc__ or "").partition("::\n\n")[2]
    return dict(re.findall(r"^ +(\w+) {2,}(.+)$", table, re.MULTILINE))


def _modules(path: Path) -> Iterator[str]:
    """Yield the absolute names that a module imports, at its top and in functions."""
    package = ".".join(("supervisor", *path.relative_to(PACKAGE).parent.parts))
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package) if node.level else str(node.module)
            yield from (f"{base}.{each.name}" for each in node.names)


def imports() -> dict[str, set[str]]:
    """Return the rooms that each room imports."""
    known = rooms()
    found: dict[str, set[str]] = {room: set() for room in known}
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if room in known:
            named = {name.split(".")[1] for name in _modules(path) if name.startswith("supervisor.")}
            found[room] |= (named & known.keys()) - {room}
    return found


def necessary(arrows: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return the arrows without those that follow from others: a to c, if a to b and b to c."""
    below: dict[str, set[str]] = {}
    for room in reversed(rooms()):
        below[room] = arrows[room].union(*(below[each] for each in arrows[room]))
    return {room: targets - set().union(*(below[each] for each in targets)) for room, targets in arrows.items()}


def floors(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Return the rooms floor by floor from the bottom: each is above all that it imports."""
    level: dict[str, int] = {}
    for room in reversed(rooms()):
        level[room] = 1 + max((level[each] for each in arrows[room]), default=-1)
    return [[room for room in rooms() if level[room] == each] for each in range(max(level.values()) + 1)]


Place = str | tuple[str, str, int]  # a room, or an arrow (from, to) on its way past a floor


def ways(arrows: dict[str, set[str]]) -> list[list[Place]]:
    """Return each arrow as the places that it leads through, from its room to the one below, a floor at a time."""
    level = {room: number for number, floor in enumerate(floors(arrows)) for room in floor}
    found: list[list[Place]] = []
    for room, targets in arrows.items():
        for target in sorted(targets):
            passed: list[Place] = [(room, target, each) for each in range(level[room] - 1, level[target], -1)]
            found.append([room, *passed, target])
    return found


def order(arrows: dict[str, set[str]]) -> list[list[Place]]:
    """Return the places of each floor from left to right: each near what it is connected with."""
    made: list[list[Place]] = [list(floor) for floor in floors(arrows)]
    beside: dict[Place, list[Place]] = {}
    for way in ways(arrows):
        for place in way[1:-1]:
            made[int(place[2])].append(place)
        for above, below in itertools.pairwise(way):
            beside.setdefault(above, []).append(below)
            beside.setdefault(below, []).append(above)
    for _ in range(SWEEPS):
        for floor in (*made, *reversed(made)):
            x = positions(made)
            near = {place: beside.get(place, [place]) for place in floor}  # a room without arrows stays where it is
            floor.sort(key=lambda place: sum(x[each] for each in near[place]) / len(near[place]))
    return made


def positions(made: list[list[Place]]) -> dict[Place, float]:
    """Return how far to the right of the middle each place is."""
    found: dict[Place, float] = {}
    for floor in made:
        widths = [BOX[0] if isinstance(place, str) else 0 for place in floor]
        left = -(sum(widths) + GAP * (len(floor) - 1)) / 2
        for place, width in zip(floor, widths, strict=True):
            found[place] = left + width / 2
            left += width + GAP
    return found


def arrow(points: list[tuple[float, float]]) -> str:
    """Return the arrow through these points, the middles of places, as a curve that is vertical at each of them."""
    half = BOX[1] / 2
    ((x, y), *rest) = points
    drawn = f"M {x:g} {y + half:g}"
    for number, (to_x, to_y) in enumerate(rest, 1):
        start, end = y + half, to_y - half - (3 if number == len(rest) else 0)
        middle = (start + end) / 2
        drawn += f" C {x:g} {middle:g} {to_x:g} {middle:g} {to_x:g} {end:g}"
        if number < len(rest):
            drawn += f" V {to_y + half:g}"
        x, y = to_x, to_y
    return f'<path d="{drawn}"/>'


def svg() -> str:
    """Return the picture."""
    arrows = necessary(imports())
    made = order(arrows)
    x = positions(made)
    middle = max(abs(each) for each in x.values()) + BOX[0] / 2 + MARGIN
    height = FLOOR * (len(made) - 1) + BOX[1] + 2 * MARGIN
    at = {
        place: (middle + x[place], height - MARGIN - BOX[1] / 2 - FLOOR * number)
        for number, floor in enumerate(made)
        for place in floor
    }
    head = 'id="head" viewBox="0 0 10 10" refX="8" refY="5" markerWidth="7" markerHeight="7" orient="auto"'
    title = "The rooms of the package; an arrow leads from a room to one that it imports"
    size = f'viewBox="0 0 {2 * middle:g} {height:g}" width="{2 * middle:g}" height="{height:g}"'
    boxes = [
        f'<rect x="{left - BOX[0] / 2:g}" y="{top - BOX[1] / 2:g}" width="{BOX[0]}" height="{BOX[1]}" rx="6"/>\n'
        f'<text x="{left:g}" y="{top:g}">{room}</text>'
        for room in rooms()
        for left, top in [at[room]]
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{title}">',
            f"<style>{STYLE}</style>",
            f'<defs><marker {head}><polygon points="0,0 10,5 0,10" fill="#35507a"/></marker></defs>',
            '<rect x="0" y="0" width="100%" height="100%" style="fill: white; stroke: none"/>',
            *(arrow([at[place] for place in way]) for way in ways(arrows)),
            *boxes,
            "</svg>",
            "",
        ],
    )


if __name__ == "__main__":
    FILE.write_text(svg(), encoding="utf-8")
