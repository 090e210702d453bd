"""Why a job waits, as text."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from supervisor.jobs.queue_text import ahead, why_it_waits
from supervisor.model import Job
from supervisor.states import Reason, State


def job(**facts: Any) -> Job:
    made = {"job_id": "0" * 32, "kind": "raw", "status": State.QUEUED, "workspace": "/", "argv": ("true",)}
    return Job(**{**made, "created_at": datetime.now(UTC), **facts})


@pytest.mark.parametrize(
    ("facts", "why", "before"),
    [
        ({}, None, None),
        ({"queue_reason": "limit", "queue_position": 1}, "for room in its groups", "next in line"),
        (
            {"queue_reason": "limit", "queue_position": 2, "groups": ("a", "b")},
            "for room in a and b",
            "1 job ahead",
        ),
        ({"queue_reason": "paused", "queue_position": 3, "groups": ("a",)}, "its group is paused", "2 jobs ahead"),
        ({"queue_reason": "rate_limited", "queue_position": 1}, "for a usage limit", "next in line"),
        (
            {"queue_reason": "rate_limited", "next_attempt_at": datetime(2026, 11, 28, 14, 1, tzinfo=UTC)},
            "for a usage limit, until 2026-11-28 14:01:00 UTC",
            None,
        ),
        ({"queue_reason": "held"}, "on hold, until it is released", None),
        ({"queue_reason": "QOSMaxJobs"}, "QOSMaxJobs", None),
        ({"queue_reason": "limit", "status": State.DONE, "reason": Reason.EXITED}, None, None),
    ],
)
def test_why_a_job_waits(facts: dict[str, Any], why: str | None, before: str | None) -> None:
    assert (why_it_waits(job(**facts)), ahead(job(**facts))) == (why, before)
