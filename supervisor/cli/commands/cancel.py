"""``cancel``: stop jobs and all their processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import click

from supervisor.cli import completing, exits
from supervisor.cli.arguments import jobs_argument, label_option
from supervisor.cli.front import DEFAULTS, Invocation, command
from supervisor.cli.several import answer, resolve
from supervisor.errors import SupervisorError
from supervisor.jobs.catalog import Catalog
from supervisor.model import Job
from supervisor.states import State

__all__ = ["cancel"]


@command("cancel", epilog=DEFAULTS)
@jobs_argument(required=False, fits=completing.unfinished_jobs)
@click.option("--all", "everything", is_flag=True, help="Cancel every unfinished job of all workspaces.")
@click.option(
    "--signal",
    metavar="SIGNAL",
    help="Send this signal first, instead of SIGTERM: INT, HUP, ... Not to jobs on clusters.",
)
@label_option("Cancel the unfinished jobs of all workspaces that have this label. Repeat it to require several labels.")
def cancel(
    call: Invocation, jobs: Sequence[str], *, everything: bool, labels: Mapping[str, str], signal: str | None
) -> int:
    """Stop every JOB and wait until none of its processes is left. A finished job stays unchanged.

    Each job gets SIGTERM, and after its grace period SIGKILL. Both signals reach its process group, its
    session, its descendants, and every process that carries the mark of the job. Several jobs are stopped
    concurrently. With --signal, the processes that outlive the command itself get SIGTERM then. With
    --json, one JOB gives its JSON, and several give a list, as `supervisor list` does.
    """
    if sum(map(bool, (jobs, everything, labels))) != 1:
        message = "Select jobs by their ids, with --all, or with --label."
        raise click.UsageError(message)
    with call.catalog() as catalog:
        ids, errors = resolve(catalog, jobs) if jobs else (_unfinished(catalog, labels), [])
        ends = catalog.cancel_all(ids, signal=signal)
    found = [end for end in ends if isinstance(end, Job)]
    errors += [end for end in ends if isinstance(end, SupervisorError)]
    answer(call, jobs, found, errors)
    if not ends and not errors:
        call.note("There is nothing to cancel.")
    return exits.worst(map(exits.of_error, errors))


def _unfinished(catalog: Catalog, labels: Mapping[str, str]) -> list[str]:
    ids: dict[str, None] = {}
    for state in (State.QUEUED, State.RUNNING):  # in this order a job that is launched in between is found twice
        cursor: str | None = None
        while True:
            page = catalog.list(state=state.value, labels=labels, limit=1000, cursor=cursor)
            ids |= dict.fromkeys(job.job_id for job in page.jobs)
            cursor = page.next_cursor
            if cursor is None:
                break
    return list(ids)
