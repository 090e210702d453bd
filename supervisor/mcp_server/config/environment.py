"""The environment of a job: hosts pass secrets to servers, so a job gets only a part of the server's environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Final

__all__ = ["ALWAYS", "environment_of"]

ALWAYS: Final = ("HOME", "LANG", "LANGUAGE", "LC_*", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "TZ", "USER")
"""Names, and patterns of names, of the variables that every job gets."""


def environment_of(server: Mapping[str, str], passed: Sequence[str], set_: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a job: the variables in ``ALWAYS``, those its kind passes, those its kind sets."""
    patterns = (*ALWAYS, *passed)
    inherited = {name: value for name, value in server.items() if any(fnmatchcase(name, each) for each in patterns)}
    return inherited | dict(set_)
