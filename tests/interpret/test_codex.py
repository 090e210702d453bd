"""The ``codex`` kind on runs that were not captured."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supervisor.interpret import Outcome, Verdict
from supervisor.interpret.codex import Codex
from supervisor.interpret.failures import FAILURES
from supervisor.states import Reason

CODEX = Codex()


def lines(*events: Any) -> bytes:
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)


BEGIN = ({"type": "thread.started", "thread_id": "t"}, {"type": "turn.started"})
SAID = {"type": "item.completed", "item": {"id": "1", "type": "agent_message", "text": "done"}}
END = {"type": "turn.completed", "usage": {"input_tokens": 1, "output_tokens": 2}}


def check(outcome: Outcome) -> Verdict:
    verdict = CODEX.verdict(outcome)
    assert isinstance(verdict.reason, Reason)
    assert verdict.code is None or verdict.code in FAILURES
    json.dumps(dict(verdict.details), allow_nan=False).encode()
    for value in (CODEX.value(outcome), CODEX.render(outcome, "summary"), CODEX.render(outcome, "full")):
        json.dumps(value.value, allow_nan=False, ensure_ascii=False).encode()
    return verdict


def test_a_retry_that_came_right_is_no_failure(outcome_of: Callable[..., Outcome]) -> None:
    stdout = lines(*BEGIN, {"type": "error", "message": "Reconnecting... 1/5"}, SAID, END)
    assert check(outcome_of(stdout)).reason is Reason.EXITED


def test_usage_of_several_turns_is_added_and_the_last_message_is_the_answer(outcome_of: Callable[..., Outcome]) -> None:
    second = {"type": "item.completed", "item": {"id": "2", "type": "agent_message", "text": "second"}}
    outcome = outcome_of(lines(*BEGIN, SAID, END, BEGIN[1], second, END))
    answer = CODEX.value(outcome).value
    assert (answer["text"], answer["num_turns"], answer["session_id"]) == ("second", 2, "t")
    assert answer["usage"] == {"input_tokens": 2, "output_tokens": 4}


def test_a_declined_command_is_a_denial(outcome_of: Callable[..., Outcome]) -> None:
    item = {"id": "9", "type": "command_execution", "command": "rm -rf x", "status": "declined"}
    outcome = outcome_of(lines(*BEGIN, {"type": "item.completed", "item": item}, SAID, END))
    assert check(outcome).detail == "1 tool call(s) were not permitted."
    denial = CODEX.value(outcome).value["permission_denials"][0]
    assert denial == {"tool_name": "command_execution", "tool_use_id": "9", "tool_input": {"command": "rm -rf x"}}


@pytest.mark.parametrize(
    ("message", "code", "retryable"),
    [
        ("unexpected status 401 Unauthorized: Incorrect API key provided", "api_key_invalid", False),
        ("unexpected status 503 Service Unavailable", "api_error", True),
        ("You've hit your usage limit. Try again in 3 days.", "rate_limited", True),
        ("Not logged in, run codex login", "codex_auth_required", False),
        ("stream disconnected before completion", "api_error", True),
        ('{"error": {"type": "server_error", "message": "x"}, "status": 500}', "api_error", True),
        (
            "unexpected status 401 Unauthorized: Missing bearer or basic authentication in header, url: https://x",
            "codex_auth_required",
            False,
        ),
        ("You exceeded your current quota, please check your plan and billing details.", "billing_error", False),
        ('{"error": {"type": "insufficient_quota", "message": "x"}, "status": 429}', "billing_error", False),
        ('{"error": {"code": "insufficient_quota", "message": "x"}}', "billing_error", False),
        ("{broken", None, False),
        (None, None, False),
        (7, None, False),
    ],
)
def test_how_a_failed_turn_is_classified(
    message: Any, code: str | None, retryable: object, outcome_of: Callable[..., Outcome]
) -> None:
    verdict = check(outcome_of(lines(*BEGIN, {"type": "turn.failed", "error": {"message": message}}), exit_code=1))
    assert (verdict.reason, verdict.code, verdict.retryable) == ("reported_error", code, retryable)
    assert verdict.detail


@pytest.mark.parametrize(
    ("stdout", "detail"),
    [
        (b"", "empty"),
        (b"hello", "begins: hello"),
        (lines(*BEGIN, SAID), "before a turn was completed"),
        (b"[1]\n{}\n", "[1]"),
    ],
)
def test_status_0_without_a_completed_turn_is_failed(
    stdout: bytes, detail: Any, outcome_of: Callable[..., Outcome]
) -> None:
    verdict = check(outcome_of(stdout))
    assert verdict.reason is Reason.INVALID_OUTPUT
    assert detail in (verdict.detail or "")


def test_remarks_on_stderr_are_no_detail(outcome_of: Callable[..., Outcome]) -> None:
    stderr = b"Reading additional input from stdin...\nNot inside a trusted directory and no flag was given.\n"
    verdict = check(outcome_of(b"", stderr, exit_code=1))
    assert verdict.code == "invalid_arguments"
    assert verdict.detail == "Not inside a trusted directory and no flag was given."


THOUGHT = {"type": "item.completed", "item": {"id": "0", "type": "reasoning", "text": "hm"}}


@pytest.mark.parametrize(
    "stdout",
    [
        lines(*BEGIN, SAID).rstrip() + lines(END),
        lines(*BEGIN, THOUGHT).rstrip() + lines(SAID, END),
        b" ".join(lines(each).rstrip() for each in (*BEGIN, SAID, END)),
        lines(*BEGIN) + b'{"type":"item.comp' + lines(SAID, END),
    ],
)
def test_events_that_are_glued_together_are_read(stdout: bytes, outcome_of: Callable[..., Outcome]) -> None:
    outcome = outcome_of(stdout)
    assert check(outcome).reason is Reason.EXITED
    assert CODEX.value(outcome).value["text"] == "done"
    reader = CODEX.progress()
    reader.feed(stdout + b"\n")
    assert (reader.progress.output_tokens, reader.progress.finished) == (2, True)


@pytest.mark.parametrize(
    "item", [None, THOUGHT, {"type": "item.completed", "item": {"type": "agent_message", "text": " "}}]
)
def test_a_turn_without_a_message_is_no_answer(item: Any, outcome_of: Callable[..., Outcome]) -> None:
    stdout = lines(*BEGIN, *([] if item is None else [item]), END)
    verdict = check(outcome_of(stdout))
    assert (verdict.reason, verdict.code) == ("invalid_output", "invalid_output")
    assert "empty" in (verdict.message or "")
    assert verdict.details["session_id"] == "t"
    assert check(outcome_of(stdout, exit_code=None)).reason is Reason.LOST
    # A message before it is the last one.
    outcome = outcome_of(lines(*BEGIN, SAID, *([] if item is None else [item]), END))
    assert check(outcome).reason is Reason.EXITED
    assert CODEX.value(outcome).value["text"] == "done"


@pytest.mark.parametrize("end", [{"exit_code": 1}, {"exit_code": None, "signal": 9}])
def test_a_complete_turn_with_a_bad_exit_says_that_an_answer_is_there(
    end: dict[str, Any], outcome_of: Callable[..., Outcome]
) -> None:
    verdict = check(outcome_of(lines(*BEGIN, SAID, END), b"boom\n", **end))
    assert verdict.reason == ("killed_by_signal" if "signal" in end else "nonzero_exit")
    assert "complete answer" in (verdict.message or "")
    assert "The answer is in" in (verdict.repair or "")
    assert verdict.detail == "boom"


@pytest.mark.parametrize("behind", [lines({"type": "item.started", "item": {}}), b'{"type":"tur', lines(BEGIN[1])])
def test_a_turn_that_is_followed_is_no_end_where_the_exit_is_unknown(
    behind: bytes, outcome_of: Callable[..., Outcome]
) -> None:
    complete = lines(*BEGIN, SAID, END)
    assert check(outcome_of(complete + behind, exit_code=None)).reason is Reason.LOST
    assert check(outcome_of(complete + b"bye\n", exit_code=None)).reason is Reason.EXITED


def test_a_session_that_is_gone(outcome_of: Callable[..., Outcome]) -> None:
    verdict = check(outcome_of(b"", b"Error: no rollout found for thread id 0b3c\n", exit_code=1))
    assert verdict.code == "invalid_arguments"
    assert "session" in (verdict.message or "")


def test_a_program_that_is_not_there_is_named(outcome_of: Callable[..., Outcome]) -> None:
    assert CODEX.verdict(outcome_of(exit_code=None, launch_error="x", launch_status=127)).code == "codex_not_found"
    assert CODEX.verdict(outcome_of(b"", b"codex: not found", exit_code=127)).code == "codex_not_found"


def test_ended_from_outside(outcome_of: Callable[..., Outcome]) -> None:
    assert "SIGTERM" in (check(outcome_of(b"", exit_code=143)).message or "")


events = st.fixed_dictionaries(
    {
        "type": st.sampled_from(
            ["thread.started", "turn.started", "turn.completed", "turn.failed", "error", "item.completed", "x"]
        )
    },
    optional={
        "item": st.dictionaries(
            st.sampled_from(["type", "text", "id", "status", "message"]), st.text() | st.integers() | st.none()
        ),
        "usage": st.dictionaries(st.text(max_size=3), st.floats() | st.integers() | st.text()) | st.integers(),
        "error": st.text() | st.dictionaries(st.just("message"), st.text() | st.none()),
        "message": st.text(st.characters(exclude_categories=[])) | st.none(),
        "thread_id": st.text() | st.integers(),
    },
)


@given(run=st.lists(events, max_size=8), exit_code=st.sampled_from([0, 1, 2, None]), noise=st.binary(max_size=30))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_events_are_classified(
    run: list[dict[str, Any]], exit_code: int | None, noise: bytes, outcome_of: Callable[..., Outcome]
) -> None:
    check(outcome_of(lines(*run) + noise, noise, exit_code=exit_code))


@pytest.mark.parametrize("said", ["no rollout found for thread id 1", "Session 1 was not found", "thread 1 not found"])
def test_a_session_that_is_gone_is_named_by_events_too(said: str, outcome_of: Callable[..., Outcome]) -> None:
    ways = [
        outcome_of(lines({"type": "turn.started"}, {"type": "turn.failed", "error": {"message": said}}), exit_code=1),
        outcome_of(lines({"type": "error", "message": said}), exit_code=1),
        outcome_of(b"", f"Error: {said}".encode(), exit_code=1),
    ]
    repair = FAILURES["session_not_found"].repair
    assert {(verdict.code, verdict.repair) for verdict in map(check, ways)} == {("invalid_arguments", repair)}


@pytest.mark.parametrize("exit_code", [None, 1])
def test_events_are_no_detail_of_a_bad_exit(exit_code: int | None, outcome_of: Callable[..., Outcome]) -> None:
    message = {"type": "item.completed", "item": {"type": "agent_message", "text": "hi"}}
    stdout = lines(message, {"type": "turn.completed"}) + b'{"type": "tu'
    outcome = attrs.evolve(outcome_of(stdout, exit_code=exit_code), read_stdout_tail=lambda: stdout)
    detail = check(outcome).detail or ""
    assert detail.startswith("The output has a complete answer" if exit_code else "more output was to follow")
