"""Terminals: whether one redraws lines and shows colours, and how wide it is."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import IO, Any

__all__ = ["can_redraw", "fitted", "in_colour", "write"]


def can_redraw(stream: IO[Any]) -> bool:
    """Whether ``stream`` is a terminal that can draw a line again."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def in_colour(stream: IO[Any]) -> bool:
    """Whether to colour text on ``stream``: it is a capable terminal, and ``NO_COLOR`` is not set."""
    return not os.environ.get("NO_COLOR") and can_redraw(stream)


def fitted(line: str) -> str:
    """Return as much of a line as stderr's terminal shows without wrapping it."""
    try:
        width = os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except OSError:
        width = 80
    return line[: width - 1]


def write(text: str) -> None:
    """Write to stderr at once; errors are ignored, because the terminal may have been closed."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(text)
        sys.stderr.flush()
