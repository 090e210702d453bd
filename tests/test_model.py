from __future__ import annotations

import inspect
import json
import math
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.errors import InvalidArguments, JobNotFound, LaunchFailed
from supervisor.model import (
    FINGERPRINT,
    ErrorInfo,
    Exit,
    Job,
    JobEvent,
    JobOptions,
    JobPage,
    JobSpec,
    Result,
    converter,
    error_to_json,
    from_ns,
    to_json,
)
from supervisor.states import Reason, State

JOB_ID = "0123456789abcdef0123456789abcdef"
MORNING = datetime(2026, 3, 1, 8, 0, 0, 123456, tzinfo=UTC)

RUNNING = Job(
    job_id=JOB_ID,
    kind="raw",
    status=State.RUNNING,
    workspace="/repo",
    argv=("claude", "-p"),
    created_at=MORNING,
    started_at=MORNING + timedelta(milliseconds=5),
    elapsed_ms=1234,
    deadline_seconds=1800.0,
    deadline_at=MORNING + timedelta(seconds=1800),
    ttl_seconds=86400.0,
    poll_after_ms=1000,
    pid=4242,
)

RUNNING_JSON = json.loads("""
{"ok": true, "job_id": "0123456789abcdef0123456789abcdef", "kind": "raw", "status": "running", "reason": null,
 "workspace": "/repo", "argv": ["claude", "-p"], "labels": {},
 "created_at": "2026-03-01T08:00:00.123Z", "started_at": "2026-03-01T08:00:00.128Z", "completed_at": null,
 "elapsed_ms": 1234, "deadline_seconds": 1800, "deadline_at": "2026-03-01T08:30:00.123Z",
 "ttl_seconds": 86400, "expires_at": null, "poll_after_ms": 1000,
 "result_available": false, "cost_usd": null, "detail": null, "warnings": [],
 "paused": false, "stop_requested": null, "progress": null,
 "engine": "local", "groups": [], "priority": 0, "weight": 1,
 "not_before": null, "after": [], "queue_reason": null, "queue_position": null,
 "series_id": null, "attempt": 1, "maximum_attempts": 1, "retry_of": null, "retried_by": null,
 "next_attempt_at": null, "stdin_open": false, "pty": false, "session_id": null, "schedule": null,
 "pid": 4242, "exit_code": null, "signal": null, "stdout_bytes": 0, "stderr_bytes": 0,
 "cpu_seconds": null, "max_rss_bytes": null, "limits": null,
 "memory_peak_bytes": null, "worktree": null, "fingerprint": "trio-supervisor/1"}
""")

DONE = attrs.evolve(RUNNING, status=State.DONE, reason=Reason.EXITED, exit_code=0, poll_after_ms=None)
LATE = attrs.evolve(RUNNING, status=State.TIMEOUT, reason=Reason.DEADLINE, signal=15, poll_after_ms=None)

ERROR = ErrorInfo(code="job_timeout", message="It ran out of time.", repair="Give it more.")
ERROR_JSON = {
    "code": "job_timeout",
    "message": "It ran out of time.",
    "repair": "Give it more.",
    "retryable": False,
    "retry_after_ms": None,
    "details": {},
}

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
# JSON has milliseconds.
times = st.datetimes(datetime(1970, 1, 1), datetime(9999, 1, 1), timezones=st.just(UTC)).map(  # noqa: DTZ001
    lambda when: when.replace(microsecond=when.microsecond // 1000 * 1000),
)
counts = st.integers(0, 2**53)
seconds = st.floats(0, 1e12)
jobs = st.builds(
    Job,
    job_id=st.text("0123456789abcdef", min_size=32, max_size=32),
    kind=texts,
    status=st.sampled_from(State),
    reason=st.none() | st.sampled_from(Reason),
    workspace=texts,
    argv=st.lists(texts, min_size=1).map(tuple),
    labels=st.dictionaries(texts, texts, max_size=3),
    created_at=times,
    started_at=st.none() | times,
    completed_at=st.none() | times,
    elapsed_ms=counts,
    deadline_seconds=st.none() | seconds,
    deadline_at=st.none() | times,
    ttl_seconds=seconds,
    expires_at=st.none() | times,
    poll_after_ms=st.none() | counts,
    result_available=st.booleans(),
    cost_usd=st.none() | seconds,
    detail=st.none() | texts,
    paused=st.booleans(),
    stop_requested=st.none() | texts,
    progress=st.none() | st.dictionaries(texts, st.none() | st.booleans() | counts | texts, max_size=3),
    pid=st.none() | counts,
    exit_code=st.none() | st.integers(0, 255),
    signal=st.none() | st.integers(1, 64),
    stdout_bytes=counts,
    stderr_bytes=counts,
    cpu_seconds=st.none() | seconds,
    max_rss_bytes=st.none() | counts,
    fingerprint=st.just(FINGERPRINT),
)


def through_json(shape: object) -> Any:
    """Return what a strict JSON reader gets."""
    return json.loads(json.dumps(shape, allow_nan=False))


def plain(shape: object) -> bool:
    """Whether all of it has the types of JSON: no enum, tuple or subclass."""
    if type(shape) is dict:
        return all(type(key) is str and plain(held) for key, held in shape.items())
    if type(shape) is list:
        return all(map(plain, shape))
    return shape is None or type(shape) in {str, int, float, bool}


def test_a_job_has_the_shape_of_the_contract() -> None:
    shape = to_json(RUNNING)
    assert shape == RUNNING_JSON
    assert json.dumps(shape) == json.dumps(RUNNING_JSON | shape), "the order of the contract"
    assert plain(shape)


def test_whole_seconds_go_out_as_whole_numbers() -> None:
    text = json.dumps(to_json(RUNNING))
    assert '"deadline_seconds": 1800,' in text
    assert '"ttl_seconds": 86400,' in text
    assert to_json(attrs.evolve(RUNNING, deadline_seconds=0.5))["deadline_seconds"] == 0.5
    assert to_json(attrs.evolve(RUNNING, deadline_seconds=None))["deadline_seconds"] is None


@given(jobs)
def test_the_shape_of_a_job_is_the_one_that_the_converter_gives(job: Job) -> None:
    waiting = attrs.evolve(job, after=({"job_id": JOB_ID, "when": "ok"},), groups=("a", "b"), worktree={"id": ["x"]})
    for each in (job, waiting):
        shape = to_json(each)
        assert json.dumps(shape) == json.dumps({"ok": True, **converter.unstructure(each)})
        assert plain(shape)


def test_a_finished_job_says_why() -> None:
    shape = to_json(LATE)
    assert (shape["status"], shape["reason"], shape["signal"], shape["exit_code"]) == ("timeout", "deadline", 15, None)
    assert plain(shape)


def test_a_result_that_is_there() -> None:
    assert to_json(Result(job_id=JOB_ID, kind="raw", value="hello\n", job=DONE)) == {
        "ok": True,
        "job_id": JOB_ID,
        "kind": "raw",
        "value": "hello\n",
        "job": to_json(DONE),
    }


def test_a_result_whose_value_is_null() -> None:
    result = Result(job_id=JOB_ID, kind="json", value=None, job=DONE)
    assert result.ok
    assert to_json(result)["value"] is None


def test_a_raw_result_that_is_no_text() -> None:
    shape = to_json(Result(job_id=JOB_ID, kind="raw", value="/w==", encoding="base64", job=DONE))
    assert list(shape) == ["ok", "job_id", "kind", "value", "encoding", "job"]
    assert shape["encoding"] == "base64"


def test_a_result_that_is_missing() -> None:
    result = Result(job_id=JOB_ID, kind="raw", error=ERROR, job=LATE)
    assert not result.ok
    assert to_json(result) == {"ok": False, "error": ERROR_JSON, "job": to_json(LATE)}


def test_a_value_is_passed_through_untouched() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    value = {"whole": 1.0, "deep": deep}
    assert to_json(Result(job_id=JOB_ID, kind="json", value=value, job=DONE))["value"] is value
    while deep:  # freed level by level, since the interpreter frees it recursively
        deep = deep.pop()


def test_a_page() -> None:
    assert to_json(JobPage(jobs=())) == {"ok": True, "jobs": [], "next_cursor": None}
    assert to_json(JobPage(jobs=(RUNNING, DONE), next_cursor="c")) == {
        "ok": True,
        "jobs": [to_json(RUNNING), to_json(DONE)],
        "next_cursor": "c",
    }


def test_an_event() -> None:
    event = JobEvent(job=DONE, previous=State.RUNNING, lagged=2)
    assert (event.job_id, event.status) == (JOB_ID, State.DONE)
    shape = to_json(event)
    before = {"previous": "running", "previous_queue_reason": None, "previous_paused": False}
    assert shape == {"job": to_json(DONE), "lagged": 2, **before}
    assert plain(shape)
    assert to_json(JobEvent(job=RUNNING))["previous"] is None


def test_an_error() -> None:
    assert to_json(ERROR) == ERROR_JSON
    assert to_json(attrs.evolve(ERROR, retryable=True, retry_after_ms=9, details={"line": 3})) == {
        **ERROR_JSON,
        "retryable": True,
        "retry_after_ms": 9,
        "details": {"line": 3},
    }


def test_an_exception_has_the_same_shape() -> None:
    error = JobNotFound("No job 0123.", repair="Look again.", details={"job_id": "0123"})
    assert error_to_json(error) == {
        "ok": False,
        "error": {
            "code": "job_not_found",
            "message": "No job 0123.",
            "repair": "Look again.",
            "retryable": False,
            "retry_after_ms": None,
            "details": {"job_id": "0123"},
        },
    }
    assert error_to_json(LaunchFailed("m", exit_status=127), LATE)["job"] == to_json(LATE)


@given(jobs)
def test_a_job_survives_the_wire(job: Job) -> None:
    shape = to_json(job)
    assert plain(shape)
    assert converter.structure(through_json(shape), Job) == job


@given(jobs, texts)
def test_what_a_later_version_adds_is_passed_over(job: Job, name: str) -> None:
    shape = through_json(to_json(job))
    assert converter.structure({f"x_{name}": 1, **shape}, Job) == job


@given(
    st.builds(
        Exit,
        exit_code=st.none() | st.integers(0, 255),
        signal=st.none() | st.integers(1, 64),
        ended_ns=counts,
        cpu_seconds=st.none() | seconds,
        max_rss_bytes=st.none() | counts,
        launch_error=st.none() | texts,
        launch_status=st.none() | st.integers(125, 127),
        never_launched=st.booleans(),
    ),
)
def test_an_exit_survives_the_disk(end: Exit) -> None:
    assert converter.structure(through_json(converter.unstructure(end)), Exit) == end


@pytest.mark.parametrize(
    ("end", "known"),
    [(Exit(exit_code=0), True), (Exit(signal=9), True), (Exit(), False), (Exit(launch_error="x"), False)],
)
def test_an_exit_is_known_by_its_code_or_its_signal(end: Exit, known: bool) -> None:  # noqa: FBT001
    assert end.known is known


def test_a_spec_never_writes_stdin_or_environment_down() -> None:
    spec = JobSpec(argv=["tool", "x"], stdin=b"secret prompt", env={"TOKEN": "secret"}, labels={"a": "b"})
    shape = converter.unstructure(spec)
    assert shape.keys() == {field.name for field in attrs.fields(JobSpec)} - {"stdin", "env"}
    assert (shape["argv"], shape["labels"]) == (["tool", "x"], {"a": "b"})
    assert "secret" not in json.dumps(shape)
    assert "secret" not in repr(spec)
    assert converter.structure(through_json(shape), JobSpec) == attrs.evolve(spec, stdin=None, env=None)


def test_the_options_of_a_job_are_the_attributes_of_a_spec() -> None:
    """The types differ as documented: ``None`` for labels and engine options means none, a path means its text."""
    wider = {"workspace": "str | os.PathLike[str]"}
    wider |= {"groups": "Iterable[str] | None", "after": "Iterable[str | tuple[str, str]] | None"}
    wider |= {name: f"Mapping[str, {held}] | None" for name, held in [("labels", "str"), ("engine_options", "Any")]}
    wider["on_end"] = "str | Iterable[str] | None"
    types = {name: wider.get(name, held) for name, held in JobSpec.__annotations__.items() if name != "argv"}
    assert types == {name: held.__forward_arg__ for name, held in JobOptions.__annotations__.items()}


def test_a_spec_keeps_copies_of_what_the_caller_may_change() -> None:
    labels, options = {"a": "b"}, {"cpus": 1}
    spec = JobSpec(argv=["tool"], workspace=Path("/repo"), labels=labels, engine_options=options)
    labels.clear()
    options.clear()
    assert (spec.workspace, spec.labels, spec.engine_options) == ("/repo", {"a": "b"}, {"cpus": 1})
    blank = JobSpec(argv=["tool"], labels=None, engine_options=None)
    assert (blank.labels, blank.engine_options) == ({}, {})


def test_a_spec_may_have_no_deadline() -> None:
    assert JobSpec(argv=["x"], deadline_seconds=math.inf).deadline_seconds == math.inf


@pytest.mark.parametrize("argv", ["ls -l", b"ls"])
def test_a_command_line_is_no_argv(argv: Any) -> None:
    with pytest.raises(InvalidArguments, match="it accepts a sequence"):
        JobSpec(argv=argv)


@pytest.mark.parametrize("cls", [JobSpec, Exit, ErrorInfo, Job, Result, JobPage, JobEvent])
def test_every_value_is_frozen_slotted_and_documented(cls: Any) -> None:
    blank = cls.__new__(cls)
    field = attrs.fields(cls)[0].name
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(blank, field, None)
    assert not hasattr(blank, "__dict__")
    said = inspect.getdoc(cls) or ""
    assert cls is ErrorInfo or all(f"    {each.name}: " in said for each in attrs.fields(cls))


@given(st.integers(0, 2**63 - 1))
def test_nanoseconds_are_exact_to_the_microsecond(wall_ns: int) -> None:
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    assert (from_ns(wall_ns) - epoch) // timedelta(microseconds=1) == wall_ns // 1000


def test_times_are_utc_on_both_ways() -> None:
    there = timezone(timedelta(hours=5, minutes=30))
    assert to_json(attrs.evolve(RUNNING, created_at=MORNING.astimezone(there))) == RUNNING_JSON
    read = converter.structure({**RUNNING_JSON, "created_at": "2026-03-01T13:30:00+05:30"}, Job)
    assert read.created_at == datetime(2026, 3, 1, 8, tzinfo=UTC)
    assert read.created_at.tzinfo is UTC


def test_an_exception_has_the_shape_of_a_failure() -> None:
    error = JobNotFound("there is none", details={"job_id": "x"})
    assert to_json(error) == error_to_json(error)
    assert to_json(error)["error"]["code"] == "job_not_found"
