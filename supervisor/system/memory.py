"""How much memory a process and its descendants occupy now; a measurement, and no evidence about anything."""

from __future__ import annotations

import os
from typing import Final

__all__ = ["resident_bytes"]

_MOST: Final = 200
"""A tree of more processes is measured in part."""


def resident_bytes(pid: int) -> int | None:
    """Return the resident memory of a process and its descendants, each page once for each process that has it.

    ``None`` where that cannot be read, as without ``/proc`` and for a process that is gone.
    """
    page = os.sysconf("SC_PAGE_SIZE")
    total, left, seen = 0, [pid], 0
    while left and seen < _MOST:
        each = left.pop()
        seen += 1
        try:
            with open(f"/proc/{each}/statm", "rb") as file:
                total += int(file.read().split()[1]) * page
            with open(f"/proc/{each}/task/{each}/children", "rb") as file:
                left += map(int, file.read().split())
        except (OSError, ValueError, IndexError):  # it has just ended, or is of another user
            continue
    return total or None
