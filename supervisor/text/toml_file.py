"""A TOML file whose mistakes are reported with their line, their key and the allowed values."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, NoReturn, cast

from supervisor.errors import SupervisorError
from supervisor.text.toml_lines import line_of

__all__ = ["BOOLEAN", "STRING", "Parser", "TomlFile", "number", "parser", "real", "shown", "whole"]

Parser = tuple[Callable[[Any], Any], str]
"""A function that returns the parsed value or raises ``ValueError``, and a description of the allowed values."""


class TomlFile:
    """A parsed TOML file.

    Args:
        data: the contents of the file.
        path: its name in messages.
        error: the class of the error to raise.
        repair: the advice in the error.
    """

    def __init__(
        self, data: str | bytes, path: str, error: type[SupervisorError], repair: str = "Correct the file."
    ) -> None:
        self.path = path
        self._error = error
        self._repair = repair
        try:
            self._text = data if isinstance(data, str) else data.decode()
        except UnicodeDecodeError as problem:
            line = problem.object.count(b"\n", 0, problem.start) + 1
            message = f"{path}, line {line}: this is not UTF-8"
            raise error(message, repair="Save the file as UTF-8.") from problem
        try:
            self.document = tomllib.loads(self._text)
        except tomllib.TOMLDecodeError as problem:
            message = f"{path}: this is not TOML: {problem}"
            raise error(message, repair="Correct the file.") from problem
        except (ValueError, RecursionError) as problem:  # a number with thousands of digits; deep nesting
            message = f"{path}: this file cannot be read: {problem}"
            raise error(message, repair="Correct the file.") from problem

    def place_of(self, where: Sequence[str]) -> str:
        """Return the path of the file with the line of the key at ``where``."""
        line = line_of(self._text, where)
        return f"{self.path}, line {line}" if line else self.path

    def refuse(self, where: Sequence[str], problem: str, allowed: str, repair: str | None = None) -> NoReturn:
        """Raise the error about the key at ``where``."""
        line = line_of(self._text, where)
        table = f", in [{'.'.join(where[:-1])}]" if len(where) > 1 else ""
        message = f"{self.place_of(where)}{table}: {problem}; allowed: {allowed}"
        details = {"file": self.path, "line": line, "key": ".".join(where)}
        raise self._error(message, repair=repair or self._repair, details=details)

    def values(
        self,
        where: tuple[str, ...],
        table: Mapping[str, Any],
        parsers: Mapping[str, Parser],
        others: Collection[str] = (),
    ) -> dict[str, Any]:
        """Return the parsed values of a table; the keys in ``others`` are allowed, but not parsed."""
        found: dict[str, Any] = {}
        for key, value in table.items():
            if key in parsers:
                parse, allowed = parsers[key]
                try:
                    found[key] = parse(value)
                except (ValueError, OverflowError):
                    self.refuse((*where, key), f"{key} is {shown(value)}", allowed)
            elif key not in others:
                self.refuse_key((*where, key), {*parsers, *others})
        return found

    def refuse_key(self, where: Sequence[str], known: Collection[str]) -> NoReturn:
        """Raise the error about a key that has no meaning at ``where``, with the known one that is most like it."""
        import difflib  # for this message only

        like = difflib.get_close_matches(where[-1], known, 1)
        meant = f"Did you mean {like[0]!r}? " if like else ""
        allowed = f"one of {', '.join(sorted(known))}"
        self.refuse(where, f"there is no key {where[-1]!r:.80} here", allowed, repair=f"{meant}{self._repair}")

    def table(self, where: tuple[str, ...], value: Any, allowed: str) -> dict[str, Any]:
        """Return the value of the key at ``where``, if it is a table."""
        if not isinstance(value, dict):
            self.refuse(where, f"{where[-1]} is {shown(value)}", allowed)
        return cast("dict[str, Any]", value)


def shown(value: object) -> str:
    """Return a value as messages show it."""
    return f"{value!r:.80}"


def parser(kind: type | tuple[type, ...], fits: Callable[[Any], bool] = lambda _: True) -> Callable[[Any], Any]:
    """Return a parser of values of ``kind`` for which ``fits`` is true; a boolean is no number."""

    def parse(value: Any) -> Any:
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool) or not fits(value):
            raise ValueError(value)
        return value

    return parse


def number(fits: Callable[[float], bool] = lambda _: True) -> Callable[[Any], Any]:
    """Return a parser of finite numbers for which ``fits`` is true."""
    return parser((int, float), lambda value: math.isfinite(float(value)) and fits(value))


def real(fits: Callable[[float], bool]) -> Callable[[Any], float]:
    """Return a parser as ``number`` does, whose values are floats."""
    parse = number(fits)
    return lambda value: float(parse(value))


def whole(least: int = 0, most: float = math.inf) -> Callable[[Any], int]:
    """Return a parser of whole numbers from ``least`` to ``most``."""
    return parser(int, lambda value: least <= value <= most)


BOOLEAN: Final[Parser] = (parser(bool), "true or false")
STRING: Final = parser(str)
