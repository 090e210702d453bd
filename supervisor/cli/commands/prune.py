"""``prune``: delete finished jobs that have expired or exceed the limit."""

from __future__ import annotations

import click

from supervisor.cli import exits, text
from supervisor.cli.arguments import workspace_option, workspace_scope
from supervisor.cli.front import DEFAULTS, Invocation, command

__all__ = ["prune"]


@command("prune", epilog=DEFAULTS)
@workspace_option("Prune the jobs of this directory instead of the current one.")
@click.option("--all", "everywhere", is_flag=True, help="Prune the jobs of all directories.")
def prune(call: Invocation, *, workspace: str | None, everywhere: bool) -> int:
    """Delete finished jobs that have passed their time to live, or exceed the number that is kept.

    Jobs whose result was fetched go first, then the oldest. Unfinished jobs are never deleted.
    SUPERVISOR_JOB_MAX_COUNT=0 deletes every finished job.
    """
    scope = workspace_scope(workspace, everywhere=everywhere)
    with call.catalog() as catalog:
        forgotten = catalog.prune(scope)
    call.answer(lambda: {"ok": True, "forgotten": forgotten}, f"Forgot {text.plural(len(forgotten), 'job')}.")
    return exits.OK
