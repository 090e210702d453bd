"""The words of a command line, sorted by what its program takes them for.

Programs of agents take a prompt as an argument among their options. To leave it out, every option has to be known: an
unknown one may have a value, or not. So a line with an unknown option is not sorted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum

import attrs

__all__ = ["Takes", "Words", "sort_words"]


class Takes(Enum):
    """What follows the name of an option."""

    NOTHING = "nothing"
    ONE = "one value"
    MAYBE = "one value, unless that begins with a dash"
    MANY = "values up to the next word that begins with a dash"


@attrs.frozen(slots=True)
class Words:
    """A command line, sorted.

    Attributes:
        options: each option with its words, in order.
        others: the words that belong to no option.
    """

    options: tuple[tuple[str, tuple[str, ...]], ...]
    others: tuple[str, ...]

    def has(self, *names: str) -> bool:
        """Whether one of these options is there."""
        return any(name in names for name, _ in self.options)

    def value(self, *names: str) -> str | None:
        """Return the last value of the first of these options that has one."""
        for name, words in self.options:
            if name in names:
                _, given, value = words[0].partition("=")
                if given:
                    return value
                if len(words) > 1:
                    return words[-1]
        return None

    def without(self, *names: str) -> list[str]:
        """Return the words of all options but these."""
        return [word for name, words in self.options if name not in names for word in words]


def sort_words(words: Sequence[str], known: Mapping[str, Takes]) -> Words | None:
    """Sort the words after the name of a program; ``None`` if one of them may be an option that is not ``known``."""
    options: list[tuple[str, tuple[str, ...]]] = []
    others: list[str] = []
    at = 0
    while at < len(words):
        word = words[at]
        if word == "--":
            others += words[at + 1 :]
            break
        if not word.startswith("-") or word == "-":
            others.append(word)
            at += 1
            continue
        name, given, _ = word.partition("=")
        if name not in known or (given and not name.startswith("--")):
            return None
        end = at + 1 if given else _end_of(words, at + 1, known[name])
        options.append((name, tuple(words[at:end])))
        at = end
    return Words(tuple(options), tuple(others))


def _end_of(words: Sequence[str], at: int, takes: Takes) -> int:
    if takes is Takes.NOTHING:
        return at
    if takes is Takes.ONE:
        return min(at + 1, len(words))
    end = at
    while end < len(words) and not words[end].startswith("-"):
        end += 1
        if takes is Takes.MAYBE:
            break
    return end
