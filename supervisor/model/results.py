"""The result of a job, and its events; ``supervisor.model`` has the names too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from supervisor.model.job import ErrorInfo, Job
from supervisor.states import State

__all__ = ["JobEvent", "Result"]


@attrs.frozen(slots=True, kw_only=True)
class Result:
    """The result of a finished job: a value, or the reason why there is none.

    Attributes:
        job_id: the job's id.
        kind: how the output was read.
        value: by kind: text, parsed JSON, a normalised answer; ``None`` beside an error.
        encoding: ``"base64"`` when a raw output was not UTF-8, else ``None``.
        error: ``None`` for a job that is ``done``.
        job: the job itself.
        changes: of a job with a worktree, how that differs now from how it began, with new files: ``files``,
            ``insertions``, ``deletions``, ``commits``, ``diff`` (its first 50,000 bytes; 4,000 for a summary) and
            ``diff_truncated``; ``None`` if that is not known. ``supervisor worktree diff`` prints all of it.
    """

    job_id: str
    kind: str
    value: Any = None
    encoding: str | None = None
    error: ErrorInfo | None = None
    job: Job
    changes: Mapping[str, Any] | None = None

    @property
    def ok(self) -> bool:
        """Whether there is a value."""
        return self.error is None


@attrs.frozen(slots=True, kw_only=True)
class JobEvent:
    """A change of state, of ``queue_reason``, of ``paused`` or of progress.

    Attributes:
        job: the job after the change.
        previous: its state before, or ``None`` when it was created (or was not known here);
            its present state when only something else has changed.
        previous_queue_reason: its ``queue_reason`` before, ``None`` if it did not wait or that was not known here.
        previous_paused: whether it was paused before.
        lagged: how many earlier events this subscriber missed because it read too slowly.
    """

    job: Job
    previous: State | None = None
    previous_queue_reason: str | None = None
    previous_paused: bool = False
    lagged: int = 0

    @property
    def is_progress(self) -> bool:
        """Whether nothing but the progress of the job has changed."""
        others = (self.previous_queue_reason, self.previous_paused) == (self.job.queue_reason, self.job.paused)
        return others and self.previous is self.job.status

    @property
    def job_id(self) -> str:
        """The job's id."""
        return self.job.job_id

    @property
    def status(self) -> State:
        """The job's state after the change."""
        return self.job.status
