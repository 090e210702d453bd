"""``send``: a message from stdin to the stdin, or the terminal, of a running job."""

from __future__ import annotations

import sys

import click

from supervisor.cli import completing, exits, inherited
from supervisor.cli.arguments import one_job
from supervisor.cli.front import Invocation, command
from supervisor.jobs.inputs import MAX_MESSAGE, check_message
from supervisor.jobs.inputs import send as send_message

__all__ = ["send"]


@command("send")
@one_job(completing.running_jobs)
@click.option("--eof", is_flag=True, help="Close its stdin after that; on a terminal, type Ctrl-D.")
def send(call: Invocation, job: str, *, eof: bool) -> int:
    """Send what this command reads from stdin, at most 64 KiB, to a running JOB.

    The job must have been started with --stdin-open or --pty. It gets the message whole and once, or not at
    all. If the job does not read, or waits to be launched, the message is refused, and the exit status is 75: try
    again later.
    """
    closed = inherited.is_closed(0)
    data = b"" if closed else sys.stdin.buffer.read(MAX_MESSAGE + 1)
    check_message(data, eof=eof)
    with call.catalog() as catalog:
        job_id = catalog.resolve_prefix(job)
        send_message(catalog, job_id, data, eof=eof)
    if call.as_json:
        call.answer(lambda: {"ok": True, "job_id": job_id, "sent_bytes": len(data), "eof": eof})
    return exits.OK
