"""``list``: a table that fits a terminal, with the newest job last; aligned text, the newest first, in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TypedDict

import attrs
import click

from supervisor.cli import exits, job_columns, streams, table, terminal, text
from supervisor.cli.arguments import label_option, since, workspace_option, workspace_scope
from supervisor.cli.front import Invocation, command, write_document
from supervisor.cli.job_columns import COLUMNS, SORT_KEYS
from supervisor.jobs.reading import Reading
from supervisor.jobs.scope import real_workspace
from supervisor.model.job import Job, JobPage
from supervisor.model.job_json import page_to_json
from supervisor.states import State

__all__ = ["list_jobs"]


def _chosen(words: str) -> list[str]:
    """Parse an option's names of columns, separated by commas."""
    names = [name.strip().lower() for name in words.split(",") if name.strip()]
    for name in names:
        if name not in COLUMNS:
            message = f"{name!r:.80} is no column: they are {', '.join(COLUMNS)}."
            raise click.BadParameter(message)
    if not names:
        message = f"no column is named: they are {', '.join(COLUMNS)}."
        raise click.BadParameter(message)
    return list(dict.fromkeys(names))


class _Query(TypedDict):
    workspace: str | None
    state: str | None
    labels: Mapping[str, str]
    limit: int
    cursor: str | None


@command("list")
@workspace_option("List the jobs of this directory instead of the current one.")
@click.option("--all", "everywhere", is_flag=True, help="List the jobs of all directories.")
@click.option("--state", type=click.Choice([state.value for state in State]), help="List only jobs in this state.")
@label_option("List only jobs with this label. Repeat it to require several labels.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="List at most this many.")
@click.option("--cursor", metavar="CURSOR", help="Continue an earlier list: the next_cursor that it gave.")
@click.option(
    "--since",
    type=since,
    metavar="TIME",
    help="List only jobs that were created since this time, or in the time before now: 2h, 1d.",
)
@click.option(
    "--sort",
    type=click.Choice([*SORT_KEYS, *(f"-{key}" for key in SORT_KEYS)]),
    metavar="KEY",
    help=f"Order the listed jobs by this, or with '-' before it the other way round: {', '.join(SORT_KEYS)}.",
)
@click.option(
    "--columns",
    "names",
    type=_chosen,
    metavar="NAME,...",
    help=f"Show these columns: {', '.join(COLUMNS)}.",
)
@click.option(
    "--color",
    "colours",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="Whether to use colours; 'auto' does on a terminal, if NO_COLOR is not set.",
)
def list_jobs(
    call: Invocation,
    *,
    workspace: str | None,
    everywhere: bool,
    state: str | None,
    labels: Mapping[str, str],
    limit: int,
    cursor: str | None,
    since: datetime | None,
    sort: str | None,
    names: Sequence[str] | None,
    colours: str,
) -> int:
    """List the jobs of the current directory: on a terminal the newest last, otherwise the newest first.

    A terminal shows shortened ids, which every command accepts, and as much as fits its width.
    """
    where = workspace_scope(workspace, everywhere=everywhere)
    query = _Query(workspace=where, state=state, labels=labels, limit=limit, cursor=cursor)
    notes: list[str] = []
    if (found := Reading(call.settings).list(**query)) is None:
        found, notes = _from_catalog(call, query)
    page, elsewhere = found
    if since is not None:
        page = _created_since(page, since)
    if sort is not None:
        page = attrs.evolve(page, jobs=tuple(job_columns.sort(page.jobs, sort)))
    if call.as_json:
        others = {} if where is None else {"jobs_in_other_workspaces": elsewhere}
        write_document({**page_to_json(page), **others})
    elif page.jobs:
        newest_last = sys.stdout.isatty() and sort is None
        _show(page.jobs[::-1] if newest_last else page.jobs, names, colours, with_workspace=everywhere)
        if (remark := job_columns.remark(page)) is not None:
            call.note(remark)
    else:
        matching = "No matching jobs" if state or labels or cursor or since else "No jobs"
        place = "" if where is None else f" in {real_workspace(where)}"
        more = f"; {text.plural(elsewhere, 'job')} in other workspaces (--all)" if elsewhere else ""
        call.note(f"{matching}{place}{more}.")
    for note in notes:
        call.note(note)
    return exits.OK


def _from_catalog(call: Invocation, query: _Query) -> tuple[tuple[JobPage, int], list[str]]:
    """Return a page, the number of jobs in other workspaces, and what to say about jobs and deliveries that wait."""
    from supervisor.admission import launch_helper, launchers  # a page of ended jobs needs none of it
    from supervisor.jobs import queue_text

    where = query["workspace"]
    notes: list[str] = []
    with call.catalog() as catalog:
        page = catalog.list(**query)
        elsewhere = 0 if where is None else catalog.count_elsewhere(where)
        unattended = launchers.unattended(catalog.index)
        unfired = launchers.unfired(catalog.index)
        started = unattended + unfired > 0 and launch_helper.ensure(catalog.index)
        dead = text.dead_deliveries(catalog.layout.root)
    words = "supervisor launch-waiting"
    what = f"this command has started `{words}`" if started else f"run `{words}`"
    if unattended:
        notes.append(f"{queue_text.unattended(unattended)}: {what}.")
    if unfired:
        notes.append(f"{queue_text.unfired(unfired)}: {what}.")
    if dead:
        notes.append(f"{dead}: see `supervisor deliveries --dead`.")
    return (page, elsewhere), notes


def _created_since(page: JobPage, since: datetime) -> JobPage:
    """Return the jobs of a page that are new enough; there are no more once the last one, the oldest, is not."""
    there_are_more = bool(page.jobs) and page.jobs[-1].created_at >= since
    return JobPage(
        jobs=tuple(job for job in page.jobs if job.created_at >= since),
        next_cursor=page.next_cursor if there_are_more else None,
    )


def _show(jobs: Sequence[Job], asked: Sequence[str] | None, colours: str, *, with_workspace: bool) -> None:
    """Write what fits a terminal, with shortened ids and the reasons of states; for a pipe, everything."""
    on_terminal = sys.stdout.isatty()
    names = asked or job_columns.usual(jobs, on_terminal=on_terminal, with_workspace=with_workspace)
    columns = [COLUMNS[name].column for name in names]
    if asked:  # all of them, however narrow the terminal is
        columns = [attrs.evolve(column, spare=0) for column in columns]
    length = job_columns.shortest_length(jobs) if on_terminal else None
    rows = [job_columns.cells(job, names, id_length=length) for job in jobs]
    lines = table.fitted(columns, rows, terminal.asked_width(sys.stdout) if on_terminal else sys.maxsize)
    in_colour = terminal.in_colour(sys.stdout) if colours == "auto" else colours == "always"
    with streams.writing():
        click.echo("\n".join(lines), color=in_colour)
