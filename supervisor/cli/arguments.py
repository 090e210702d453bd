"""Arguments and options that several commands share, and how their values are read."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from supervisor.cli.front import before_command
from supervisor.settings import Settings, parse_seconds

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

__all__ = ["finite", "job_argument", "jobs_argument", "label_option", "seconds", "workspace_option"]

_F = TypeVar("_F", bound=Callable[..., Any])
_MOST_OFFERED: Final = 100


def seconds(text: str) -> float:
    """Return a number of seconds of at least 0, or infinity for ``none``; a type for options."""
    try:
        return parse_seconds(text)
    except ValueError:
        message = f"{text!r} is not a number of seconds of at least 0, nor 'none'."
        raise click.BadParameter(message) from None


def _complete_jobs(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the jobs whose ids go on from what was typed; never fails, never creates anything."""
    from click.shell_completion import CompletionItem

    try:
        state_dir = ctx.params.get("state_dir") or before_command("state_dir", ctx)
        settings = Settings() if state_dir is None else Settings(state_dir=Path(state_dir))
        if not os.path.isdir(settings.state_dir):
            return []
        from supervisor.cli.text import ago, command_line
        from supervisor.jobs.catalog import Catalog

        with Catalog(settings, wait_seconds=0.2, create=False) as catalog:
            jobs = catalog.list(limit=1000).jobs
    except Exception:  # noqa: BLE001  # a shell in the middle of a line is no place for errors
        return []
    offered = [job for job in jobs if job.job_id.startswith(incomplete)][:_MOST_OFFERED]
    return [
        CompletionItem(job.job_id, help=f"{job.status.value}, {ago(job.created_at)} old: {command_line(job.argv)[:60]}")
        for job in offered
    ]


def job_argument(function: _F) -> _F:
    """Add the argument ``JOB``, passed as ``job``."""
    return click.argument("job", metavar="JOB", shell_complete=_complete_jobs)(function)


def jobs_argument(*, required: bool) -> Callable[[_F], _F]:
    """Return what adds the arguments ``JOB...``, passed as ``jobs``."""
    return click.argument("jobs", metavar="JOB...", nargs=-1, required=required, shell_complete=_complete_jobs)


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
    """Return what adds ``--label K=V``, repeatable, passed as the mapping ``labels``."""
    return click.option("--label", "labels", metavar="K=V", multiple=True, callback=_parse_labels, help=help_)


def workspace_option(help_: str) -> Callable[[_F], _F]:
    """Return what adds ``--workspace DIR``."""
    return click.option("--workspace", metavar="DIR", type=click.Path(file_okay=False, readable=False), help=help_)


def finite(seconds: float | None) -> float | None:
    """Return ``None`` for no limit, however that was said."""
    return None if seconds is None or math.isinf(seconds) else seconds
