"""One finding of ``doctor``, and how serious it is."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import attrs

__all__ = ["Check", "Verdict"]


class Verdict(StrEnum):
    """How a check came out."""

    FINE = "fine"
    NOTE = "note"
    WARNING = "warning"
    PROBLEM = "problem"


@attrs.frozen(slots=True)
class Check:
    """What was found about one thing.

    Attributes:
        name: of the thing.
        verdict: whether it is as it should be; a note is neither good nor bad.
        message: what was found, for people.
        repair: what to do about it, or ``None``.
        facts: the same for programs.
    """

    name: str
    verdict: Verdict
    message: str
    repair: str | None = None
    facts: dict[str, Any] = attrs.field(factory=dict[str, Any])
