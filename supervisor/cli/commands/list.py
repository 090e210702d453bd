"""``list``: a table on a terminal, aligned text in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Final

import click

from supervisor.admission import helper, launchers
from supervisor.cli import exits, streams, text
from supervisor.cli.arguments import label_option, workspace_option, workspace_scope
from supervisor.cli.front import Invocation, command, write_document
from supervisor.jobs import queue_text
from supervisor.jobs.catalog import real_workspace
from supervisor.model import Job, to_json
from supervisor.states import State

__all__ = ["list_jobs"]

_MIN_ID_LENGTH: Final = 8
_RIGHT: Final = frozenset({3, 4})
"""The columns of numbers, which are aligned to the right."""


@command("list")
@workspace_option("List the jobs of this directory instead of the current one.")
@click.option("--all", "everywhere", is_flag=True, help="List the jobs of all directories.")
@click.option("--state", type=click.Choice([state.value for state in State]), help="List only jobs in this state.")
@label_option("List only jobs with this label. Repeat it to require several labels.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="List at most this many.")
@click.option("--cursor", metavar="CURSOR", help="Continue an earlier list: the next_cursor that it gave.")
def list_jobs(
    call: Invocation,
    *,
    workspace: str | None,
    everywhere: bool,
    state: str | None,
    labels: Mapping[str, str],
    limit: int,
    cursor: str | None,
) -> int:
    """List the jobs of the current directory, newest first.

    A terminal shows shortened ids, which every command accepts.
    """
    where = workspace_scope(workspace, everywhere=everywhere)
    with call.catalog() as catalog:
        page = catalog.list(workspace=where, state=state, labels=labels, limit=limit, cursor=cursor)
        elsewhere = 0 if where is None else catalog.count_elsewhere(where)
        unattended = launchers.unattended(catalog.index)
        started = unattended > 0 and helper.ensure(catalog.index)
    if call.as_json:
        others = {} if where is None else {"jobs_in_other_workspaces": elsewhere}
        write_document({**to_json(page), **others})
    elif page.jobs:
        _show(page.jobs, with_workspace=everywhere)
        if page.next_cursor is not None:
            call.note(f"There are more: --limit, or --cursor {page.next_cursor}.")
    else:
        matching = "No matching jobs" if state or labels or cursor else "No jobs"
        place = "" if where is None else f" in {real_workspace(where)}"
        more = f"; {text.plural(elsewhere, 'job')} in other workspaces (--all)" if elsewhere else ""
        call.note(f"{matching}{place}{more}.")
    if unattended:
        words = "supervisor launch-waiting"
        what = f"this command has started `{words}`" if started else f"run `{words}`"
        call.note(f"{queue_text.unattended(unattended)}: {what}.")
    return exits.OK


def _show(jobs: Sequence[Job], *, with_workspace: bool) -> None:
    heads = ["ID", "STATUS", "KIND", "AGE", "TIME", "COMMAND"]
    heads[-1:-1] = ["WAITS"] * any(map(text.waiting, jobs)) + ["WORKSPACE"] * with_workspace
    if sys.stdout.isatty():
        _show_table(jobs, heads)
        return
    lines = text.columns([heads, *(_cells(job, heads) for job in jobs)], right=_RIGHT)
    with streams.writing():
        click.echo("\n".join(lines))


def _cells(job: Job, heads: Sequence[str]) -> list[str]:
    return [
        job.job_id,
        job.status.value,
        text.one_line(job.kind),
        text.ago(job.created_at),
        text.duration(job.elapsed_ms / 1000),
        *([text.waiting(job) or "-"] if "WAITS" in heads else []),
        *([text.one_line(job.workspace)] if "WORKSPACE" in heads else []),
        text.command_line(job.argv),
    ]


def _id_length(jobs: Sequence[Job]) -> int:
    """Return the length at which the ids of these jobs differ."""
    length = _MIN_ID_LENGTH
    while length < 32 and len({job.job_id[:length] for job in jobs}) < len(jobs):
        length += 1
    return length


def _show_table(jobs: Sequence[Job], heads: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    for number, head in enumerate(heads):
        width = {"WORKSPACE": 30, "WAITS": 40}.get(head)
        # rich narrows the columns without no_wrap.
        table.add_column(head, no_wrap=number < 5, max_width=width, justify="right" if number in _RIGHT else "left")
    length = _id_length(jobs)
    for job in jobs:
        shown = _cells(job, heads)
        cells = [Text(cell, no_wrap=True, overflow="ellipsis") for cell in shown]  # Text disables markup in the cell
        cells[0] = Text(job.job_id[:length], style="bold")
        cells[1] = Text(text.outcome(job), style=text.colour(job))
        table.add_row(*cells)
    with streams.writing():
        Console(highlight=False).print(table)
