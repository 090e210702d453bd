from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from supervisor.cli import text
from supervisor.model import Job
from supervisor.states import Reason, State

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def job(**given: object) -> Job:
    facts = {"job_id": "0" * 32, "kind": "raw", "workspace": "/", "argv": ("true",), "created_at": NOW}
    return Job(**{**facts, **given})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 ms"),
        (0.0456, "46 ms"),
        (1, "1.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 00 min"),
        (86400, "24 h 00 min"),
        (200000, "2 d 7 h"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert text.duration(seconds) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1, "0ms"),
        (0.9994, "999ms"),
        (0.9996, "1.0s"),
        (99.94, "99.9s"),
        (99.96, "1m40s"),
        (5999.4, "99m59s"),
        (5999.6, "1h40m"),
        (172799, "47h59m"),
        (172800, "2d0h"),
        (8639999, "99d23h"),
    ],
)
def test_brief_durations(seconds: float, words: str) -> None:
    assert text.brief(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (67108864, "64.0 MiB"),
        (1 << 30, "1.0 GiB"),
        (1 << 42, "4.0 TiB"),
    ],
)
def test_sizes(count: int, words: str) -> None:
    assert text.size(count) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-5, "0 s"), (0, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (86400 * 3, "3 d")],
)
def test_ages(seconds: float, words: str) -> None:
    assert text.ago(NOW, NOW + timedelta(seconds=seconds)) == words


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"status": State.QUEUED}, "queued"),
        ({"status": State.RUNNING, "stop_requested": "cancelled"}, "running (stopping: cancelled)"),
        ({"status": State.DONE, "reason": Reason.EXITED, "exit_code": 0}, "done"),
        ({"status": State.FAILED, "reason": Reason.NONZERO_EXIT, "exit_code": 7}, "failed (exit status 7)"),
        ({"status": State.FAILED, "reason": Reason.KILLED_BY_SIGNAL, "signal": 9}, "failed (signal 9)"),
        ({"status": State.FAILED, "reason": Reason.INVALID_OUTPUT, "exit_code": 0}, "failed (invalid output)"),
        ({"status": State.FAILED, "reason": Reason.LOST}, "failed (lost)"),
        ({"status": State.CANCELLED, "reason": Reason.CANCELLED, "signal": 15}, "cancelled"),
        ({"status": State.TIMEOUT, "reason": Reason.DEADLINE, "signal": 15}, "timeout"),
    ],
)
def test_outcomes(facts: dict[str, object], words: str) -> None:
    assert text.outcome(job(**facts)) == words


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (None, None),
        ({}, None),
        ({"turn": 0, "tool": None, "input_tokens": 0, "cost_usd": None, "finished": False}, None),
        ({"turn": 2, "tool": "Bash", "input_tokens": 22, "output_tokens": 14}, "turn 2, Bash, 36 tokens"),
        ({"turn": 2, "input_tokens": 999_960, "partial": True}, "turn 2+, 1.0M+ tokens"),
        ({"input_tokens": 1234, "cost_usd": 0.00036, "finished": True}, "1.2k tokens, 0.0004 USD, answered"),
        ({"turn": 1, "note": "retry 2/10 after status 529"}, "turn 1, retry 2/10 after status 529"),
        ({"turn": "1", "tool": ["x"], "cost_usd": float("nan"), "output_tokens": -1, "files": 7}, None),
        ({"tool": "a\x1b[31m\nb"}, "a\\nb"),
    ],
)
def test_progress(said: dict[str, object] | None, words: str | None) -> None:
    assert text.progress(said) == words


def test_nothing_that_a_terminal_acts_upon_is_left_of_a_command() -> None:
    argv = ("printf", "\x1b]0;owned\x07\x1b[31mred", "a\nb\tc\r", "\u202egnp.exe", "caf\u00e9", "\udcff", "\x9b2J")
    shown = text.command_line(argv)
    assert shown.isprintable() or all(letter.isprintable() or letter == "\N{REPLACEMENT CHARACTER}" for letter in shown)
    assert "caf\u00e9" in shown
    assert "\\n" in shown
    assert "owned" not in shown


def test_facts_without_a_value_are_left_out() -> None:
    assert text.pairs([("Job", "1"), ("Detail", None), ("Command", "x")]) == ["Job      1", "Command  x"]
