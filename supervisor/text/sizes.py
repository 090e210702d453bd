"""Reads sizes: bytes as a number, or a text such as ``200M``, ``1.5G``, ``64KiB``, ``10MB``."""

from __future__ import annotations

import math
import re
from typing import Final

__all__ = ["ACCEPTS", "parse_size"]

ACCEPTS: Final = "a whole number of bytes of at least 0, or a size such as 64k, 200M, 1.5G or 1GiB"
"""What messages say about it."""

_PREFIXES: Final = "kmgt"
_SIZE: Final = r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?b)?|b)?"
_MAX_BYTES: Final = 2**63 - 1


def parse_size(held: object) -> int:
    """Return a number of bytes. ``M`` and ``MiB`` are 1024², as for systemd and Slurm; ``MB`` is 1000².

    Case does not matter; a fraction of a byte is cut off.

    Raises:
        ValueError: it is no whole number of at least 0, no text that describes one, or no file can be so large.
    """
    if isinstance(held, bool) or not isinstance(held, str | int):
        raise ValueError
    if isinstance(held, int):
        size = held
    else:
        found = re.fullmatch(_SIZE, held.strip().lower(), re.ASCII)
        if found is None:
            raise ValueError
        number, prefix, suffix = found.groups()
        if prefix is None and "." in number:
            raise ValueError
        base = 1000 if suffix == "b" else 1024
        scale = 1 if prefix is None else base ** (_PREFIXES.index(prefix) + 1)
        size = math.floor(min(float(number) * scale, 2.0**64)) if "." in number else int(number) * scale
    if not 0 <= size <= _MAX_BYTES:
        raise ValueError
    return size
