"""``wait``: wait until jobs have ended."""

from __future__ import annotations

import math
from collections.abc import Sequence

import click

from supervisor.cli import exits, text
from supervisor.cli.arguments import jobs_argument, seconds
from supervisor.cli.front import Invocation, command
from supervisor.cli.several import answer, resolve
from supervisor.errors import JobRunning

__all__ = ["wait"]


@command("wait")
@jobs_argument(required=True)
@click.option("--any", "any_one", is_flag=True, help="Wait until one of the jobs has ended instead of all.")
@click.option("--timeout", type=seconds, metavar="DURATION", help="Wait at most this long. The jobs run on.")
def wait(call: Invocation, jobs: Sequence[str], *, any_one: bool, timeout: float | None) -> int:
    """Wait until every JOB has ended.

    The exit status is 0 if all are done, 1 if one failed or was stopped, and 75 if the timeout passed. With
    --any, only the jobs that have ended count. With --json, one JOB gives its JSON, and several give a list,
    as `supervisor list` does.
    """
    timeout = None if timeout is None or math.isinf(timeout) else timeout
    with call.catalog() as catalog:
        ids, errors = resolve(catalog, jobs)
        found = catalog.wait(ids, any_one=any_one, timeout=timeout)
    unfinished = [job for job in found if not job.status.terminal]
    counted = [job for job in found if job.status.terminal] if any_one and len(unfinished) < len(found) else found
    statuses = [*map(exits.of_job, counted), *map(exits.of_error, errors)]
    if unfinished and counted is found:
        message = (
            f"job {found[0].job_id} is still {found[0].status.value}"
            if len(found) == 1
            else f"{len(unfinished)} of {text.plural(len(found), 'job')} have not ended"
        )
        errors.append(JobRunning(message, retry_after_ms=unfinished[0].poll_after_ms))
    answer(call, jobs, found, errors)
    return exits.worst(statuses)
