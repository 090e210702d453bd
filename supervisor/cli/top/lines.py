"""The lines of an overview: the groups, and the jobs that run, that wait, and that have ended last."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import attrs

from supervisor.cli import job_columns, table, text
from supervisor.cli.job_columns import COLUMNS
from supervisor.cli.table import Cell, Column
from supervisor.jobs.catalog import Catalog
from supervisor.jobs.overview import Overview, overview_of
from supervisor.model import GroupInfo, Job

__all__ = ["Line", "group_lines", "job_lines", "summary", "take"]

_RUNNING: Final = 200
_WAITING: Final = 100
_ENDED: Final = 100

_NAMES: Final = ("id", "status", "time", "waits", "groups", "labels", "workspace", "command")
_IF_ANY: Final = {"waits", "groups", "labels"}
"""Columns that are shown if a job has a value."""
_SPARED: Final = {"groups": 9, "workspace": 8, "time": 1}
"""Columns that make room here, and not in a list where they were asked for."""
_KINDS: Final = ("running", "waiting", "ended")
_BUDGETS: Final = Column("BUDGET", least=12, spare=3)
_GROUPS: Final = (
    Column("GROUP", least=8),
    Column("RUNNING", "right"),
    Column("LIMIT", "right", spare=1),
    Column("WAITING", "right"),
    Column("OLDEST", "right", spare=2),
    _BUDGETS,
    Column("PAUSED", least=8),
)


@attrs.frozen
class Line:
    """A line of a view.

    Attributes:
        text: with colours, as escape sequences.
        job: the job that it is about, or ``None`` for a heading.
    """

    text: str
    job: Job | None = None


def take(catalog: Catalog) -> Overview:
    """Return an overview with as many jobs as a view shows.

    Raises:
        SupervisorError: the state root cannot be read now.
    """
    return overview_of(catalog, running=_RUNNING, waiting=_WAITING, ended=_ENDED)


def summary(overview: Overview) -> str:
    """Return how many jobs there are."""
    return ", ".join(f"{overview.counts.get(kind, 0)} {kind}" for kind in _KINDS)


def group_lines(groups: Sequence[GroupInfo], width: int) -> list[str]:
    """Return the heads and a line for each group; nothing without groups."""
    if not groups:
        return []
    shows_budgets = any(group.budgets for group in groups)
    columns = [column for column in _GROUPS if shows_budgets or column is not _BUDGETS]
    return table.fitted(columns, [_cells(group, shows_budgets=shows_budgets) for group in groups], width)


def _cells(group: GroupInfo, *, shows_budgets: bool) -> list[Cell]:
    oldest = group.oldest_wait_seconds
    causes = [f"by {each.by}" + (f" until {text.clock(each.until)}" if each.until else "") for each in group.paused]
    full = group.limit is not None and group.running >= group.limit > 0
    return [
        Cell(text.one_line(group.name), bold=True),
        Cell(str(group.running), colour="yellow" if full and group.waiting else None),
        Cell("-" if group.limit is None else str(group.limit)),
        Cell(str(group.waiting)),
        Cell("-" if oldest is None else text.brief(oldest)),
        *([_budgets(group)] if shows_budgets else []),
        Cell(text.one_line(", ".join(causes)) or "-", colour="red" if causes else None),
    ]


def _budgets(group: GroupInfo) -> Cell:
    is_spent = any(each["used"] + each["reserved"] >= each["limit"] for each in group.budgets)
    return Cell(", ".join(map(text.budget, group.budgets)) or "-", colour="yellow" if is_spent else None)


def job_lines(overview: Overview, width: int, now: datetime) -> tuple[str, list[Line]]:
    """Return the heads, and the lines of all jobs, with a heading for each kind of which there are any.

    ``now`` is the time that is shown; the times of running jobs go on since the overview.
    """
    later_ms = max(0, round((now - overview.at).total_seconds() * 1000))
    shown = {
        "running": [attrs.evolve(job, elapsed_ms=job.elapsed_ms + later_ms) for job in overview.running],
        "waiting": [attrs.evolve(job, elapsed_ms=job.elapsed_ms + later_ms) for job in overview.waiting],
        "ended": list(overview.ended),
    }
    jobs = [job for kind in _KINDS for job in shown[kind]]
    names = [name for name in _NAMES if name not in _IF_ANY or any(map(COLUMNS[name].value, jobs))]
    columns = [
        attrs.evolve(COLUMNS[name].column, spare=_SPARED.get(name, COLUMNS[name].column.spare)) for name in names
    ]
    length = job_columns.shortest_length(jobs)
    heads, *rows = table.fitted(columns, [job_columns.cells(job, names, id_length=length) for job in jobs], width)
    fitted = dict(zip([job.job_id for job in jobs], rows, strict=True))
    lines: list[Line] = []
    for kind in _KINDS:
        if shown[kind]:
            lines.append(Line(_heading(kind, len(shown[kind]), overview.counts.get(kind, 0))))
            lines += [Line(fitted[job.job_id], job) for job in shown[kind]]
    return heads, lines


def _heading(kind: str, shown: int, count: int) -> str:
    which = {"running": "the newest", "waiting": "the oldest", "ended": "the last"}[kind]
    return f"{kind.upper()} ({count})" if shown >= count else f"{kind.upper()} ({count}; {which} {shown} are shown)"
