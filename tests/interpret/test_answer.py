"""The normalised answer: where the review comes from, and what the bounds cut."""

from __future__ import annotations

import json
from typing import Any

import pytest

from supervisor.interpret.answer import DEFAULT, FULL, SUMMARY, bounded, build_answer

FINDINGS = [{"severity": "low", "title": f"finding {number}", "evidence": "e " * 2000} for number in range(300)]


def fields_cut(answer: dict[str, Any]) -> set[str]:
    return {cut["field"] for cut in answer["truncated"]["fields"]}


def test_a_review_in_the_structured_output_goes_before_one_in_the_text() -> None:
    text = json.dumps({"verdict": "fail", "summary": "from the text"})
    answer = build_answer(text, structured={"verdict": "pass", "summary": "checked"}, facts={}, bounds=DEFAULT)
    assert (answer["verdict"], answer["summary"], answer["text"]) == ("pass", "checked", text)
    assert answer["structured_output"] == {"verdict": "pass", "summary": "checked"}


def test_a_run_that_said_nothing_has_an_empty_answer() -> None:
    answer = build_answer(None, facts={}, bounds=FULL)
    assert (answer["summary"], answer["text"], answer["verdict"]) == (None, "", "unknown")


@pytest.mark.parametrize(("bounds", "kept"), [(SUMMARY, 25), (DEFAULT, 200), (FULL, 300)])
def test_findings_are_cut_by_number_and_each_field_by_length(bounds: Any, kept: int) -> None:
    text = json.dumps({"findings": FINDINGS[:150]}) + json.dumps({"verdict": "fail", "findings": []})
    structured = {"verdict": "fail", "findings": FINDINGS}
    answer = build_answer(text, structured=structured, facts={}, bounds=bounds)
    assert len(answer["findings"]) == kept
    if bounds is FULL:
        assert answer["truncated"] is None
    else:
        assert "findings" in fields_cut(answer)
        assert answer["truncated"]["fields"][0]["total"] == 300
    assert "findings.evidence" in fields_cut(answer) if bounds is SUMMARY else True


def test_a_large_value_is_cut_and_says_so() -> None:
    value = {"list": [{"key": "word " * 100} for _ in range(1000)], "never reached": 1}
    answer = build_answer("", structured=value, facts={"permission_denials": [value] * 30}, bounds=SUMMARY)
    assert len(json.dumps(answer)) < 25_000
    assert fields_cut(answer) == {"structured_output", "permission_denials"}
    assert answer["structured_output"]["list"][-1] == "[cut]"
    assert answer["structured_output"]["..."] == "[cut]"
    assert answer["permission_denials"][-1] == "[cut]"


def test_a_bounded_copy_is_small_and_redacted() -> None:
    copy = bounded({"password": "x", "text": "word " * 5000, "n": 1}, 2000)
    assert copy["password"] == "[redacted]"
    assert len(json.dumps(copy)) < 2500
    assert bounded(5, 100) == 5


def test_a_cut_leaves_no_half_of_a_secret() -> None:
    secret = "ghp_" + "aB3" * 12
    for fill in range(SUMMARY.text - 60, SUMMARY.text + 10, 7):
        answer = build_answer("x " * (fill // 2) + secret + " end" * 100, facts={}, bounds=SUMMARY)
        assert "aB3aB3" not in json.dumps(answer)
