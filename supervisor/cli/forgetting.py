"""``rm`` and ``prune``: finished jobs go, by name or by age and number."""

from __future__ import annotations

import os
from collections.abc import Sequence

import click

from supervisor.cli import exits, text
from supervisor.cli.arguments import jobs_argument, workspace_option
from supervisor.cli.front import DEFAULTS, Invocation, command, write_document
from supervisor.errors import SupervisorError
from supervisor.model import error_to_json

__all__ = ["prune", "rm"]


def _badness(error: SupervisorError) -> int:
    return exits.rank(exits.of_error(error))


@command("rm", short_help="Forget finished jobs now.")
@jobs_argument(required=True)
def rm(call: Invocation, jobs: Sequence[str]) -> int:
    """Forget every JOB with its output. One that has not ended is refused (75): cancel it first."""
    forgotten: list[str] = []
    errors: list[SupervisorError] = []
    with call.catalog() as catalog:
        for job in jobs:
            try:
                job_id = catalog.resolve_prefix(job)
                if job_id not in forgotten:
                    catalog.forget(job_id)
                    forgotten.append(job_id)
            except SupervisorError as error:
                errors.append(error)
    if call.as_json:
        failure = {} if not errors else error_to_json(max(errors, key=_badness))
        write_document({"ok": True, **failure, "forgotten": forgotten})
    else:
        call.tell(*forgotten)
        for problem in errors:
            call.fail(problem)
    return exits.worst(map(exits.of_error, errors))


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
