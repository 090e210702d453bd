"""``status``: the state of one job."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from supervisor.cli import exits
from supervisor.cli.arguments import job_argument
from supervisor.cli.front import Invocation, command
from supervisor.cli.job_text import describe
from supervisor.jobs.reading import Reading
from supervisor.model.job import Job
from supervisor.model.job_json import job_to_json

if TYPE_CHECKING:
    from supervisor.jobs.catalog import Catalog

__all__ = ["status"]


@command("status")
@job_argument
def status(call: Invocation, job: str) -> int:
    """Show the current state of JOB.

    JOB is a job's id, or the first characters of it (at least four). The exit status is 0 whether or not
    the job succeeded; `wait` and `result` have exit statuses that depend on it.
    """
    late = None
    if (found := Reading(call.settings).status(job)) is None:
        with call.catalog() as catalog:
            found = catalog.status(catalog.resolve_prefix(job))
            late = _late_launch(catalog, found) if found.queue_reason else None
    call.answer(lambda: job_to_json(found), *describe(found, late, _bold))
    return exits.OK


def _late_launch(catalog: Catalog, job: Job) -> float | None:
    from supervisor.admission import launchers  # needed only for jobs that wait

    return launchers.late_launch(catalog.index, catalog.row(job.job_id))


def _bold(words: str, colour: str) -> str:
    return click.style(words, fg=colour, bold=True)
