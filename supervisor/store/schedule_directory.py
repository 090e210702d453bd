"""Where the files of the schedules are below the state root."""

from __future__ import annotations

from typing import Final

__all__ = ["DIRECTORY", "FIRED"]

DIRECTORY: Final = "schedules"
FIRED: Final = f"{DIRECTORY}/.fired"
