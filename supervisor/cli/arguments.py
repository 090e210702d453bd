"""Arguments and options that several commands share, and their parsers."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

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
    "exclude",
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
_T = TypeVar("_T")


def _parser(parse: Callable[[str], _T], what: str, accepts: str) -> Callable[[str], _T]:
    """Return the parser of an option, which refuses what ``parse`` refuses by a ``ValueError``."""

    def parse_option(text: str) -> _T:
        try:
            return parse(text)
        except ValueError:
            message = f"{text!r:.80} is not a {what}: give {accepts}."
            raise click.BadParameter(message) from None

    return parse_option


seconds: Final = _parser(parse_seconds, "duration", f"{durations.ACCEPTS}, or 'none'")
finite: Final = _parser(finite_seconds, "duration", durations.ACCEPTS)
size: Final = _parser(parse_size, "size", sizes.ACCEPTS)


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


def exclude(options: Mapping[str, bool]) -> None:
    """Raise ``click.UsageError`` if more than one of these options is given."""
    if sum(options.values()) > 1:
        *others, last = options
        message = f"{', '.join(others)} and {last} exclude each other."
        raise click.UsageError(message)


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
    exclude({"--all": everywhere, "--workspace": workspace is not None})
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
