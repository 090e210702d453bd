from __future__ import annotations

from datetime import UTC, datetime

import pytest

from supervisor import errors
from supervisor.cli import exits
from supervisor.model import Job
from supervisor.states import Reason, State


def job(status: State, reason: Reason | None, **given: object) -> Job:
    facts = {"job_id": "0" * 32, "kind": "raw", "workspace": "/", "argv": ("true",)}
    born = datetime(2026, 3, 1, tzinfo=UTC)
    return Job(**facts, **given, status=status, reason=reason, created_at=born)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ended", "status"),
    [
        (job(State.DONE, Reason.EXITED, exit_code=0), 0),
        (job(State.FAILED, Reason.NONZERO_EXIT, exit_code=7), 7),
        (job(State.FAILED, Reason.KILLED_BY_SIGNAL, signal=9), 137),
        (job(State.FAILED, Reason.INVALID_OUTPUT, exit_code=0), 1),
        (job(State.FAILED, Reason.REPORTED_ERROR, exit_code=3), 3),
        (job(State.FAILED, Reason.OUTPUT_LIMIT, signal=15), 143),
        (job(State.FAILED, Reason.LAUNCH_FAILED), 127),
        (job(State.FAILED, Reason.LOST), 125),
        (job(State.CANCELLED, Reason.CANCELLED, signal=15), 130),
        (job(State.CANCELLED, Reason.CANCELLED, exit_code=0), 130),
        (job(State.TIMEOUT, Reason.DEADLINE, signal=9), 124),
    ],
)
def test_run_exits_as_the_command_exits(ended: Job, status: int) -> None:
    assert exits.of_command(ended, launch_status=127) == status


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.JobNotFound(""), 3),
        (errors.JobRunning(""), 75),
        (errors.InvalidArguments(""), 2),
        (errors.InvalidSettings(""), 2),
        (errors.IdempotencyConflict(""), 2),
        (errors.JobElsewhere(""), 1),
        (errors.StateUnsafe(""), 125),
        (errors.StateFull(""), 125),
        (errors.InternalError(""), 125),
    ],
)
def test_every_error_has_its_exit_status(error: errors.SupervisorError, status: int) -> None:
    assert exits.of_error(error) == status


def test_the_worst_is_not_the_highest() -> None:
    assert exits.worst([]) == 0
    assert exits.worst([0, 1]) == 1
    assert exits.worst([1, 75]) == 75
    assert exits.worst([75, 3, 0]) == 3
    assert exits.worst([3, 125]) == 125
