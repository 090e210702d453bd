"""Patterns of commands for ``--allow-command``.

A pattern is matched word by word; ``*``, ``?`` and ``[...]`` match within one word, and a final word ``*`` matches
all further words. They never match an option: a word that begins with ``-`` needs a pattern word that begins
with ``-``, and such a pattern word may have wildcards only after ``=``.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Final

from supervisor.errors import InvalidArguments

__all__ = ["allows", "check_pattern"]

_VARIES: Final = re.compile(r"[*?\[]")
_LITERAL: Final = re.compile(r"\[[*?\[]\]")
"""A literal wildcard: ``[*]``, ``[?]`` or ``[[]``."""


def check_pattern(pattern: str) -> None:
    """Check a pattern.

    Raises:
        InvalidArguments: it has no words, or lets a caller choose an option.
    """
    try:
        words = shlex.split(pattern)
    except ValueError as error:
        message = f"--allow-command is {pattern!r}: {error}"
        raise InvalidArguments(message) from error
    if not words:
        message = "--allow-command is empty; it accepts a command, with * for parts that vary"
        raise InvalidArguments(message)
    for word in words:
        option = _LITERAL.sub("", word.partition("=")[0])
        if word.startswith("-") and _VARIES.search(option):
            message = f"--allow-command is {pattern!r}: {word!r} also matches other options"
            repair = "Write the option out. Its value may vary after '=', as in '--name=*', or as a separate word: '*'."
            raise InvalidArguments(message, repair=repair)


def allows(pattern: str, command: Sequence[str]) -> bool:
    """Whether ``pattern`` allows a command.

    Raises:
        ValueError: the pattern cannot be split into words.
    """
    words = shlex.split(pattern)
    if words[-1:] == ["*"]:
        words = words[:-1] + ["*"] * (len(command) - len(words) + 1)
    return len(words) == len(command) and all(map(_fits, words, command))


def _fits(word: str, given: str) -> bool:
    if given.startswith("-") and not word.startswith("-"):
        return False  # `*` is for operands
    return fnmatchcase(given, word)
