"""The ``Job`` that a row of the index describes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from supervisor.jobdir import records
from supervisor.jobdir.facts import Launched
from supervisor.jobdir.output import STREAMS, size_of
from supervisor.model import Job, from_ns
from supervisor.states import State, reason_of, state_of
from supervisor.store.changes import MEMBER
from supervisor.store.rows import Row
from supervisor.store.tickets import groups_of
from supervisor.system import processes
from supervisor.system.observing import NotKnown
from supervisor.worktrees.record import MEMBER as WORKTREE
from supervisor.worktrees.record import fields_of, root_of

__all__ = ["job_of"]

_POLL_AFTER_MS: Final = 1000
_MAX_RECENT: Final = 256
"""Unfinished rows whose constant fields are cached, which saves 3 us of the 13 that a status takes: 1 KiB each."""


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
    limit_end: Callable[[Row], int | None] | None = None,
) -> Job:
    """Return the job that a row describes; an unfinished one with the current sizes of its output.

    ``launched`` is its launch as it was observed last, which may say that it is paused. ``limit_end`` returns when a
    usage limit ends, by the wall clock, of a job that waits it out.
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
    if WORKTREE in row.request:
        lasting = lasting | _worktree_of(row, directory)
    ended = None if row.completed_ns is None else row.ended
    if ended is None:
        begun_ns = row.created_ns if row.started_ns is None else row.started_ns
        if waits := queue_position is not None:
            waiting: dict[str, Any] = {"queue_position": queue_position}
            lasting = lasting | waiting
            if queue_reason == "rate_limited" and limit_end is not None and (end_ns := limit_end(row)) is not None:
                lasting["next_attempt_at"] = from_ns(end_ns)
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
    if ended.get("may_grow") or ended.get("truncated") or ended.get("unsynced"):
        lasting = {**lasting, "warnings": _warnings(ended, directory) + lasting.get("warnings", ())}
    job = Job(**lasting, detail=ended["detail"] or damage)
    if damage is None and not ended.get("may_grow") and job.worktree is None:
        row.shown = job
    return job


def _worktree_of(row: Row, directory: str) -> dict[str, Any]:
    try:
        return {"worktree": fields_of(root_of(directory), row.request, ended=row.finished)}
    except NotKnown:  # for display only
        return {}


def _of_pause(launched: Launched, deadline_at: datetime | None, *, is_stopping: bool) -> dict[str, Any]:
    """Return the fields that a pause changes. A stop ends it."""
    since = launched.held_since_boot_ns
    moved_ns = launched.moved_ns + (0 if since is None else max(0, processes.boottime_ns() - since))
    moved = None if deadline_at is None else deadline_at + timedelta(microseconds=moved_ns // 1000)
    return {"paused": launched.paused and not is_stopping, "deadline_at": moved}


def _warnings(ended: Mapping[str, Any], directory: str) -> tuple[str, ...]:
    """Return the warnings about the output of an ended job."""
    warnings = [_TRUNCATED] if ended.get("truncated") else []
    if (why := ended.get("unsynced")) is not None:
        warnings.append(f"{_UNSYNCED}: {why}.")
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
_UNSYNCED: Final = "It is not known to be on the disk, and a loss of power may lose its end or its output"
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
        "schedule": request.get("schedule"),
    }


def _of_series(row: Row, request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a job about its attempts."""
    following_ns = None if row.ended is None else row.ended.get("next_attempt_ns")
    if row.state == State.QUEUED.value and request["attempt"] > 1:
        following_ns = row.due_ns
    return {
        "series_id": request["series_id"],
        "attempt": request["attempt"],
        "maximum_attempts": request["retry"]["maximum_attempts"] + row.waits,
        "retry_of": request.get("retry_of"),
        "retried_by": row.retried_by,
        "next_attempt_at": None if following_ns is None else from_ns(following_ns),
    }
