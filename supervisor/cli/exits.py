"""The exit statuses of the command line, which scripts rely on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from supervisor.errors import (
    IdempotencyConflict,
    InputRefused,
    InvalidArguments,
    InvalidSettings,
    JobElsewhere,
    JobNotFound,
    JobRunning,
    LaunchFailed,
    SupervisorError,
)
from supervisor.states import Reason, State

if TYPE_CHECKING:
    from supervisor.model import Job, Result

__all__ = [
    "BAD",
    "BROKEN",
    "BY_SEVERITY",
    "CANCELLED",
    "NO_SUCH_JOB",
    "OK",
    "PIPE",
    "STILL_RUNNING",
    "TIMED_OUT",
    "USAGE",
    "is_expressed",
    "of_command",
    "of_error",
    "of_job",
    "of_launch",
    "worst",
    "worst_error",
]

OK: Final = 0
"""The request was carried out; of ``wait``, ``result`` and ``run``: the job is done."""
BAD: Final = 1
"""The job failed or was stopped, or the request could not be carried out; of ``doctor`` and ``bench``: something is
wrong; of ``service status``: the service does not run."""
USAGE: Final = 2
"""The command line or a setting is wrong, or the idempotency key belongs to another request; nothing was changed."""
NO_SUCH_JOB: Final = 3
"""The state root has no such job."""
STILL_RUNNING: Final = 75
"""The job has not ended, or does not take its input now: ``EX_TEMPFAIL`` of sysexits(3), try again later."""
TIMED_OUT: Final = 124
"""Of ``run``: the job reached its deadline, as of timeout(1)."""
BROKEN: Final = 125
"""Any other error; of ``run``: the supervisor failed, not the command, as of env(1), timeout(1) and docker-run(1)."""
CANCELLED: Final = 130
"""The command was interrupted (Ctrl-C); of ``run``: the job was cancelled."""
PIPE: Final = 141
"""The reader of stdout has closed it, as of a program that SIGPIPE has ended."""

BY_SEVERITY: Final = (OK, BAD, STILL_RUNNING, NO_SUCH_JOB, USAGE, BROKEN)
"""The statuses of commands that take several jobs, the least severe first."""


def worst(statuses: Iterable[int]) -> int:
    """Return the most severe of several exit statuses, which is not the highest number."""
    return max(statuses, key=BY_SEVERITY.index, default=OK)


def worst_error(errors: Sequence[SupervisorError]) -> SupervisorError:
    """Return the error with the most severe exit status, the first of several."""
    return max(errors, key=lambda error: BY_SEVERITY.index(of_error(error)))


def of_error(error: SupervisorError) -> int:
    """Return the exit status of a command that ended with this error."""
    match error:
        case JobNotFound():
            return NO_SUCH_JOB
        case JobRunning():
            return STILL_RUNNING
        case InvalidArguments() | InvalidSettings() | IdempotencyConflict():
            return USAGE
        case InputRefused():
            return STILL_RUNNING if error.retryable else BAD
        case JobElsewhere():
            return BAD  # the supervisor works, but could not carry out the request
        case LaunchFailed():
            return error.exit_status
        case _:
            return BROKEN


def of_job(job: Job) -> int:
    """Return the exit status of ``wait`` and ``result`` for a job in this state."""
    if not job.status.terminal:
        return STILL_RUNNING
    return OK if job.status is State.DONE else BAD


def of_launch(failed: Result) -> int:
    """Return the exit status that a shell gives for a command that could not be launched."""
    status = None if failed.error is None else failed.error.details.get("exit_status")
    return status if isinstance(status, int) else BROKEN


_EXPRESSED: Final = frozenset({Reason.EXITED, Reason.NONZERO_EXIT, Reason.KILLED_BY_SIGNAL})


def is_expressed(job: Job, code: str) -> bool:
    """Whether the exit status of ``run`` says all of the error: unless the kind of the job has a more exact one."""
    return job.reason in _EXPRESSED and code == "job_failed"


def of_command(job: Job, *, launch_status: int = BROKEN) -> int:
    """Return the exit status of ``run`` for a finished job: the command's own.

    ``launch_status`` is the exit status that a shell gives for a command that could not be launched. A command
    that exited with 0 gives 1 if its kind rejects the output, so that a script does not continue.
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
