"""Every exception that a caller can get: one base, and for each a stable ``code`` and a ``repair``.

This module imports nothing from the package, so that every layer may raise.
A ``code`` is part of the public contract (programs branch on it); a ``message``
is for people and may change; ``repair`` says what to do.
"""

from __future__ import annotations

from typing import Any, ClassVar

__all__ = [
    "EndpointFailed",
    "FeatureUnavailable",
    "GroupClosed",
    "GroupNotFound",
    "IdempotencyConflict",
    "InputRefused",
    "InternalError",
    "InvalidArguments",
    "InvalidSettings",
    "JobElsewhere",
    "JobNotFound",
    "JobRunning",
    "LaunchFailed",
    "OutputLost",
    "PermissionDenied",
    "ScheduleNotFound",
    "StateBusy",
    "StateCorrupt",
    "StateFull",
    "StateUnsafe",
    "SupervisorClosed",
    "SupervisorError",
    "TooManyRequests",
]


class SupervisorError(Exception):
    """The base of everything that this package raises on purpose.

    Attributes:
        code: stable identifier, see the class attribute of each subclass.
        message: what happened, for people.
        repair: what to do about it, one sentence.
        retryable: whether the very same call may succeed later.
        retry_after_ms: how long to wait before that, in milliseconds, where known.
        details: JSON-ready facts about this occurrence.
    """

    code: ClassVar[str] = "internal_error"
    default_repair: ClassVar[str] = "Run `supervisor doctor` and report what it prints."
    default_retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        repair: str | None = None,
        retryable: bool | None = None,
        retry_after_ms: int | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        """Set the attributes; ``repair`` and ``retryable`` default to those of the class."""
        super().__init__(message)
        self.message = message
        self.details: dict[str, Any] = {} if details is None else details
        job_id = self.details.get("job_id", "JOB")
        self.repair = self.default_repair.replace(" JOB`", f" {job_id}`") if repair is None else repair
        self.retryable = self.default_retryable if retryable is None else retryable
        self.retry_after_ms = retry_after_ms


class JobNotFound(SupervisorError):
    """The state root has no job of this id: it never existed, was forgotten, or has expired."""

    code = "job_not_found"
    default_repair = "List the jobs with `supervisor list --all`; finished jobs expire after their TTL."


class JobElsewhere(SupervisorError):
    """The job runs on another host or in another pid namespace; it cannot be stopped from here."""

    code = "job_elsewhere"
    default_repair = "Repeat the call on the host (or in the container) that started the job."


class JobRunning(SupervisorError):
    """The job has not ended yet, so it has no result."""

    code = "job_running"
    default_repair = "Wait for it (`supervisor wait JOB`), or ask again later."
    default_retryable = True


class InvalidArguments(SupervisorError, ValueError):
    """An argument of the call is invalid; nothing was changed."""

    code = "invalid_arguments"
    default_repair = "Correct the argument that the message names."


class InvalidSettings(SupervisorError, ValueError):
    """A setting does not parse or is out of range."""

    code = "invalid_settings"
    default_repair = "Correct the variable that the message names, or unset it."


class IdempotencyConflict(SupervisorError):
    """The idempotency key already belongs to a job with a different request."""

    code = "idempotency_conflict"
    default_repair = "Use a new key for a new request, or repeat the first request unchanged."


class InputRefused(SupervisorError):
    """Nothing was delivered to the stdin or the terminal of a job, unless the message says how much.

    It is retryable while the job does not read, or does not run yet.
    """

    code = "input_refused"
    default_repair = "Send the message again when the job has read what it got before."
    default_retryable = True


class StateUnsafe(SupervisorError):
    """The state root belongs to another user, is open to others, or is on a file system without reliable locks."""

    code = "state_unsafe"
    default_repair = "Choose a private local directory with SUPERVISOR_STATE_DIR."


class StateCorrupt(SupervisorError):
    """The records or the output of this job cannot be read."""

    code = "state_corrupt"
    default_repair = "Forget the job with `supervisor rm JOB`; its files are kept until then."


class FeatureUnavailable(SupervisorError):
    """This machine, or the engine of the job, cannot do what was asked for."""

    code = "feature_unavailable"
    default_repair = "Leave the option out, or run the job where it is available."


class OutputLost(StateCorrupt):
    """The output of a job has fewer bytes than its record says, for example after a loss of power."""

    code = "output_lost"
    default_repair = "Start the job again; what is left of its output is not what the command wrote."

    @classmethod
    def of(cls, directory: str, stream: str, recorded: int, found: int) -> OutputLost:
        """Return the error of the job in ``directory``."""
        job_id = directory.rpartition("/")[2]
        message = f"the record of job {job_id} says {recorded} bytes of {stream}, and {found} are there"
        details = {"job_id": job_id, "stream": stream, "recorded_bytes": recorded, "found_bytes": found}
        return cls(message, details=details)

    @classmethod
    def gone(cls, directory: str, stream: str) -> OutputLost:
        """Return the error of the job in ``directory``, whose command has deleted its output."""
        job_id = directory.rpartition("/")[2]
        message = f"the file with the {stream} of job {job_id} is gone; it was deleted before the command ended"
        return cls(message, details={"job_id": job_id, "stream": stream})


class StateBusy(SupervisorError):
    """The state root cannot be read or written now, so nothing is known and nothing was changed.

    Another process has locked the index for too long, or the operating system has refused a call: no descriptor, no
    memory, no permission.
    """

    code = "state_busy"
    default_repair = "Try again; if the error persists, find the process that has registry.db open (`fuser`, `lsof`)."
    default_retryable = True


class StateFull(SupervisorError):
    """The state root cannot take another record: the disk or a quota is full."""

    code = "state_full"
    default_repair = "Free some space, or prune finished jobs with `supervisor prune --all`."
    default_retryable = True


class PermissionDenied(SupervisorError):
    """The operating system refused access to a file, a directory or a process."""

    code = "permission_denied"
    default_repair = "Check the owner and mode of the path that the message names."


class LaunchFailed(SupervisorError):
    """The command could not be started. Its job ends ``failed`` with reason ``launch_failed``.

    ``exit_status`` is what a shell would exit with: 127 when the command is not
    found, 126 when it cannot be executed, 125 for anything else.
    """

    code = "launch_failed"
    default_repair = "Check the command, its workspace, and the limits of this machine."

    def __init__(self, message: str, *, exit_status: int = 125, **rest: Any) -> None:
        """Take ``exit_status`` beside the arguments of every error."""
        super().__init__(message, **rest)
        self.exit_status = exit_status


class GroupNotFound(SupervisorError):
    """No group of this name was made on this state root."""

    code = "group_not_found"
    default_repair = "List the groups with `supervisor group list`; `supervisor group set NAME` makes one."


class GroupClosed(SupervisorError):
    """The limit of the group is 0: it takes no jobs."""

    code = "group_closed"
    default_repair = "Give the group a limit with `supervisor group set NAME --limit N`."


class ScheduleNotFound(SupervisorError):
    """No schedule of this name is on this state root."""

    code = "schedule_not_found"
    default_repair = "List the schedules with `supervisor schedule list`; `supervisor schedule add NAME` adds one."


class SupervisorClosed(SupervisorError):
    """The supervisor was used after its ``async with`` block had ended."""

    code = "internal_error"
    default_repair = "Open a new supervisor; jobs that were running go on by themselves."


class TooManyRequests(SupervisorError):
    """A server has no room for another request of this caller."""

    code = "too_many_requests"
    default_repair = "Repeat the request when an earlier one has been answered."
    default_retryable = True


class InternalError(SupervisorError):
    """A defect of this package."""

    code = "internal_error"


class EndpointFailed(SupervisorError):
    """The endpoint of ``supervisor bench`` cannot be reached, or does not run its commands."""

    code = "endpoint_failed"
    default_repair = "Check that the endpoint is up and runs the commands that `supervisor bench --help` names."
