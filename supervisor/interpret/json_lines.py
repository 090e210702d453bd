"""Reading the one JSON document that matters out of the stdout of a program.

It may stand alone, on the last of many lines, in an array, or not at all; the bytes may be
torn, hostile or huge. Whatever they are, the answer is a ``Reading``, never an exception.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeGuard

import attrs

__all__ = [
    "MAX_DOCUMENT_BYTES",
    "JsonProblem",
    "Reading",
    "is_list",
    "is_object",
    "lines_backwards",
    "number",
    "parse",
    "read_last",
    "text_of",
]

MAX_DOCUMENT_BYTES: Final = 256 * 1024 * 1024
"""A document larger than this is not parsed: it would take several times as much memory of the host."""

_MAX_DIGITS: Final = 400  # more than a double can hold; far more would take Python quadratic time

Document = dict[str, Any]


class JsonProblem(ValueError):
    """A text that is not one JSON value; the message says why and where."""


@attrs.frozen(slots=True, kw_only=True)
class Reading:
    """What was found.

    Attributes:
        document: the document, or ``None``.
        problem: why there is none, in a few words.
        stray: how many lines were looked at and skipped because they did not parse.
        is_json: stdout does hold JSON, even if not the document that was looked for.
        empty: there is nothing on stdout but white space.
    """

    document: Document | None = None
    problem: str | None = None
    stray: int = 0
    is_json: bool = False
    empty: bool = False


def _null(_: str) -> None:
    return None


def _integer(digits: str) -> int | None:
    return int(digits) if len(digits) <= _MAX_DIGITS else None


_DECODER: Final = json.JSONDecoder(strict=False)
_PATIENT: Final = json.JSONDecoder(strict=False, parse_int=_integer, parse_constant=_null)


def parse(text: str) -> Any:
    """Return the one JSON value in ``text``, taking what can be taken: control characters, NaN.

    Raises:
        JsonProblem: it is not one JSON value, nests too deeply, or does not fit into memory.
    """
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        message = f"line {error.lineno}, column {error.colno}: {error.msg}"
    except RecursionError:
        message = "it nests too deeply"
    except MemoryError:
        message = "it does not fit into memory"
    except ValueError:  # an integer of more digits than Python converts
        try:
            return _PATIENT.decode(text)
        except (ValueError, RecursionError, MemoryError) as error:
            message = type(error).__name__
    raise JsonProblem(message)


def _decode(data: bytes, start: int, end: int) -> str:
    view = memoryview(data)[start:end]  # the copy of a line of 100 MB is worth avoiding
    try:
        return str(view, "utf-8")
    except UnicodeDecodeError:
        return str(view, "utf-8", "replace")


def lines_backwards(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield start and end of the lines of ``data`` that are not blank, the last one first."""
    end = len(data)
    while end > 0:
        newline = data.rfind(b"\n", 0, end)
        start = newline + 1
        if end - start > 256 or data[start:end].strip():
            yield start, end
        end = newline
        if newline < 0:
            return


def read_last(stdout: bytes, matches: Callable[[Document], bool], *, mark: bytes) -> Reading:
    """Return the last JSON object of ``stdout`` for which ``matches`` holds.

    Looked for on lines of their own (JSON lines, or one line alone) from the end, then in
    the whole as one value, an object or an array of them. ``mark`` is a byte string that
    such a line holds for certain; lines without it are not parsed.
    """
    if len(stdout) > MAX_DOCUMENT_BYTES:
        return Reading(problem=f"stdout is {len(stdout)} bytes, more than is read ({MAX_DOCUMENT_BYTES})")
    stray = 0
    problem: str | None = None
    is_json = False
    lines = 0
    for start, end in lines_backwards(stdout):
        lines += 1
        if stdout.find(mark, start, end) < 0:
            continue
        try:
            value = parse(_decode(stdout, start, end).lstrip("\ufeff"))
        except JsonProblem as error:
            stray += 1
            problem = problem or str(error)
            continue
        is_json = True
        found = _pick(value, matches)
        if found is not None:
            return Reading(document=found, stray=stray, is_json=True)
    if not lines:
        return Reading(problem="stdout is empty", empty=True)
    # Indented, or an array over several lines; one line alone has been tried already, unless it lacks the mark.
    if lines > 1 or not (stray or is_json):
        try:
            value = parse(_decode(stdout, 0, len(stdout)).lstrip("\ufeff"))
        except JsonProblem as error:
            problem = problem or str(error)
        else:
            is_json = True
            found = _pick(value, matches)
            if found is not None:
                return Reading(document=found, is_json=True)
    why = "it holds JSON, but not the document that was expected" if is_json else f"it is not JSON ({problem})"
    return Reading(problem=f"stdout has no result: {why}", stray=stray, is_json=is_json)


def _pick(value: Any, matches: Callable[[Document], bool]) -> Document | None:
    candidates = value if is_list(value) else [value]
    for candidate in reversed(candidates):
        if is_object(candidate) and matches(candidate):
            return candidate
    return None


def is_object(value: Any) -> TypeGuard[Document]:
    """Say whether a parsed value is a JSON object."""
    return isinstance(value, dict)


def is_list(value: Any) -> TypeGuard[list[Any]]:
    """Say whether a parsed value is a JSON array."""
    return isinstance(value, list)


def number(value: Any) -> float | None:
    """Return a finite number that is not negative as a float, or ``None`` for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        as_float = float(value)
    except OverflowError:
        return None
    return as_float if 0 <= as_float < float("inf") else None


def text_of(value: Any) -> str | None:
    """Return ``value`` when it is a string with something in it, else ``None``."""
    return value if isinstance(value, str) and value.strip() else None
