"""The lines of keys in a TOML file, for messages: the parser of the standard library does not return them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from typing import Any, Final

__all__ = ["line_of"]

_KEY: Final = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*')"""
_DOTTED: Final = rf"{_KEY}(?:[ \t]*\.[ \t]*{_KEY})*"
_HEADER: Final = re.compile(rf"[ \t]*\[\[?[ \t]*({_DOTTED})[ \t]*\]")
_ASSIGNMENT: Final = re.compile(rf"[ \t]*({_DOTTED})[ \t]*=")
_INLINE: Final = re.compile(rf"[{{,][ \t\r\n]*({_DOTTED})[ \t]*=")


def line_of(text: str, path: Sequence[str]) -> int | None:
    """Return the line (from 1) of the key at ``path``, or of the innermost table around it that has one."""
    found: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    lines = text.split("\n")
    number = 0
    while number < len(lines):
        line = lines[number]
        if (header := _HEADER.match(line)) is not None:
            table = _names(header[1])
            found.setdefault(table, number + 1)
        elif (assignment := _ASSIGNMENT.match(line)) is not None:
            taken = _lines_taken(lines, number)
            key = (*table, *_names(assignment[1]))
            found.setdefault(key, number + 1)
            value = "\n".join(lines[number : number + taken])[assignment.end() :]
            for inner in _INLINE.finditer(value):  # keys of inline tables, at any depth
                found.setdefault((*key, *_names(inner[1])), number + 1 + value.count("\n", 0, inner.start(1)))
            number += taken - 1
        number += 1
    wanted = tuple(path)
    while wanted:
        if wanted in found:
            return found[wanted]
        below = [line for key, line in found.items() if key[: len(wanted)] == wanted]
        if below:
            return min(below)
        wanted = wanted[:-1]
    return None


def _names(dotted: str) -> tuple[str, ...]:
    table: Any = tomllib.loads(f"{dotted} = 0")
    names: list[str] = []
    while table != 0:
        ((name, table),) = table.items()
        names.append(name)
    return tuple(names)


def _lines_taken(lines: Sequence[str], start: int) -> int:
    """Return how many lines an assignment takes: the fewest that are TOML by themselves."""
    for end in range(start + 1, len(lines) + 1):
        try:
            tomllib.loads("\n".join(lines[start:end]))
        except tomllib.TOMLDecodeError:
            continue
        return end - start
    return 1
