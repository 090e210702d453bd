"""Each captured run of a real program, and the state, reason, code and cost that it gets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from supervisor.interpret import Outcome, get_interpreter, read_progress
from supervisor.states import Reason

FIXTURES = Path(__file__).parent / "fixtures"

# run: state, reason, code (None takes the one that goes with the reason), retryable, cost
TABLE = {
    "claude/success": ("done", "exited", None, False, 0.00018399999999999997),
    "claude/stream": ("done", "exited", None, False, 0.00036799999999999995),
    "claude/denied": ("done", "exited", None, False, 0.00036799999999999995),
    "claude/400": ("failed", "reported_error", "api_error", False, 0.0),
    "claude/401-r1": ("failed", "reported_error", "api_key_invalid", False, 0.0),
    "claude/404": ("failed", "reported_error", "api_error", False, 0.0),
    "claude/500-r1": ("failed", "reported_error", "api_error", True, 0.0),
    "claude/529-r1": ("failed", "reported_error", "api_overloaded", True, 0.0),
    "claude/nokey": ("failed", "reported_error", "claude_auth_required", False, 0.0),
    "claude/budget": ("failed", "reported_error", "budget_exceeded", False, 0.54),
    "claude/maxturns": ("failed", "reported_error", "max_turns", False, 0.00036799999999999995),
    "claude/badflag": ("failed", "nonzero_exit", "cli_contract_changed", False, None),
    "claude/badvalue": ("failed", "nonzero_exit", "cli_contract_changed", False, None),
    "claude/emptyprompt": ("failed", "nonzero_exit", "invalid_arguments", False, None),
    "claude/text": ("failed", "invalid_output", "invalid_output", False, None),
    "claude/k-hang-term": ("failed", "nonzero_exit", None, True, None),
    "claude/k-hang-kill": ("failed", "killed_by_signal", None, False, None),
    "claude/background-agents": ("done", "exited", None, False, 0.0032),
    "claude/empty-result-stream": ("done", "exited", None, False, 0.0024000000000000002),
    "claude/empty-result": ("failed", "invalid_output", "invalid_output", False, 0.0024000000000000002),
    "claude/credit-too-low": ("failed", "reported_error", "billing_error", False, 0.0),
    "claude/out-of-extra-usage": ("failed", "reported_error", "billing_error", False, 0.0),
    "codex/success": ("done", "exited", None, False, None),
    "codex/cmd": ("done", "exited", None, False, None),
    "codex/400": ("failed", "reported_error", "api_error", False, None),
    "codex/500": ("failed", "reported_error", "api_overloaded", True, None),
    "codex/badflag": ("failed", "nonzero_exit", "cli_contract_changed", False, None),
}


def test_every_captured_run_is_in_the_table() -> None:
    assert {f"{path.parent.name}/{path.stem}" for path in FIXTURES.glob("*/*.json")} == set(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_what_a_captured_run_gets(name: str, captured: Callable[..., Outcome]) -> None:
    state, reason, code, retryable, cost = TABLE[name]
    verdict = get_interpreter(name.partition("/")[0]).verdict(captured(name))
    assert ("done" if verdict.reason is Reason.EXITED else "failed") == state
    assert (verdict.reason, verdict.code, verdict.retryable) == (reason, code, retryable)
    assert verdict.cost_usd == cost
    if state == "failed":
        assert verdict.message
        assert verdict.code is None or verdict.repair


@pytest.mark.parametrize("name", [name for name in TABLE if TABLE[name][0] == "done"])
@pytest.mark.parametrize("detail", [None, "summary", "full"])
def test_a_captured_run_that_went_well_has_its_answer_at_every_detail(
    name: str, detail: Any, captured: Callable[..., Outcome]
) -> None:
    from supervisor.interpret import render

    answer = render(get_interpreter(name.partition("/")[0]), captured(name), detail).value
    assert answer["text"] == answer["summary"] != ""
    assert answer["verdict"] == "unknown"
    assert answer["truncated"] is None
    assert answer["detail"] == (detail or "full")
    assert answer["cost_usd"] == TABLE[name][4]


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("interrupted", ["cancelled", "deadline", "output_limit"])
def test_a_run_that_was_stopped_keeps_its_cost(name: str, interrupted: str, captured: Callable[..., Outcome]) -> None:
    outcome = captured(name, exit_code=None, signal=15, interrupted=interrupted)
    verdict = get_interpreter(name.partition("/")[0]).verdict(outcome)
    assert verdict.reason == interrupted
    assert verdict.cost_usd == TABLE[name][4]
    if TABLE[name][4]:
        assert verdict.details["session_id"]


@pytest.mark.parametrize("name", TABLE)
def test_an_unknown_exit_status_is_overruled_by_a_complete_answer_only(
    name: str, captured: Callable[..., Outcome]
) -> None:
    verdict = get_interpreter(name.partition("/")[0]).verdict(captured(name, exit_code=None, signal=None))
    if TABLE[name][0] == "done":
        assert verdict.reason is Reason.EXITED
        assert "exit status is not known" in (verdict.detail or "")
        # Whatever comes after it: then it was not the end.
        longer = captured(name).read_stdout() + b'{"type": "item.started", "item": {"id": "9"}}\n'
        followed = captured(name, exit_code=None, signal=None, stdout=longer)
        verdict = get_interpreter(name.partition("/")[0]).verdict(followed)
        assert verdict.reason is Reason.LOST
        assert verdict.cost_usd == TABLE[name][4]
    elif TABLE[name][1] == "reported_error":
        assert (verdict.reason, verdict.code) == TABLE[name][1:3]
    else:
        assert verdict.reason is Reason.LOST


@pytest.mark.parametrize("name", [name for name in TABLE if TABLE[name][0] == "done"])
@pytest.mark.parametrize("end", [{"exit_code": 7}, {"exit_code": None, "signal": 9}])
def test_success_on_stdout_does_not_make_up_for_a_bad_exit(
    name: str, end: dict[str, Any], captured: Callable[..., Outcome]
) -> None:
    verdict = get_interpreter(name.partition("/")[0]).verdict(captured(name, **end))
    assert verdict.reason == ("killed_by_signal" if "signal" in end else "nonzero_exit")
    assert verdict.cost_usd == TABLE[name][4]


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("size", [1, 7, 1_000_000])
def test_progress_is_the_same_however_the_bytes_arrive(name: str, size: int, captured: Callable[..., Outcome]) -> None:
    stdout = captured(name).read_stdout()
    interpreter = get_interpreter(name.partition("/")[0])
    at_once, pieces = read_progress(interpreter), read_progress(interpreter)
    assert at_once is not None
    assert pieces is not None
    at_once.feed(stdout)
    for start in range(0, len(stdout), size):
        pieces.feed(stdout[start : start + size])
    assert pieces.snapshot() == at_once.snapshot()
    assert at_once.snapshot()["cost_usd"] == TABLE[name][4]


@pytest.mark.parametrize("name", TABLE)
def test_what_is_counted_never_goes_back(name: str, captured: Callable[..., Outcome]) -> None:
    reader = read_progress(get_interpreter(name.partition("/")[0]))
    assert reader is not None
    seen = []
    for line in captured(name).read_stdout().splitlines(keepends=True):
        reader.feed(line)
        now = reader.snapshot()
        seen.append((now["turn"], now["input_tokens"], now["output_tokens"], now["cost_usd"] or 0))
    for column in zip(*seen, strict=True):
        assert list(column) == sorted(column)


NOISE = {
    "an escape sequence before it": (b"\x1b[?25l", b""),
    "an escape sequence behind it": (b"", b"\x1b[?25h\x1b[0m"),
    "a window title": (b"\x1b]0;claude {1}\x07", b""),
    "text before it": (b"npm notice [1] a new version ", b""),
    "text behind it": (b"", b" Terminated"),
    "a carriage return": (b"working...\r", b"\r"),
    "a log line": (b'{"level": "info", "msg": "up"} ', b""),
    "a byte order mark": (b"\xef\xbb\xbf", b""),
    "both sides": (b"[2K> ", b" [exit 0]"),
}


@pytest.mark.parametrize("name", [name for name in TABLE if TABLE[name][4] is not None or name == "codex/cmd"])
@pytest.mark.parametrize("noise", NOISE)
@pytest.mark.parametrize("every_line", [False, True])
def test_text_around_a_message_costs_nothing(
    name: str,
    noise: str,
    every_line: bool,  # noqa: FBT001
    captured: Callable[..., Outcome],
) -> None:
    before, behind = NOISE[noise]
    lines = captured(name).read_stdout().splitlines()
    noisy = [
        before + line + behind if every_line or number == len(lines) - 1 else line for number, line in enumerate(lines)
    ]
    interpreter = get_interpreter(name.partition("/")[0])
    for end in (b"\n", b""):
        outcome = captured(name, stdout=b"\n".join(noisy) + end)
        assert interpreter.verdict(outcome) == interpreter.verdict(captured(name))
        assert interpreter.value(outcome) == interpreter.value(captured(name))
    clean, reader = read_progress(interpreter), read_progress(interpreter)
    assert clean is not None
    assert reader is not None
    clean.feed(captured(name).read_stdout())
    reader.feed(b"\n".join(noisy) + b"\n")
    assert reader.snapshot() == clean.snapshot()


@pytest.mark.parametrize("name", [name for name in TABLE if name.startswith("claude/")])
def test_an_array_says_what_the_same_lines_say(name: str, captured: Callable[..., Outcome]) -> None:
    stdout = captured(name).read_stdout()
    if not stdout.startswith(b"{"):
        pytest.skip("no messages")
    interpreter = get_interpreter("claude")
    messages = [json.loads(line) for line in stdout.splitlines()]
    for shape in (json.dumps(messages), json.dumps(messages, indent=2), "\x1b[0m" + json.dumps(messages) + "\x1b[0m"):
        outcome = captured(name, stdout=shape.encode())
        assert interpreter.verdict(outcome) == interpreter.verdict(captured(name))
        assert interpreter.value(outcome) == interpreter.value(captured(name))
