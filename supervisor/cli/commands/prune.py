"""``prune``: forget finished jobs that have expired or are too many."""

from __future__ import annotations

import os

import click

from supervisor.cli import exits, text
from supervisor.cli.arguments import workspace_option
from supervisor.cli.front import DEFAULTS, Invocation, command

__all__ = ["prune"]


@command("prune", short_help="Forget finished jobs that have expired or are too many.", epilog=DEFAULTS)
@workspace_option("Look at the jobs of this directory, instead of the current one.")
@click.option("--all", "everywhere", is_flag=True, help="Look at the jobs of all directories.")
def prune(call: Invocation, *, workspace: str | None, everywhere: bool) -> int:
    """Forget finished jobs that are older than their time to live or beyond the number that is kept.

    Those that somebody has fetched go first, then the oldest; a job that has not ended never goes.
    SUPERVISOR_JOB_MAX_COUNT=0 forgets all that have ended.
    """
    if everywhere and workspace is not None:
        message = "--all and --workspace exclude each other."
        raise click.UsageError(message)
    with call.catalog() as catalog:
        forgotten = catalog.prune(None if everywhere else workspace or os.curdir)
    call.answer(lambda: {"ok": True, "forgotten": forgotten}, f"Forgot {text.plural(len(forgotten), 'job')}.")
    return exits.OK
