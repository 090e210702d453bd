"""``result``: what a finished job gave."""

from __future__ import annotations

import base64
import json
import sys

import click

from supervisor.cli import exits, streams
from supervisor.cli.arguments import job_argument
from supervisor.cli.front import Invocation, command, write_document
from supervisor.errors import JobRunning
from supervisor.model import Result, to_json

__all__ = ["result", "show_result"]


@command("result", short_help="Print what a finished job gave.")
@job_argument
@click.option("--consume", is_flag=True, help="Forget the job in the same breath: only one caller ever gets it.")
@click.option(
    "--detail",
    metavar="LEVEL",
    help="How much of an agent's answer: 'summary' is short and says what was cut, 'full' is all of it. "
    "Default: all that a person would read.",
)
def result(call: Invocation, job: str, *, consume: bool, detail: str | None) -> int:
    """Print what JOB gave: for kind raw the bytes of its stdout, for others the value as JSON.

    The exit status is 0 for a job that is done, 1 for one that ended badly (the reason goes to
    stderr), 75 while it runs.
    """
    with call.catalog() as catalog:
        job_id = catalog.resolve_prefix(job)
        try:
            found = catalog.result(job_id, consume=consume, detail=detail)
        except JobRunning as error:
            return call.fail(error, catalog.status(job_id))
    if call.as_json:
        write_document(to_json(found))
    else:
        show_result(call, found)
    return exits.of_job(found.job)


def show_result(call: Invocation, found: Result) -> None:
    """Print a result for people and pipes: the value to stdout, or what went wrong to stderr."""
    if found.error is not None:
        call.note(f"supervisor: job {found.job_id}: {found.error.message}")
        if found.job.detail:
            call.note(f"  {found.job.detail}")
        call.note(f"  {found.error.repair}")
    elif found.kind == "raw" and isinstance(found.value, str):
        data = base64.b64decode(found.value) if found.encoding == "base64" else found.value.encode()
        with streams.writing():
            sys.stdout.flush()
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
    else:
        call.tell(json.dumps(found.value, indent=2))
