"""Terminals: whether one redraws lines and shows colours, and how wide it is."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import IO, Any, Final

__all__ = ["asked_width", "can_redraw", "fitted", "in_colour", "width", "write"]

_USUAL_WIDTH: Final = 80


def can_redraw(stream: IO[Any]) -> bool:
    """Whether ``stream`` is a terminal that can draw a line again."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def in_colour(stream: IO[Any]) -> bool:
    """Whether to colour text on ``stream``: it is a capable terminal, and ``NO_COLOR`` is not set."""
    return not os.environ.get("NO_COLOR") and can_redraw(stream)


def width(stream: IO[Any]) -> int:
    """Return the columns of the terminal that ``stream`` is; 80 if it does not say."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or _USUAL_WIDTH
    except (OSError, ValueError):
        return _USUAL_WIDTH


def asked_width(stream: IO[Any]) -> int:
    """Return the columns that ``COLUMNS`` asks for, as ls(1) and ps(1) do, otherwise those of the terminal."""
    named = os.environ.get("COLUMNS", "")
    return int(named) if named.isascii() and named.isdigit() and 0 < len(named) < 5 else width(stream)


def fitted(line: str) -> str:
    """Return as much of a line as stderr's terminal shows without wrapping it."""
    from supervisor.cli import table  # many commands draw nothing

    return table.cut(line, width(sys.stderr) - 1)


def write(text: str) -> None:
    """Write to stderr at once; errors are ignored, because the terminal may have been closed."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(text)
        sys.stderr.flush()
