"""``spend``: what jobs have spent."""

from __future__ import annotations

from datetime import datetime

import click

from supervisor.cli import exits, table, text
from supervisor.cli.arguments import since as _since
from supervisor.cli.front import Invocation, command
from supervisor.jobs.spend import check_by
from supervisor.jobs.spend import spend as spend_of
from supervisor.model import Spend

__all__ = ["spend"]

_HEAD = ("jobs", "cost", "tokens", "time", "starts", "estimated")


@command("spend")
@click.option(
    "--by",
    default="group",
    metavar="WHAT",
    show_default=True,
    help="Sum by group, day, session, or the values of a label (label:NAME).",
)
@click.option(
    "--since",
    type=_since,
    metavar="TIME",
    help="Count only jobs that have ended since this time, or in the time before now: 2h, 7d.",
)
def spend(call: Invocation, by: str, since: datetime | None) -> int:
    """Show what jobs have spent, also those that are deleted.

    A job counts when it has ended, and if its output has said what it has spent, or one of its groups has a budget. A
    job in several groups counts in each of them, and once in the total.
    """
    check_by(by)
    with call.catalog() as catalog:
        report = spend_of(catalog, by, since)
    name = by.partition(":")[2] or by
    rows = [(name, *_HEAD), *(_row(each.key or "-", each) for each in report.rows), _row("total", report.total)]
    lines = table.aligned(rows, right=frozenset(range(1, len(_HEAD) + 1))) if report.rows else []
    call.answer(report.to_json, *lines)
    if not report.rows:
        call.note("No job has spent anything that is known.")
    return exits.OK


def _row(key: str, spend: Spend) -> tuple[str, ...]:
    amounts = text.amount("usd", spend.cost_usd), f"{spend.tokens:,}", text.duration(spend.seconds)
    return text.one_line(key), str(spend.jobs), *amounts, str(spend.starts), str(spend.estimated)
