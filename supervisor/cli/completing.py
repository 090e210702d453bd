"""What a shell offers for the values of arguments and options: jobs that fit, groups, files, variables.

A completion never fails and never creates a state root: a message would garble the line that the user types.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import click

from supervisor.cli.front import group_option
from supervisor.settings import Settings

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from supervisor.jobs.catalog import Catalog
    from supervisor.model import Job

__all__ = [
    "Completion",
    "any_job",
    "command_words",
    "dependencies",
    "ended_jobs",
    "files",
    "groups",
    "held_jobs",
    "running_jobs",
    "unfinished_jobs",
    "variables",
    "waiting_jobs",
]

Completion: TypeAlias = "Callable[[click.Context, click.Parameter, str], list[CompletionItem[str]]]"

_MAX_JOBS: Final = 100
_MAX_LOOKED_AT: Final = 1000
_BUSY_SECONDS: Final = 0.2
"""How long to wait for a lock on the index."""


def _items(ctx: click.Context, offer: Callable[[Catalog], Iterator[CompletionItem[str]]]) -> list[CompletionItem[str]]:
    try:
        state_dir = ctx.params.get("state_dir") or group_option("state_dir", ctx)
        settings = Settings() if state_dir is None else Settings(state_dir=Path(state_dir))
        if not os.path.isdir(settings.state_dir):
            return []
        from supervisor.jobs.catalog import Catalog

        with Catalog(settings, wait_seconds=_BUSY_SECONDS, create=False) as catalog:
            return list(offer(catalog))
    except Exception:  # noqa: BLE001  # see the docstring of the module
        return []


def _jobs(fits: Callable[[Job], bool], *states: str) -> Completion:
    """Return a completion with the newest jobs in one of ``states``, or in any, that fit."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
        from click.shell_completion import CompletionItem

        from supervisor.cli.text import ago, command_line

        named: set[str] = {*(ctx.params.get(param.name or "") or ())} if param.nargs == -1 else set()
        before = f"{incomplete.rpartition(':')[0]}:" if ":" in incomplete else ""

        def offer(catalog: Catalog) -> Iterator[CompletionItem[str]]:
            wanted = incomplete.removeprefix(before)
            if len(wanted) == 32 or not all(letter in "0123456789abcdef" for letter in wanted):
                return
            found = [job for state in states or (None,) for job in catalog.list(state=state, limit=_MAX_LOOKED_AT).jobs]
            fitting = [job for job in found if job.job_id.startswith(wanted) and fits(job) and job.job_id not in named]
            for job in fitting[:_MAX_JOBS]:
                told = f"{job.status.value}, {ago(job.created_at)} old: {command_line(job.argv)}"
                yield CompletionItem(before + job.job_id, help=told)

        return _items(ctx, offer)

    return complete


def _is_held(job: Job) -> bool:
    return job.queue_reason == "held"


def _waits(job: Job) -> bool:
    return job.queue_reason is not None


def _any(_: Job) -> bool:
    return True


any_job: Final = _jobs(_any)
unfinished_jobs: Final = _jobs(_any, "queued", "running")
running_jobs: Final = _jobs(_any, "running")
waiting_jobs: Final = _jobs(_waits, "queued")
held_jobs: Final = _jobs(_is_held, "queued")
ended_jobs: Final = _jobs(lambda job: job.status.terminal)


def dependencies(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Complete ``[WHEN:]JOB``."""
    return any_job(ctx, param, incomplete)


def groups(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Complete the name of a group."""
    from click.shell_completion import CompletionItem

    from supervisor.admission.groups import group_infos

    def offer(catalog: Catalog) -> Iterator[CompletionItem[str]]:
        for group in group_infos(catalog.index):
            if group.name.startswith(incomplete):
                limit = "no limit" if group.limit is None else f"limit {group.limit}"
                yield CompletionItem(group.name, help=f"{limit}, {group.running} running, {group.waiting} waiting")

    return _items(ctx, offer)


def files(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Have the shell complete the name of a file."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


def command_words(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Have the shell complete a command of which so many words are complete."""
    from click.shell_completion import CompletionItem

    del incomplete
    return [CompletionItem(str(len(ctx.params.get(param.name or "") or ())), type="command")]


def variables(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Complete the name of an environment variable."""
    from click.shell_completion import CompletionItem

    return [
        CompletionItem(name) for name in sorted(os.environ) if name.startswith(incomplete) and "=" not in incomplete
    ]
