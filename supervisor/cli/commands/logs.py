"""``logs``: the output of a job as bytes, unchanged; with ``--follow`` until the job ends."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator, Sequence
from typing import Final

import click

from supervisor.cli import exits, streams
from supervisor.cli.arguments import exclude, job_argument
from supervisor.cli.front import Invocation, command, write_document
from supervisor.engines.waiting import Change
from supervisor.errors import JobNotFound
from supervisor.jobdir.output import CHUNK_BYTES, STREAMS, Output
from supervisor.jobs.catalog import Catalog
from supervisor.store import Row
from supervisor.system.inotify import MODIFIED

__all__ = ["logs"]

_MAX_HELD_BYTES: Final = 65536
"""Bytes of an unfinished line that are held back with ``--all --follow``."""


@command("logs")
@job_argument
@click.option("--follow", "-f", is_flag=True, help="Print new output until the job has ended.")
@click.option("--stderr", "of_stderr", is_flag=True, help="Print its stderr instead of its stdout.")
@click.option(
    "--all", "of_both", is_flag=True, help="Print both streams, each line with the name of its stream before it."
)
@click.option(
    "--lines",
    "-n",
    type=click.IntRange(0),
    metavar="N",
    help="Print the last N lines, and with --follow what comes then.",
)
def logs(call: Invocation, job: str, *, follow: bool, of_stderr: bool, of_both: bool, lines: int | None) -> int:
    """Print the stdout of JOB as bytes, unchanged.

    With --all, stdout comes first: in which order the streams were written is not on record. With --follow, whole lines
    of both come as they are written. A job that was started with --merge-stderr has both in its stdout, in order.

    With --json, "value" contains the output as text. Output that is not UTF-8 is encoded as base64, and
    "encoding" is then "base64". Output past the output limit of the job is not printed. With --all, "stdout" and
    "stderr" contain these. "merge_stderr" is true for a job with both streams in one.
    """
    exclude({"--all": of_both, "--stderr": of_stderr})
    names = list(STREAMS) if of_both else ["stderr" if of_stderr else "stdout"]
    with call.catalog() as catalog:
        job_id = catalog.resolve_prefix(job)
        row = catalog.row(job_id)
        merged = {"merge_stderr": True} if row.request.get("merge_stderr") else {}
        if merged and names != ["stdout"]:
            call.note("supervisor: the stderr of this job is in its stdout (--merge-stderr)")
        with _Reader(catalog, row, names, lines) as reader:
            chunks = reader.follow() if follow else reader.read()
            if call.as_json:
                write_document({"ok": True, "job_id": job_id, **merged, **_shape(reader, chunks, names)})
                return exits.OK
            labelled = _Labelled()
            for name, chunk in chunks:
                if of_both:
                    labelled.write(name, chunk)
                else:
                    streams.write_bytes(chunk)
            labelled.finish()
            for name in reader.cut():
                call.note(f"supervisor: {name} goes on past its limit of {row.output_limit} bytes; that is not shown")
    return exits.OK


def _shape(reader: _Reader, chunks: Iterator[tuple[str, bytes]], names: Sequence[str]) -> dict[str, object]:
    found: dict[str, list[bytes]] = {name: [] for name in names}
    for name, chunk in chunks:
        found[name].append(chunk)
    shapes = {name: _value(b"".join(found[name])) for name in names}
    for name in reader.cut():
        shapes[name]["truncated"] = True
    return {**shapes} if len(names) > 1 else {"stream": names[0], **shapes[names[0]]}


def _value(data: bytes) -> dict[str, object]:
    try:
        return {"value": data.decode()}
    except UnicodeDecodeError:
        return {"value": base64.b64encode(data).decode("ascii"), "encoding": "base64"}


class _Reader(contextlib.ExitStack):
    """Reads streams of a job, from the beginning or its last lines on; yields chunks with the name of their stream."""

    def __init__(self, catalog: Catalog, row: Row, names: Sequence[str], lines: int | None) -> None:
        super().__init__()
        self._catalog = catalog
        self._row = row
        self._lines = lines
        self._directory = catalog.directory(row)
        self._outputs = {name: Output(self._directory, name, limit=row.output_limit) for name in names}
        for output in self._outputs.values():
            output.made = row.has_files
            self.callback(output.close)

    def cut(self) -> list[str]:
        """Return the streams that go on past the output limit."""
        return [name for name, output in self._outputs.items() if output.is_cut]

    def read(self) -> Iterator[tuple[str, bytes]]:
        """Yield the output so far."""
        self._update()
        for name, output in self._outputs.items():
            if self._lines is None:
                while chunk := output.read():
                    yield name, chunk
            else:  # lines that are written meanwhile are not among the last ones
                size = output.seek_last_lines(self._lines)
                while (chunk := output.read(min(size - output.offset, CHUNK_BYTES))) and not output.restarts:
                    yield name, chunk

    def follow(self) -> Iterator[tuple[str, bytes]]:
        """Yield the output so far, then new output, until the job has ended and all of it was read."""
        restarts = dict.fromkeys(self._outputs, 0)
        with Change([self._directory], MODIFIED) as change:
            if self._lines is not None:
                self._update()
                for output in self._outputs.values():
                    output.seek_last_lines(self._lines)
            while True:
                ended = self._update()  # before the rest is read: once it has ended, all of its output is there
                for name, output in self._outputs.items():
                    while chunk := output.read():
                        if output.restarts > restarts[name]:
                            restarts[name] = output.restarts
                            click.echo(
                                f"supervisor: the job has truncated its {name}; reading from its start", err=True
                            )
                        yield name, chunk
                if ended:
                    return
                change.wait(None)

    def _update(self) -> bool:
        """Return whether the job has ended; if so, readers stop at the recorded sizes."""
        try:
            job = self._catalog.status(self._row.job_id, progress=False)
        except JobNotFound:  # it ended, and was deleted since
            return True
        if job.status.terminal:
            for name, output in self._outputs.items():
                output.end = getattr(job, f"{name}_bytes")
        return job.status.terminal


class _Labelled:
    """Writes whole lines of several streams, each with the name of its stream before it."""

    def __init__(self) -> None:
        self._held: dict[str, bytes] = {}
        self._unfinished: str | None = None

    def write(self, name: str, chunk: bytes) -> None:
        """Write the lines that are whole now, and a line that is too long to be held back."""
        data = self._held.pop(name, b"") + chunk
        end = data.rfind(b"\n") + 1
        if len(data) - end > _MAX_HELD_BYTES:
            end = len(data)
        self._held[name] = data[end:]
        if end:
            self._print(name, data[:end])

    def finish(self) -> None:
        """Write the unfinished lines, and finish them."""
        for name, rest in self._held.items():
            if rest:
                self._print(name, rest)
        if self._unfinished is not None:
            streams.write_bytes(b"\n")

    def _print(self, name: str, data: bytes) -> None:
        label = f"{name} | ".encode("ascii")
        begin = b""
        if self._unfinished != name:
            begin = label if self._unfinished is None else b"\n" + label
        whole = data.endswith(b"\n")
        lines = data[:-1] if whole else data
        self._unfinished = None if whole else name
        streams.write_bytes(begin + lines.replace(b"\n", b"\n" + label) + (b"\n" if whole else b""))
