"""``pause`` and ``resume``: stop the processes of jobs for a while."""

from __future__ import annotations

from collections.abc import Sequence

import click

from supervisor.cli import completing
from supervisor.cli.arguments import jobs_argument
from supervisor.cli.front import Invocation, command
from supervisor.cli.several import change
from supervisor.jobs import pausing

__all__ = ["pause", "resume"]


@command("pause")
@jobs_argument(required=True, fits=completing.running_jobs)
@click.option("--hold-deadline", is_flag=True, help="Do not count the time until `supervisor resume` as running time.")
def pause(call: Invocation, jobs: Sequence[str], *, hold_deadline: bool) -> int:
    """Stop all processes of every JOB until `supervisor resume`.

    They keep their memory and their files, and use no processor time. The deadline runs on, unless it is held.
    `supervisor cancel` ends a paused job as any other. A job that waits cannot be paused: see `supervisor hold`.
    """
    return change(call, jobs, lambda catalog, job_id: pausing.pause(catalog, job_id, hold_deadline=hold_deadline))


@command("resume")
@jobs_argument(required=True, fits=completing.running_jobs)
def resume(call: Invocation, jobs: Sequence[str]) -> int:
    """Continue all processes of every JOB that is paused. A job that is not paused stays as it is."""
    return change(call, jobs, pausing.resume)
