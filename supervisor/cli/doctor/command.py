"""``doctor``: checks the installation, the state root and the machine, and changes nothing.

``machine``, ``containment`` and ``cluster`` contain the checks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import click

from supervisor._version import __version__
from supervisor.cli import exits, text
from supervisor.cli.doctor import cluster, containment, machine
from supervisor.cli.doctor.check import Check, Severity
from supervisor.cli.front import Invocation, command
from supervisor.settings import Settings

__all__ = ["doctor"]

_MARKS = {
    Severity.FINE: ("ok", "green"),
    Severity.NOTE: ("-", "bright_black"),
    Severity.WARNING: ("warning", "yellow"),
    Severity.PROBLEM: ("PROBLEM", "red"),
}


@command("doctor")
def doctor(call: Invocation) -> int:
    """Check everything that jobs depend on. Nothing is changed.

    The exit status is 1 if a check finds a problem, otherwise 0. A problem makes jobs fail now; a warning
    may cause trouble later.
    """
    checks = _run_checks(call.settings)
    found = Counter(check.severity for check in checks)
    problems, warnings = found[Severity.PROBLEM], found[Severity.WARNING]
    shape = {
        "ok": not problems,
        "version": __version__,
        "checks": [
            {
                "name": check.name,
                "verdict": check.severity.value,
                "message": check.message,
                "repair": check.repair,
                "facts": check.facts,
            }
            for check in checks
        ],
    }
    summary = f"{text.plural(problems, 'problem')}, {text.plural(warnings, 'warning')}."
    call.answer(lambda: shape, *_lines(checks), "", summary)
    return exits.BAD if problems else exits.OK


def _lines(checks: list[Check]) -> list[str]:
    marks = max(len(mark) for mark, _ in _MARKS.values())
    names = max(len(check.name) for check in checks)
    lines: list[str] = []
    for check in checks:
        mark, colour = _MARKS[check.severity]
        styled = click.style(mark.ljust(marks), fg=colour, bold=check.severity is Severity.PROBLEM)
        lines.append(f"{styled}  {check.name.ljust(names)}  {text.one_line(check.message)}")
        if check.repair:
            lines.append(f"{' ' * (marks + names + 4)}{text.one_line(check.repair)}")
    return lines


def _run_checks(settings: Settings) -> list[Check]:
    """Run all checks; report one that raises an unexpected error as a problem."""
    results: list[Check] = []
    checks: dict[str, Callable[[], Iterator[Check]]] = {
        "versions": machine.check_versions,
        "state root": lambda: machine.check_state_root(settings),
        "registry": lambda: machine.check_registry(settings),
        "settings": lambda: machine.check_configuration(settings),
        "kernel": machine.check_kernel,
        "containment": containment.check_containment,
        "keeper": lambda: machine.check_keeper(settings),
        "limits": machine.check_limits,
        "programs": machine.check_programs,
        "Slurm": lambda: cluster.check_cluster(settings),
    }
    for name, check in checks.items():
        try:
            results += check()
        except Exception as error:  # noqa: BLE001  # the other checks still run
            results.append(Check(name, Severity.PROBLEM, f"{type(error).__name__}: {error}"))
    return results
