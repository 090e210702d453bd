"""Finding JSON messages in the stdout of a program.

A message is a JSON object whose ``type`` is a string. It may be alone, on one of many lines, in
an array, next to another one on the same line, or between escape sequences or other text; the
bytes may be torn, hostile or huge. No function here but ``parse`` raises, and each takes time
linear in the bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final, TypeGuard

import attrs

__all__ = [
    "MAX_DOCUMENT_BYTES",
    "JsonProblem",
    "Reading",
    "is_list",
    "is_object",
    "messages_backwards",
    "messages_in",
    "number",
    "objects_in",
    "parse",
    "read_all",
    "text_of",
]

MAX_DOCUMENT_BYTES: Final = 256 * 1024 * 1024
"""A larger document is not parsed: that would take several times as much memory."""

_OPENING: Final = re.compile(r"\{\s{0,64}[\"}]")
_BEGUN: Final = re.compile(rb"\{\s{0,64}(?:\"|\Z)")  # a message, or the beginning of one
_BUDGET: Final = 3  # times the length of the text; a usual text costs its length once
_ATTEMPTS: Final = 1000  # objects that do not parse
_WINDOW: Final = 4096
_GROWTH: Final = 16
_EDGE: Final = 32  # the end of the window may have caused an error this close to it
_MAX_DIGITS: Final = 400  # more than a double can hold; Python converts many digits in quadratic time

Document = dict[str, Any]


class JsonProblem(ValueError):
    """A text that is not one JSON value; the message says why and where."""


@attrs.frozen(slots=True, kw_only=True)
class Reading:
    """The result of a search.

    Attributes:
        messages: the messages of the given type, the oldest first.
        followed: another message, or the beginning of one, follows the last of them.
        problem: why there is none, in a few words.
        empty: stdout has only white space.
    """

    messages: tuple[Document, ...] = ()
    followed: bool = False
    problem: str | None = None
    empty: bool = False


def _null(_: str) -> None:
    return None


def _integer(digits: str) -> int | None:
    return int(digits) if len(digits) <= _MAX_DIGITS else None


_DECODER: Final = json.JSONDecoder(strict=False)
_PATIENT: Final = json.JSONDecoder(strict=False, parse_int=_integer, parse_constant=_null)


def parse(text: str) -> Any:
    """Return the one JSON value in ``text``; control characters and NaN are accepted.

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
    view = memoryview(data)[start:end]  # no copy: a line may have 100 MB
    try:
        return str(view, "utf-8")
    except UnicodeDecodeError:
        return str(view, "utf-8", "replace")


def _lines_backwards(data: bytes, mark: bytes) -> Iterator[tuple[int, int]]:
    """Yield start and end of each line of ``data`` that contains ``mark``, the last line first."""
    end = len(data)
    while (at := data.rfind(mark, 0, end)) >= 0:
        newline = data.find(b"\n", at, end)
        start = data.rfind(b"\n", 0, at) + 1
        yield start, end if newline < 0 else newline
        end = max(0, start - 1)


def objects_in(text: str) -> Iterator[tuple[Document, int]]:
    """Yield each outermost JSON object in ``text`` with the position of its end; any text may surround it.

    The search has a budget of characters. Every attempt to read an object costs the characters that it may have
    read, and the search ends when the budget is used up, which no usual text does.
    """
    account = _BUDGET * len(text)
    attempts = _ATTEMPTS
    opening = _OPENING.search(text)
    while opening and account > 0 and attempts > 0:
        start = opening.start()
        value, looked_at = _decode_at(text, start)
        account -= looked_at
        if value is None:
            attempts -= 1
            end = start + 1
        else:
            end = start + looked_at
            yield value, end
        opening = _OPENING.search(text, end)


def _decode_at(text: str, start: int) -> tuple[Document | None, int]:
    """Read the object that opens at ``start``; return it, or ``None``, and how many characters that read.

    The decoder reads a window that grows while the object is longer. To raise an error it counts the lines before
    the error, so the window must begin at ``start``.
    """
    size = _WINDOW
    while True:
        window = text[start : start + size]
        whole = start + size >= len(text)
        try:
            value, end = _PATIENT.raw_decode(window)
        except json.JSONDecodeError as error:
            torn = error.msg.startswith("Unterminated string") or error.pos >= len(window) - _EDGE
            if whole or not torn:
                return None, len(window) if torn else error.pos + 1
        except (ValueError, RecursionError, MemoryError):
            return None, len(window)
        else:
            return value, end
        size *= _GROWTH


def messages_in(text: str) -> tuple[list[Document], str]:
    """Return the messages in ``text``, in order, and the text after the last one.

    ``text`` is one line or all of stdout: one message, an array of them, or any number of them with other
    text around. The rest is empty where ``text`` as a whole is JSON.
    """
    try:
        value = parse(text.lstrip("\ufeff"))
    except JsonProblem:
        found = list(objects_in(text))
        return _messages(value for value, _ in found), text[found[-1][1] :] if found else text
    return _messages(value if is_list(value) else [value]), ""


def _messages(values: Iterable[Any]) -> list[Document]:
    return [value for value in values if is_object(value) and isinstance(value.get("type"), str)]


def messages_backwards(stdout: bytes, mark: bytes = b'"type"') -> Iterator[Document]:
    """Yield the messages on stdout that contain ``mark``, the last one first, and maybe others.

    Messages over several lines are found if no line has a whole message.
    """
    whole = True
    for start, end in _lines_backwards(stdout, mark):
        for message in reversed(messages_in(_decode(stdout, start, end))[0]):
            whole = False
            yield message
    if whole and mark in stdout:
        yield from reversed(messages_in(_decode(stdout, 0, len(stdout)))[0])


def read_all(stdout: bytes, kind: str) -> Reading:
    """Return the messages of type ``kind`` on stdout, and whether another message follows the last of them."""
    if len(stdout) > MAX_DOCUMENT_BYTES:
        return Reading(problem=f"stdout is {len(stdout)} bytes, more than the limit ({MAX_DOCUMENT_BYTES})")
    if not stdout.strip():
        return Reading(problem="stdout is empty", empty=True)
    found: list[Document] = []
    followed = False
    for start, end in _lines_backwards(stdout, f'"{kind}"'.encode()):
        messages, rest = messages_in(_decode(stdout, start, end))
        wanted = [message for message in messages if message["type"] == kind]
        if wanted and not found:
            followed = messages[-1] is not wanted[-1] or _begun(rest) or bool(_BEGUN.search(stdout, end))
        found += reversed(wanted)
    if found:
        return Reading(messages=tuple(reversed(found)), followed=followed)
    # Indented, or an array over several lines.
    messages, rest = messages_in(_decode(stdout, 0, len(stdout)))
    wanted = [message for message in messages if message["type"] == kind]
    if wanted:
        return Reading(messages=tuple(wanted), followed=messages[-1] is not wanted[-1] or _begun(rest))
    return Reading(problem=f"stdout has no result: {_why_not(stdout)}")


def _begun(rest: str) -> bool:
    return _BEGUN.search(rest.encode(errors="replace")) is not None


def _why_not(stdout: bytes) -> str:
    try:
        parse(_decode(stdout, 0, len(stdout)).lstrip("\ufeff"))
    except JsonProblem as error:
        return f"it is not JSON ({error})"
    return "it has JSON, but not the expected message"


def is_object(value: Any) -> TypeGuard[Document]:
    """Return whether a parsed value is a JSON object."""
    return isinstance(value, dict)


def is_list(value: Any) -> TypeGuard[list[Any]]:
    """Return whether a parsed value is a JSON array."""
    return isinstance(value, list)


def number(value: Any) -> float | None:
    """Return a finite number that is not negative as a float, ``None`` for any other value."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        as_float = float(value)
    except OverflowError:
        return None
    return as_float if 0 <= as_float < float("inf") else None


def text_of(value: Any) -> str | None:
    """Return ``value`` if it is a string that is not blank, else ``None``."""
    return value if isinstance(value, str) and value.strip() else None
