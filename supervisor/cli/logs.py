"""``logs``: the bytes that a job wrote, unchanged, so far or as they come."""

from __future__ import annotations

import base64
import os
import stat
import sys
from collections.abc import Iterator
from typing import Final

import click

from supervisor.catalog import Catalog
from supervisor.cli import exits, streams
from supervisor.cli.arguments import job_argument
from supervisor.cli.front import Invocation, command, write_document
from supervisor.engines import records, stopping
from supervisor.engines.inotify import MODIFIED
from supervisor.errors import JobNotFound

__all__ = ["logs"]

_CHUNK: Final = 1 << 16


@command("logs", short_help="Print what a job wrote, so far or as it writes it.")
@job_argument
@click.option("--follow", "-f", is_flag=True, help="Go on as it writes more, until it has ended.")
@click.option("--stderr", "of_stderr", is_flag=True, help="What it wrote to stderr, instead of stdout.")
def logs(call: Invocation, job: str, *, follow: bool, of_stderr: bool) -> int:
    """Print what JOB wrote to its stdout, byte by byte as it is.

    With --json the text stands in "value"; if it is not UTF-8, as base64, and "encoding" says so.
    """
    stream = records.STDERR if of_stderr else records.STDOUT
    with call.catalog() as catalog:
        job_id = catalog.resolve_prefix(job)
        row = catalog.row(job_id)
        path = catalog.directory(row)
        chunks = _follow(catalog, job_id, path, stream) if follow else _read(_Output(path, stream))
        if not call.as_json:
            sys.stdout.flush()
            for chunk in chunks:
                with streams.writing():
                    sys.stdout.buffer.write(chunk)
                    sys.stdout.buffer.flush()
            return exits.OK
        data = b"".join(chunks)
    shape: dict[str, object] = {"ok": True, "job_id": job_id, "stream": "stderr" if of_stderr else "stdout"}
    try:
        shape["value"] = data.decode()
    except UnicodeDecodeError:
        shape |= {"value": base64.b64encode(data).decode("ascii"), "encoding": "base64"}
    write_document(shape)
    return exits.OK


class _Output:
    """A stream of a job as a file that may not be there yet. Symbolic links are not followed."""

    def __init__(self, directory: str, name: str) -> None:
        self._path = f"{directory}/{name}"
        self._descriptor: int | None = None

    def read(self) -> bytes:
        """Return some of what was not read before; nothing when there is nothing now."""
        if self._descriptor is None:
            try:
                descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            except (FileNotFoundError, NotADirectoryError):
                return b""
            self._descriptor = descriptor
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return b""
        return os.read(self._descriptor, _CHUNK)

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _read(output: _Output) -> Iterator[bytes]:
    try:
        while chunk := output.read():
            yield chunk
    finally:
        output.close()


def _follow(catalog: Catalog, job_id: str, directory: str, stream: str) -> Iterator[bytes]:
    """Yield what is there, then what comes, until the job has ended and all of it was read."""
    output = _Output(directory, stream)
    try:
        with stopping.Change([directory], MODIFIED) as change:
            while True:
                # Asked before the rest is read: what is read after its end is all there is.
                ended = _has_ended(catalog, job_id)
                while chunk := output.read():
                    yield chunk
                if ended:
                    return
                change.wait(None)
    finally:
        output.close()


def _has_ended(catalog: Catalog, job_id: str) -> bool:
    try:
        return catalog.status(job_id, progress=False).status.terminal
    except JobNotFound:  # it ended, and somebody has forgotten it meanwhile
        return True
