"""The exit statuses of the command line, which scripts rely on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from supervisor.errors import (
    IdempotencyConflict,
    InvalidArguments,
    InvalidSettings,
    JobElsewhere,
    JobNotFound,
    JobRunning,
    LaunchFailed,
    SupervisorError,
)
from supervisor.model import Job, Result
from supervisor.states import Reason, State

__all__ = [
    "BAD",
    "BROKEN",
    "CANCELLED",
    "NO_SUCH_JOB",
    "OK",
    "PIPE",
    "STILL_RUNNING",
    "TIMED_OUT",
    "USAGE",
    "of_command",
    "of_error",
    "of_job",
    "of_launch",
    "rank",
    "worst",
]

OK: Final = 0
BAD: Final = 1
"""The job ended badly, or what was asked for could not be done."""
USAGE: Final = 2
NO_SUCH_JOB: Final = 3
STILL_RUNNING: Final = 75
"""``EX_TEMPFAIL`` of sysexits(3): ask again later."""
TIMED_OUT: Final = 124
"""As timeout(1) has it."""
BROKEN: Final = 125
"""The supervisor itself failed, as env(1), timeout(1) and docker-run(1) have it."""
PIPE: Final = 141
"""As a program that SIGPIPE has ended."""
CANCELLED: Final = 130
"""As after Ctrl-C."""

_FROM_BAD_TO_WORSE: Final = (OK, BAD, STILL_RUNNING, NO_SUCH_JOB, USAGE, BROKEN)


def rank(status: int) -> int:
    """Return how bad an exit status is, which is not how high it is; it is one of those for jobs and errors."""
    return _FROM_BAD_TO_WORSE.index(status)


def worst(statuses: Iterable[int]) -> int:
    """Return the exit status for several jobs: the worst of theirs."""
    return max(statuses, key=rank, default=OK)


def of_error(error: SupervisorError) -> int:
    """Return the exit status of a command that ended in an error of ours."""
    match error:
        case JobNotFound():
            return NO_SUCH_JOB
        case JobRunning():
            return STILL_RUNNING
        case InvalidArguments() | InvalidSettings() | IdempotencyConflict():
            return USAGE
        case JobElsewhere():
            return BAD  # nothing of ours failed, and what was asked for was not done
        case LaunchFailed():
            return error.exit_status
        case _:
            return BROKEN


def of_job(job: Job) -> int:
    """Return the exit status by which ``wait`` and ``result`` tell how a job stands."""
    if not job.status.terminal:
        return STILL_RUNNING
    return OK if job.status is State.DONE else BAD


def of_launch(failed: Result) -> int:
    """Return the exit status of a shell for a command that could not be launched."""
    status = None if failed.error is None else failed.error.details.get("exit_status")
    return status if isinstance(status, int) else BROKEN


def of_command(job: Job, *, launch_status: int = BROKEN) -> int:
    """Return the exit status by which ``run`` tells how a finished job ended: the command's own.

    ``launch_status`` is what a shell would exit with, for a command that could not be launched.
    A command that exited with 0 and left an output that its kind does not accept gives 1: a
    script that goes on after it would be misled.
    """
    if job.status is State.TIMEOUT:
        return TIMED_OUT
    if job.status is State.CANCELLED:
        return CANCELLED
    if job.reason is Reason.LAUNCH_FAILED:
        return launch_status
    if job.signal is not None:
        return 128 + job.signal
    if job.exit_code is not None:
        return BAD if job.exit_code == 0 and job.status is not State.DONE else job.exit_code
    return OK if job.status is State.DONE else BROKEN
