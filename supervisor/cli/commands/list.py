"""``list``: a table on a terminal, aligned text in a pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Final

import click

from supervisor.cli import exits, streams, text
from supervisor.cli.arguments import label_option, workspace_option
from supervisor.cli.front import Invocation, command, write_document
from supervisor.jobs.catalog import real_workspace
from supervisor.model import Job, to_json
from supervisor.states import State

__all__ = ["list_jobs"]

_SHORTEST_ID: Final = 8


@command("list", short_help="List jobs, newest first.")
@workspace_option("List the jobs of this directory, instead of the current one.")
@click.option("--all", "everywhere", is_flag=True, help="List the jobs of all directories.")
@click.option("--state", type=click.Choice([state.value for state in State]), help="Only jobs in this state.")
@label_option("Only jobs with this label; repeat it for jobs that have them all.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="No more than so many.")
@click.option("--cursor", metavar="CURSOR", help="Go on where an earlier list ended: its next_cursor.")
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
    """List the jobs that were started for the current directory, newest first.

    Ids are shortened on a terminal; every command takes them like that.
    """
    if everywhere and workspace is not None:
        message = "--all and --workspace exclude each other."
        raise click.UsageError(message)
    where = None if everywhere else workspace or os.curdir
    with call.catalog() as catalog:
        page = catalog.list(workspace=where, state=state, labels=labels, limit=limit, cursor=cursor)
        elsewhere = 0 if where is None else catalog.count_elsewhere(where)
    if call.as_json:
        others = {} if where is None else {"jobs_in_other_workspaces": elsewhere}
        write_document({**to_json(page), **others})
    elif page.jobs:
        _draw(page.jobs, with_workspace=everywhere)
        if page.next_cursor is not None:
            call.note(f"There are more: --limit, or --cursor {page.next_cursor}.")
    else:
        such = "No such jobs" if state or labels or cursor else "No jobs"
        place = "" if where is None else f" in {real_workspace(where)}"
        more = f"; {text.plural(elsewhere, 'job')} in other workspaces (--all)" if elsewhere else ""
        call.note(f"{such}{place}{more}.")
    return exits.OK


def _draw(jobs: Sequence[Job], *, with_workspace: bool) -> None:
    if sys.stdout.isatty():
        _table(jobs, with_workspace=with_workspace)
        return
    heads = ["ID", "STATUS", "KIND", "AGE", "TIME", *(["WORKSPACE"] if with_workspace else []), "COMMAND"]
    lines = text.columns(
        [heads, *(_cells(job, with_workspace=with_workspace) for job in jobs)],
        right=frozenset({3, 4}),
    )
    with streams.writing():
        click.echo("\n".join(lines))


def _cells(job: Job, *, with_workspace: bool) -> list[str]:
    return [
        job.job_id,
        job.status.value,
        text.one_line(job.kind),
        text.ago(job.created_at),
        text.duration(job.elapsed_ms / 1000),
        *([text.one_line(job.workspace)] if with_workspace else []),
        text.command_line(job.argv),
    ]


def _shortened(jobs: Sequence[Job]) -> int:
    """Return how many characters of their ids tell these jobs apart."""
    length = _SHORTEST_ID
    while length < 32 and len({job.job_id[:length] for job in jobs}) < len(jobs):
        length += 1
    return length


def _table(jobs: Sequence[Job], *, with_workspace: bool) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    table.add_column("ID", no_wrap=True)
    table.add_column("STATUS", no_wrap=True)
    table.add_column("KIND", no_wrap=True)
    table.add_column("AGE", no_wrap=True, justify="right")
    table.add_column("TIME", no_wrap=True, justify="right")
    if with_workspace:
        table.add_column("WORKSPACE", max_width=30)
    table.add_column("COMMAND")
    length = _shortened(jobs)
    for job in jobs:
        # As Text nothing in it counts as markup; the columns that may be narrowed are those without no_wrap.
        cells = [Text(cell, no_wrap=True, overflow="ellipsis") for cell in _cells(job, with_workspace=with_workspace)]
        cells[0] = Text(job.job_id[:length], style="bold")
        cells[1] = Text(text.outcome(job), style=text.COLOURS[job.status])
        table.add_row(*cells)
    with streams.writing():
        Console(highlight=False).print(table)
