"""The values that the public functions take and return, and the one converter for them.

All classes are frozen and slotted. Attributes bear the names of the JSON contract; times
are aware UTC ``datetime`` objects here and ISO 8601 strings on the wire, durations carry
their unit in the name.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import attrs

from supervisor.errors import SupervisorError
from supervisor.metrics import Metrics
from supervisor.model.groups import GroupInfo, GroupOptions, PauseInfo
from supervisor.model.limits import Limits
from supervisor.model.request import JobOptions, JobSpec
from supervisor.states import Reason, State

if TYPE_CHECKING:
    import cattrs

__all__ = [
    "FINGERPRINT",
    "MAX_LABELS",
    "ErrorInfo",
    "EvidenceInfo",
    "Exit",
    "Explanation",
    "GroupInfo",
    "GroupOptions",
    "Job",
    "JobEvent",
    "JobOptions",
    "JobPage",
    "JobSpec",
    "Limits",
    "PauseInfo",
    "Result",
    "WaitInfo",
    "converter",
    "error_to_json",
    "from_ns",
    "to_json",
    "to_ns",
]

FINGERPRINT: Final = "trio-supervisor/1"

MAX_LABELS: Final = 64
"""The most labels that a job may have, and that a list may be filtered by."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def from_ns(wall_ns: int) -> datetime:
    """Return the UTC time ``wall_ns`` nanoseconds after the epoch, rounded down to a microsecond."""
    return _EPOCH + timedelta(0, 0, wall_ns // 1000)  # a float of seconds has too few digits


def to_ns(time: datetime) -> int:
    """Return the nanoseconds from the epoch to a time, which has a time zone."""
    return (time - _EPOCH) // timedelta(microseconds=1) * 1000


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
            ``"paused"`` (a group is), ``"limit"`` (a group has no room), ``"launching"`` or ``"no_launcher"`` (it has
            its slots, and no supervisor is open to launch it); on a cluster the words of its engine ("Resources",
            "Priority"), or ``"unreachable"`` when the engine cannot be asked.
        queue_position: 1 is the next job among those in the same groups; ``None`` for a job that does not wait.
        series_id: the id of the first attempt, of a job that may be tried again; else ``None``.
        attempt: its number in its series, from 1.
        maximum_attempts: how often it is tried at most.
        retry_of: the id of the attempt before, or ``None``.
        retried_by: the id of the attempt that has followed its end, or ``None``.
        next_attempt_at: of an attempt that waits, and of the one before, when it may be launched.
        stdin_open: whether it was started with a stdin that stays open, for ``send``.
        pty: whether it has a terminal, for ``send`` and ``attach``.
        session_id: the session of an agent, as soon as it is known: for ``claude -p`` before the launch. Another run
            can continue it.
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
    pid: int | None = None
    exit_code: int | None = None
    signal: int | None = None
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    cpu_seconds: float | None = None
    max_rss_bytes: int | None = None
    limits: Mapping[str, Any] | None = None
    memory_peak_bytes: int | None = None
    fingerprint: str = FINGERPRINT


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
    """

    job_id: str
    kind: str
    value: Any = None
    encoding: str | None = None
    error: ErrorInfo | None = None
    job: Job

    @property
    def ok(self) -> bool:
        """Whether there is a value."""
        return self.error is None


@attrs.frozen(slots=True, kw_only=True)
class JobPage:
    """One page of a list, newest first.

    Attributes:
        jobs: the jobs.
        next_cursor: the ``cursor`` of the next page; ``None`` on the last.
    """

    jobs: tuple[Job, ...]
    next_cursor: str | None = None


@attrs.frozen(slots=True, kw_only=True)
class WaitInfo:
    """One of the reasons why a job is not launched.

    Attributes:
        reason: as in ``queue_reason`` of a job.
        text: a sentence for people.
        since: since when, where that is known.
        until: until when, where that is known.
        jobs: for ``"dependency"``, up to 10 jobs, each with ``job_id``, ``when``, ``status`` and ``reason``.
        groups: for ``"paused"``, ``"limit"`` and the like, the groups that keep it waiting.
    """

    reason: str
    text: str
    since: datetime | None = None
    until: datetime | None = None
    jobs: tuple[Mapping[str, Any], ...] = ()
    groups: tuple[GroupInfo, ...] = ()


@attrs.frozen(slots=True, kw_only=True)
class EvidenceInfo:
    """A record, or a fact of the kernel, that says something about a job.

    Attributes:
        source: ``claim``, ``process.json``, ``stop.json``, ``exit.json``, ``orders``, ``granted``, ``process``
            (the process table), ``owner`` (the supervisor that made the job), ``index``, or the name of an engine.
        text: what it says, for people.
        at: when it came about, where that is known.
    """

    source: str
    text: str
    at: datetime | None = None


@attrs.frozen(slots=True, kw_only=True)
class Explanation:
    """Why a job waits, or which evidence says that it runs or has ended.

    Attributes:
        job_id: of the job.
        status: its state.
        reason: why an ended job is in its state.
        summary: a sentence for people.
        queue_reason: the first of the reasons why it waits.
        queue_position: 1 is the next job among those in the same groups; ``None`` for a job that is not ready.
        priority: as it counts now.
        weight: how many slots of each group it takes.
        waits_for: all reasons why it waits, in the order in which ``queue_reason`` names them; empty for other jobs.
        evidence: from the launch to the end.
    """

    job_id: str
    status: State
    reason: Reason | None = None
    summary: str
    queue_reason: str | None = None
    queue_position: int | None = None
    priority: int = 0
    weight: int = 1
    waits_for: tuple[WaitInfo, ...] = ()
    evidence: tuple[EvidenceInfo, ...] = ()


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


def _time_to_json(when: datetime) -> str:
    return when.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _time_from_json(text: str, _: type[datetime]) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def _plain(member: State | Reason) -> str:
    return member.value


def _seconds_to_json(seconds: float | None) -> float | None:
    # 1800.0 becomes 1800: the contract shows whole numbers, and some parsers require them.
    return int(seconds) if seconds is not None and seconds == seconds // 1 else seconds


@cache
def _converter() -> cattrs.Converter:
    import cattrs  # import and generated functions are half the cost of this module to a command without JSON
    from cattrs.gen import make_dict_unstructure_fn, override

    made = cattrs.Converter(forbid_extra_keys=False)
    made.register_unstructure_hook(datetime, _time_to_json)
    made.register_structure_hook(datetime, _time_from_json)
    made.register_unstructure_hook(State, _plain)  # else the JSON has members, not plain strings
    made.register_unstructure_hook(Reason, _plain)
    made.register_unstructure_hook(
        JobSpec,
        make_dict_unstructure_fn(JobSpec, made, stdin=override(omit=True), env=override(omit=True)),
    )
    made.register_unstructure_hook(
        Job,
        make_dict_unstructure_fn(
            Job,
            made,
            deadline_seconds=override(unstruct_hook=_seconds_to_json),
            ttl_seconds=override(unstruct_hook=_seconds_to_json),
        ),
    )
    return made


if TYPE_CHECKING:
    converter: cattrs.Converter


def __getattr__(name: str) -> object:
    if name == "converter":
        return _converter()
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)


def to_json(
    obj: Job | Result | JobPage | JobEvent | GroupInfo | Explanation | ErrorInfo | Metrics | SupervisorError,
) -> dict[str, Any]:
    """Return the JSON-ready shape of the public contract for ``obj``.

    A ``Job`` gives ``{"ok": true, "job_id": ..., ...}``; a ``Result`` its success or failure
    shape; a ``JobPage`` ``{"ok": true, "jobs": [...], "next_cursor": ...}``; a ``SupervisorError``
    ``{"ok": false, "error": {...}}``. The value of a ``Result`` is neither
    copied nor walked: it can be large and deep.
    """
    shape: dict[str, Any]
    match obj:
        case Job():
            shape = {"ok": True, **_converter().unstructure(obj)}
        case JobPage():
            shape = {"ok": True, "jobs": [to_json(job) for job in obj.jobs], "next_cursor": obj.next_cursor}
        case Result(error=None):
            shape = {"ok": True, "job_id": obj.job_id, "kind": obj.kind, "value": obj.value}
            if obj.encoding is not None:
                shape["encoding"] = obj.encoding
            shape["job"] = to_json(obj.job)
        case Result():
            shape = {"ok": False, "error": _converter().unstructure(obj.error), "job": to_json(obj.job)}
        case JobEvent():
            previous = None if obj.previous is None else obj.previous.value
            shape = {"job": to_json(obj.job), "previous": previous, "lagged": obj.lagged}
            shape |= {"previous_queue_reason": obj.previous_queue_reason, "previous_paused": obj.previous_paused}
        case SupervisorError():
            shape = error_to_json(obj)
        case GroupInfo() | Explanation():
            shape = {"ok": True, **_converter().unstructure(obj)}
        case ErrorInfo() | Metrics():
            shape = _converter().unstructure(obj)
    return shape


def error_to_json(error: SupervisorError, job: Job | None = None) -> dict[str, Any]:
    """Return the failure shape of the contract."""
    info = ErrorInfo(
        code=error.code,
        message=error.message,
        repair=error.repair,
        retryable=error.retryable,
        retry_after_ms=error.retry_after_ms,
        details=error.details,
    )
    shape: dict[str, Any] = {"ok": False, "error": to_json(info)}
    if job is not None:
        shape["job"] = to_json(job)
    return shape
