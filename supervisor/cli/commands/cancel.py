"""``cancel``: stop jobs, and everything that they started."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import click

from supervisor.cli import exits
from supervisor.cli.arguments import jobs_argument, label_option
from supervisor.cli.front import DEFAULTS, Invocation, command
from supervisor.cli.several import answer, resolve
from supervisor.errors import SupervisorError
from supervisor.jobs.catalog import Catalog
from supervisor.model import Job
from supervisor.states import State

__all__ = ["cancel"]


@command("cancel", short_help="Stop jobs, and everything that they started.", epilog=DEFAULTS)
@jobs_argument(required=False)
@click.option("--all", "everything", is_flag=True, help="Cancel every job that has not ended, of all workspaces.")
@label_option("Cancel the jobs with this label that have not ended, of all workspaces; repeat it for all of several.")
def cancel(call: Invocation, jobs: Sequence[str], *, everything: bool, labels: Mapping[str, str]) -> int:
    """Stop every JOB and wait until nothing of it is left; one that has ended stays as it is.

    Each gets SIGTERM and, if that does not end it, SIGKILL after its grace: its process group,
    its session, its descendants and everything that carries its mark. Several are stopped side by
    side. With --json one JOB gives its JSON, and several a list as `supervisor list` has it.
    """
    if sum(map(bool, (jobs, everything, labels))) != 1:
        message = "Say which jobs: by their ids, with --all, or with --label."
        raise click.UsageError(message)
    with call.catalog() as catalog:
        if jobs:
            ids, errors = resolve(catalog, jobs)
        else:
            ids, errors = _unfinished(catalog, labels), []
        ends = catalog.cancel_all(ids)
    found = [end for end in ends if isinstance(end, Job)]
    errors += [end for end in ends if isinstance(end, SupervisorError)]
    answer(call, jobs, found, errors)
    if not ends and not errors:
        call.note("There is nothing to cancel.")
    return exits.worst(map(exits.of_error, errors))


def _unfinished(catalog: Catalog, labels: Mapping[str, str]) -> list[str]:
    ids: list[str] = []
    for state in (State.RUNNING, State.QUEUED):  # in this order: what is launched between the two is seen twice
        cursor: str | None = None
        while True:
            page = catalog.list(state=state.value, labels=labels, limit=1000, cursor=cursor)
            ids += [job.job_id for job in page.jobs]
            cursor = page.next_cursor
            if cursor is None:
                break
    return list(dict.fromkeys(ids))
