"""``worktree``: the git worktrees that jobs have made, and what is in them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import click

from supervisor.cli import completing, exits, streams, text
from supervisor.cli.arguments import one_job
from supervisor.cli.front import Invocation, command, shared_options, write_document
from supervisor.jobs import worktrees

__all__ = ["worktree"]


_HELP = """Show, compare and remove the git worktrees of jobs.

A job that is started with --worktree runs in a worktree of its own. It is removed after the job if there is nothing in
it. Otherwise it stays, also when its job is forgotten, until `supervisor worktree rm`.
"""

worktree = click.Group(
    "worktree", help=_HELP, short_help="Show and remove the worktrees of jobs.", params=shared_options()
)


@command("list", short_help="List the worktrees of all jobs.")
def list_worktrees(call: Invocation) -> int:
    """List the worktrees that are there, also those whose jobs are forgotten.

    Those of ended jobs with nothing in them are removed first.
    """
    with call.catalog() as catalog:
        found = worktrees.listing(catalog)
    call.answer(lambda: {"ok": True, "worktrees": found}, *map(_line, found))
    return exits.OK


@command("diff", short_help="Print what a job has changed.")
@one_job(completing.any_job)
def diff(call: Invocation, job: str) -> int:
    """Print how the worktree of JOB differs from how it began, as a diff for `git apply`.

    The diff has the commits, the changes that are not committed, and the new files.
    """
    with call.catalog() as catalog:
        job_id = worktrees.resolve(catalog, job)
        with streams.writing():
            sys.stdout.flush()
            if call.as_json:
                write_document({"ok": True, "job_id": job_id, **worktrees.described(catalog, job_id)})
            else:
                worktrees.diff(catalog, job_id, sys.stdout.buffer)
    return exits.OK


@command("rm", short_help="Remove the worktree of a job.")
@one_job(completing.any_job)
def rm(call: Invocation, job: str) -> int:
    """Remove the worktree of JOB. Commits stay on its branch.

    It is refused while something runs in it, and while there are changes or new files in it that are not committed.
    """
    with call.catalog() as catalog:
        found = worktrees.remove(catalog, worktrees.resolve(catalog, job))
    call.answer(lambda: {"ok": True, "worktree": found}, f"Removed {found['path']}.")
    return exits.OK


for _command in (list_worktrees, diff, rm):
    worktree.add_command(_command)


def _line(found: Mapping[str, Any]) -> str:
    changes: Mapping[str, Any] = found["changes"] or {}
    size = ""
    if changes.get("files") or changes.get("commits"):
        commits = f", {text.plural(changes['commits'], 'commit')}" if changes["commits"] else ""
        size = f", {text.plural(changes['files'], 'file')} +{changes['insertions']} -{changes['deletions']}{commits}"
    job = found["job_id"] if found["job_known"] else f"{found['job_id']} (forgotten)"
    detail = f" ({text.one_line(found['detail'])})" if found["state"] in {"refused", "missing"} else ""
    return f"{job}: {found['state']}{detail}{size}\n  {text.one_line(found['path'])}\n  branch {found['branch']}"
