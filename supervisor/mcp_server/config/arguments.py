"""What a tool may be given: one description for the schema that a host reads and for the check."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs

from supervisor.errors import InvalidArguments

__all__ = ["MAX_INTEGER", "TYPES", "Parameter", "checked", "schema_of"]

TYPES: Final = ("string", "integer", "number", "boolean")
_LABELS: Final = "labels"
_WORDS: Final = "words"
_MOST: Final = sys.float_info.max
MAX_INTEGER: Final = 1 << 63
_HALF: Final = re.compile("[\ud800-\udfff]+")
_NAMES: Final = {
    "string": "a string",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    _LABELS: "an object whose values are strings",
    _WORDS: "a list of at least one string",
}


@attrs.frozen(slots=True, kw_only=True)
class Parameter:
    """One argument of a tool.

    Attributes:
        name: as it is given.
        type: ``string``, ``integer``, ``number``, ``boolean``; ``labels``, an object of strings; or
            ``words``, a list of strings.
        description: for the model that fills it in.
        required: whether it must be given.
        default: the value when it is not; ``None`` is no value.
        enum: the only values there are; empty for any.
        minimum: the least number.
        maximum: the greatest number.
        min_length: in characters.
        max_length: in characters.
        pattern: a regular expression that the whole string must match, its classes being those of ASCII.
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

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of its values."""
        if self.type == _LABELS:
            shape: dict[str, Any] = {"type": "object", "additionalProperties": {"type": "string"}}
        elif self.type == _WORDS:
            shape = {"type": "array", "items": {"type": "string"}, "minItems": 1}
        else:
            shape = {"type": self.type}
        if self.description:
            shape["description"] = self.description
        if self.enum:
            shape["enum"] = list(self.enum)
        bounds = {
            "default": self.default,
            "minimum": self.minimum,
            "maximum": self.maximum,
            "minLength": self.min_length,
            "maxLength": self.max_length,
            "pattern": None if self.pattern is None else f"^(?:{self.pattern})$",
        }
        return shape | {name: value for name, value in bounds.items() if value is not None}

    def check(self, value: Any) -> Any:
        """Return a value that was given, if it fits.

        Raises:
            InvalidArguments: it does not; the message says what would.
        """
        given: Any = value  # pattern matching would make of it a list of who knows what
        match self.type, value:
            case "string", str():
                given = _whole(value)
                self._check_text(given)
            case (("integer" | "number"), int() | float()) if not isinstance(value, bool):
                given = self._checked_number(given)
            case "boolean", bool():
                pass
            case "labels", dict() if _all_text(given):
                given = {_whole(name): _whole(text) for name, text in given.items()}
            case "words", list() if value and _all_text(given):
                given = [_whole(word) for word in given]
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
            raise self._refused(text, f"at most {self.max_length} characters, and this is {len(text)}")
        if self.pattern is not None and re.fullmatch(self.pattern, text, re.ASCII) is None:
            raise self._refused(text, f"what matches {self.pattern}")

    def _checked_number(self, number: float) -> float:
        if not -_MOST <= number <= _MOST:  # not a number neither
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
        except (ValueError, RecursionError):  # an integer of thousands of digits; what nests too deeply
            shown = "a value that is too long to be shown"
        if len(shown) > 80:
            shown = f"{shown[:77]}..."
        message = f"{self.name} is {shown}; it accepts {accepts}"
        return InvalidArguments(message, details={"argument": self.name})


def _whole(text: str) -> str:
    """Return a text that can be written as UTF-8: U+FFFD where JSON held half a surrogate pair."""
    return _HALF.sub(lambda found: found[0].encode("utf-16", "surrogatepass").decode("utf-16", "replace"), text)


def _all_text(held: Any) -> bool:
    by_name: Mapping[str, Any] = held
    values: Iterable[Any] = held
    return all(isinstance(each, str) for each in (by_name.values() if isinstance(held, dict) else values))


def schema_of(parameters: Iterable[Parameter]) -> dict[str, Any]:
    """Return the input schema of a tool."""
    all_of_them = list(parameters)
    shape: dict[str, Any] = {
        "type": "object",
        "properties": {each.name: each.schema() for each in all_of_them},
        "additionalProperties": False,
    }
    required = [each.name for each in all_of_them if each.required]
    return shape | ({"required": required} if required else {})


def checked(parameters: Iterable[Parameter], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call, defaults filled in; one without a value is ``None``.

    ``null`` for what need not be given is the same as leaving it out: models like to fill in all.

    Raises:
        InvalidArguments: one is missing, unknown, or does not fit.
    """
    known = {each.name: each for each in parameters}
    for name in given:
        if name not in known:
            message = f"there is no argument {name!r:.80}; this tool takes {', '.join(known) or 'none'}"
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
