"""The codes of the errors with which jobs end: a policy for retries that names another one would never apply."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

from supervisor.interpret import BUILT_IN
from supervisor.interpret.failures import FAILURES, Failure
from supervisor.jobs.outcome import CODES

__all__ = ["codes_of", "unknown_code"]


def codes_of(kind: str) -> frozenset[str] | None:
    """Return the codes of the errors of a kind; ``None`` for a kind that is not built in, which may have its own."""
    if kind not in BUILT_IN:
        return None
    agents: Mapping[str, Failure] = FAILURES if kind in {"claude", "codex"} else {}
    return frozenset({*CODES.values(), *agents, *(each.code for each in agents.values() if each.code is not None)})


def unknown_code(kind: str, names: Iterable[str]) -> tuple[str, str] | None:
    """Return the first of the names that is neither an exit code nor a code of a kind, and the codes, nearest first."""
    known = codes_of(kind)
    for name in names if known is not None else ():
        if known is not None and not name.isdecimal() and name not in known:
            nearest = difflib.get_close_matches(name, known, 2)
            return name, ", ".join([*nearest, *sorted(known.difference(nearest))])
    return None
