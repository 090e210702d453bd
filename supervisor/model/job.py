"""A job at one moment, how it ended, and pages of jobs; ``supervisor.model`` has the names too."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import attrs

from supervisor.states import Reason, State

__all__ = ["FINGERPRINT", "ErrorInfo", "Exit", "Job", "JobPage"]

FINGERPRINT: Final = "trio-supervisor/1"


@attrs.frozen(slots=True, kw_only=True)
class Exit:
    """How a process ended. An unknown fact is ``None``, never a guess.

    Attributes:
        exit_code: its exit status; ``None`` when a signal ended it, or unknown.
        signal: the number of the signal that ended it, or ``None``.
        ended_ns: wall-clock nanoseconds since the epoch at which the end was observed.
        cpu_seconds: user and system time of the process and the children it waited for.
        max_rss_bytes: the largest resident set of any of them.
        launch_error: why the command was never started, or ``None`` when it was.
        launch_status: the exit status of a shell in that case: 127, 126 or 125.
        launch_repair: a repair, where the cause is not the command.
        launch_final: a later attempt would fail as well, whatever ``launch_status``: there is no workspace.
        never_launched: it provably never ran, because supervisor and keeper died before the launch.
        stdout_bytes: the size of stdout at its end; ``None`` when the record does not have it.
        stderr_bytes: the same of stderr.
        may_grow: whether a process that it left behind may still write output.
        truncated: whether the command truncated its own output.
        memory_peak_bytes: the most memory that its processes have used together, where that was counted.
        unsynced: why it is not known that its output and its records are on the disk, for a job that waits for that.
    """

    exit_code: int | None = None
    signal: int | None = None
    ended_ns: int = 0
    cpu_seconds: float | None = None
    max_rss_bytes: int | None = None
    launch_error: str | None = None
    launch_status: int | None = None
    launch_repair: str | None = None
    launch_final: bool = False
    never_launched: bool = False
    stdout_bytes: int | None = None
    stderr_bytes: int | None = None
    may_grow: bool = False
    truncated: bool = False
    memory_peak_bytes: int | None = None
    unsynced: str | None = None

    @property
    def known(self) -> bool:
        """Whether there is an exit code or a signal."""
        return self.exit_code is not None or self.signal is not None


@attrs.frozen(slots=True, kw_only=True)
class ErrorInfo:
    """Why there is no value: the ``error`` object of the contract.

    Attributes:
        code: stable, for programs.
        message: the event, for people.
        repair: the remedy, one sentence.
        retryable: whether the same request under a new key may succeed later.
        retry_after_ms: the wait before that, where known.
        details: JSON-ready facts.
    """

    code: str
    message: str
    repair: str
    retryable: bool = False
    retry_after_ms: int | None = None
    details: Mapping[str, Any] = attrs.field(factory=dict[str, Any])


@attrs.frozen(slots=True, kw_only=True)
class Job:
    """A job at one moment.

    Attributes:
        job_id: 32 lowercase hex digits.
        kind: how the output is read.
        status: the state; ``State`` is a ``str``.
        reason: why a finished job is in its state, else ``None``.
        workspace: the real path of the directory it runs in.
        argv: the command.
        labels: those of its request.
        created_at: when it was created.
        started_at: when the command was spawned, or ``None``.
        completed_at: when it ended, or ``None``.
        elapsed_ms: from the spawn (or creation) to the end (or now).
        deadline_seconds: ``None`` when it has none.
        deadline_at: when the deadline falls, by the wall clock; ``None`` before the spawn.
        ttl_seconds: its time to live after its end.
        expires_at: when it expires; ``None`` while it lives.
        poll_after_ms: a sensible pause before the next ``status``; ``None`` for a finished job.
        result_available: whether ``result`` has something to return.
        cost_usd: the cost in the output, or ``None``.
        detail: for a failed job a short redacted reason, else ``None``.
        warnings: unusual facts about its output and its limits, a sentence each.
        paused: whether its processes are stopped, see ``Supervisor.pause``.
        stop_requested: why a stop is under way (``cancelled``, ``deadline``, ``output_limit``, ``memory_limit``).
        progress: the progress in the output of a running job, for kinds that report it.
            Of an agent: ``turn``, ``tool``, ``input_tokens``, ``output_tokens``, ``cost_usd``, ``note``,
            ``model``, ``finished``, ``skipped_lines``. ``partial``: the beginning was not read, so
            counts are lower bounds.
        engine: the engine that runs it.
        groups: the groups whose limits count for it.
        priority: as given to ``start``.
        weight: as given to ``start``.
        not_before: the time before which it is not launched, of its ``not_before`` and its delay the later.
        after: its dependencies, each with ``job_id`` and ``when``.
        queue_reason: why it is queued: ``"held"``, ``"dependency"`` (it waits for another job), ``"not_before"``,
            ``"retry"`` (it is another attempt, before its time),
            ``"paused"`` (a group is), ``"rate_limited"`` (a group waits out a usage limit, or starts few jobs at a time
            for one), ``"limit"`` (a group has no room), ``"launching"`` or ``"no_launcher"`` (it has
            its slots, and no supervisor is open to launch it); on a cluster the words of its engine ("Resources",
            "Priority"), or ``"unreachable"`` when the engine cannot be asked.
        queue_position: 1 is the next job among those in the same groups; ``None`` for a job that does not wait.
        series_id: the id of the first attempt, of a job that may be tried again; else ``None``.
        attempt: its number in its series, from 1.
        maximum_attempts: how often it is tried at most: as given to ``start``, and once more for each usage limit that
            its series has waited out so far, and for each attempt that was never launched.
        retry_of: the id of the attempt before, or ``None``.
        retried_by: the id of the attempt that has followed its end, or ``None``.
        next_attempt_at: of an attempt that waits, and of the one before, when it may be launched; ``None`` if that is
            not known. Of a job that is ``rate_limited``, when the pause of its group ends.
        stdin_open: whether it was started with a stdin that stays open, for ``send``.
        pty: whether it has a terminal, for ``send`` and ``attach``.
        session_id: the session of an agent, as soon as it is known: for ``claude -p`` before the launch. Another run
            can continue it.
        schedule: the name of the schedule that has started it, or ``None``.
        pid: the process id of the command, on the machine that it runs on; ``None`` before the spawn.
        exit_code: ``None`` when unknown or ended by a signal.
        signal: the signal's number that ended it, or ``None``.
        stdout_bytes: the bytes that it has written to stdout; of an ended job, until its end.
        stderr_bytes: the same of stderr.
        cpu_seconds: user and system time, where known.
        max_rss_bytes: the largest resident set, where known.
        limits: ``memory_bytes``, ``cpus`` and ``pids``, each ``None`` without a limit; ``None`` for a job without any.
            ``warnings`` name those that could not be set.
        memory_peak_bytes: the most memory that its processes have used together, of an ended job whose memory is
            limited, where known.
        worktree: of a job with a git worktree of its own, ``path``, ``branch``, ``base`` (a commit; ``None`` before it
            is made) and ``state``: ``waiting``, ``making``, ``in_use``, ``changed`` (kept, as there is work in it),
            ``removing``, ``removed`` (there was nothing in it), ``refused`` (git did not remove it), ``missing``.
        fingerprint: the name and version of this shape.
    """

    job_id: str
    kind: str
    status: State
    reason: Reason | None = None
    workspace: str
    argv: tuple[str, ...]
    labels: Mapping[str, str] = attrs.field(factory=dict[str, str])
    created_at: datetime
    started_at: datetime | None = None
    completed_at: datetime | None = None
    elapsed_ms: int = 0
    deadline_seconds: float | None = None
    deadline_at: datetime | None = None
    ttl_seconds: float = 86400
    expires_at: datetime | None = None
    poll_after_ms: int | None = None
    result_available: bool = False
    cost_usd: float | None = None
    detail: str | None = None
    warnings: tuple[str, ...] = ()
    paused: bool = False
    stop_requested: str | None = None
    progress: Mapping[str, Any] | None = None
    engine: str = "local"
    groups: tuple[str, ...] = ()
    priority: int = 0
    weight: int = 1
    not_before: datetime | None = None
    after: tuple[Mapping[str, str], ...] = ()
    queue_reason: str | None = None
    queue_position: int | None = None
    series_id: str | None = None
    attempt: int = 1
    maximum_attempts: int = 1
    retry_of: str | None = None
    retried_by: str | None = None
    next_attempt_at: datetime | None = None
    stdin_open: bool = False
    pty: bool = False
    session_id: str | None = None
    schedule: str | None = None
    pid: int | None = None
    exit_code: int | None = None
    signal: int | None = None
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    cpu_seconds: float | None = None
    max_rss_bytes: int | None = None
    limits: Mapping[str, Any] | None = None
    memory_peak_bytes: int | None = None
    worktree: Mapping[str, Any] | None = None
    fingerprint: str = FINGERPRINT


@attrs.frozen(slots=True, kw_only=True)
class JobPage:
    """One page of a list, newest first.

    Attributes:
        jobs: the jobs.
        next_cursor: the ``cursor`` of the next page; ``None`` on the last.
    """

    jobs: tuple[Job, ...]
    next_cursor: str | None = None
