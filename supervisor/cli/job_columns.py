"""The columns of tables of jobs: their names on the command line, their heads, and their cells. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import attrs

from supervisor.cli import text
from supervisor.cli.table import Cell, Column
from supervisor.model.job import Job, JobPage

__all__ = ["COLUMNS", "SORT_KEYS", "cells", "remark", "shortest_length", "sort", "usual"]

_ALWAYS: Final = ("id", "status", "kind", "age", "time")
_MIN_ID_LENGTH: Final = 8
_NONE: Final = "-"


@attrs.frozen
class JobColumn:
    """A column of a table of jobs.

    Attributes:
        column: its layout.
        value: its text for a job; an empty one is shown as a dash.
    """

    column: Column
    value: Callable[[Job], str]


def _when(moment: datetime | None) -> str:
    return "" if moment is None else text.clock(moment)


def _amount(number: float | None, show: Callable[[float], str]) -> str:
    return "" if number is None else show(number)


COLUMNS: Final = {
    "id": JobColumn(Column("ID"), lambda job: job.job_id),
    "status": JobColumn(Column("STATUS", least=16), lambda job: job.status.value),
    "kind": JobColumn(Column("KIND", spare=9), lambda job: text.one_line(job.kind)),
    "age": JobColumn(Column("AGE", "right", spare=8), lambda job: text.ago(job.created_at)),
    "time": JobColumn(Column("TIME", "right", spare=6), lambda job: text.duration(job.elapsed_ms / 1000)),
    "waits": JobColumn(Column("WAITS", least=12, spare=7), lambda job: text.waiting(job) or ""),
    "labels": JobColumn(Column("LABELS", least=10, spare=4), lambda job: text.labels(job.labels.items())),
    "workspace": JobColumn(
        Column("WORKSPACE", least=12, front=True, spare=5), lambda job: text.one_line(job.workspace)
    ),
    "command": JobColumn(Column("COMMAND", least=16), lambda job: text.command_line(job.argv)),
    "created": JobColumn(Column("CREATED"), lambda job: _when(job.created_at)),
    "started": JobColumn(Column("STARTED"), lambda job: _when(job.started_at)),
    "ended": JobColumn(Column("ENDED"), lambda job: _when(job.completed_at)),
    "deadline": JobColumn(Column("DEADLINE"), lambda job: _when(job.deadline_at)),
    "expires": JobColumn(Column("EXPIRES"), lambda job: _when(job.expires_at)),
    "reason": JobColumn(Column("REASON"), lambda job: job.reason.value if job.reason else ""),
    "exit": JobColumn(Column("EXIT", "right"), lambda job: _amount(job.exit_code, str)),
    "signal": JobColumn(Column("SIGNAL", "right"), lambda job: _amount(job.signal, str)),
    "groups": JobColumn(Column("GROUPS", least=8), lambda job: text.one_line(" ".join(job.groups))),
    "priority": JobColumn(Column("PRIORITY", "right"), lambda job: str(job.priority)),
    "attempt": JobColumn(Column("ATTEMPT", "right"), lambda job: f"{job.attempt}/{job.maximum_attempts}"),
    "pid": JobColumn(Column("PID", "right"), lambda job: _amount(job.pid, str)),
    "cpu": JobColumn(Column("CPU", "right"), lambda job: _amount(job.cpu_seconds, text.duration)),
    "memory": JobColumn(Column("MEMORY", "right"), lambda job: _amount(job.max_rss_bytes, text.size)),
    "output": JobColumn(Column("OUTPUT", "right"), lambda job: text.size(job.stdout_bytes + job.stderr_bytes)),
    "cost": JobColumn(Column("COST", "right"), lambda job: _amount(job.cost_usd, "{:.4f}".format)),
    "engine": JobColumn(Column("ENGINE"), lambda job: text.one_line(job.engine)),
    "detail": JobColumn(Column("DETAIL", least=8), lambda job: text.one_line(job.detail or "")),
}
"""By the names that ``list --columns`` accepts."""

_FOR_PEOPLE: Final[dict[str, Callable[[Job], str]]] = {
    "status": lambda job: text.outcome(job).replace("exit status", "exit"),
    "age": lambda job: text.brief((datetime.now(UTC) - job.created_at).total_seconds()),
    "time": lambda job: text.brief(job.elapsed_ms / 1000),
}
"""What a terminal shows instead, which has less room."""

_NEVER: Final = datetime.min.replace(tzinfo=UTC)

SORT_KEYS: Final[dict[str, Callable[[Job], Any]]] = {
    "created": lambda job: job.created_at,
    "started": lambda job: job.started_at or _NEVER,
    "ended": lambda job: job.completed_at or _NEVER,
    "time": lambda job: job.elapsed_ms,
    "status": lambda job: job.status.value,
    "priority": lambda job: job.priority,
    "cost": lambda job: job.cost_usd or 0,
    "cpu": lambda job: job.cpu_seconds or 0,
    "memory": lambda job: job.max_rss_bytes or 0,
    "output": lambda job: job.stdout_bytes + job.stderr_bytes,
    "workspace": lambda job: job.workspace,
    "command": lambda job: job.argv,
}
"""By the names that ``list --sort`` accepts; a job without a value is the least."""


def sort(jobs: Sequence[Job], key: str) -> list[Job]:
    """Return the jobs by a key of ``SORT_KEYS``, or with ``-`` before it the other way round."""
    return sorted(jobs, key=SORT_KEYS[key.removeprefix("-")], reverse=key.startswith("-"))


def usual(jobs: Sequence[Job], *, on_terminal: bool, with_workspace: bool) -> list[str]:
    """Return the names of the columns that a list of jobs has if none are asked for."""
    return [
        *_ALWAYS,
        *["waits"] * any(map(text.waiting, jobs)),
        *["labels"] * (on_terminal and any(job.labels for job in jobs)),
        *["workspace"] * with_workspace,
        "command",
    ]


def remark(page: JobPage) -> str | None:
    """Return how to see the jobs that are not on a page, or ``None`` if all are on it."""
    return None if page.next_cursor is None else f"There are more: --limit, or --cursor {page.next_cursor}."


def shortest_length(jobs: Sequence[Job]) -> int:
    """Return the length at which the ids of these jobs differ."""
    length = _MIN_ID_LENGTH
    while length < 32 and len({job.job_id[:length] for job in jobs}) < len(jobs):
        length += 1
    return length


def cells(job: Job, names: Sequence[str], *, id_length: int | None = None) -> list[Cell]:
    """Return the cells of a job.

    ``id_length``: for a person, the length to shorten its id to; its state then has its reason, and times are brief.
    ``None`` for programs.
    """

    def cell(name: str) -> Cell:
        if name == "id":
            return Cell(job.job_id[:id_length], bold=True)
        shown = COLUMNS[name].value(job) or _NONE
        if id_length is not None and name in _FOR_PEOPLE:
            shown = _FOR_PEOPLE[name](job)
        return Cell(shown, colour=text.colour(job) if name == "status" else None)

    return [cell(name) for name in names]
