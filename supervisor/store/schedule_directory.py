"""Where the files of the schedules are below the state root, and how one is written."""

from __future__ import annotations

import os
from typing import Final

__all__ = ["DIRECTORY", "FIRED", "replace_file"]

DIRECTORY: Final = "schedules"
FIRED: Final = f"{DIRECTORY}/.fired"


def replace_file(path: str, content: bytes) -> None:
    """Write a file that only its user can read, as a whole."""
    directory, _, name = path.rpartition("/")
    aside = f"{directory}/.{name}.{os.getpid()}"
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "wb") as file:
        os.fchmod(descriptor, 0o600)
        file.write(content)
    os.rename(aside, path)
