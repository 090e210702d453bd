"""Patterns of commands, as ``--allow-command`` takes them: which words may vary, and never into an option.

A pattern is matched word by word, ``*``, ``?`` and ``[...]`` within a word matching within that word; a last word
``*`` matches all that follow. As with the places of a kind's command, what they match cannot be an option: a word
that begins with ``-`` is allowed only where the pattern's word does, and in that they stand only after ``=``.
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


def check_pattern(pattern: str) -> None:
    """Check a pattern before a server is offered with it.

    Raises:
        InvalidArguments: it has no words, or would let a caller choose an option.
    """
    try:
        words = shlex.split(pattern)
    except ValueError as error:
        message = f"--allow-command is {pattern!r}: {error}"
        raise InvalidArguments(message) from error
    if not words:
        message = "--allow-command is empty; it accepts a command, with * for what may vary"
        raise InvalidArguments(message)
    for word in words:
        option = word.partition("=")[0]
        if word.startswith("-") and _VARIES.search(_literal_brackets(option)):
            message = f"--allow-command is {pattern!r}: in {word!r} what varies could become another option"
            repair = "Write options out; a value may vary after '=', as in '--name=*', or as a word of its own: '*'."
            raise InvalidArguments(message, repair=repair)


def _literal_brackets(word: str) -> str:
    """Return a word without the characters that stand for themselves: ``[*]``, ``[?]`` and ``[[]``."""
    return re.sub(r"\[[*?\[]\]", "", word)


def allows(pattern: str, command: Sequence[str]) -> bool:
    """Whether a command is one that ``pattern`` allows.

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
