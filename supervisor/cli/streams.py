"""Writing to stdout and stderr, whose disk may be full or whose reader may have closed them.

A command writes its answer to stdout, where a failure is an error. It writes notes to stderr, where a failure is
ignored: the exit status remains.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Generator
from typing import IO, Any

from supervisor.errors import InternalError

__all__ = ["StdoutFailed", "discard", "finish", "write_all", "write_bytes", "write_stderr", "writing"]


class StdoutFailed(InternalError):
    """Writing to stdout failed, for another reason than that its reader has closed it."""

    default_repair = "Redirect stdout to a writable file or pipe."


@contextlib.contextmanager
def writing() -> Generator[None]:
    """Report errors of the block, which only writes to stdout.

    Raises:
        BrokenPipeError: the reader of stdout has closed it.
        StdoutFailed: stdout cannot be written.
    """
    try:
        yield
    except BrokenPipeError:
        discard(sys.stdout)
        raise
    except OSError as error:
        discard(sys.stdout)
        message = f"stdout cannot be written: {error.strerror}"
        raise StdoutFailed(message) from error


def write_bytes(data: bytes) -> None:
    """Write bytes to stdout at once, after its buffered text."""
    with writing():
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of ``data``, also to a descriptor that another process has made non-blocking."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            import select  # few descriptors are

            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            poll.poll()


def write_stderr(text: str, *, has_style: bool = True) -> None:
    """Write a line to stderr; ignore errors. ``has_style``: colours are removed unless stderr is a terminal."""
    try:
        if has_style:
            import click  # `plain` answers without it

            click.echo(text, err=True)
        else:
            print(text, file=sys.stderr, flush=True)  # noqa: T201  # that is what this function is for
    except (OSError, ValueError):
        discard(sys.stderr)


def discard(stream: IO[Any]) -> None:
    """Redirect a stream to ``/dev/null``, its buffer included: the interpreter fails at its end if a flush fails."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def finish() -> None:
    """Flush both streams; an error at this point has been reported before."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            discard(stream)
