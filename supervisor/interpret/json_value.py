"""The ``json`` kind: done on exit status 0 with exactly one JSON value on stdout."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from supervisor.interpret import Outcome, Value, Verdict, exit_verdict
from supervisor.states import Reason

__all__ = ["JsonError", "JsonValue", "parse_one"]


class JsonError(ValueError):
    """Not exactly one JSON value; ``line`` and ``column`` (both from 1) say where."""

    def __init__(self, message: str, line: int, column: int) -> None:
        """Set the position of the error."""
        super().__init__(message)
        self.line = line
        self.column = column


def _refuse(constant: str) -> NoReturn:
    message = f"{constant} is not JSON"
    raise JsonError(message, 0, 0)


def parse_one(text: bytes) -> Any:
    """Return the one JSON value that ``text`` holds (RFC 8259: UTF-8, no NaN, no Infinity).

    Raises:
        JsonError: there is none, there is more, it nests too deeply, or it is not UTF-8.
    """
    try:
        return json.loads(text.decode(), parse_constant=_refuse)
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        column = error.start - text.rfind(b"\n", 0, error.start)
        message = "not UTF-8"
        raise JsonError(message, line, column) from None
    except json.JSONDecodeError as error:
        raise JsonError(error.msg, error.lineno, error.colno) from None
    except RecursionError:
        message = "nested too deeply"
        raise JsonError(message, 0, 0) from None
    except JsonError:
        raise
    except ValueError as error:  # an integer of more digits than Python converts
        raise JsonError(str(error), 0, 0) from None


class JsonValue:
    """Judges by the exit status first, then by whether stdout parses."""

    name = "json"

    def verdict(self, outcome: Outcome) -> Verdict:
        """Return ``exited`` for status 0 and one JSON value, ``invalid_output`` for any other stdout."""
        verdict = exit_verdict(outcome)
        if verdict.reason is not Reason.EXITED:
            return verdict
        try:
            parse_one(outcome.read_stdout())
        except JsonError as error:
            where = f"line {error.line}, column {error.column}: " if error.line else ""
            return Verdict(
                reason=Reason.INVALID_OUTPUT,
                message=f"The command exited with status 0, but its output is not one JSON value: {where}{error}.",
                repair="Look at the output (`supervisor logs JOB`), or start the command with kind raw.",
                detail=f"{where}{error}",
                details={"line": error.line, "column": error.column} if error.line else {},
            )
        return verdict

    def value(self, outcome: Outcome) -> Value:
        """Return the parsed value."""
        return Value(value=parse_one(outcome.read_stdout()))
