"""Writing to stdout and stderr, which may be full, or have lost their reader.

The answer of a command stands on stdout: what cannot be written there is an error. What is said on stderr is said
beside the answer: where that is not possible, the exit status alone tells.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Generator
from typing import IO, Any

import click

from supervisor.errors import InternalError

__all__ = ["StdoutFailed", "drop", "finish", "say", "writing"]


class StdoutFailed(InternalError):
    """Stdout cannot be written, for a reason other than that its reader has gone."""

    default_repair = "Redirect stdout to where it can be written."


@contextlib.contextmanager
def writing() -> Generator[None]:
    """Guard writes to stdout, and nothing else.

    Raises:
        BrokenPipeError: its reader has gone.
        StdoutFailed: it cannot be written.
    """
    try:
        yield
    except BrokenPipeError:
        drop(sys.stdout)
        raise
    except OSError as error:
        drop(sys.stdout)
        message = f"stdout cannot be written: {error.strerror}"
        raise StdoutFailed(message) from error


def say(text: str) -> None:
    """Write a line to stderr if that can be written."""
    try:
        click.echo(text, err=True)
    except (OSError, ValueError):
        drop(sys.stderr)


def drop(stream: IO[Any]) -> None:
    """Send what a stream still holds, and what follows, nowhere: else the interpreter fails on it at its end."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def finish() -> None:
    """Write what the streams still hold; an error at this point has been reported before."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            drop(stream)
