"""The normalised answer of an agent: one shape for every agent kind, at a chosen level of detail.

Every answer is redacted and bounded, and names what was cut. There are three sets of bounds.
``summary`` is for a reader with little room, such as the context of another model. ``full``
has no bounds. The default is between the two: an answer that a person would read is uncut,
and a runaway answer does not fill the memory of the host.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs

from supervisor.interpret import Detail
from supervisor.interpret.review import Review, find_review, normalise
from supervisor.text.json_lines import is_list, is_object
from supervisor.text.redact import redact_value

__all__ = ["DEFAULT", "FULL", "SUMMARY", "Bounds", "bounded", "bounds_for", "build_answer"]

_NO_LIMIT: Final = 2**62


@attrs.frozen(slots=True, kw_only=True)
class Bounds:
    """How much of an answer is returned.

    Attributes:
        detail: the name that the answer carries.
        text: characters of ``text``.
        summary: characters of ``summary``.
        field: characters of any other string.
        items: entries of any list.
        tree: characters of any other JSON value, all its strings together.
    """

    detail: Detail
    text: int = _NO_LIMIT
    summary: int = _NO_LIMIT
    field: int = _NO_LIMIT
    items: int = _NO_LIMIT
    tree: int = _NO_LIMIT


SUMMARY: Final = Bounds(detail="summary", text=16_000, summary=4_000, field=500, items=25, tree=8_000)
DEFAULT: Final = Bounds(detail="full", text=2**17, summary=2**17, field=2**14, items=200, tree=2**17)
FULL: Final = Bounds(detail="full")


def bounds_for(detail: Detail | None) -> Bounds:
    """Return the bounds of a level of detail; ``None`` is the default rendering."""
    return DEFAULT if detail is None else SUMMARY if detail == "summary" else FULL


def build_answer(
    text: str | None,
    *,
    structured: Any = None,
    facts: Mapping[str, Any],
    bounds: Bounds,
) -> dict[str, Any]:
    """Return the answer in the shape of the contract.

    Args:
        text: the last message of the model; ``None`` without one.
        structured: output that the program itself checked against a schema; a review in it
            is preferred to one in the text.
        facts: the other facts about the run, in the order of the answer.
        bounds: how much to return.
    """
    said = text or ""
    review = _review_of(structured) or find_review(said)
    if review is None:
        # Free text is an answer too.
        review = Review(summary=said or None)
    cut = _Cutter(bounds)
    answer: dict[str, Any] = {
        "summary": cut.text("summary", review.summary, bounds.summary),
        "verdict": review.verdict,
        "confidence": review.confidence,
        "findings": [cut.strings("findings", entry) for entry in cut.items("findings", review.findings)],
        "findings_dropped": review.findings_dropped,
    }
    for name in ("questions", "assumptions", "next_steps"):
        entries = cut.items(name, getattr(review, name))
        answer[name] = [cut.text(name, entry, bounds.field) for entry in entries]
    answer["text"] = cut.text("text", said, bounds.text)
    answer["structured_output"] = cut.tree("structured_output", structured)
    for name, value in facts.items():
        answer[name] = cut.tree(name, cut.items(name, value) if is_list(value) else value)
    shared = answer["summary"] if answer["summary"] == answer["text"] else None
    if shared is not None:
        answer["summary"] = None  # redacted once, below
    answer = redact_value(answer)
    if shared is not None:
        answer["summary"] = answer["text"]
    answer["detail"] = bounds.detail
    answer["truncated"] = cut.notice()
    return answer


def _review_of(structured: Any) -> Review | None:
    known = ("findings", "verdict", "summary")
    if is_object(structured) and sum(name in structured for name in known) > 1:
        return normalise(structured)
    return None


def bounded(value: Any, characters: int, items: int = 100) -> Any:
    """Return a redacted copy of a JSON value of about ``characters``; a note replaces each omission."""
    cut = _Cutter(Bounds(detail="summary", field=min(characters, 1000), items=items, tree=characters))
    return redact_value(cut.tree("", value))


class _Cutter:
    """Cuts values to its bounds, and records the cuts."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._cuts: dict[str, dict[str, Any]] = {}

    def notice(self) -> dict[str, Any] | None:
        """Return the cuts and how to get the rest, or ``None`` without cuts."""
        if not self._cuts:
            return None
        more = 'Ask for this result again with detail "full"; the output itself is the stdout of the job.'
        return {"fields": list(self._cuts.values()), "repair": more}

    def _note(self, field: str, kept: int, total: int, unit: str) -> None:
        self._cuts.setdefault(field, {"field": field, "kept": kept, "total": total, "unit": unit})

    def text(self, field: str, text: str | None, limit: int) -> str | None:
        if text is None or len(text) <= limit:
            return text
        kept = text[:limit]
        # Between words, so that the cut does not leave half of a token, which redaction would not recognise.
        blank = max(kept.rfind(" ", limit - 4096), kept.rfind("\n", limit - 4096)) if limit > 8192 else kept.rfind(" ")
        if blank > limit // 2:
            kept = kept[:blank]
        self._note(field, len(kept), len(text), "characters")
        return kept + " ..."

    def items(self, field: str, items: list[Any]) -> list[Any]:
        if len(items) <= self._bounds.items:
            return items
        self._note(field, self._bounds.items, len(items), "entries")
        return items[: self._bounds.items]

    def strings(self, field: str, entry: dict[str, Any]) -> dict[str, Any]:
        limit = self._bounds.field
        return {
            name: self.text(f"{field}.{name}", value, limit) if isinstance(value, str) else value
            for name, value in entry.items()
        }

    def tree(self, field: str, value: Any) -> Any:
        """Return a copy of a JSON value, in order, until the allowed characters are used up."""
        if self._bounds.tree >= _NO_LIMIT or value is None or isinstance(value, bool | int | float):
            return value
        left = [self._bounds.tree]
        copy = self._walk(field, value, left, 64)
        if left[0] < 0:
            self._note(field, self._bounds.tree, self._bounds.tree - left[0], "characters at least")
        return copy

    def _walk(self, field: str, value: Any, left: list[int], depth: int) -> Any:
        left[0] -= 4
        if isinstance(value, str):
            left[0] -= min(len(value), self._bounds.field)
            return self.text(field, value, self._bounds.field)
        if depth > 0 and is_list(value):
            entries: list[Any] = []
            for entry in value:
                if left[0] < 0:
                    entries.append("[cut]")
                    break
                entries.append(self._walk(field, entry, left, depth - 1))
            return entries
        if depth > 0 and is_object(value):
            members: dict[str, Any] = {}
            for key, entry in value.items():
                if left[0] < 0:
                    members["..."] = "[cut]"
                    break
                left[0] -= len(key)
                members[key[:1000]] = self._walk(field, entry, left, depth - 1)
            return members
        return value
