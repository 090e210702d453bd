"""``logs``: the output of a job as bytes, unchanged; with ``--follow`` until the job ends."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator

import click

from supervisor.cli import exits, streams
from supervisor.cli.arguments import job_argument
from supervisor.cli.front import Invocation, command, write_document
from supervisor.engines.waiting import Change
from supervisor.errors import JobNotFound
from supervisor.jobdir.output import Output
from supervisor.jobs.catalog import Catalog
from supervisor.system.inotify import MODIFIED

__all__ = ["logs"]


@command("logs")
@job_argument
@click.option("--follow", "-f", is_flag=True, help="Print new output until the job has ended.")
@click.option("--stderr", "of_stderr", is_flag=True, help="Print its stderr instead of its stdout.")
def logs(call: Invocation, job: str, *, follow: bool, of_stderr: bool) -> int:
    """Print the stdout of JOB as bytes, unchanged.

    With --json, "value" contains the output as text. Output that is not UTF-8 is encoded as base64, and
    "encoding" is then "base64". Output past the output limit of the job is not printed.
    """
    stream = "stderr" if of_stderr else "stdout"
    with call.catalog() as catalog:
        job_id = catalog.resolve_prefix(job)
        row = catalog.row(job_id)
        path = catalog.directory(row)
        output = Output(path, stream, limit=row.output_limit)
        output.made = row.has_files
        if follow:
            chunks = _follow(catalog, job_id, path, stream, output)
        else:
            output.end = _end_of(catalog, job_id, stream)[1]
            chunks = _read(output)
        if not call.as_json:
            for chunk in chunks:
                streams.write_bytes(chunk)
            if output.is_cut:
                call.note(f"supervisor: {stream} goes on past its limit of {row.output_limit} bytes; that is not shown")
            return exits.OK
        data = b"".join(chunks)
    shape: dict[str, object] = {"ok": True, "job_id": job_id, "stream": stream}
    try:
        shape["value"] = data.decode()
    except UnicodeDecodeError:
        shape |= {"value": base64.b64encode(data).decode("ascii"), "encoding": "base64"}
    if output.is_cut:
        shape["truncated"] = True
    write_document(shape)
    return exits.OK


def _read(output: Output) -> Iterator[bytes]:
    with contextlib.closing(output):
        while chunk := output.read():
            yield chunk


def _follow(catalog: Catalog, job_id: str, directory: str, stream: str, output: Output) -> Iterator[bytes]:
    """Yield the output so far, then new output, until the job has ended and all of it was read."""
    restarts = 0
    with contextlib.closing(output), Change([directory], MODIFIED) as change:
        while True:
            # Before the rest is read: once the job has ended, all of its output is in the file.
            ended, output.end = _end_of(catalog, job_id, stream)
            while chunk := output.read():
                if output.restarts > restarts:
                    restarts = output.restarts
                    click.echo(f"supervisor: the job has truncated its {stream}; reading from its start", err=True)
                yield chunk
            if ended:
                return
            change.wait(None)


def _end_of(catalog: Catalog, job_id: str, stream: str) -> tuple[bool, int | None]:
    """Return whether a job has ended, and the final size of a stream if it has."""
    try:
        job = catalog.status(job_id, progress=False)
    except JobNotFound:  # it ended, and was deleted since
        return True, None
    return job.status.terminal, getattr(job, f"{stream}_bytes") if job.status.terminal else None
