"""Reads and quotes JSON with the interpreter's own scanner, without the modules that ``json`` imports.

In the keeper ``json`` would take half of its start, and a later import may find no Python any more.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["JSONDecodeError", "loads", "quote"]

quote: Callable[[str], str]


class JSONDecodeError(ValueError):
    """Stands in for the exception that the scanner would import to raise it."""


class _Rules:
    """The parameters of the scanner."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float
    memo: dict[str, str] = {}  # noqa: RUF012  # as json.decoder.JSONDecoder has it


_read: Callable[[str], Any]

try:
    import _json
except ImportError:  # not CPython
    import json

    quote = json.dumps
    _read = json.loads
else:
    quote = _json.encode_basestring_ascii
    _scanner: Any = _json.make_scanner
    _scan: Callable[[str, int], tuple[Any, int]] = _scanner(_Rules)
    if "json.decoder" not in sys.modules and sys.modules["supervisor"].__spec__ is None:
        # In the keeper, which has made that module itself, the scanner finds its error in this one: before Python 3.14
        # it looks for it in the first of these, then in the second one.
        sys.modules["json.decoder"] = sys.modules["json"] = sys.modules[__name__]

    def _read_by_scanner(text: str) -> Any:
        begin = len(text) - len(text.lstrip(" \t\r\n"))
        try:
            value, end = _scan(text, begin)
        except (StopIteration, SystemError):  # before 3.13, the latter if its error was imported by no module
            message = "no JSON"
            raise ValueError(message) from None
        if text[end:].strip(" \t\r\n"):
            message = "more than one JSON value"
            raise ValueError(message)
        return value

    _read = _read_by_scanner


def loads(text: str | bytes) -> Any:
    """Return the value that a text, or bytes in UTF-8, holds.

    Raises:
        ValueError: it is no JSON.
        RecursionError: it is nested too deeply.
    """
    return _read(text if isinstance(text, str) else str(text, "utf-8"))
