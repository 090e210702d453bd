"""``hold``, ``release`` and ``move``: change what waiting jobs wait for, and their order."""

from __future__ import annotations

from collections.abc import Sequence

import click

from supervisor.cli import completing
from supervisor.cli.arguments import jobs_argument, one_job
from supervisor.cli.front import Invocation, command
from supervisor.cli.several import change
from supervisor.jobs import places

__all__ = ["hold", "move", "release"]


@command("hold")
@jobs_argument(required=True, fits=completing.waiting_jobs)
def hold(call: Invocation, jobs: Sequence[str]) -> int:
    """Keep every JOB from being launched until `supervisor release`. Only jobs that wait can be held."""
    return change(call, jobs, places.hold)


@command("release")
@jobs_argument(required=True, fits=completing.held_jobs)
def release(call: Invocation, jobs: Sequence[str]) -> int:
    """End the hold of every JOB. A job is launched once it has to wait for nothing else."""
    return change(call, jobs, places.release)


@command("move")
@one_job(completing.waiting_jobs)
@click.option("--priority", type=int, metavar="N", help="Order it as if it had been started with this priority.")
@click.option("--first", is_flag=True, help="Put it before all others in the same groups.")
def move(call: Invocation, job: str, *, priority: int | None, first: bool) -> int:
    """Change the order of JOB among the waiting jobs in the same groups."""
    if (priority is None) is not first:
        message = "Give either --priority or --first."
        raise click.UsageError(message)
    return change(call, [job], lambda catalog, job_id: places.move(catalog, job_id, priority=priority, first=first))
