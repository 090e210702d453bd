"""One check of ``doctor``, and its severity."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import attrs

__all__ = ["Check", "Severity"]


class Severity(StrEnum):
    """The severity of a check's result; a note is neither good nor bad."""

    FINE = "fine"
    NOTE = "note"
    WARNING = "warning"
    PROBLEM = "problem"


@attrs.frozen(slots=True)
class Check:
    """The result of one check.

    Attributes:
        name: the subject of the check.
        severity: how serious the result is.
        message: the result as text.
        repair: advice, or ``None``.
        facts: the result for programs.
    """

    name: str
    severity: Severity
    message: str
    repair: str | None = None
    facts: dict[str, Any] = attrs.field(factory=dict[str, Any])
