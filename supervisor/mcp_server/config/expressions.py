"""Regular expressions with the same meaning for Python and for the hosts that get them in a JSON schema.

This server matches with Python's ``re``. Hosts compile the ``pattern`` of a schema as ECMA-262, mostly in Unicode
mode, and some drop a server if one does not compile. So a kinds file may use only the common syntax.
"""

from __future__ import annotations

import re
import warnings
from typing import Final

__all__ = ["fault"]

_ESCAPE: Final = re.compile(r"\\(?:u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|[dDwWsSfnrtv]|0(?![0-9])|[\^$\\.*+?()\[\]{}|/])")
_OUTSIDE: Final = re.compile(r"\\(?:[bB]|[1-9][0-9]?(?![0-9]))")
_INSIDE: Final = re.compile(r"\\[b-]")
_QUANTIFIER: Final = re.compile(r"(?:[*+?]|\{[0-9]+(?:,[0-9]*)?\})\??")
_GROUP: Final = re.compile(r"\((?:\?(?P<kind>:|=|!|<=|<!))?")


def fault(pattern: str) -> str | None:
    """Return the part of a pattern that differs in ECMA-262, with its replacement; ``None`` if there is none.

    Raises:
        re.error: the pattern is not valid in Python.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)  # about syntax whose meaning may change
        try:
            re.compile(pattern)
        except FutureWarning as warning:
            return f"{warning}; in a class, write a bracket as \\[ and a doubled sign once"
    at = 0
    repeatable = False
    open_groups: list[bool] = []  # for each, whether it can be repeated; an assertion cannot
    while at < len(pattern):
        here = pattern[at : at + 4]
        if pattern[at] == "\\":
            found = _ESCAPE.match(pattern, at) or _OUTSIDE.match(pattern, at)
            if found is None:
                return f"the escape {here[:2]!r}, which ECMA-262 does not have; for both ends ^ and $ are implied"
            at, repeatable = found.end(), found[0] not in {r"\b", r"\B"}
        elif pattern[at] == "(":
            found = _GROUP.match(pattern, at)
            if found is None or (found["kind"] is None and pattern[at + 1 : at + 2] == "?"):
                return f"{here!r}, which ECMA-262 does not have; write a group as (...) or (?:...), letters as [Aa]"
            open_groups.append(found["kind"] in {None, ":"})
            at, repeatable = found.end(), False
        elif pattern[at] == ")":
            at, repeatable = at + 1, open_groups.pop()
        elif pattern[at] == "[":
            end = _end_of_class(pattern, at)
            if isinstance(end, str):
                return end
            at, repeatable = end, True
        elif (quantifier := _QUANTIFIER.match(pattern, at)) is not None:
            if not repeatable:
                return f"{quantifier[0]!r} where ECMA-262 has nothing to repeat; one quantifier follows a group"
            at, repeatable = quantifier.end(), False
        elif pattern[at] in "{}]":
            return f"a {pattern[at]!r}, which differs in ECMA-262; write \\{pattern[at]}, and {{0,n}} for {{,n}}"
        else:
            repeatable = pattern[at] not in "^$|"
            at += 1
    return None


def _end_of_class(pattern: str, at: int) -> int | str:
    """Return the end of the class that begins at ``at``, or its fault."""
    at += 2 if pattern.startswith("[^", at) else 1
    if pattern.startswith("]", at):
        return "a ']' first in a class, which ends it in ECMA-262; write \\]"
    while pattern[at] != "]":
        if pattern[at] == "\\":
            found = _ESCAPE.match(pattern, at) or _INSIDE.match(pattern, at)
            if found is None:
                return f"the escape {pattern[at : at + 2]!r} in a class, which ECMA-262 does not have"
            at = found.end()
        else:
            at += 1
    return at + 1
