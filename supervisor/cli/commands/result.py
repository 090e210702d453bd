"""``result``: the result of a finished job."""

from __future__ import annotations

import base64
import json

import click

from supervisor.cli import completing, exits, streams, text
from supervisor.cli.arguments import one_job
from supervisor.cli.front import Invocation, command, write_document
from supervisor.errors import JobRunning
from supervisor.model import Result, to_json

__all__ = ["result"]


@command("result")
@one_job(completing.ended_jobs)
@click.option("--consume", is_flag=True, help="Also delete the job. Of concurrent calls, only one gets the result.")
@click.option(
    "--detail",
    metavar="LEVEL",
    help="How much of an agent's answer to print: 'summary' is short and names what was cut, 'full' is all of it. "
    "By default, everything that a person would read.",
)
def result(call: Invocation, job: str, *, consume: bool, detail: str | None) -> int:
    """Print the result of JOB: the bytes of its stdout for kind raw, the value as JSON for other kinds.

    The exit status is 0 if the job is done, 1 if it failed or was stopped (the reason goes to stderr), and
    75 while it is unfinished.
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
        _show(call, found)
    return exits.of_job(found.job)


def _show(call: Invocation, found: Result) -> None:
    if (line := text.changed(found)) is not None:
        call.note(f"supervisor: {line}")
    if found.error is not None:
        call.note(f"supervisor: job {found.job_id}: {found.error.message}")
        if found.job.detail:
            call.note(f"  {found.job.detail}")
        call.note(f"  {found.error.repair}")
    elif found.kind == "raw" and isinstance(found.value, str):
        streams.write_bytes(base64.b64decode(found.value) if found.encoding == "base64" else found.value.encode())
    else:
        call.print(json.dumps(found.value, indent=2))
