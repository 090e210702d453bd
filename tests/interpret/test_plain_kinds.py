"""The ``raw`` and ``json`` kinds, and what all kinds share."""

from __future__ import annotations

import base64
import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supervisor.errors import InvalidArguments
from supervisor.interpret import Interpreter, Outcome, exit_verdict, get_interpreter, interrupted_reason, kinds, render
from supervisor.interpret.json_value import JsonError, parse_one

RAW, JSON = get_interpreter("raw"), get_interpreter("json")


@pytest.mark.parametrize(
    ("end", "reason", "message"),
    [
        ({"exit_code": 0}, "exited", None),
        ({"exit_code": 7}, "nonzero_exit", "The command exited with status 7."),
        ({"exit_code": None, "signal": 9}, "killed_by_signal", "The command was ended by signal 9."),
        ({"exit_code": None}, "lost", "The command has ended, and its exit status is lost."),
    ],
)
@pytest.mark.parametrize("kind", [RAW, JSON])
def test_the_exit_status_decides(
    kind: Interpreter, end: dict[str, Any], reason: str, message: Any, outcome_of: Callable[..., Outcome]
) -> None:
    verdict = kind.verdict(outcome_of(b"{}", b"trouble\n", **end))
    assert (verdict.reason, verdict.message) == (reason, message)
    assert verdict.detail == (None if reason == "exited" else "trouble")


def test_a_command_that_never_started(outcome_of: Callable[..., Outcome]) -> None:
    verdict = exit_verdict(outcome_of(exit_code=None, launch_error="No such file", launch_status=127))
    assert verdict.reason == "launch_failed"
    assert "No such file" in (verdict.message or "")


def test_raw_gives_text_as_it_stands_and_base64_of_anything_else(outcome_of: Callable[..., Outcome]) -> None:
    text = RAW.value(outcome_of("grüße sk-ant-api03-abcdefghijklmnop1\n".encode()))
    assert (text.value, text.encoding) == ("grüße sk-ant-api03-abcdefghijklmnop1\n", None)
    other = RAW.value(outcome_of(b"\xff\x00"))
    assert (base64.b64decode(other.value), other.encoding) == (b"\xff\x00", "base64")


@given(st.binary())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_raw_loses_nothing(outcome_of: Callable[..., Outcome], stdout: bytes) -> None:
    value = RAW.value(outcome_of(stdout))
    assert (base64.b64decode(value.value) if value.encoding else value.value.encode()) == stdout


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_json_gives_the_parsed_value(outcome_of: Callable[..., Outcome], value: Any) -> None:
    outcome = outcome_of(json.dumps(value).encode())
    assert JSON.verdict(outcome).reason == "exited"
    assert JSON.value(outcome).value == value


@pytest.mark.parametrize(
    ("stdout", "where"),
    [
        (b"", "line 1, column 1"),
        (b"{}\n{}", "line 2, column 1"),
        (b'{"a": tru}', "line 1, column 7"),
        (b'\n\n"\xff"', "line 3, column 2"),
        (b"NaN", "NaN is not JSON"),
        (b"[1, -Infinity]", "-Infinity is not JSON"),
        (b"[" * 200_000, "nested too deeply"),
        (b"9" * 5000, "digits"),
    ],
)
def test_json_says_where_it_stops_being_json(stdout: bytes, where: str, outcome_of: Callable[..., Outcome]) -> None:
    verdict = JSON.verdict(outcome_of(stdout))
    assert verdict.reason == "invalid_output"
    assert where in (verdict.detail or "")


@given(st.binary())
def test_parse_one_raises_only_its_own_error(text: str) -> None:
    with contextlib.suppress(JsonError):
        parse_one(text)


def test_kinds_without_levels_of_detail_have_one_rendering(outcome_of: Callable[..., Outcome]) -> None:
    assert render(JSON, outcome_of(b"[1]"), "summary").value == [1]


def test_reasons_of_stops(outcome_of: Callable[..., Outcome]) -> None:
    assert interrupted_reason(outcome_of()) is None
    assert interrupted_reason(outcome_of(interrupted="deadline")) == "deadline"
    assert interrupted_reason(outcome_of(interrupted="something new")) == "cancelled"


EXAMPLE = """
import json
from supervisor.interpret import Value, Verdict, exit_verdict
from supervisor.states import Reason

class Coverage:
    name = "coverage"

    def verdict(self, outcome):
        verdict = exit_verdict(outcome)
        if verdict.reason is not Reason.EXITED:
            return verdict
        try:
            total = float(json.loads(outcome.read_stdout())["total"])
        except (ValueError, LookupError, TypeError):
            return Verdict(reason=Reason.INVALID_OUTPUT, detail="no total in the report")
        if total < 80:
            return Verdict(reason=Reason.REPORTED_ERROR, detail=f"coverage is {total:.1f}%")
        return verdict

    def value(self, outcome):
        return Value(value=json.loads(outcome.read_stdout())["total"])
"""


@pytest.fixture
def coverage_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put a distribution that brings a kind on sys.path, as an installer would."""
    (tmp_path / "coverage_kind.py").write_text(EXAMPLE)
    metadata = tmp_path / "coverage_kind-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: coverage-kind\nVersion: 1.0\n")
    points = (
        "[supervisor.kinds]\ncoverage = coverage_kind:Coverage\nbroken = coverage_kind:json\nmissing = no_such:Thing\n"
    )
    (metadata / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(tmp_path)
    get_interpreter.cache_clear()
    yield
    get_interpreter.cache_clear()
    sys.modules.pop("coverage_kind", None)


@pytest.mark.usefixtures("coverage_kind")
def test_a_kind_of_a_third_party_is_found_by_its_entry_point(outcome_of: Callable[..., Outcome]) -> None:
    assert {"coverage", "raw", "json", "claude", "codex"} <= set(kinds())
    kind = get_interpreter("coverage")
    good, bad = outcome_of(b'{"total": 91.5}'), outcome_of(b'{"total": "12"}')
    assert kind.verdict(good).reason == "exited"
    assert render(kind, good, "summary").value == 91.5
    assert (kind.verdict(bad).reason, kind.verdict(bad).detail) == ("reported_error", "coverage is 12.0%")
    assert kind.verdict(outcome_of(b"[]")).reason == "invalid_output"


@pytest.mark.usefixtures("coverage_kind")
@pytest.mark.parametrize("name", ["broken", "missing", "unregistered"])
def test_a_kind_that_cannot_be_used_is_refused_with_a_list_of_those_that_can(name: str) -> None:
    with pytest.raises(InvalidArguments, match=name) as caught:
        get_interpreter(name)
    assert "claude" in caught.value.repair
    if name == "missing":
        assert "No module named" in caught.value.message
