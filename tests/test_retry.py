"""When a job is tried again, and when: the policy alone."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.errors import InvalidArguments
from supervisor.retry import MAX_ATTEMPTS, MAX_INTERVAL_SECONDS, MAX_WAITS, Retry, attempt_id, delay_of

SERIES = "0123456789abcdef" * 2

policies = st.builds(
    Retry,
    maximum_attempts=st.integers(1, MAX_ATTEMPTS),
    initial_interval=st.floats(0, MAX_INTERVAL_SECONDS),
    backoff_coefficient=st.floats(1, 1000),
    maximum_interval=st.none() | st.floats(0, MAX_INTERVAL_SECONDS),
    jitter=st.floats(0, 1),
    retry_on=st.sampled_from([(), ("job_failed",), (75, "job_timeout")]),
    never_retry_on=st.sampled_from([(), (75,), ("rate_limited",)]),
    retry_lost=st.booleans(),
)
ends = st.builds(
    lambda reason, exit_code, code, retryable, after_ms: {
        "reason": reason,
        "exit_code": exit_code,
        "error": {"code": code, "retryable": retryable, "retry_after_ms": after_ms},
    },
    st.sampled_from(["nonzero_exit", "lost", "reported_error", "launch_failed", "deadline"]),
    st.none() | st.integers(0, 255),
    st.sampled_from(["job_failed", "job_lost", "rate_limited", "job_timeout", "launch_failed"]),
    st.booleans(),
    st.none() | st.integers(0, 10**9),
)


def ended(
    code: str = "job_failed",
    *,
    reason: str = "nonzero_exit",
    exit_code: int | None = 1,
    retryable: bool = False,
    after_ms: int | None = None,
) -> dict[str, Any]:
    error = {"code": code, "retryable": retryable, "retry_after_ms": after_ms}
    return {"reason": reason, "exit_code": exit_code, "error": error}


def delay(
    policy: Retry, end: dict[str, Any], *, state: str = "failed", attempt: int = 1, limited: int = 0
) -> float | None:
    return delay_of(policy, state, end, attempt=attempt, limited=limited, next_id=attempt_id(SERIES, attempt + 1))


@given(policies, ends, st.sampled_from(["failed", "timeout", "cancelled", "done"]), st.integers(1, 2 * MAX_ATTEMPTS))
def test_every_end_is_decided_alike_and_within_bounds(
    policy: Retry, end: dict[str, Any], state: str, attempt: int
) -> None:
    found = delay(policy, end, state=state, attempt=attempt)
    assert found == delay(Retry.from_record(policy.to_record()), end, state=state, attempt=attempt)
    if found is None:
        return
    assert state in {"failed", "timeout"}
    assert attempt < policy.maximum_attempts or end["error"]["code"] == "rate_limited"
    assert end["reason"] != "lost" or policy.retry_lost
    assert 0 <= found <= MAX_INTERVAL_SECONDS
    assert found >= min((end["error"]["retry_after_ms"] or 0) / 1000, MAX_INTERVAL_SECONDS)
    number = 1 if end["error"]["code"] == "rate_limited" else attempt
    assert found >= policy.interval(number) * (1 - policy.jitter) * 0.999


@given(policies, st.integers(1, 2 * MAX_ATTEMPTS))
def test_intervals_grow_up_to_the_longest(policy: Retry, number: int) -> None:
    longest = 100 * policy.initial_interval if policy.maximum_interval is None else policy.maximum_interval
    assert math.isfinite(policy.interval(number))
    assert policy.interval(number) <= policy.interval(number + 1) <= longest
    assert policy.interval(1) == min(policy.initial_interval, longest)


@pytest.mark.parametrize(
    ("policy", "end", "again"),
    [
        (Retry(), ended(), False),
        (Retry(), ended(retryable=True), True),
        (Retry(retry_on=("job_failed",)), ended(), True),
        (Retry(retry_on=(7,)), ended(exit_code=7), True),
        (Retry(retry_on=(7,)), ended(exit_code=70), False),
        (Retry(never_retry_on=("api_overloaded",)), ended("api_overloaded", retryable=True), False),
        (Retry(retry_on=("job_failed",), never_retry_on=(1,)), ended(), False),
        (Retry(retry_on=("job_failed",)), ended("job_lost", reason="lost", exit_code=None), False),
        (Retry(retry_lost=True), ended("job_lost", reason="lost", exit_code=None), True),
        (Retry(), ended("internal_error", reason="lost", exit_code=None, retryable=True), False),
        (Retry(maximum_attempts=1, retry_on=("job_failed",)), ended(), False),
    ],
)
def test_what_is_tried_again(policy: Retry, end: dict[str, Any], *, again: bool) -> None:
    assert (delay(policy, end) is not None) is again


def test_a_job_that_is_done_or_cancelled_is_not_tried_again() -> None:
    policy = Retry(retry_on=("job_failed", "job_cancelled", 1))
    for state in ("done", "cancelled"):
        assert delay(policy, ended(retryable=True), state=state) is None
    assert delay(Retry(), {"reason": "exited", "exit_code": 0, "error": None}, state="done") is None


def test_the_wait_of_an_error_counts_if_it_is_longer() -> None:
    policy = Retry(initial_interval=10, jitter=0)
    assert delay(policy, ended(retryable=True, after_ms=1)) == 10  # all attempts would be spent at once
    assert delay(policy, ended(retryable=True, after_ms=60_000)) == 60
    spread = Retry(initial_interval=10, jitter=1)
    waits = [delay(spread, ended(retryable=True, after_ms=60_000), attempt=n) or 0 for n in (1, 2)]
    assert all(60 < wait <= 80 for wait in waits)
    assert waits[0] != waits[1]


def test_usage_limits_are_counted_by_themselves() -> None:
    policy = Retry(maximum_attempts=2, retry_on=("job_failed",))
    limit = ended("rate_limited", retryable=True)
    assert delay(policy, limit, attempt=2, limited=0) is not None
    assert delay(policy, limit, attempt=2, limited=1) is None
    assert delay(policy, ended(), attempt=2, limited=1) is not None
    assert delay(policy, ended(), attempt=2, limited=0) is None


def waits(policy: Retry, end: dict[str, Any], *, limited: int = 0, state: str = "failed") -> float | None:
    attempt = limited + 1
    following = attempt_id(SERIES, attempt + 1)
    return delay_of(policy, state, end, attempt=attempt, limited=limited, next_id=following, waits_out=True)


def test_a_limit_that_a_group_waits_out_is_no_failure() -> None:
    once, limit = Retry(maximum_attempts=1), ended("rate_limited", after_ms=10**6)
    assert waits(once, limit) == 0, "the pause of the group is all that it waits for"
    assert waits(once, limit, limited=MAX_WAITS - 1) == 0
    assert waits(once, limit, limited=MAX_WAITS) is None
    assert waits(once, ended(retryable=True)) is None
    for state in ("done", "cancelled"):
        assert waits(once, limit, state=state) is None
    assert waits(Retry(maximum_attempts=1, never_retry_on=("rate_limited",)), limit) is None
    assert delay(once, ended("rate_limited", retryable=True)) is None


def test_an_attempt_that_was_never_launched_is_no_failure() -> None:
    once = Retry(maximum_attempts=1, jitter=0)
    unlaunched = {**ended("launch_failed", reason="launch_failed", exit_code=None), "never_launched": True}
    assert [delay(once, unlaunched, attempt=each + 1, limited=each) for each in (0, 1, 2, 500)] == [1, 2, 4, 100]
    assert delay(once, unlaunched, attempt=MAX_WAITS, limited=MAX_WAITS - 1) is None
    assert delay(Retry(maximum_attempts=2), ended(retryable=True), attempt=2, limited=1) is not None
    assert delay(once, unlaunched, state="cancelled") is None
    assert delay(Retry(maximum_attempts=5, never_retry_on=("launch_failed",)), unlaunched) is None
    assert delay(once, {**unlaunched, "reason": "lost"}) is None, "what the process before has recorded is not known"
    assert delay(once, ended("launch_failed", reason="launch_failed", exit_code=None, retryable=True)) is None


def test_ids_follow_from_the_series() -> None:
    ids = [attempt_id(SERIES, attempt) for attempt in range(1, 50)]
    assert ids[0] == SERIES
    assert len(set(ids)) == 49
    assert {len(each) for each in ids} == {32}


@pytest.mark.parametrize(
    "wrong",
    [
        {"maximum_attempts": 0},
        {"maximum_attempts": MAX_ATTEMPTS + 1},
        {"maximum_attempts": True},
        {"maximum_attempts": 2.0},
        {"initial_interval": -1},
        {"initial_interval": math.inf},
        {"initial_interval": math.nan},
        {"initial_interval": "1"},
        {"backoff_coefficient": 0.5},
        {"maximum_interval": 365 * 86400},
        {"jitter": 1.5},
        {"retry_on": ["Bad Word"]},
        {"retry_on": [0]},
        {"retry_on": [256]},
        {"retry_on": ["9" * 5000]},
        {"retry_on": [-1]},
        {"retry_on": ["job_lost"]},
        {"retry_on": ["x"] * 101},
        {"never_retry_on": [""]},
        {"retry_lost": 1},
    ],
)
def test_what_is_out_of_range_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidArguments, match=next(iter(wrong))):
        Retry(**wrong)


def test_what_only_a_newer_version_knows_is_not_known() -> None:
    assert Retry.is_known(Retry().to_record())
    assert not Retry.is_known(Retry().to_record() | {"later": 1})
    assert not Retry.is_known(Retry().to_record() | {"maximum_attempts": 10**6})
    assert not Retry.is_known("rubbish")
