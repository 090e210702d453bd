"""``logs``: the bytes that a job wrote, unchanged, so far or as they come."""

from __future__ import annotations

import base64
import contextlib
import sys
from collections.abc import Iterator

import click

from supervisor.cli import exits, streams
from supervisor.cli.arguments import job_argument
from supervisor.cli.front import Invocation, command, write_document
from supervisor.engines.local import stopping
from supervisor.errors import JobNotFound
from supervisor.jobdir.output import Output
from supervisor.jobs.catalog import Catalog
from supervisor.system.inotify import MODIFIED

__all__ = ["logs"]


@command("logs", short_help="Print what a job wrote, so far or as it writes it.")
@job_argument
@click.option("--follow", "-f", is_flag=True, help="Go on as it writes more, until it has ended.")
@click.option("--stderr", "of_stderr", is_flag=True, help="What it wrote to stderr, instead of stdout.")
def logs(call: Invocation, job: str, *, follow: bool, of_stderr: bool) -> int:
    """Print what JOB wrote to its stdout, byte by byte as it is.

    With --json the text stands in "value"; if it is not UTF-8, as base64, and "encoding" says so.
    """
    stream = "stderr" if of_stderr else "stdout"
    with call.catalog() as catalog:
        job_id = catalog.resolve_prefix(job)
        row = catalog.row(job_id)
        path = catalog.directory(row)
        if follow:
            chunks = _follow(catalog, job_id, path, stream)
        else:
            chunks = _read(Output(path, stream, end=_end_of(catalog, job_id, stream)[1]))
        if not call.as_json:
            sys.stdout.flush()
            for chunk in chunks:
                with streams.writing():
                    sys.stdout.buffer.write(chunk)
                    sys.stdout.buffer.flush()
            return exits.OK
        data = b"".join(chunks)
    shape: dict[str, object] = {"ok": True, "job_id": job_id, "stream": stream}
    try:
        shape["value"] = data.decode()
    except UnicodeDecodeError:
        shape |= {"value": base64.b64encode(data).decode("ascii"), "encoding": "base64"}
    write_document(shape)
    return exits.OK


def _read(output: Output) -> Iterator[bytes]:
    with contextlib.closing(output):
        while chunk := output.read():
            yield chunk


def _follow(catalog: Catalog, job_id: str, directory: str, stream: str) -> Iterator[bytes]:
    """Yield what is there, then what comes, until the job has ended and all of it was read."""
    output = Output(directory, stream)
    restarts = 0
    with contextlib.closing(output), stopping.Change([directory], MODIFIED) as change:
        while True:
            # Asked before the rest is read: what belongs to it is there by then.
            ended, output.end = _end_of(catalog, job_id, stream)
            while chunk := output.read():
                if output.restarts > restarts:
                    restarts = output.restarts
                    click.echo(f"supervisor: the job has truncated its {stream}; from the beginning again", err=True)
                yield chunk
            if ended:
                return
            change.wait(None)


def _end_of(catalog: Catalog, job_id: str, stream: str) -> tuple[bool, int | None]:
    """Return whether a job has ended, and how many bytes of a stream belong to it then."""
    try:
        job = catalog.status(job_id, progress=False)
    except JobNotFound:  # it ended, and somebody has forgotten it meanwhile
        return True, None
    return job.status.terminal, getattr(job, f"{stream}_bytes") if job.status.terminal else None
