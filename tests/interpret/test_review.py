"""Reading a structured review out of a text."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.interpret.review import SEARCHED_CHARACTERS, find_review, normalise

REVIEW = {
    "summary": "mostly fine",
    "verdict": "concerns",
    "confidence": 0.8,
    "findings": [
        {"severity": "low", "title": "typo"},
        {
            "severity": "critical",
            "title": "race",
            "file": "a.py",
            "line": 3,
            "line_end": 9,
            "evidence": "e",
            "risk": "r",
        },
        {"severity": "high"},
        "not an object",
        {"severity": "nit", "title": "style", "line": "12-14"},
    ],
    "questions": ["why?"],
    "assumptions": "none",
    "next_steps": [{"do": "this"}],
}
TEMPLATE = '{"summary": "...", "verdict": "pass|concerns|fail", "confidence": 0, "findings": []}'


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "Here is my review.\n```json\n{}\n```\nThat is all.",
        "```\n{}\n```",
        "The set {a, b} and f(x) = { x } before it. {}",
        'Before: {"a": {"b": [1, 2]}} and after: {} and {"c": 1}',
        f"You asked for {TEMPLATE}, so:\n{{}}",
        'An open brace { and an open string {"verdict": "\n\n{}',
        '{"review": {}}',
    ],
)
def test_it_is_found_wherever_it_stands(text: str) -> None:
    for document in (json.dumps(REVIEW), json.dumps(REVIEW, indent=2)):
        found = find_review(text.replace("{}", document, 1) if text.count("{}") == 1 else document)
        assert found is not None
        assert (found.summary, found.verdict, found.confidence) == ("mostly fine", "concerns", 0.8)
        assert [finding["severity"] for finding in found.findings] == ["critical", "low", "info"]
        assert found.findings_dropped == 2


def test_the_fields_of_a_finding_are_always_all_there() -> None:
    found = normalise(REVIEW)
    assert {tuple(finding) for finding in found.findings} == {
        ("severity", "title", "file", "line", "line_end", "evidence", "risk", "recommendation")
    }
    assert (found.findings[0]["line"], found.findings[0]["line_end"]) == (3, 9)
    assert (found.findings[2]["line"], found.findings[2]["line_end"]) == (12, 14)
    assert found.assumptions == ["none"]
    assert found.next_steps == ['{"do": "this"}']


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Looks good to me.",
        "{}",
        '{"summary": "of something else"}',
        '{"findings": ',
        "{" * 1000,
        '{"verdict": [1]}',
    ],
)
def test_free_text_is_no_review(text: str) -> None:
    assert find_review(text) is None


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (0.5, 0.5),
        (85, 0.85),
        ("85%", 0.85),
        ("0.4", 0.4),
        ("High", "high"),
        (True, None),
        (-1, None),
        ("sure", None),
        (1e9, None),
    ],
)
def test_confidence(written: Any, read: Any) -> None:
    assert normalise({"confidence": written}).confidence == read


@pytest.mark.parametrize(
    ("written", "read"), [("LGTM", "pass"), ("request changes", "fail"), ("hm", "unknown"), (3, "unknown")]
)
def test_verdicts(written: Any, read: Any) -> None:
    assert normalise({"verdict": written}).verdict == read


def test_a_severity_not_known_is_kept_as_unknown_and_comes_last() -> None:
    found = normalise({"findings": [{"severity": "spicy", "title": "a"}, {"severity": "P4", "title": "b"}]})
    assert [finding["severity"] for finding in found.findings] == ["info", "unknown"]


def test_of_a_very_long_text_the_beginning_and_the_end_are_searched() -> None:
    filler = "x" * (2 * SEARCHED_CHARACTERS)
    for text in (json.dumps(REVIEW) + filler, filler + json.dumps(REVIEW)):
        found = find_review(text)
        assert found is not None
        assert found.verdict == "concerns"


@pytest.mark.parametrize(
    "piece", ['{"verdict": "', '{"summary":', "{", '{"a": 1, "verdict" ', '{"verdict":[', '{}"findings"', "```json\n{"]
)
def test_hostile_texts_take_linear_time(piece: str) -> None:
    text = piece * (SEARCHED_CHARACTERS // len(piece))
    begin = time.process_time()
    find_review(text)
    assert time.process_time() - begin < 5  # quadratic would take minutes


values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.dictionaries(
        st.sampled_from([*REVIEW, "x"]),
        values | st.lists(st.dictionaries(st.sampled_from(["severity", "title", "line", "line_end", "file"]), values)),
    )
)
def test_anything_can_stand_in_a_review(data: Any) -> None:
    found = normalise(data)
    assert found.verdict in {"pass", "concerns", "fail", "unknown"}
    find_review(json.dumps(data))
