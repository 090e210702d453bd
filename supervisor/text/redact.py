"""Removing secrets and control characters from the texts that this package composes.

Used for details, errors, log lines and normalised answers; never for the owner's own bytes
(``raw`` and ``json`` values, ``logs``, ``follow``, ``run``). Three shapes are masked: tokens
that are secrets by construction, credentials in URLs and headers, and values assigned to
names of secrets. Ordinary prose passes unchanged.

Time is linear in the length of any text, see ``secret_tokens``. That module finds secrets by
their shape, ``secret_names`` by their names.
"""

from __future__ import annotations

import re
from typing import Any, Final

import attrs

from supervisor.text import secret_names, secret_tokens
from supervisor.text.json_lines import is_list, is_object
from supervisor.text.secret_names import MASK

__all__ = ["MASK", "MAX_DEPTH", "clean", "encodable", "excerpt", "redact", "redact_value", "tail"]

MAX_DEPTH: Final = 64
"""How many levels of a JSON value are kept; a note replaces deeper values."""

# -- control characters -------------------------------------------------------------------

# C0 and C1 controls but tab and newline, half surrogates, and the characters that reorder or hide text.
_CONTROL: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff"
    "\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]",
)
_ESCAPE: Final = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[PX^_][^\x1b]*(?:\x1b\\)?|[@-Z\\-_])",
)

_ESCAPED: Final = re.compile(r"""(?<!\\)\\++(["'nrt/])""")
_TAIL_CHARACTERS: Final = 400


def redact(text: str) -> str:
    """Return ``text`` with secrets replaced by ``[redacted]``, in time linear in its length."""
    spans = _spans(text)
    if "\\" in text:  # JSON quoted within JSON: the text without escapes, padded to the same length
        plain = _ESCAPED.sub(_without_escape, text)
        spans += _spans(plain) if plain != text else []
    spans.sort()
    if not spans:
        return text
    pieces: list[str] = []
    done = 0
    for start, end in spans:
        if start >= done:
            pieces += (text[done:start], MASK)
        done = max(done, end)
    pieces.append(text[done:])
    return "".join(pieces)


def _spans(text: str) -> list[secret_tokens.Span]:
    low = text.lower()
    if len(low) != len(text):  # one letter of Unicode (U+0130) grows, and positions must agree
        low = "".join(letter if len(letter) == 1 else "?" for letter in map(str.lower, text))
    return [*secret_tokens.spans(text, low), *secret_names.spans(text, low)]


def _without_escape(escape: re.Match[str]) -> str:
    blanks = " " * (len(escape[0]) - 1)
    if escape[1] in "nrt":  # what follows begins a line or a word
        return blanks + {"n": "\n", "r": "\r", "t": "\t"}[escape[1]]
    return escape[1] + blanks


def redact_value(value: Any, *, depth: int = MAX_DEPTH) -> Any:
    """Return a safe copy of a JSON value: redacted, encodable, finite and not too deep.

    Strings are redacted, keys too; the value of a key that names a secret is masked whole.
    Numbers that JSON cannot carry become ``None``, integers past 64 bits floats.
    """
    strings: list[str] = []
    skeleton = _take_strings(value, strings, depth)
    joined = "\0".join(strings)
    redacted = redact(joined).split("\0")
    # No pattern crosses a NUL, so each piece corresponds to one string.
    if len(redacted) != len(strings):  # pragma: no cover - would be a defect in a pattern
        redacted = [redact(text) for text in strings]
    return _put_strings(skeleton, redacted)


@attrs.frozen(slots=True, eq=False)
class _Slot:
    """The place of a string, as all strings are redacted together."""

    index: int


@attrs.frozen(slots=True, eq=False)
class _Object:
    """A JSON object whose keys and values are still places."""

    members: list[tuple[_Slot, Any]]


@attrs.frozen(slots=True, eq=False)
class _Array:
    """A JSON array whose entries are still places."""

    entries: list[Any]


def encodable(text: str) -> str:
    """Return ``text`` without half surrogates, which cannot be encoded, and without NUL."""
    if "\0" in text:
        text = text.replace("\0", "\N{REPLACEMENT CHARACTER}")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _slot(text: str, strings: list[str]) -> _Slot:
    strings.append(encodable(text))
    return _Slot(len(strings) - 1)


def _take_strings(value: Any, strings: list[str], depth: int) -> Any:
    if isinstance(value, str):
        return _slot(value, strings)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**64 else _finite(value)
    if isinstance(value, float):
        return _finite(value)
    if depth <= 0:
        return "[nested too deeply]"
    if is_object(value):
        members: list[tuple[_Slot, Any]] = []
        for key, inner in value.items():
            named = isinstance(inner, str) and inner and secret_names.names_a_secret(key)
            members.append((_slot(key, strings), MASK if named else _take_strings(inner, strings, depth - 1)))
        return _Object(members)
    if is_list(value):
        return _Array([_take_strings(inner, strings, depth - 1) for inner in value])
    return None


def _put_strings(skeleton: Any, strings: list[str]) -> Any:
    if isinstance(skeleton, _Slot):
        return strings[skeleton.index]
    if isinstance(skeleton, _Object):
        return {strings[key.index]: _put_strings(value, strings) for key, value in skeleton.members}
    if isinstance(skeleton, _Array):
        return [_put_strings(value, strings) for value in skeleton.entries]
    return skeleton


def _finite(number: float) -> float | None:
    try:
        as_float = float(number)
    except OverflowError:
        return None
    return as_float if as_float - as_float == 0 else None


def clean(text: str) -> str:
    """Return ``text`` without terminal escapes, control and direction characters; tab and newline stay."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", _ESCAPE.sub("", text))


def excerpt(text: str, limit: int = _TAIL_CHARACTERS) -> str:
    """Return the beginning of ``text``, cleaned and redacted, ``limit`` characters at most.

    Only the beginning is read, however long the text is; it is cut between words before
    and after the redaction, so that no half of a secret is at the edge.
    """
    window = text
    if len(text) > 8 * limit:
        window = _whole_words(text[: 8 * limit])
    safe = redact(clean(window)).strip()
    if len(safe) <= limit and len(window) == len(text):
        return safe
    return _whole_words(safe[:limit]) + " ..."


def _whole_words(text: str) -> str:
    """Drop the last word of ``text`` unless that would be most of it."""
    head, blank, _ = text.rpartition(" ")
    return head if blank and len(head) > len(text) // 2 else text


def tail(stderr: bytes, limit: int = _TAIL_CHARACTERS) -> str | None:
    """Return the last lines of ``stderr``, cleaned and redacted, ``limit`` characters at most.

    ``None`` when it is blank. Redaction comes before the cut, so that the cut cannot leave
    half of a secret.
    """
    text = redact(clean(stderr.decode(errors="replace"))).strip()
    if not text:
        return None
    if len(text) <= limit:
        return text
    cut = text[-limit:]
    _, newline, whole_lines = cut.partition("\n")
    return "... " + (whole_lines if newline and whole_lines else cut)
