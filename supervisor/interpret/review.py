"""Finding the structured review in the text of a model, and normalising it.

A review is a JSON object with findings, a verdict or a summary, anywhere in the text, fenced
or not, between other braces. The search is linear: ``objects_in`` bounds it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

import attrs

from supervisor.text.json_lines import is_list, is_object, number, objects_in, text_of

__all__ = ["SEARCHED_CHARACTERS", "SEVERITIES", "Review", "find_review", "normalise"]

SEARCHED_CHARACTERS: Final = 1024 * 1024
"""The part of a text that is searched for a review; a review with a thousand findings is no longer."""

SEVERITIES: Final = ("critical", "high", "medium", "low", "info", "unknown")
"""Most severe first; ``unknown`` is a severity in words that this module does not know."""

_SEVERITY: Final[Mapping[str, str]] = {
    **{name: name for name in SEVERITIES},
    **dict.fromkeys(("blocker", "blocking", "fatal", "severe", "p0", "sev0"), "critical"),
    **dict.fromkeys(("major", "error", "important", "p1", "sev1"), "high"),
    **dict.fromkeys(("moderate", "warning", "warn", "normal", "p2", "sev2"), "medium"),
    **dict.fromkeys(("minor", "p3", "sev3"), "low"),
    **dict.fromkeys(("informational", "information", "note", "nit", "nitpick", "trivial", "suggestion", "p4"), "info"),
}
_VERDICT: Final[Mapping[str, str]] = {
    **dict.fromkeys(("pass", "passed", "approve", "approved", "ok", "lgtm", "accept", "accepted"), "pass"),
    **dict.fromkeys(("concerns", "concern", "pass_with_concerns", "needs_work", "comment", "mixed"), "concerns"),
    **dict.fromkeys(("fail", "failed", "reject", "rejected", "request_changes", "changes_requested", "block"), "fail"),
}
_CONFIDENCE_WORDS: Final = frozenset({"high", "medium", "low"})
_LISTS: Final = ("questions", "assumptions", "next_steps")
_MARKS: Final = ('"findings"', '"verdict"', '"summary"')
_LINES: Final = re.compile(r"\s*[Ll]?(\d{1,9})(?:\s*[-:\u2013]\s*[Ll]?(\d{1,9}))?\s*")
_PERCENT: Final = 100
_LEAST_SCORE: Final = 3


@attrs.frozen(slots=True, kw_only=True)
class Review:
    """A review in the shape of the contract.

    Attributes:
        summary: what it says in short, or ``None``.
        verdict: ``pass``, ``concerns``, ``fail`` or ``unknown``.
        confidence: from 0 to 1, or ``high``, ``medium``, ``low`` as the review puts it, or ``None``.
        findings: each with all of ``severity``, ``title``, ``file``, ``line``, ``line_end``,
            ``evidence``, ``risk``, ``recommendation``; most severe first.
        findings_dropped: how many had no title or no severity.
        questions: what the reviewer would have to know.
        assumptions: what the reviewer took for granted.
        next_steps: what to do now.
    """

    summary: str | None = None
    verdict: str = "unknown"
    confidence: float | str | None = None
    findings: list[dict[str, Any]] = attrs.field(factory=list[dict[str, Any]])
    findings_dropped: int = 0
    questions: list[str] = attrs.field(factory=list[str])
    assumptions: list[str] = attrs.field(factory=list[str])
    next_steps: list[str] = attrs.field(factory=list[str])


def find_review(text: str) -> Review | None:
    """Return the review in ``text``, or ``None`` when there is none.

    Of several objects the one that looks most like a review wins, and of equals the last:
    a template that the prompt or the model quotes comes before the answer. Of a text longer
    than ``SEARCHED_CHARACTERS`` only the beginning and the end are searched, half of it each.
    """
    half = SEARCHED_CHARACTERS // 2
    pieces = (text,) if len(text) <= SEARCHED_CHARACTERS else (text[:half], text[-half:])
    best: Mapping[str, Any] | None = None
    best_score = 1
    for piece in pieces:
        if "{" not in piece or not any(mark in piece for mark in _MARKS):
            continue
        for document, _ in objects_in(piece):
            for candidate in (document, *document.values()):
                score = _score(candidate)
                if score >= best_score:
                    best, best_score = candidate, score
    return None if best is None else normalise(best)


def _score(candidate: Any) -> int:
    """Return how much an object resembles a review; 0 is not at all."""
    if not is_object(candidate):
        return 0
    score = 3 * is_list(candidate.get("findings"))
    if isinstance(verdict := candidate.get("verdict"), str):
        score += 3 if _slug(verdict) in _VERDICT else 1
    score += 2 * (text_of(candidate.get("summary")) is not None)
    score += sum(is_list(candidate.get(name)) for name in _LISTS)
    score += number(candidate.get("confidence")) is not None
    # A lone summary may belong to anything.
    return score if score >= _LEAST_SCORE else 0


def normalise(data: Mapping[str, Any]) -> Review:
    """Return a review in the shape of the contract."""
    raw_findings = data.get("findings")
    findings: list[dict[str, Any]] = []
    dropped = 0
    if is_list(raw_findings):
        for raw in raw_findings:
            finding = _finding(raw)
            if finding is None:
                dropped += 1
            else:
                findings.append(finding)
    findings.sort(key=lambda finding: SEVERITIES.index(finding["severity"]))  # stable: the order given stays
    questions, assumptions, next_steps = (_texts(data.get(name)) for name in _LISTS)
    verdict = data.get("verdict")
    return Review(
        summary=text_of(data.get("summary")),
        verdict=_VERDICT.get(_slug(verdict), "unknown") if isinstance(verdict, str) else "unknown",
        confidence=_confidence(data.get("confidence")),
        findings=findings,
        findings_dropped=dropped,
        questions=questions,
        assumptions=assumptions,
        next_steps=next_steps,
    )


def _finding(raw: Any) -> dict[str, Any] | None:
    if not is_object(raw):
        return None
    title, severity = text_of(raw.get("title")), text_of(raw.get("severity"))
    if title is None or severity is None:
        return None
    line, line_end = _line_range(raw.get("line"), raw.get("line_end"))
    return {
        "severity": _SEVERITY.get(_slug(severity), "unknown"),
        "title": title,
        "file": text_of(raw.get("file")),
        "line": line,
        "line_end": line_end,
        "evidence": _text_or_json(raw.get("evidence")),
        "risk": _text_or_json(raw.get("risk")),
        "recommendation": _text_or_json(raw.get("recommendation")),
    }


def _line_range(first: Any, last: Any) -> tuple[int | None, int | None]:
    start, end = _line(first), _line(last)
    if isinstance(first, str) and (match := _LINES.fullmatch(first[:32])):
        start = int(match[1]) or None
        end = end or (int(match[2]) if match[2] else None)
    if isinstance(last, str) and (match := _LINES.fullmatch(last[:32])):
        end = int(match[1])
    if start is None or (end is not None and end < start):
        return start, None
    return start, end


def _line(value: Any) -> int | None:
    found = number(value)
    return int(found) if found is not None and 1 <= found < 2**31 else None


def _confidence(value: Any) -> float | str | None:
    if isinstance(value, str):
        word = value.strip().lower()
        if word in _CONFIDENCE_WORDS:
            return word
        try:
            value = float(word.rstrip("%")) / (_PERCENT if word.endswith("%") else 1)
        except ValueError:
            return None
    found = number(value)
    if found is None or found > _PERCENT:
        return None
    return found / _PERCENT if found > 1 else found


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value] if value.strip() else []
    if not is_list(value):
        return []
    return [text for text in map(_text_or_json, value) if text is not None]


def _text_or_json(value: Any) -> str | None:
    """Return a text as it is and any other value as JSON."""
    if value is None or isinstance(value, str):
        return text_of(value)
    try:
        return json.dumps(value, ensure_ascii=False)
    except (ValueError, RecursionError):
        return None


def _slug(text: str) -> str:
    return text[:64].strip().lower().replace(" ", "_").replace("-", "_")
