"""The ``claude`` kind on runs that were not captured: bad input, hard cases, hints of a stream."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supervisor.interpret import Interpreter, Outcome, Renders, Reports, Value, Verdict
from supervisor.interpret.claude import Claude
from supervisor.interpret.failures import FAILURES
from supervisor.states import Reason
from supervisor.text import json_lines

CLAUDE = Claude()
ENDS: list[dict[str, Any]] = [
    {"exit_code": 0},
    {"exit_code": 1},
    {"exit_code": 143},
    {"exit_code": None, "signal": 9},
    {"exit_code": None},
    {"exit_code": None, "signal": 15, "interrupted": "deadline"},
]


def line(document: Any) -> bytes:
    return json.dumps(document).encode() + b"\n"


def check(outcome: Outcome) -> Verdict:
    """Whatever goes in: a classified verdict and values that JSON can carry come out."""
    verdict = CLAUDE.verdict(outcome)
    assert isinstance(verdict.reason, Reason)
    assert verdict.code is None or verdict.code in FAILURES
    assert verdict.cost_usd is None or 0 <= verdict.cost_usd < float("inf")
    json.dumps(dict(verdict.details), allow_nan=False).encode()
    (verdict.detail or "").encode()
    for value in (CLAUDE.value(outcome), CLAUDE.render(outcome, "summary"), CLAUDE.render(outcome, "full")):
        assert isinstance(value, Value)
        json.dumps(value.value, allow_nan=False, ensure_ascii=False).encode()
    return verdict


def test_it_offers_everything_that_a_kind_can() -> None:
    assert isinstance(CLAUDE, Interpreter)
    assert isinstance(CLAUDE, Renders)
    assert isinstance(CLAUDE, Reports)


# -- the two hardest ----------------------------------------------------------------------


def test_error_529_says_success_and_is_failed_overloaded_retryable(captured: Callable[..., Outcome]) -> None:
    outcome = captured("claude/529-r1")
    assert json.loads(outcome.read_stdout())["subtype"] == "success"
    verdict = CLAUDE.verdict(outcome)
    assert (verdict.reason, verdict.code, verdict.retryable) == ("reported_error", "api_overloaded", True)


@pytest.mark.parametrize("stdout", [b"", b"\n", b"  \n \n"])
def test_an_interrupted_run_with_status_0_and_no_output_is_failed(
    stdout: bytes, outcome_of: Callable[..., Outcome]
) -> None:
    verdict = CLAUDE.verdict(outcome_of(stdout))
    assert verdict.reason is Reason.INVALID_OUTPUT
    assert "interrupted" in (verdict.message or "")


def test_an_interrupted_run_with_status_0_and_an_error_envelope_is_failed(
    outcome_of: Callable[..., Outcome], success_envelope: dict[str, Any]
) -> None:
    stdout = line({**success_envelope, "is_error": True, "subtype": "error_during_execution"})
    verdict = CLAUDE.verdict(outcome_of(stdout))
    assert verdict.reason is Reason.REPORTED_ERROR
    assert verdict.cost_usd == success_envelope["total_cost_usd"]


# -- the four conditions ------------------------------------------------------------------


@pytest.mark.parametrize("change", [{"subtype": "error_x"}, {"is_error": True}, {"is_error": None}, {"is_error": 0}])
def test_success_needs_both_fields(
    change: dict[str, Any], outcome_of: Callable[..., Outcome], success_envelope: dict[str, Any]
) -> None:
    assert CLAUDE.verdict(outcome_of(line({**success_envelope, **change}))).reason is not Reason.EXITED


def test_fields_in_types_not_known_are_a_changed_contract(
    outcome_of: Callable[..., Outcome], success_envelope: dict[str, Any]
) -> None:
    verdict = CLAUDE.verdict(outcome_of(line({**success_envelope, "is_error": "no"})))
    assert (verdict.reason, verdict.code) == ("invalid_output", "cli_contract_changed")


# -- where the envelope may stand ---------------------------------------------------------


def test_the_envelope_is_found_in_an_array_indented_or_behind_other_lines(
    outcome_of: Callable[..., Outcome], success_envelope: dict[str, Any]
) -> None:
    shapes = [
        json.dumps([{"type": "system"}, success_envelope]).encode(),
        json.dumps([{"type": "system"}, success_envelope], indent=2).encode(),
        json.dumps(success_envelope, indent=2).encode(),
        b"npm notice: a new version\n" + line(success_envelope),
        line(success_envelope) + b"trailing noise\n",
        b"\xef\xbb\xbf" + line(success_envelope),
        line({"type": "result"}) + line(success_envelope),
        line(success_envelope).replace(b"\n", b"\r\n"),
    ]
    for stdout in shapes:
        assert CLAUDE.verdict(outcome_of(stdout)).reason is Reason.EXITED, stdout[:60]


def test_of_two_envelopes_the_last_one_counts(
    outcome_of: Callable[..., Outcome], success_envelope: dict[str, Any]
) -> None:
    first, second = {**success_envelope, "total_cost_usd": 1}, {**success_envelope, "total_cost_usd": 2, "result": "b"}
    outcome = outcome_of(line(first) + line(second))
    assert CLAUDE.verdict(outcome).cost_usd == 2
    assert CLAUDE.value(outcome).value["text"] == "b"


# -- an answer that stands elsewhere, or nowhere ------------------------------------------


def said(*texts: str, parent: str | None = None, name: str = "m", **rest: Any) -> dict[str, Any]:
    content = [{"type": "text", "text": text} for text in texts]
    return {
        "type": "assistant",
        "message": {"id": name, "content": content},
        "parent_tool_use_id": parent,
        **rest,
    }


TOOL = {"type": "assistant", "message": {"id": "m", "content": [{"type": "tool_use", "id": "t"}]}}


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([said("first", name="l"), said("the answer"), TOOL], "the answer"),
        ([said("the answer"), said("of a subagent", parent="t", name="s")], "the answer"),
        ([said("one"), said("two"), TOOL], "one\ntwo"),
        ([said("one", "two")], "one\ntwo"),
        ([said("the answer"), said("Overloaded", name="e", error="server_error")], "the answer"),
        ([said("the answer"), said(" ", name="e")], "the answer"),
        ([{"type": "assistant", "message": {"id": "m", "content": "the answer"}}], "the answer"),
        ([said("of a subagent", parent="t")], None),
        ([TOOL], None),
        ([{"type": "assistant", "message": 7}, {"type": "assistant", "message": {"content": [7, {"text": 7}]}}], None),
    ],
)
@pytest.mark.parametrize("empty", ["", "  \n", None])
def test_an_empty_result_is_no_answer(
    messages: list[dict[str, Any]],
    text: str | None,
    empty: str | None,
    outcome_of: Callable[..., Outcome],
    success_envelope: dict[str, Any],
) -> None:
    everything = [*messages, {**success_envelope, "result": empty}]
    for stdout in (b"".join(map(line, everything)), line(everything), json.dumps(everything, indent=1).encode()):
        outcome = outcome_of(stdout)
        verdict = check(outcome)
        assert verdict.cost_usd == success_envelope["total_cost_usd"]
        if text is None:
            assert (verdict.reason, verdict.code) == ("invalid_output", "invalid_output")
            assert "empty" in (verdict.message or "")
            assert verdict.details["session_id"]
            assert check(outcome_of(stdout, exit_code=None)).reason is Reason.LOST
        else:
            assert verdict.reason is Reason.EXITED
            assert "last message" in (verdict.detail or "")
            assert CLAUDE.value(outcome).value["text"] == text


def test_structured_output_is_an_answer(outcome_of: Callable[..., Outcome], success_envelope: dict[str, Any]) -> None:
    outcome = outcome_of(line({**success_envelope, "result": "", "structured_output": {"x": 1}}))
    assert check(outcome).reason is Reason.EXITED


# -- several results ----------------------------------------------------------------------


def test_parts_of_a_run_are_added_up(captured: Callable[..., Outcome]) -> None:
    answer = CLAUDE.value(captured("claude/background-agents")).value
    assert answer["text"] == "FINAL REPORT: three defects were found."
    assert (answer["num_turns"], answer["duration_ms"], answer["cost_usd"]) == (3, 181, 0.0032)
    assert (answer["usage"]["input_tokens"], answer["usage"]["output_tokens"]) == (300, 60)
    assert answer["usage"]["server_tool_use"]["web_search_requests"] == 0
    assert answer["model_usage"]["claude-opus-5-5"]["inputTokens"] == 400


def test_where_only_the_last_part_is_there_the_sums_count(captured: Callable[..., Outcome]) -> None:
    last = captured("claude/background-agents").read_stdout().splitlines()[-1]
    outcome = captured("claude/background-agents", stdout=last)
    answer = CLAUDE.value(outcome).value
    assert check(outcome).cost_usd == 0.0032
    assert answer["usage"] == {
        "input_tokens": 400,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": 80,
    }
    assert (answer["num_turns"], answer["duration_ms"]) == (None, None)  # those of the last part are not the run's


def test_denials_of_all_parts_are_kept_once(
    outcome_of: Callable[..., Outcome], success_envelope: dict[str, Any]
) -> None:
    one, two = {"tool_name": "Bash", "tool_use_id": "1"}, {"tool_name": "Write", "tool_use_id": "2"}
    parts = [{**success_envelope, "permission_denials": denials} for denials in ([one], [one, two], [])]
    answer = CLAUDE.value(outcome_of(b"".join(map(line, parts)))).value
    assert answer["permission_denials"] == [one, two]


def test_results_of_another_session_are_not_added(
    outcome_of: Callable[..., Outcome], success_envelope: dict[str, Any]
) -> None:
    other = {**success_envelope, "session_id": "another"}
    answer = CLAUDE.value(outcome_of(line(other) + line(success_envelope))).value
    assert answer["num_turns"] == success_envelope["num_turns"]


@pytest.mark.parametrize(
    "behind",
    [
        line({"type": "assistant", "message": {}}),
        line({"type": "system", "subtype": "task_updated"}),
        b'{"type":"assis',
        b"noise\n{",
        b'{"type":"user"}',
    ],
)
def test_a_result_that_is_followed_is_no_end_where_the_exit_is_unknown(
    behind: bytes, outcome_of: Callable[..., Outcome], success_envelope: dict[str, Any]
) -> None:
    for stdout in (line(success_envelope) + behind, line(success_envelope).rstrip() + behind):
        verdict = check(outcome_of(stdout, exit_code=None))
        assert verdict.reason is Reason.LOST
        assert verdict.cost_usd == success_envelope["total_cost_usd"]
        assert check(outcome_of(stdout)).reason is Reason.EXITED
    for noise in (b"bye\n", b"\x1b[0m", b"} ]\n"):
        assert check(outcome_of(line(success_envelope) + noise, exit_code=None)).reason is Reason.EXITED


def test_a_result_that_says_that_more_is_to_come_is_no_end_where_the_exit_is_unknown(
    outcome_of: Callable[..., Outcome], success_envelope: dict[str, Any]
) -> None:
    queued = {**success_envelope, "queued_turn_count": 1}
    assert check(outcome_of(line(queued), exit_code=None)).reason is Reason.LOST
    for kind, reason in (("local_agent", "lost"), ("local_bash", "exited")):
        tasks = {"type": "system", "subtype": "background_tasks_changed", "tasks": [{"task_type": kind}]}
        assert check(outcome_of(line(tasks) + line(success_envelope), exit_code=None)).reason == reason
    none = {"type": "system", "subtype": "background_tasks_changed", "tasks": []}
    assert check(outcome_of(line(none) + line(success_envelope), exit_code=None)).reason == "exited"


# -- bad input ----------------------------------------------------------------------------

BAD: dict[str, bytes] = {
    "nothing": b"",
    "white space": b" \n\t\n",
    "truncated": b'{"type":"result","subtype":"success","is_error":false,"result":"abc',
    "two on one line": b'{"type":"result"}{"type":"result"}',
    "array": b"[1, 2, 3]",
    "empty array": b"[]",
    "scalar": b'"result"',
    "null": b"null",
    "another object": b'{"type": "assistant", "x": "result"}',
    "deep": b'{"type":"result","subtype":"success","is_error":false,"x":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "deep array": b"[" * 200_000,
    "not UTF-8": b'{"type":"result",\xff\xfe"subtype"',
    "NUL": b"\0" * 1000,
    "text": b"Hello from the mock.\n",
    "braces": b"{{{{}}}}```json\n{" * 1000,
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("end", ENDS, ids=str)
def test_bad_input_is_classified(name: str, end: dict[str, Any], outcome_of: Callable[..., Outcome]) -> None:
    verdict = check(outcome_of(BAD[name], **end))
    assert verdict.reason is not Reason.EXITED
    if end == {"exit_code": 0}:
        assert verdict.reason is Reason.INVALID_OUTPUT
        assert verdict.detail
        assert len(verdict.detail) < 600


def test_numbers_that_overflow_cost_nothing(
    outcome_of: Callable[..., Outcome], success_envelope: dict[str, Any]
) -> None:
    for number in ("1e999", "-1", "NaN", "Infinity", "true", '"5"', "9" * 5000, "-0.0", "[1]"):
        stdout = json.dumps({**success_envelope, "total_cost_usd": "HERE"}).replace('"HERE"', number).encode()
        verdict = check(outcome_of(stdout))
        assert verdict.reason is Reason.EXITED
        assert not verdict.cost_usd


def test_bytes_that_are_not_utf8_in_a_text_do_not_lose_the_answer(
    outcome_of: Callable[..., Outcome], success_envelope: dict[str, Any]
) -> None:
    stdout = line({**success_envelope, "result": "one HERE two"}).replace(b"HERE", b"\xff\xfe")
    outcome = outcome_of(stdout)
    assert check(outcome).reason is Reason.EXITED
    assert CLAUDE.value(outcome).value["text"] == "one \ufffd\ufffd two"


def test_half_surrogates_leave_as_something_that_can_be_encoded(
    outcome_of: Callable[..., Outcome], success_envelope: dict[str, Any]
) -> None:
    outcome = outcome_of(line({**success_envelope, "result": "a\ud83d b \U0001f600", "session_id": "\udc00"}))
    assert check(outcome).reason is Reason.EXITED
    assert CLAUDE.value(outcome).value["text"].endswith("b \U0001f600")


def test_deep_values_are_bounded_in_what_leaves(
    outcome_of: Callable[..., Outcome], success_envelope: dict[str, Any]
) -> None:
    deep: Any = "bottom"
    for _ in range(150):
        deep = {"x": [deep]}
    outcome = outcome_of(line({**success_envelope, "structured_output": deep, "permission_denials": [deep]}))
    assert check(outcome).reason is Reason.EXITED
    assert "nested too deeply" in json.dumps(CLAUDE.render(outcome, "full").value)


def test_an_output_past_the_limit_is_not_parsed(
    outcome_of: Callable[..., Outcome], success_envelope: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_lines, "MAX_DOCUMENT_BYTES", 1000)
    verdict = check(outcome_of(line(success_envelope)))
    assert verdict.reason is Reason.INVALID_OUTPUT
    assert "more than the limit" in (verdict.detail or "")


@pytest.mark.slow
def test_an_envelope_of_200_mb(outcome_of: Callable[..., Outcome], success_envelope: dict[str, Any]) -> None:
    stdout = line({**success_envelope, "result": "spam and eggs " * (200_000_000 // 14)})
    outcome = outcome_of(stdout)
    assert CLAUDE.verdict(outcome).reason is Reason.EXITED
    answer = CLAUDE.value(outcome).value
    assert len(answer["text"]) < 2**18
    assert answer["truncated"]["fields"][0]["total"] > 190_000_000


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=[]), max_size=20)
    | st.sampled_from(
        ["success", "result", "api_error", "/login", "```json\n{", "rate limit", "limit reached|99999999999"]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = [
    "type",
    "subtype",
    "is_error",
    "result",
    "total_cost_usd",
    "usage",
    "modelUsage",
    "permission_denials",
    "session_id",
    "num_turns",
    "duration_ms",
    "errors",
    "api_error_status",
    "api_error_type",
    "api_error",
    "terminal_reason",
    "structured_output",
    "error",
    "rate_limit_info",
]


@given(changes=st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=6), end=st.sampled_from(ENDS))
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_type_in_any_field_is_classified(
    changes: dict[str, Any], end: dict[str, Any], outcome_of: Callable[..., Outcome], success_envelope: dict[str, Any]
) -> None:
    check(outcome_of(line({**success_envelope, **changes}), **end))


@given(data=st.data(), end=st.sampled_from(ENDS))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_damage_to_the_bytes_is_classified(
    data: Any, end: dict[str, Any], outcome_of: Callable[..., Outcome], captured: Callable[..., Outcome]
) -> None:
    name = data.draw(st.sampled_from(["claude/success", "claude/stream", "claude/budget", "claude/529-r1"]))
    stdout = captured(name).read_stdout()
    start = data.draw(st.integers(0, len(stdout)))
    stop = data.draw(st.integers(start, min(len(stdout), start + 200)))
    stdout = stdout[:start] + data.draw(st.binary(max_size=20)) + stdout[stop:]
    if data.draw(st.booleans()):
        stdout = stdout[: data.draw(st.integers(0, len(stdout)))]
    check(outcome_of(stdout, data.draw(st.binary(max_size=50)), **end))


@given(stdout=st.binary(max_size=300), stderr=st.binary(max_size=100), end=st.sampled_from(ENDS))
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_bytes_are_classified(
    stdout: bytes, stderr: bytes, end: dict[str, Any], outcome_of: Callable[..., Outcome]
) -> None:
    check(outcome_of(stdout, stderr, **end))


@given(prompt=st.text(st.sampled_from('{}[]`"\\:, \n#abjson'), max_size=200).filter(str.strip))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_braces_and_fences_in_the_text_lose_nothing(
    prompt: str, outcome_of: Callable[..., Outcome], success_envelope: dict[str, Any]
) -> None:
    outcome = outcome_of(line({**success_envelope, "result": prompt}))
    assert check(outcome).reason is Reason.EXITED
    assert CLAUDE.value(outcome).value["text"] == prompt


# -- failures by field, then by wording ---------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "code", "retryable"),
    [
        ({"api_error_status": 403}, "claude_permission_error", False),
        ({"api_error_status": 429, "api_error_type": "rate_limit_error"}, "rate_limited", True),
        ({"api_error_status": 503}, "api_error", True),
        ({"api_error_status": 413}, "api_error", False),
        ({"api_error_type": "overloaded_error"}, "api_overloaded", True),
        ({"api_error_status": None, "api_error": "connection_failed"}, "api_error", True),
        ({"subtype": "error_max_structured_output_retries"}, "invalid_output", False),
        (
            {"api_error_status": 401, "result": "OAuth token has expired. Please run /login"},
            "claude_auth_required",
            False,
        ),
        ({"result": "Claude AI usage limit reached|1762952400"}, "rate_limited", True),
        ({"result": "the model said rate limit", "api_error_status": 400}, "api_error", False),
        ({"subtype": "error_during_execution", "result": None, "errors": []}, None, False),
        ({"api_error_status": 400, "api_error_type": "billing_error"}, "billing_error", False),
        ({"api_error_status": 402}, "billing_error", False),
        ({"api_error_status": 429, "result": "You're out of extra usage"}, "billing_error", False),
        ({"api_error_status": 429, "result": "Your credit balance is too low"}, "billing_error", False),
        (
            {"api_error_status": 429, "api_error_type": "rate_limit_error", "result": "Over the spend limit"},
            "billing_error",
            False,
        ),
        ({"result": 'API Error: 429 {"type":"error"}'}, "rate_limited", True),
        ({"result": "API Error: 500 Internal server error"}, "api_error", True),
        ({"result": "API Error: 400 too long"}, "api_error", False),
        (
            {"api_error_status": 400, "api_error_type": "invalid_request_error", "result": "Credit balance is too low"},
            "billing_error",
            False,
        ),
        ({"api_error_status": 400, "result": "You're out of extra usage \u00b7 resets 9am"}, "billing_error", False),
        (
            {"subtype": "error_during_execution", "result": None, "errors": ["No conversation found: 1"]},
            "invalid_arguments",
            False,
        ),
    ],
)
def test_the_fields_of_an_error_decide_before_its_wording(
    fields: dict[str, Any],
    code: str | None,
    retryable: object,
    outcome_of: Callable[..., Outcome],
    success_envelope: dict[str, Any],
) -> None:
    stdout = line({**success_envelope, "is_error": True, **fields})
    verdict = check(outcome_of(stdout, exit_code=1))
    assert (verdict.reason, verdict.code, verdict.retryable) == ("reported_error", code, retryable)


def test_a_rejected_limit_in_the_stream_says_when_to_come_back(
    outcome_of: Callable[..., Outcome], success_envelope: dict[str, Any]
) -> None:
    stdout = line(
        {
            "type": "rate_limit_event",
            "rate_limit_info": {"status": "rejected", "resetsAt": 1_800_000_060, "rateLimitType": "five_hour"},
        }
    ) + line({**success_envelope, "is_error": True, "result": "You've hit your limit"})
    verdict = check(outcome_of(stdout, exit_code=1, ended_ns=1_800_000_000 * 10**9))
    assert (verdict.code, verdict.retryable, verdict.retry_after_ms) == ("rate_limited", True, 60_000)
    assert verdict.details["resets_at"] == "2027-01-15T08:01:00Z"
    assert verdict.details["limit"] == "five_hour"
    # Without the time of the end the moment is known, and the time to wait is not.
    again = CLAUDE.verdict(outcome_of(stdout, exit_code=1))
    assert again.retry_after_ms is None
    assert again.details["resets_at"] == "2027-01-15T08:01:00Z"


@pytest.mark.parametrize("as_array", [False, True])
def test_a_limit_says_the_same_in_an_array(
    as_array: bool,  # noqa: FBT001
    outcome_of: Callable[..., Outcome],
    success_envelope: dict[str, Any],
) -> None:
    limit = {"type": "rate_limit_event", "rate_limit_info": {"status": "rejected", "resetsAt": 1_800_000_060}}
    messages = [limit, {**success_envelope, "is_error": True, "result": "?"}]
    stdout = line(messages) if as_array else b"".join(map(line, messages))
    verdict = check(outcome_of(stdout, exit_code=1, ended_ns=1_800_000_000 * 10**9))
    assert (verdict.code, verdict.retryable, verdict.retry_after_ms) == ("rate_limited", True, 60_000)


@pytest.mark.parametrize(
    ("said", "resets_at"),
    [
        ("You've hit your session limit \u00b7 resets 8pm (America/New_York)", "2026-11-29T01:00:00Z"),
        ("You've hit your limit \u00b7 resets 4:30am (UTC)", "2026-11-28T04:30:00Z"),
        ("You've hit your limit \u00b7 resets 3am (UTC)", "2026-11-29T03:00:00Z"),
        ("You've hit your limit \u00b7 resets 12am (Europe/Berlin)", "2026-11-28T23:00:00Z"),
        ("You've hit your weekly limit \u00b7 resets Dec 1, 9am (Europe/Berlin)", "2026-12-01T08:00:00Z"),
        ("You've hit your weekly limit \u00b7 resets Jan 2 at 9am (UTC)", "2027-01-02T09:00:00Z"),
        ("You've hit your limit \u00b7 resets 20:00 (UTC)", "2026-11-28T20:00:00Z"),
        ("You've hit your limit \u00b7 resets at 03:30 (Europe/Berlin)", "2026-11-29T02:30:00Z"),
        ("You've hit your limit \u00b7 resets 9am (Mars/Olympus)", None),
        ("You've hit your limit \u00b7 resets Feb 31, 9am (UTC)", None),
        ("You've hit your limit \u00b7 resets 77pm (../../etc/passwd)", None),
    ],
)
def test_a_reset_by_the_clock_is_a_moment_where_the_zone_is_named(
    said: str, resets_at: str | None, outcome_of: Callable[..., Outcome], success_envelope: dict[str, Any]
) -> None:
    ended_ns = 1_795_838_400 * 10**9  # 2026-11-28T04:00:00Z
    stdout = line({**success_envelope, "is_error": True, "api_error_status": 429, "result": said})
    verdict = check(outcome_of(stdout, exit_code=1, ended_ns=ended_ns))
    assert (verdict.code, verdict.retryable) == ("rate_limited", True)
    named = resets_at is not None
    assert verdict.details["resets_at"] == (resets_at or "2026-11-28T04:05:00Z")
    assert verdict.details["resets_at_source"] == ("text" if named else "guess")
    assert (verdict.retry_after_ms is not None) == named
    if resets_at is not None:  # out of extra usage: it passes by itself, then
        stdout = line(
            {**success_envelope, "is_error": True, "api_error_status": 400, "result": f"out of extra usage; {said}"}
        )
        verdict = check(outcome_of(stdout, exit_code=1, ended_ns=ended_ns))
        assert (verdict.code, verdict.retryable) == ("billing_error", True)
        assert verdict.details["resets_at"] == resets_at
        assert "has to change" not in (verdict.repair or "")


def test_a_session_that_is_gone_has_one_code(
    outcome_of: Callable[..., Outcome], success_envelope: dict[str, Any]
) -> None:
    words = [
        "No conversation found with session ID: 1",
        "Session 0b3c not found",
        "Provided value does not match any session title",
        "Failed to resume session 0b3c",
    ]
    for said in words:
        error = {**success_envelope, "is_error": True, "subtype": "error_during_execution", "errors": [said]}
        verdicts = [
            check(outcome_of(b"", said.encode(), exit_code=1)),
            check(outcome_of(said.encode(), b"", exit_code=1)),
            check(outcome_of(line(error), exit_code=1)),
            check(outcome_of(line({**error, "result": said, "errors": None}), exit_code=1)),
        ]
        assert {(verdict.code, verdict.repair) for verdict in verdicts} == {
            ("invalid_arguments", FAILURES["session_not_found"].repair)
        }, said


def test_the_error_field_of_the_last_message_classifies(
    outcome_of: Callable[..., Outcome], success_envelope: dict[str, Any]
) -> None:
    stdout = line({"type": "assistant", "error": "authentication_failed", "message": {}}) + line(
        {**success_envelope, "is_error": True, "result": "?"}
    )
    assert CLAUDE.verdict(outcome_of(stdout, exit_code=1)).code == "api_key_invalid"


@pytest.mark.parametrize(
    ("wording", "wait"),
    [
        ("Please try again in 20s", 20_000),
        ("retry after 1 minute 30 seconds", 90_000),
        ("try again in 250 ms", 250),
        ("try again later", None),
        ("in 3 days", None),
        ("try again in 3 days 6 hours", 280_800_000),
    ],
)
def test_a_time_to_wait_is_read_from_the_message(
    wording: str, wait: int | None, outcome_of: Callable[..., Outcome], success_envelope: dict[str, Any]
) -> None:
    stdout = line({**success_envelope, "is_error": True, "api_error_status": 429, "result": wording})
    assert CLAUDE.verdict(outcome_of(stdout, exit_code=1)).retry_after_ms == wait


@pytest.mark.parametrize(
    ("stderr", "exit_code", "code"),
    [
        (b"sh: 1: claude: not found\n", 127, "claude_not_found"),
        (b"--dangerously-skip-permissions cannot be used with root/sudo privileges\n", 1, "claude_permission_error"),
        (b"error: option '--max-turns <n>' argument missing\n", 1, "cli_contract_changed"),
        (b"No conversation found with session ID: 1\n", 1, "invalid_arguments"),
        (b"Segmentation fault\n", 139, None),
    ],
)
def test_a_run_without_an_envelope_is_judged_by_stderr(
    stderr: bytes, exit_code: int | None, code: str | None, outcome_of: Callable[..., Outcome]
) -> None:
    verdict = check(outcome_of(b"", stderr, exit_code=exit_code))
    assert (verdict.reason, verdict.code) == ("nonzero_exit", code)


def test_a_program_that_is_not_there_is_named(outcome_of: Callable[..., Outcome]) -> None:
    verdict = CLAUDE.verdict(outcome_of(exit_code=None, launch_error="No such file: 'claude'", launch_status=127))
    assert (verdict.reason, verdict.code) == ("launch_failed", "claude_not_found")
    verdict = CLAUDE.verdict(outcome_of(exit_code=None, launch_error="Permission denied", launch_status=126))
    assert (verdict.reason, verdict.code) == ("launch_failed", None)


def test_a_stream_that_was_stopped_before_its_envelope_still_names_its_session(
    outcome_of: Callable[..., Outcome], captured: Callable[..., Outcome]
) -> None:
    stdout = b"".join(captured("claude/stream").read_stdout().splitlines(keepends=True)[:3])
    verdict = CLAUDE.verdict(outcome_of(stdout + b'{"type":"assi', exit_code=143, interrupted="cancelled"))
    assert verdict.reason is Reason.CANCELLED
    assert verdict.details == {"session_id": "18a126dd-28fd-4ed3-9ff3-2b37d3225d86"}
    assert verdict.cost_usd is None


# -- the answer ---------------------------------------------------------------------------


def test_secrets_do_not_leave(outcome_of: Callable[..., Outcome], success_envelope: dict[str, Any]) -> None:
    secret = "sk-ant-api03-" + "aB3" * 8
    stdout = line(
        {
            **success_envelope,
            "result": f"the key is {secret}",
            "session_id": secret,
            "modelUsage": {secret: {}},
            "permission_denials": [{"tool_name": secret, "tool_input": {"command": f"curl -H 'x-api-key: {secret}'"}}],
            "structured_output": {"password": "swordfish", secret: [secret]},
        }
    )
    for change in ({}, {"is_error": True}):
        damaged = line({**json.loads(stdout), **change})
        for end in ENDS:
            outcome = outcome_of(damaged, f"oops {secret}".encode(), **end)
            verdict = check(outcome)
            told = [CLAUDE.value(outcome).value, CLAUDE.render(outcome, "full").value, dict(verdict.details)]
            text = json.dumps([*told, verdict.detail, verdict.message])
            assert secret not in text
            assert "swordfish" not in text


def test_permission_denials_are_remarked_on(captured: Callable[..., Outcome]) -> None:
    outcome = captured("claude/denied")
    assert CLAUDE.verdict(outcome).detail == "1 tool call(s) were not permitted: Bash."
    assert CLAUDE.value(outcome).value["permission_denials"][0]["tool_input"]["command"] == "touch /workspace/x"


def test_the_summary_is_cut_says_so_and_the_whole_is_still_to_be_had(
    outcome_of: Callable[..., Outcome], success_envelope: dict[str, Any]
) -> None:
    text = "word " * 40_000
    outcome = outcome_of(line({**success_envelope, "result": text}))
    summary = CLAUDE.render(outcome, "summary").value
    assert len(json.dumps(summary)) < 40_000
    assert {cut["field"] for cut in summary["truncated"]["fields"]} == {"summary", "text"}
    assert summary["truncated"]["fields"][1]["total"] == len(text)
    assert "full" in summary["truncated"]["repair"]
    full = CLAUDE.render(outcome, "full").value
    assert full["text"] == full["summary"] == text
    assert full["truncated"] is None


def test_verdict_and_value_of_one_outcome_read_stdout_once(success_envelope: dict[str, Any]) -> None:

    reads = []
    outcome = Outcome(exit_code=0, read_stdout=lambda: reads.append(1) or line(success_envelope))  # type: ignore[func-returns-value]
    CLAUDE.verdict(outcome)
    CLAUDE.value(outcome)
    CLAUDE.render(outcome, "summary")
    assert len(reads) == 1


@pytest.mark.slow
def test_interpreting_10_mb_takes_at_most_twice_a_bare_parse(
    outcome_of: Callable[..., Outcome], success_envelope: dict[str, Any]
) -> None:
    text = "The reviewer said: `x = {}` is fine; see the token budget.\n" * (10_000_000 // 58)
    stdout = line({**success_envelope, "result": text})

    def interpret() -> None:
        outcome = outcome_of(stdout)
        CLAUDE.verdict(outcome)
        CLAUDE.value(outcome)

    def best(work: Any) -> float:
        times = []
        for _ in range(7):
            begin = time.perf_counter()
            work()
            times.append(time.perf_counter() - begin)
        return min(times)

    assert best(interpret) <= 2 * best(lambda: json.loads(stdout))


@pytest.mark.parametrize(
    ("said", "milliseconds"),
    [("in 2 days 17 hours", 65 * 3_600_000), ("in 3h 20m", 12_000_000), ("in 45 minutes", 2_700_000)],
)
def test_a_limit_that_resets_in_a_while_says_how_long_to_wait(
    said: str, milliseconds: int, outcome_of: Callable[..., Outcome], success_envelope: dict[str, Any]
) -> None:
    result = f"You've hit your session limit \u00b7 resets {said}"
    verdict = check(outcome_of(line({**success_envelope, "is_error": True, "result": result}), exit_code=1))
    assert (verdict.code, verdict.retry_after_ms) == ("rate_limited", milliseconds)


def test_thoughts_are_no_answer(outcome_of: Callable[..., Outcome], success_envelope: dict[str, Any]) -> None:
    thought = {"type": "assistant", "message": {"id": "1", "content": [{"type": "thinking", "text": "hm"}]}}
    stdout = line(thought) + line({**success_envelope, "result": ""})
    assert check(outcome_of(stdout)).reason is Reason.INVALID_OUTPUT


@pytest.mark.parametrize("exit_code", [None, 1])
def test_messages_are_no_detail_of_a_bad_exit(
    exit_code: int | None, outcome_of: Callable[..., Outcome], success_envelope: dict[str, Any]
) -> None:
    stdout = line(success_envelope) + b'{"type": "assist'
    outcome = attrs.evolve(outcome_of(stdout, exit_code=exit_code), read_stdout_tail=lambda: stdout)
    detail = check(outcome).detail or ""
    assert detail.startswith("The output says success" if exit_code else "more output was to follow")
