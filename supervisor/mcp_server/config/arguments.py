"""The parameters of tools: one description gives the schema for hosts and the check of arguments."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs

from supervisor.errors import InvalidArguments

__all__ = ["DEFAULT_MAX_LENGTH", "MAX_INTEGER", "TYPES", "Parameter", "checked", "schema_of"]

TYPES: Final = ("string", "integer", "number", "boolean")
_LABELS: Final = "labels"
_WORDS: Final = "words"
_OBJECT: Final = "object"
_OBJECTS: Final = "objects"
_MAX_FLOAT: Final = sys.float_info.max
MAX_INTEGER: Final = 1 << 63
DEFAULT_MAX_LENGTH: Final = 200_000
"""The maximum length of a string of which the kinds file says none; a schema does not say it either."""
_SURROGATES: Final = re.compile("[\ud800-\udfff]+")
_NAMES: Final = {
    "string": "a string",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    _LABELS: "an object whose values are strings",
    _WORDS: "a list of at least one string",
    _OBJECT: "an object",
    _OBJECTS: "a list of objects",
}


@attrs.frozen(slots=True, kw_only=True)
class Parameter:
    """One parameter of a tool.

    Attributes:
        name: the name of the argument.
        type: ``string``, ``integer``, ``number``, ``boolean``; ``labels``, an object of strings;
            ``words``, a list of strings; ``object`` or ``objects``, which the receiver checks.
        description: the description for models.
        required: whether a call must give it.
        default: the value if a call does not give it; ``None`` is no value.
        enum: all allowed values; empty for any.
        minimum: the least number.
        maximum: the greatest number.
        min_length: the minimum number of characters.
        max_length: the maximum number of characters.
        pattern: a regular expression that the whole string must match, with ASCII character classes.
        lists_bounds: whether the schema has the bounds of a value. The server checks them in any case, and a model
            pays for each character of a schema in every session.
        listed: whether the schema has it at all; one that only programs need is on the pages.
    """

    name: str
    type: str = "string"
    description: str = ""
    required: bool = False
    default: str | float | bool | None = None
    enum: tuple[str | float, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    min_length: int | None = None
    max_length: int | None = None
    pattern: str | None = None
    lists_bounds: bool = True
    listed: bool = True

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of its values."""
        if self.type == _LABELS:
            shape: dict[str, Any] = {"type": "object"}
        elif self.type == _WORDS:
            shape = {"type": "array", "items": {"type": "string"}, "minItems": 1}
        elif self.type == _OBJECTS:
            shape = {"type": "array", "items": {"type": "object"}}
        else:
            shape = {"type": self.type}
        if self.description:
            shape["description"] = self.description
        if self.enum:
            shape["enum"] = list(self.enum)
        if self.default not in {None, ""}:
            shape["default"] = self.default
        if not self.lists_bounds:
            return shape
        bounds = {
            "minimum": self.minimum,
            "maximum": self.maximum,
            "minLength": self.min_length,
            "maxLength": None if self.enum or self.max_length == DEFAULT_MAX_LENGTH else self.max_length,
            "pattern": None if self.pattern is None else f"^(?:{self.pattern})$",
        }
        return shape | {name: value for name, value in bounds.items() if value is not None}

    def check(self, value: Any) -> Any:
        """Return the value, normalised.

        Raises:
            InvalidArguments: the value is not allowed; the message names the allowed values.
        """
        given: Any = value  # type checkers narrow ``value`` to collections of unknown types
        match self.type, value:
            case "string", str():
                given = _encodable(value)
                self._check_text(given)
            case (("integer" | "number"), int() | float()) if not isinstance(value, bool):
                given = self._checked_number(given)
            case "boolean", bool():
                pass
            case "labels", dict() if _all_text(given):
                given = {_encodable(name): _encodable(text) for name, text in given.items()}
            case "words", list() if value and _all_text(given):
                given = [_encodable(word) for word in given]
            case ("object", dict()):
                pass
            case ("objects", list()) if all(isinstance(each, dict) for each in given):
                pass
            case _:
                raise self._refused(given, _NAMES[self.type])
        if self.enum and given not in self.enum:
            raise self._refused(given, "one of " + ", ".join(map(str, self.enum)))
        return given

    def _check_text(self, text: str) -> None:
        if "\0" in text:
            raise self._refused(text, "text without NUL characters")
        if self.min_length is not None and len(text) < self.min_length:
            raise self._refused(text, f"at least {self.min_length} characters")
        if self.max_length is not None and len(text) > self.max_length:
            raise self._refused(text, f"at most {self.max_length} characters; this has {len(text)}")
        if self.pattern is not None and re.fullmatch(self.pattern, text, re.ASCII) is None:
            raise self._refused(text, f"a string that matches {self.pattern}")

    def _checked_number(self, number: float) -> float:
        if not -_MAX_FLOAT <= number <= _MAX_FLOAT:  # also false for NaN
            raise self._refused(number, "a finite number")
        if self.type == "integer":
            if number != number // 1:
                raise self._refused(number, _NAMES[self.type])
            if not -MAX_INTEGER <= number < MAX_INTEGER:
                raise self._refused(number, "a whole number of at most 64 bits")
            number = int(number)
        if self.minimum is not None and number < self.minimum:
            raise self._refused(number, f"a number of at least {self.minimum:g}")
        if self.maximum is not None and number > self.maximum:
            raise self._refused(number, f"a number of at most {self.maximum:g}")
        return number

    def _refused(self, value: object, accepts: str) -> InvalidArguments:
        try:
            shown = repr(value[:80] if isinstance(value, str) else value)
        except (ValueError, RecursionError):  # an integer with thousands of digits; deep nesting
            shown = "too long to be shown"
        if len(shown) > 80:
            shown = f"{shown[:77]}..."
        message = f"{self.name} is {shown}; it accepts {accepts}"
        return InvalidArguments(message, details={"argument": self.name})


def _encodable(text: str) -> str:
    """Return a text that can be encoded as UTF-8, with U+FFFD for each half of a surrogate pair."""
    return _SURROGATES.sub(lambda found: found[0].encode("utf-16", "surrogatepass").decode("utf-16", "replace"), text)


def _all_text(held: Any) -> bool:
    by_name: Mapping[str, Any] = held
    values: Iterable[Any] = held
    return all(isinstance(each, str) for each in (by_name.values() if isinstance(held, dict) else values))


def schema_of(parameters: Iterable[Parameter]) -> dict[str, Any]:
    """Return the input schema of a tool; the server refuses other arguments, with the names of these."""
    all_of_them = list(parameters)
    shape: dict[str, Any] = {
        "type": "object",
        "properties": {each.name: each.schema() for each in all_of_them if each.listed},
    }
    required = [each.name for each in all_of_them if each.required]
    return shape | ({"required": required} if required else {})


def checked(parameters: Iterable[Parameter], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call with defaults; one without a value is ``None``.

    ``null`` for an optional argument counts as absent, because models often fill in all arguments.

    Raises:
        InvalidArguments: an argument is missing, unknown, or has a value that is not allowed.
    """
    known = {each.name: each for each in parameters}
    for name in given:
        if name not in known:
            message = f"there is no argument {name!r:.80}; there are {', '.join(known) or 'none'}"
            raise InvalidArguments(message, details={"argument": name[:80]})
    values: dict[str, Any] = {}
    for name, each in known.items():
        value = given.get(name)
        if value is not None:
            values[name] = each.check(value)
        elif each.required:
            message = f"the argument {name} is missing"
            raise InvalidArguments(message, details={"argument": name})
        else:
            values[name] = each.default
    return values
