"""``explain``: why a job waits, or which evidence says that it runs or has ended."""

from __future__ import annotations

import click

from supervisor.cli import exits, text
from supervisor.cli.arguments import job_argument
from supervisor.cli.front import Invocation, command
from supervisor.jobs.explaining import explain as explained
from supervisor.model import EvidenceInfo, Explanation, WaitInfo, to_json

__all__ = ["explain"]


@command("explain")
@job_argument
def explain(call: Invocation, job: str) -> int:
    """Say why JOB waits, with everything that it waits for, or which evidence says that it runs or has ended."""
    with call.catalog() as catalog:
        found = explained(catalog, catalog.resolve_prefix(job))
    call.answer(lambda: to_json(found), *_lines(found))
    return exits.OK


def _lines(found: Explanation) -> list[str]:
    status = found.status.value if found.reason is None else f"{found.status.value}, {found.reason.value}"
    position = None if found.queue_position is None else str(found.queue_position)
    facts = [("Job", found.job_id), ("Status", status), ("Why", text.one_line(found.summary)), ("Position", position)]
    lines = text.pairs(facts)
    if found.waits_for:
        lines += ["", click.style("It waits for", bold=True)]
        lines += text.pairs([(f"  {each.reason}", _wait(each)) for each in found.waits_for])
    lines += ["", click.style("Evidence", bold=True)]
    return lines + text.pairs([(f"  {each.source}", _fact(each)) for each in found.evidence])


def _wait(wait: WaitInfo) -> str:
    since = "" if wait.since is None else f", since {text.clock(wait.since)}"
    until = "" if wait.until is None else f", until {text.clock(wait.until)}"
    return text.one_line(wait.text) + since + until


def _fact(fact: EvidenceInfo) -> str:
    return text.one_line(fact.text) + ("" if fact.at is None else f"; {text.clock(fact.at)}")
