"""Arguments and options that several commands share, and their parsers."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import click

from supervisor.cli import completing
from supervisor.store.tickets import CONDITIONS
from supervisor.text import durations, sizes
from supervisor.text.durations import finite_seconds, parse_seconds
from supervisor.text.sizes import parse_size

__all__ = [
    "dependency",
    "detach_key",
    "detach_option",
    "finite",
    "job_argument",
    "jobs_argument",
    "label_option",
    "moment",
    "one_job",
    "seconds",
    "since",
    "size",
    "workspace_option",
    "workspace_scope",
]

_F = TypeVar("_F", bound=Callable[..., Any])


def seconds(text: str) -> float:
    """Parse an option's duration: seconds, at least 0, or ``2d``, ``1h30m``, ``90s``; ``none`` is infinity."""
    try:
        return parse_seconds(text)
    except ValueError:
        message = f"{text!r:.80} is not a duration: give {durations.ACCEPTS}, or 'none'."
        raise click.BadParameter(message) from None


def finite(text: str) -> float:
    """Parse an option's duration that cannot be ``none``."""
    try:
        return finite_seconds(text)
    except ValueError:
        message = f"{text!r:.80} is not a duration: give {durations.ACCEPTS}."
        raise click.BadParameter(message) from None


def detach_key(text: str) -> int | None:
    """Parse the key that detaches: ``ctrl-]``, ``^]``, or ``none``."""
    name = text.strip().lower()
    key = name.removeprefix("ctrl-").removeprefix("^")
    if name == "none":
        return None
    if key == name or len(key) != 1 or not ("a" <= key <= "z" or key in "@[\\]^_"):
        message = f"{text!r:.40} is not a key: give ctrl- and a letter or one of @ [ \\ ] ^ _, or none."
        raise click.BadParameter(message)
    return ord(key.upper()) ^ 0x40


def size(text: str) -> int:
    """Parse an option's size: bytes, or ``64k``, ``200M``, ``1.5G``, ``1GiB``."""
    try:
        return parse_size(text)
    except ValueError:
        message = f"{text!r:.80} is not a size: give {sizes.ACCEPTS}."
        raise click.BadParameter(message) from None


def moment(text: str) -> datetime:
    """Parse an option's time, ISO 8601; one without a zone is local."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        message = f"{text!r:.80} is not a time: give one such as 2030-01-31T18:00 or 2030-01-31T18:00+02:00."
        raise click.BadParameter(message) from None


def since(text: str) -> datetime:
    """Parse a moment, or a duration before now."""
    with contextlib.suppress(click.BadParameter, OverflowError):
        return datetime.now(UTC) - timedelta(seconds=seconds(text))
    try:
        return moment(text)
    except click.BadParameter:
        message = f"{text!r:.80} is neither a duration, such as 90s or 2h30m, nor a time, such as 2030-01-31T18:00."
        raise click.BadParameter(message) from None


def dependency(text: str) -> tuple[str, str]:
    """Parse ``[WHEN:]JOB``; return when it holds, and the id of the job or its beginning."""
    when, _, job = text.rpartition(":")
    if (when or CONDITIONS[0]) not in CONDITIONS or not job:
        message = f"{text!r:.80} is not [WHEN:]JOB, where WHEN is one of {', '.join(CONDITIONS)}."
        raise click.BadParameter(message)
    return when or CONDITIONS[0], job


def job_argument(function: _F) -> _F:
    """Add the argument ``JOB``, passed as ``job``."""
    return one_job(completing.any_job)(function)


def one_job(fits: completing.Completion) -> Callable[[_F], _F]:
    """Return a decorator that adds the argument ``JOB``, passed as ``job``; ``fits`` completes it."""
    return click.argument("job", metavar="JOB", shell_complete=fits)


def jobs_argument(*, required: bool, fits: completing.Completion = completing.any_job) -> Callable[[_F], _F]:
    """Return a decorator that adds the arguments ``JOB...``, passed as ``jobs``; ``fits`` completes them."""
    return click.argument("jobs", metavar="JOB...", nargs=-1, required=required, shell_complete=fits)


def _parse_labels(_: click.Context, __: click.Parameter, given: Iterable[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not name or not equals:
            message = f"{text!r} is not a label: give it as NAME=VALUE."
            raise click.BadParameter(message)
        found[name] = value
    return found


def label_option(help_: str) -> Callable[[_F], _F]:
    """Return a decorator that adds ``--label K=V``, repeatable, passed as the mapping ``labels``."""
    return click.option("--label", "labels", metavar="K=V", multiple=True, callback=_parse_labels, help=help_)


def workspace_option(help_: str) -> Callable[[_F], _F]:
    """Return a decorator that adds ``--workspace DIR``."""
    return click.option("--workspace", metavar="DIR", type=click.Path(file_okay=False, readable=False), help=help_)


def workspace_scope(workspace: str | None, *, everywhere: bool) -> str | None:
    """Return the directory that ``--workspace`` and ``--all`` select; ``None`` selects all.

    Raises:
        click.UsageError: both are given.
    """
    if everywhere and workspace is not None:
        message = "--all and --workspace exclude each other."
        raise click.UsageError(message)
    return None if everywhere else workspace or os.curdir


def detach_option(function: _F) -> _F:
    """Add the option of the key that detaches."""
    help_ = "The key that detaches, as ctrl-q, or 'none'. Default: ctrl-]."
    return click.option(
        "--detach-key",
        metavar="KEY",
        default="ctrl-]",
        envvar="SUPERVISOR_DETACH_KEY",
        type=detach_key,
        help=help_,
    )(function)
