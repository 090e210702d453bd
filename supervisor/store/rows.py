"""The rows of the index: their columns, and how a job ended. ``jobs_of_rows`` has the ``Job`` that a row describes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from operator import attrgetter
from typing import Any, Final

import attrs

from supervisor.jobdir import validation
from supervisor.jobdir.durability import is_durable
from supervisor.jobdir.facts import Launched
from supervisor.model import ErrorInfo, Exit, Job
from supervisor.retry import counts_apart
from supervisor.states import Reason, State, is_word
from supervisor.store.row_checks import KNOWN_STATES, LAST_NS, MAYBE_NUMBER, check_request, wrong_in_outcome
from supervisor.store.usage_limits import known_end_ns

__all__ = ["COLUMNS", "UNFINISHED", "JobOutcome", "Row", "check_row", "columns_of", "dump", "error_of", "row_of_record"]


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
    def ends_alone(self) -> bool:
        """Whether its end changes its row only: it may pause groups, be charged or delivered, or be tried again."""
        return not (self.may_be_retried or "groups" in self.request or self.has_deliveries or self.has_figures)

    @property
    def has_deliveries(self) -> bool:
        """Whether its end is delivered to a command or a webhook."""
        return "on_end" in self.request or "webhook" in self.request

    @property
    def is_durable(self) -> bool:
        """Whether the job survives the loss of power: its records are synced before they are told."""
        return is_durable(self.request)

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
        error: Mapping[str, Any] = (self.ended or {}).get("error") or {}
        due_ns = attempt.due_ns or known_end_ns(error.get("details") or {})
        row._ended = {**(self.ended or {}), "retried_by": attempt.job_id, "next_attempt_ns": due_ns}  # noqa: SLF001
        row.outcome = dump(row._ended)  # noqa: SLF001
        return row

    @property
    def due_ns(self) -> int | None:
        """When another attempt may be launched, by the wall clock; ``None`` for one that only waits for its groups."""
        delay_ns = self.request.get("delay_ns")
        return None if delay_ns is None else self.created_ns + int(delay_ns)

    @property
    def waits(self) -> int:
        """How many attempts of its series were no failures, with its own: by a usage limit, or never launched."""
        waited: int = self.request.get("limited", 0)
        return waited + (self.retried_by is not None and self.ended is not None and counts_apart(self.ended))

    @property
    def has_figures(self) -> bool:
        """Whether the output of an ended job has said what it has spent."""
        ended = self.ended or {}
        return ended.get("cost_usd") is not None or "tokens" in ended

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


_EXIT_FIELDS: Final = (
    *("exit_code", "signal", "cpu_seconds", "max_rss_bytes", "launch_status", "never_launched"),
    *("may_grow", "truncated", "memory_peak_bytes"),
)


_MAY_BE_ABSENT: Final = ("session_id", "tokens", "own_tokens")


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
        tokens: read and written by its models, as the output states it.
        own_tokens: of those, the ones of the turns of this run.
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
    tokens: int | None = None
    own_tokens: int | None = None

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
            **{name: each for name in _MAY_BE_ABSENT if (each := getattr(self, name)) is not None},
            **({} if self.exit.unsynced is None else {"unsynced": self.exit.unsynced}),
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
