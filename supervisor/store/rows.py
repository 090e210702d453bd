"""What stands in a row of the registry and in ``job.json``, and how it becomes a ``Job``."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from typing import Any, Final

import attrs

from supervisor.engines import Launched, records
from supervisor.model import ErrorInfo, Exit, Job, from_ns
from supervisor.states import Reason, State

__all__ = ["COLUMNS", "Outcome", "Row", "dump", "job_of", "row_of_record"]

COLUMNS: Final = (
    "seq",
    "job_id",
    "workspace_key",
    "kind",
    "state",
    "created_ns",
    "started_ns",
    "completed_ns",
    "expires_ns",
    "idempotency_key",
    "digest",
    "owner",
    "fetched",
    "pid",
    "deadline_boot_ns",
    "spec",
    "outcome",
)

_POLL_AFTER_MS: Final = 1000


def dump(value: object) -> str:
    """Return compact ASCII JSON."""
    return json.dumps(value, separators=(",", ":"))


@attrs.define(slots=True)
class Row:
    """One job as the registry knows it. ``seq`` is 0 until it has been inserted."""

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
    _request: dict[str, Any] | None = attrs.field(default=None, init=False, repr=False, eq=False)

    @property
    def request(self) -> dict[str, Any]:
        """What ``job.json`` says, parsed."""
        if self._request is None:
            held: dict[str, Any] = json.loads(self.spec)
            self._request = held
        return self._request

    @property
    def finished(self) -> bool:
        """Whether the job is in a terminal state."""
        return self.completed_ns is not None

    def with_launch(self, launched: Launched) -> Row:
        """Return this row with its command spawned."""
        return attrs.evolve(
            self,
            state=State.RUNNING.value,
            started_ns=launched.started_ns,
            pid=launched.pid,
            deadline_boot_ns=launched.deadline_boot_ns,
        )

    def with_outcome(self, outcome: Outcome) -> Row:
        """Return this row with its job ended; its time to live counts from the end of its command."""
        ended_ns = outcome.exit.ended_ns
        return attrs.evolve(
            self,
            state=outcome.state.value,
            completed_ns=ended_ns,
            expires_ns=ended_ns + int(self.request["ttl_seconds"] * 1e9),
            outcome=outcome.to_text(),
        )

    def launched(self) -> Launched | None:
        """Return how it was launched, if that is known here."""
        if self.pid is None or self.started_ns is None:
            return None
        return Launched(pid=self.pid, started_ns=self.started_ns, deadline_boot_ns=self.deadline_boot_ns)


@attrs.frozen(slots=True, kw_only=True)
class Outcome:
    """How a job ended, as its row keeps it.

    Attributes:
        state: terminal.
        reason: why.
        exit: how the process ended.
        detail: short and redacted.
        cost_usd: what its output says was spent.
        error: what ``result`` reports, for a job that is not done.
        stdout_bytes: final size.
        stderr_bytes: final size.
    """

    state: State
    reason: Reason
    exit: Exit
    detail: str | None = None
    cost_usd: float | None = None
    error: ErrorInfo | None = None
    stdout_bytes: int = 0
    stderr_bytes: int = 0

    def to_text(self) -> str:
        """Return what the row's ``outcome`` column holds; a new text at every call."""
        return dump(
            {
                "reason": self.reason,
                "exit_code": self.exit.exit_code,
                "signal": self.exit.signal,
                "cpu_seconds": self.exit.cpu_seconds,
                "max_rss_bytes": self.exit.max_rss_bytes,
                "launch_status": self.exit.launch_status,
                "never_launched": self.exit.never_launched,
                "detail": self.detail,
                "cost_usd": self.cost_usd,
                "error": None if self.error is None else attrs.asdict(self.error),
                "stdout_bytes": self.stdout_bytes,
                "stderr_bytes": self.stderr_bytes,
            },
        )


def row_of_record(workspace_key: str, record: Mapping[str, Any], text: str) -> Row:
    """Return the row of a job that is known only from its ``job.json``.

    Raises:
        KeyError, TypeError, ValueError: it is not such a record.
    """
    return Row(
        seq=0,
        job_id=str(record["job_id"]),
        workspace_key=workspace_key,
        kind=str(record["kind"]),
        state=State.QUEUED.value,
        created_ns=int(record["created_ns"]),
        started_ns=None,
        completed_ns=None,
        expires_ns=None,
        idempotency_key=record.get("idempotency_key"),
        digest=str(record["digest"]),
        owner=str(record["owner"]),
        fetched=0,
        pid=None,
        deadline_boot_ns=None,
        spec=text,
        outcome=None,
    )


def size_of(directory: str, name: str) -> int:
    """Return the size of a job's file in bytes; 0 when it is not there."""
    try:
        return os.stat(f"{directory}/{name}").st_size
    except OSError:
        return 0


def job_of(
    row: Row,
    directory: str,
    *,
    stop_requested: str | None = None,
    damage: str | None = None,
    progress: Mapping[str, Any] | None = None,
    queue_reason: str | None = None,
) -> Job:
    """Return the job that a row describes; a live one with its sizes as they are now."""
    spec = row.request
    state = State(row.state)
    now_ns = time.time_ns()
    common: dict[str, Any] = {
        "job_id": row.job_id,
        "kind": row.kind,
        "status": state,
        "workspace": spec["workspace"],
        "argv": tuple(spec["argv"]),
        "labels": spec["labels"],
        "created_at": from_ns(row.created_ns),
        "deadline_seconds": spec["deadline_seconds"],
        "ttl_seconds": spec["ttl_seconds"],
        "pid": row.pid,
        "engine": spec.get("engine", "local"),
    }
    if row.started_ns is not None:
        common["started_at"] = from_ns(row.started_ns)
    clock_ns = row.created_ns if spec.get("deadline_from") == "submission" else row.started_ns
    if clock_ns is not None and spec["deadline_seconds"] is not None:
        common["deadline_at"] = from_ns(clock_ns + int(spec["deadline_seconds"] * 1e9))
    begun_ns = row.created_ns if row.started_ns is None else row.started_ns
    if row.outcome is None or row.completed_ns is None:
        return Job(
            **common,
            elapsed_ms=max(0, (now_ns - begun_ns) // 1_000_000),
            poll_after_ms=_POLL_AFTER_MS,
            stop_requested=stop_requested,
            detail=damage,
            progress=progress,
            queue_reason=queue_reason if state is State.QUEUED else None,
            stdout_bytes=size_of(directory, records.STDOUT),
            stderr_bytes=size_of(directory, records.STDERR),
        )
    outcome = json.loads(row.outcome)
    return Job(
        **common,
        reason=Reason(outcome["reason"]),
        completed_at=from_ns(row.completed_ns),
        expires_at=None if row.expires_ns is None else from_ns(row.expires_ns),
        elapsed_ms=max(0, (row.completed_ns - begun_ns) // 1_000_000),
        result_available=state is State.DONE,
        cost_usd=outcome["cost_usd"],
        detail=outcome["detail"] or damage,
        exit_code=outcome["exit_code"],
        signal=outcome["signal"],
        stdout_bytes=outcome["stdout_bytes"],
        stderr_bytes=outcome["stderr_bytes"],
        cpu_seconds=outcome["cpu_seconds"],
        max_rss_bytes=outcome["max_rss_bytes"],
    )


def error_of(row: Row) -> ErrorInfo | None:
    """Return the error that a finished row reports, ``None`` for a job that is done."""
    held = json.loads(row.outcome)["error"] if row.outcome is not None else None
    return None if held is None else ErrorInfo(**held)
