"""``top``: a live view on a terminal; elsewhere, and with ``--once``, one picture of it."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from importlib.util import find_spec

import click

from supervisor.cli import exits, terminal
from supervisor.cli.front import Invocation, command, write_document
from supervisor.cli.top.lines import group_lines, job_lines, summary, take
from supervisor.errors import FeatureUnavailable
from supervisor.jobs.overview import Overview

__all__ = ["top"]


@command("top")
@click.option("--once", is_flag=True, help="Print one picture and end, as without a terminal and with --json.")
def top(call: Invocation, *, once: bool) -> int:
    """Show the groups, and the jobs that run, that wait, and that have ended last, as they change.

    It shows the jobs of all directories and of all processes. Keys: up and down select a job, c stops it, h holds
    or releases it, f follows its output (Ctrl-C returns), q quits. Quitting changes no job.

    The live view needs the extra: pip install 'trio-supervisor[top]'.
    """
    live = terminal.can_redraw(sys.stdout) and sys.stdin.isatty() and sys.stderr.isatty()
    if once or call.as_json or not live:
        with call.catalog() as catalog:
            overview = take(catalog)
        if call.as_json:
            write_document(overview.to_json())
        else:
            call.print(*_picture(overview))
        return exits.OK
    if find_spec("textual") is None:
        message = "the live view needs the library textual, which is not installed"
        raise FeatureUnavailable(
            message, repair="Install it: pip install 'trio-supervisor[top]'; or use `supervisor top --once`."
        )
    from supervisor.cli.top.view import View

    view = View(call.settings)
    view.run()
    return view.return_code or exits.OK


def _picture(overview: Overview) -> list[str]:
    width = terminal.asked_width(sys.stdout) if sys.stdout.isatty() else sys.maxsize
    groups = group_lines(overview.groups, width)
    heads, jobs = job_lines(overview, width, datetime.now(UTC))
    shown = [heads, *(line.text for line in jobs)] if jobs else []
    return [summary(overview), *["", *groups] * bool(groups), *["", *shown] * bool(shown)]
