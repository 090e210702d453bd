"""``doctor``: what is installed, where jobs are kept, and what would fail, as one report.

``machine``, ``containment`` and ``cluster`` have the checks, none of which changes anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import click

from supervisor._version import __version__
from supervisor.cli import exits, text
from supervisor.cli.doctor import cluster, containment, machine
from supervisor.cli.doctor.check import Check, Verdict
from supervisor.cli.front import Invocation, command
from supervisor.settings import Settings

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


def examine(settings: Settings) -> list[Check]:
    """Run all checks; one that fails unexpectedly is reported as a problem."""
    checks: list[Check] = []
    looks: dict[str, Callable[[], Iterator[Check]]] = {
        "versions": machine.check_versions,
        "state root": lambda: machine.check_state_root(settings),
        "registry": lambda: machine.check_registry(settings),
        "settings": lambda: machine.check_configuration(settings),
        "kernel": machine.check_kernel,
        "surroundings": containment.look,
        "keeper": lambda: machine.check_keeper(settings),
        "limits": machine.check_limits,
        "programs": machine.check_programs,
        "Slurm": lambda: cluster.look(settings),
    }
    for name, look in looks.items():
        try:
            checks += look()
        except Exception as error:  # noqa: BLE001  # the other checks run all the same
            checks.append(Check(name, Verdict.PROBLEM, f"{type(error).__name__}: {error}"))
    return checks
