"""The rows of the index: their columns, and the ``Job`` that a row describes."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any, Final

import attrs

from supervisor.jobdir import records, validation
from supervisor.jobdir.facts import Launched
from supervisor.jobdir.output import STREAMS, size_of
from supervisor.model import ErrorInfo, Exit, Job, from_ns
from supervisor.states import Reason, State, is_word, reason_of, state_of
from supervisor.store.changes import MEMBER
from supervisor.store.row_checks import KNOWN_STATES, LAST_NS, MAYBE_NUMBER, check_request, wrong_in_outcome
from supervisor.store.tickets import groups_of
from supervisor.system import processes
from supervisor.system.observing import NotKnown

__all__ = ["COLUMNS", "UNFINISHED", "JobOutcome", "Row", "check_row", "columns_of", "dump", "job_of", "row_of_record"]

_POLL_AFTER_MS: Final = 1000
_MAX_RECENT: Final = 256
"""Unfinished rows whose constant fields are cached, which saves 3 us of the 13 that a status takes: 1 KiB each."""


dump: Final = json.JSONEncoder(separators=(",", ":")).encode
"""Return compact ASCII JSON."""


@attrs.define(slots=True)
class Row:
    """One job as the index has it. ``seq`` is 0 until it has been inserted."""

    seq: int
    job_id: str
    workspace_key: str
    kind: str
    state: str
    created_ns: int
    started_ns: int | None
    completed_ns: int | None
    expires_ns: int | None
    idempotency_key: str | None
    digest: str
    owner: str
    fetched: int
    pid: int | None
    deadline_boot_ns: int | None
    spec: str
    outcome: str | None
    _request: dict[str, Any] | None = attrs.field(default=None, alias="request", repr=False, eq=False)
    _ended: dict[str, Any] | None = attrs.field(default=None, init=False, repr=False, eq=False)
    shown: Job | None = attrs.field(default=None, init=False, repr=False, eq=False)
    """The job that it describes, cached by ``job_of`` once nothing of it can change."""

    @property
    def request(self) -> dict[str, Any]:
        """The parsed ``job.json``."""
        if self._request is None:
            held: dict[str, Any] = json.loads(self.spec)
            self._request = held
        return self._request

    @property
    def ended(self) -> dict[str, Any] | None:
        """The parsed ``outcome`` column; ``None`` for a job that has not ended."""
        if self._ended is None and self.outcome is not None:
            held: dict[str, Any] = json.loads(self.outcome)
            self._ended = held
        return self._ended

    @property
    def finished(self) -> bool:
        """Whether the job is in a terminal state."""
        return self.completed_ns is not None

    @property
    def is_newer(self) -> bool:
        """Whether the request has something that only a newer version knows: then only that one commits the end."""
        return validation.is_newer(self.request)

    @property
    def may_be_retried(self) -> bool:
        """Whether another attempt may follow its end."""
        return "retry" in self.request

    @property
    def retried_by(self) -> str | None:
        """The id of the attempt that followed its end, if there was one."""
        ended = self.ended
        return None if ended is None else ended.get("retried_by")

    def _copy(self) -> Row:
        row = Row(*columns_of(self))  # 1 us, and attrs.evolve takes 4; twice a job
        row._request = self._request  # of the same class
        return row

    def with_launch(self, launched: Launched) -> Row:
        """Return this row with its command launched."""
        row = self._copy()
        row.state = State.RUNNING.value
        row.started_ns = launched.started_ns
        row.pid = launched.pid
        row.deadline_boot_ns = launched.deadline_boot_ns
        return row

    def with_outcome(self, outcome: JobOutcome) -> Row:
        """Return this row with its job finished; its time to live begins when the command ends."""
        row = self._copy()
        row.state = outcome.state.value
        row.completed_ns = ended_ns = outcome.exit.ended_ns
        ttl_ns = min(self.request["ttl_seconds"] * 1e9, LAST_NS)
        row.expires_ns = min(ended_ns + int(ttl_ns), LAST_NS)
        row._ended = outcome.to_dict()  # noqa: SLF001  # of the same class
        row.outcome = dump(row._ended)  # noqa: SLF001
        return row

    def with_next(self, attempt: Row) -> Row:
        """Return this finished row with the attempt that follows; it is kept until its series has ended."""
        row = self._copy()
        row.expires_ns = None
        row._ended = {**(self.ended or {}), "retried_by": attempt.job_id, "next_attempt_ns": _due_ns(attempt)}  # noqa: SLF001
        row.outcome = dump(row._ended)  # noqa: SLF001
        return row

    @property
    def has_files(self) -> bool:
        """Whether it was launched on this machine, where the files of its output are made before that."""
        return self.started_ns is not None and '"directory":' not in self.spec

    @property
    def output_limit(self) -> int | None:
        """How many bytes of stdout, and of stderr, it may write; ``None`` where that is not on record."""
        limit = self.request.get("output_limit")
        return limit if type(limit) is int and limit >= 0 else None

    def launched(self) -> Launched | None:
        """Return how the job was launched, if the row has that."""
        if self.pid is None or self.started_ns is None:
            return None
        return Launched(pid=self.pid, started_ns=self.started_ns, deadline_boot_ns=self.deadline_boot_ns)


COLUMNS: Final = tuple(field.name for field in attrs.fields(Row) if field.init and field.eq)
"""The columns of the index, in the order of the attributes of ``Row``."""
columns_of: Final = attrgetter(*COLUMNS)


def _due_ns(attempt: Row) -> int:
    """Return when an attempt may be launched, by the wall clock."""
    return attempt.created_ns + int(attempt.request.get("delay_ns", 0))


_EXIT_FIELDS: Final = (
    *("exit_code", "signal", "cpu_seconds", "max_rss_bytes", "launch_status", "never_launched"),
    *("may_grow", "truncated", "memory_peak_bytes"),
)


@attrs.frozen(slots=True, kw_only=True)
class JobOutcome:
    """How a job ended, as its row has it.

    Attributes:
        state: the terminal state.
        reason: why the job is in that state.
        exit: how the process ended.
        detail: short and redacted.
        cost_usd: the cost, as the output states it.
        error: what ``result`` reports, for a job that is not done.
        stdout_bytes: the final size.
        stderr_bytes: the final size.
        session_id: the session of an agent.
    """

    state: State
    reason: Reason
    exit: Exit
    detail: str | None = None
    cost_usd: float | None = None
    error: ErrorInfo | None = None
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    session_id: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the content of the ``outcome`` column."""
        return {
            "reason": self.reason,
            **{name: getattr(self.exit, name) for name in _EXIT_FIELDS},
            "detail": self.detail,
            "cost_usd": self.cost_usd,
            "error": None if self.error is None else attrs.asdict(self.error),
            "stdout_bytes": self.stdout_bytes,
            "stderr_bytes": self.stderr_bytes,
            **({} if self.session_id is None else {"session_id": self.session_id}),
        }


UNFINISHED: Final = frozenset({State.QUEUED.value, State.RUNNING.value})
"""The states of this version in which a job has not ended. A newer version may have others."""


def check_row(row: Row) -> None:
    """Raise for a row that no version writes.

    Raises:
        KeyError, TypeError, ValueError: the row is damaged, and so is the index.
    """
    request = row.request
    check_request(request)
    numbers = {type(row.seq), type(row.created_ns), type(row.fetched)}
    maybe = {type(row.started_ns), type(row.completed_ns), type(row.expires_ns), type(row.pid)}
    what = None
    if numbers != {int} or not {*maybe, type(row.deadline_boot_ns)} <= MAYBE_NUMBER:
        what = "a number"
    elif not (is_word(row.state) and (row.state not in KNOWN_STATES or row.finished == (row.state not in UNFINISHED))):
        what = "state"
    elif not (row.job_id == request["job_id"] and row.kind == request["kind"]):
        what = "job_id"
    elif not (row.created_ns == request["created_ns"] and type(row.workspace_key) is str):
        what = "created_ns"
    elif not (type(row.owner) is str and row.idempotency_key in {None, request["idempotency_key"]}):
        what = "owner"
    elif (row.ended is None) is not (row.completed_ns is None):
        what = "outcome"
    elif row.ended is not None:
        what = wrong_in_outcome(row.ended, row.state)
        error_of(row)
    if what is not None:
        raise ValueError(what)


def row_of_record(workspace_key: str, record: dict[str, Any], text: str, *, ours: bool = False) -> Row:
    """Return the row of a new job from its ``job.json``: ``record``, and its ``text``.

    ``ours``: this process has just made the record, so it needs no validation.

    Raises:
        KeyError, ValueError: the record is invalid.
    """
    if not ours:
        check_request(record)
    return Row(
        seq=0,
        job_id=record["job_id"],
        workspace_key=workspace_key,
        kind=record["kind"],
        state=State.QUEUED.value,
        created_ns=record["created_ns"],
        started_ns=None,
        completed_ns=None,
        expires_ns=None,
        idempotency_key=record.get("idempotency_key"),
        digest=record["digest"],
        owner=record["owner"],
        fetched=0,
        pid=None,
        deadline_boot_ns=None,
        spec=text,
        outcome=None,
        request=record,
    )


def _size_so_far(directory: str, stream: str) -> int:
    try:
        return size_of(directory, stream)
    except NotKnown:  # for display only
        return 0


_recent: dict[str, tuple[Row, dict[str, Any]]] = {}


def job_of(
    row: Row,
    directory: str,
    *,
    stop_requested: str | None = None,
    damage: str | None = None,
    progress: Mapping[str, Any] | None = None,
    queue_reason: str | None = None,
    queue_position: int | None = None,
    launched: Launched | None = None,
) -> Job:
    """Return the job that a row describes; an unfinished one with the current sizes of its output.

    ``launched`` is its launch as it was observed last, which may say that it is paused.
    """
    if row.shown is not None and damage is None:
        return row.shown
    known = _recent.get(row.job_id)
    if known is not None and known[0] is row:
        lasting = known[1]
    else:
        lasting = _lasting(row)
        if row.completed_ns is None:
            if len(_recent) >= _MAX_RECENT:
                _recent.clear()
            _recent[row.job_id] = row, lasting
    if "limits" in row.request:
        lasting = lasting | _limits_of(row, directory)
    ended = None if row.completed_ns is None else row.ended
    if ended is None:
        begun_ns = row.created_ns if row.started_ns is None else row.started_ns
        if waits := queue_position is not None:
            waiting: dict[str, Any] = {"queue_position": queue_position}
            lasting = lasting | waiting
        if launched is not None and (launched.paused or launched.moved_ns):
            lasting = lasting | _of_pause(launched, lasting["deadline_at"], is_stopping=stop_requested is not None)
        return Job(
            **lasting,
            elapsed_ms=max(0, (time.time_ns() - begun_ns) // 1_000_000),
            detail=damage,
            stop_requested=stop_requested,
            progress=progress,
            session_id=_session_in(row.request, progress),
            queue_reason=queue_reason if row.state == State.QUEUED.value else None,
            stdout_bytes=0 if waits else _size_so_far(directory, "stdout"),
            stderr_bytes=0 if waits else _size_so_far(directory, "stderr"),
        )
    if ended.get("may_grow") or ended.get("truncated"):
        lasting = {**lasting, "warnings": _warnings(ended, directory) + lasting.get("warnings", ())}
    job = Job(**lasting, detail=ended["detail"] or damage)
    if damage is None and not ended.get("may_grow"):
        row.shown = job
    return job


def _of_pause(launched: Launched, deadline_at: datetime | None, *, is_stopping: bool) -> dict[str, Any]:
    """Return the fields that a pause changes. A stop ends it."""
    since = launched.held_since_boot_ns
    moved_ns = launched.moved_ns + (0 if since is None else max(0, processes.boottime_ns() - since))
    moved = None if deadline_at is None else deadline_at + timedelta(microseconds=moved_ns // 1000)
    return {"paused": launched.paused and not is_stopping, "deadline_at": moved}


def _warnings(ended: Mapping[str, Any], directory: str) -> tuple[str, ...]:
    """Return the warnings about the output of an ended job."""
    warnings = [_TRUNCATED] if ended.get("truncated") else []
    if ended.get("may_grow"):
        for stream in STREAMS:
            more = _size_so_far(directory, stream) - ended[f"{stream}_bytes"]
            if more > 0:
                warnings.append(
                    f"{more} bytes were written to {stream} after the end of the command; they do not count."
                )
    return tuple(warnings)


_LIMITS: Final = {"memory": "memory_bytes", "cpu": "cpus", "pids": "pids"}
"""The fields of ``Limits`` by the names of their controllers."""


def _limits_of(row: Row, directory: str) -> dict[str, Any]:
    """Return the limits of a job, and a warning about those that could not be set."""
    asked = row.request["limits"]
    limits = {name: asked.get(name) for name in _LIMITS.values()}
    ignored: list[str] = []
    if asked.get("enforce") != "require":
        process = None if row.started_ns is None else records.read(directory, records.PROCESS)
        for record in (row.request, process or {}):
            ignored += str(record.get(records.IGNORED_LIMITS, "")).split()
    limits |= {_LIMITS[name]: None for name in ignored if name in _LIMITS}
    if not ignored:
        return {"limits": limits}
    return {"limits": limits, "warnings": (f"It runs without a limit on {', '.join(ignored)}: {_NO_LIMIT}.",)}


_NO_LIMIT: Final = "none could be set, and its limits are best-effort"
_TRUNCATED: Final = (
    "The command has truncated its own output (`> /dev/stderr` and `tee /dev/stdout` do that), or a write to it"
    " has failed: what was there before is lost."
)


def _session_in(request: Mapping[str, Any], said: Mapping[str, Any] | None) -> str | None:
    """Return the session of an agent: what its output has ``said``, or what was known before its launch."""
    session_id = (said or {}).get("session_id") or request.get("session_id")
    return session_id if isinstance(session_id, str) else None


def _lasting(row: Row) -> dict[str, Any]:
    """Return the fields of the job that depend on the row only."""
    request = row.request
    deadline = request["deadline_seconds"]
    clock_ns = row.created_ns if request.get("deadline_from") == "submission" else row.started_ns
    lasting: dict[str, Any] = {
        "job_id": row.job_id,
        "kind": row.kind,
        "status": state_of(row.state, ended=row.finished),
        "workspace": request["workspace"],
        "argv": tuple(request["argv"]),
        "labels": request["labels"],
        "created_at": from_ns(row.created_ns),
        "started_at": None if row.started_ns is None else from_ns(row.started_ns),
        "deadline_seconds": deadline,
        "deadline_at": None if deadline is None or clock_ns is None else from_ns(clock_ns + int(deadline * 1e9)),
        "ttl_seconds": request["ttl_seconds"],
        "engine": request.get("engine", "local"),
        "pid": row.pid,
    }
    if "priority" in request:
        lasting |= _waited_for(row.created_ns, request)
    if "retry" in request:
        lasting |= _of_series(row, request)
    if "stdin_open" in request or "pty" in request:
        lasting |= {"stdin_open": bool(request.get("stdin_open")), "pty": bool(request.get("pty"))}
    ended = None if row.completed_ns is None else row.ended
    if ended is None:
        return {**lasting, "poll_after_ms": _POLL_AFTER_MS}
    lasting["session_id"] = _session_in(request, ended)
    begun_ns = row.created_ns if row.started_ns is None else row.started_ns
    completed_ns = row.completed_ns or 0
    return {
        **lasting,
        "reason": reason_of(ended["reason"]),
        "completed_at": from_ns(completed_ns),
        "elapsed_ms": max(0, (completed_ns - begun_ns) // 1_000_000),
        "expires_at": None if row.expires_ns is None else from_ns(row.expires_ns),
        "result_available": row.state == State.DONE.value,
        "cost_usd": ended["cost_usd"],
        "exit_code": ended["exit_code"],
        "signal": ended["signal"],
        "stdout_bytes": ended["stdout_bytes"],
        "stderr_bytes": ended["stderr_bytes"],
        "cpu_seconds": ended["cpu_seconds"],
        "max_rss_bytes": ended["max_rss_bytes"],
        "memory_peak_bytes": ended.get("memory_peak_bytes"),
    }


def _waited_for(created_ns: int, request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a job about its admission."""
    delay_ns = None if request.get("attempt", 1) > 1 else request.get("delay_ns")  # else that is its back-off
    not_before_ns = max(request.get("not_before_ns", 0), 0 if delay_ns is None else created_ns + delay_ns)
    return {
        "groups": groups_of(request),
        "priority": request.get(MEMBER, request).get("priority", request["priority"]),
        "weight": request["weight"],
        "after": tuple(request.get("after", ())),
        "not_before": from_ns(not_before_ns) if not_before_ns else None,
    }


def _of_series(row: Row, request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a job about its attempts."""
    following_ns = None if row.ended is None else row.ended.get("next_attempt_ns")
    if row.state == State.QUEUED.value and request["attempt"] > 1:
        following_ns = _due_ns(row)
    return {
        "series_id": request["series_id"],
        "attempt": request["attempt"],
        "maximum_attempts": request["retry"]["maximum_attempts"],
        "retry_of": request.get("retry_of"),
        "retried_by": row.retried_by,
        "next_attempt_at": None if following_ns is None else from_ns(following_ns),
    }


_ERROR_FIELDS: Final = tuple(field.name for field in attrs.fields(ErrorInfo))


def error_of(row: Row) -> ErrorInfo | None:
    """Return the error of a finished row, ``None`` for a job that is done."""
    ended = row.ended
    held = None if ended is None else ended["error"]
    if ended is None or held is None:
        return None
    known: dict[str, Any] = {name: held[name] for name in _ERROR_FIELDS if name in held}
    known["repair"] = _advice(held["repair"], row.job_id, ended)
    return ErrorInfo(**known)


_LOGS: Final = re.compile(r"`supervisor logs JOB( --stderr)?`")


def _advice(repair: str, job_id: str, ended: Mapping[str, Any]) -> str:
    """Return a repair in which ``supervisor logs`` has the job's id, and a stream that is not empty."""

    def command(match: re.Match[str]) -> str:
        of_stderr = match[1] is not None
        if not ended["stderr_bytes" if of_stderr else "stdout_bytes"]:
            of_stderr = ended["stderr_bytes"] > 0
        return f"`supervisor logs {job_id}{' --stderr' if of_stderr else ''}`"

    return _LOGS.sub(command, repair)
