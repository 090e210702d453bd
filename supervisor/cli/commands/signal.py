"""``signal``: send a signal to the process of a running job."""

from __future__ import annotations

import click

from supervisor.cli import completing
from supervisor.cli.arguments import one_job
from supervisor.cli.front import Invocation, command
from supervisor.cli.several import change
from supervisor.jobs import signalling

__all__ = ["signal_job"]


@command("signal")
@one_job(completing.running_jobs)
@click.argument("signal", metavar="SIGNAL")
def signal_job(call: Invocation, job: str, signal: str) -> int:
    """Send SIGNAL to the process of JOB: the command itself, not its children.

    SIGNAL is a name, with or without SIG, or a number: INT, SIGUSR1, 10. A paused job gets it when it is resumed. STOP
    is refused, see `supervisor pause`. To end all processes of a job, use `supervisor cancel`.
    """
    return change(call, [job], lambda catalog, job_id: signalling.signal_job(catalog, job_id, signal))
