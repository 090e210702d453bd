"""``doctor``: what is installed, where jobs are kept, and what would fail, as one report.

The checks themselves stand in ``examination``; here they are put together and shown.
"""

from __future__ import annotations

import click

from supervisor._version import __version__
from supervisor.cli import exits, text
from supervisor.cli.examination import Check, Verdict, examine
from supervisor.cli.front import Invocation, command

__all__ = ["doctor"]

_MARKS = {
    Verdict.FINE: ("ok", "green"),
    Verdict.NOTE: ("-", "bright_black"),
    Verdict.WARNING: ("warning", "yellow"),
    Verdict.PROBLEM: ("PROBLEM", "red"),
}


@command("doctor", short_help="Say what is installed, where jobs are kept, and what would fail.")
def doctor(call: Invocation) -> int:
    """Look at everything that jobs depend on, and change nothing.

    The exit status is 1 if something would fail, else 0. A warning is about what works now and may
    surprise later.
    """
    checks = examine(call.settings)
    problems = [check for check in checks if check.verdict is Verdict.PROBLEM]
    warnings = [check for check in checks if check.verdict is Verdict.WARNING]
    shape = {
        "ok": not problems,
        "version": __version__,
        "checks": [
            {
                "name": check.name,
                "verdict": check.verdict.value,
                "message": check.message,
                "repair": check.repair,
                "facts": check.facts,
            }
            for check in checks
        ],
    }
    summary = f"{text.plural(len(problems), 'problem')}, {text.plural(len(warnings), 'warning')}."
    call.answer(lambda: shape, *_lines(checks), "", summary)
    return exits.BAD if problems else exits.OK


def _lines(checks: list[Check]) -> list[str]:
    marks = max(len(mark) for mark, _ in _MARKS.values())
    names = max(len(check.name) for check in checks)
    lines: list[str] = []
    for check in checks:
        mark, colour = _MARKS[check.verdict]
        styled = click.style(mark.ljust(marks), fg=colour, bold=check.verdict is Verdict.PROBLEM)
        lines.append(f"{styled}  {check.name.ljust(names)}  {text.one_line(check.message)}")
        if check.repair:
            lines.append(f"{' ' * (marks + names + 4)}{text.one_line(check.repair)}")
    return lines
