"""Templates of command lines: the value of a placeholder stays in its word, and never becomes an option.

``{name}`` is a placeholder for a parameter, ``{{`` and ``}}`` are braces. There is no shell, and a word
is never split. A word with a placeholder without a value is omitted. The command itself is fixed. A word
that begins with a placeholder may not expand to a word with ``-`` in front, and a word that begins with
``-`` may have placeholders only after ``=``. So the author of the template decides about the options.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from supervisor.errors import InvalidArguments

__all__ = ["TemplateError", "check_word", "expand_text", "expand_word", "names_in"]

_TOKEN: Final = re.compile(r"\{\{|\}\}|\{([A-Za-z_][A-Za-z0-9_]*)\}|[{}]")
_MAX_WORD_BYTES: Final = 131071  # MAX_ARG_STRLEN of Linux, less the NUL at the end


class TemplateError(ValueError):
    """A template is not valid; the message continues a sentence about it."""


def _pieces(template: str) -> list[tuple[str, str | None]]:
    """Return the template as pairs: literal text, and the name of the placeholder after it (or ``None``)."""
    pieces: list[tuple[str, str | None]] = []
    literal, at = "", 0
    for token in _TOKEN.finditer(template):
        literal += template[at : token.start()]
        at = token.end()
        match token[0]:
            case "{{" | "}}":
                literal += token[0][0]
            case "{" | "}":
                message = f"has a {token[0]!r} that belongs to no {{name}}; write {token[0] * 2!r} for a literal brace"
                raise TemplateError(message)
            case _:
                pieces.append((literal, token[1]))
                literal = ""
    return [*pieces, (literal + template[at:], None)]


def names_in(template: str) -> list[str]:
    """Return the names of the placeholders in a template.

    Raises:
        TemplateError: a brace belongs to no placeholder.
    """
    return [name for _, name in _pieces(template) if name is not None]


def check_word(word: str, *, is_command: bool) -> None:
    """Check that no value can turn a word of a command template into a command or an option.

    Raises:
        TemplateError: a value could.
    """
    pieces = _pieces(word)
    if pieces[0][1] is None:
        return
    if is_command:
        message = "is the command, which is fixed and takes no {name}"
        raise TemplateError(message)
    if pieces[0][0].startswith("-") and "=" not in pieces[0][0]:
        message = "begins with '-', so a {name} may stand in it only after '=', as in --model={model}"
        raise TemplateError(message)


def expand_word(word: str, values: Mapping[str, Any]) -> str | None:
    """Return the expanded word; ``None`` if one of its placeholders has no value.

    Raises:
        InvalidArguments: the value makes it an option, or it is too long for a command line.
    """
    pieces = _pieces(word)
    names = [name for _, name in pieces if name is not None]
    if any(values[name] is None for name in names):
        return None
    text = _joined(pieces, values)
    if names and text.startswith("-") and not pieces[0][0].startswith("-"):
        message = f"{names[0]} must not begin with '-', which makes it an option"
        raise InvalidArguments(message, details={"argument": names[0]})
    if len(text.encode(errors="surrogateescape")) > _MAX_WORD_BYTES:
        message = (
            f"{' and '.join(names) or 'a word'} is longer than the {_MAX_WORD_BYTES} bytes that a command line allows"
        )
        raise InvalidArguments(message, repair="Shorten it, or change its kind to pass it through stdin.")
    return text


def expand_text(template: str, values: Mapping[str, Any]) -> str:
    """Return the text for stdin; a placeholder without a value is empty."""
    return _joined(_pieces(template), values)


def _joined(pieces: Sequence[tuple[str, str | None]], values: Mapping[str, Any]) -> str:
    return "".join(literal + ("" if name is None else _text(values[name])) for literal, name in pieces)


def _text(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case _:
            return str(value)
