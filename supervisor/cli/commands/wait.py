"""``wait``: until jobs have ended."""

from __future__ import annotations

from collections.abc import Sequence

import click

from supervisor.cli import exits, text
from supervisor.cli.arguments import finite, jobs_argument, seconds
from supervisor.cli.front import Invocation, command
from supervisor.cli.several import answer, resolve
from supervisor.errors import JobRunning, SupervisorError

__all__ = ["wait"]


@command("wait", short_help="Wait until jobs have ended.")
@jobs_argument(required=True)
@click.option("--any", "any_one", is_flag=True, help="Wait until one of them has ended, not all.")
@click.option("--timeout", type=seconds, metavar="SECONDS", help="Wait no longer than this; the jobs go on.")
def wait(call: Invocation, jobs: Sequence[str], *, any_one: bool, timeout: float | None) -> int:
    """Wait until every JOB has ended.

    The exit status is 0 when all are done, 1 when one ended badly, 75 when the time is over; with
    --any it is that of the jobs that have ended. With --json one JOB gives its JSON, and several
    a list as `supervisor list` has it.
    """
    with call.catalog() as catalog:
        ids, errors = resolve(catalog, jobs)
        found = catalog.wait(ids, any_one=any_one, timeout=finite(timeout))
    ended = [job for job in found if job.status.terminal]
    counted = ended if any_one and ended else found
    late: SupervisorError | None = None
    if any(not job.status.terminal for job in counted):
        running = len(found) - len(ended)
        late = JobRunning(
            f"job {found[0].job_id} is still {found[0].status.value}"
            if len(found) == 1
            else f"{running} of {text.plural(len(found), 'job')} have not ended",
            retry_after_ms=next(job.poll_after_ms for job in found if not job.status.terminal),
        )
    answer(call, jobs, found, errors if late is None else [*errors, late])
    return exits.worst([*map(exits.of_job, counted), *map(exits.of_error, errors)])
