"""What a job gets of the server's environment: hosts hand servers their secrets, and jobs have no need of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Final

__all__ = ["ALWAYS", "environment_of"]

ALWAYS: Final = (
    "HOME",
    "LANG",
    "LANGUAGE",
    "LC_*",
    "LOGNAME",
    "PATH",
    "SHELL",
    "TERM",
    "TMPDIR",
    "TZ",
    "USER",
)
"""Names, and patterns of names, that every job is given if the server has them."""


def environment_of(server: Mapping[str, str], passed: Sequence[str], set_: Mapping[str, str]) -> dict[str, str]:
    """Return the whole environment of a job: the small allowed set, what its kind passes, what its kind sets."""
    patterns = (*ALWAYS, *passed)
    own = {name: value for name, value in server.items() if any(fnmatchcase(name, each) for each in patterns)}
    return own | dict(set_)
