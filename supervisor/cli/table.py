"""Tables of text: aligned columns, which can be cut so that a line fits a terminal. Pure.

Widths are those of a terminal, where an East Asian character takes two cells and a combining one takes none.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Final, Literal

import attrs

__all__ = ["Cell", "Column", "aligned", "cut", "fitted", "width"]

_GAP: Final = "  "
_ELLIPSIS: Final = "\N{HORIZONTAL ELLIPSIS}"


def width(text: str) -> int:
    """Return how many cells of a terminal a text without control characters takes."""
    return len(text) if text.isascii() else sum(map(_width_of, text))


@functools.lru_cache(4096)
def _width_of(character: str) -> int:
    from unicodedata import category, east_asian_width  # for text that is not ASCII

    if character.isascii():
        return 1
    if category(character) in {"Mn", "Me", "Cf"}:
        return 0
    return 2 if east_asian_width(character) in {"W", "F"} else 1


def cut(text: str, most: int, *, front: bool = False) -> str:
    """Return ``text`` in at most ``most`` cells, with an ellipsis for what is cut: its end, or its front."""
    if width(text) <= most:
        return text
    if most <= 0:
        return ""
    kept: list[str] = []
    left = most - 1
    for character in reversed(text) if front else text:
        left -= _width_of(character)
        if left < 0:
            break
        kept.append(character)
    if not front:
        return "".join(kept) + _ELLIPSIS
    while kept and not _width_of(kept[-1]):  # it combines with a character that is cut
        kept.pop()
    return _ELLIPSIS + "".join(reversed(kept))


@attrs.frozen
class Column:
    """A column of a table.

    Attributes:
        head: its name, in the first line.
        side: where its cells are aligned.
        least: the width below which it is not narrowed; ``None`` for one that is never narrowed.
        front: whether a cell that is too wide loses its front, and not its end.
        spare: the columns with the highest numbers are left out first where there is no room for all; 0 is kept.
    """

    head: str
    side: Literal["left", "right"] = "left"
    least: int | None = attrs.field(default=None, kw_only=True)
    front: bool = attrs.field(default=False, kw_only=True)
    spare: int = attrs.field(default=0, kw_only=True)


@attrs.frozen
class Cell:
    """A text and its style.

    Attributes:
        text: without control characters.
        colour: the name of a colour, or ``None``.
        bold: whether it is bold.
    """

    text: str
    colour: str | None = None
    bold: bool = False


def aligned(rows: Sequence[Sequence[str]], *, right: frozenset[int] = frozenset()) -> list[str]:
    """Return rows of cells as lines with aligned columns, without tabs and trailing blanks."""
    widths = [max(map(width, column)) for column in zip(*rows, strict=True)]
    return [
        _GAP.join(
            _padded(text, most, right=number in right)
            for number, (text, most) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _padded(text: str, most: int, *, right: bool) -> str:
    blanks = " " * (most - width(text))
    return blanks + text if right else text + blanks


def fitted(
    columns: Sequence[Column], rows: Sequence[Sequence[Cell]], most: int, *, in_colour: bool = True
) -> list[str]:
    """Return a line for the heads and for each row, of at most ``most`` cells each, with colours or without.

    Columns that may be narrowed share the room that the others leave; if that is not enough, some are left out.
    """
    natural = [
        max([width(column.head), *(width(row[number].text) for row in rows)]) for number, column in enumerate(columns)
    ]
    shown = [*range(len(columns))]
    while sum(_needed(columns[each], natural[each]) for each in shown) + len(_GAP) * (len(shown) - 1) > most:
        spare = max(shown, key=lambda each: columns[each].spare)
        if not columns[spare].spare:
            break
        shown.remove(spare)
    widths = _shared(columns, natural, shown, most - len(_GAP) * (len(shown) - 1))
    lines: list[str] = []
    for row in ([Cell(column.head, bold=True) for column in columns], *rows):
        left = most
        parts: list[str] = []
        for each in shown:
            if left <= 0:
                break
            room = min(widths[each], left)
            text = cut(row[each].text, room, front=columns[each].front)
            # The blanks of the last column are not written: a terminal that is made narrower would wrap them.
            padded = text if each == shown[-1] else _padded(text, room, right=columns[each].side == "right")
            left -= width(padded) + len(_GAP)
            parts.append(padded.replace(text, _styled(row[each], text), 1) if text and in_colour else padded)
        lines.append(_GAP.join(parts).rstrip())
    return lines


def _styled(cell: Cell, text: str) -> str:
    import click  # `plain` answers without it

    return click.style(text, fg=cell.colour, bold=True if cell.bold else None) if cell.colour or cell.bold else text


def _needed(column: Column, natural: int) -> int:
    return natural if column.least is None else min(natural, column.least)


def _shared(columns: Sequence[Column], natural: Sequence[int], shown: Sequence[int], room: int) -> dict[int, int]:
    """Return a width for each shown column: what it needs, and an equal part of the rest for those that use more."""
    widths = {each: _needed(columns[each], natural[each]) for each in shown}
    left = max(0, room - sum(widths.values()))
    narrowed = sorted(shown, key=lambda each: natural[each] - widths[each])
    for number, each in enumerate(narrowed):
        more = min(natural[each] - widths[each], left // (len(narrowed) - number))
        widths[each] += more
        left -= more
    return widths
