"""``run``: start a job, pass on what it writes, and exit as it exits."""

from __future__ import annotations

from typing import Any

from supervisor.cli import inherited
from supervisor.cli.front import Invocation, command
from supervisor.cli.job_options import COMMAND_LINE, make_spec, request_options

__all__ = ["run"]


@command(
    "run",
    short_help="Start a command, stream its output, exit as it exits.",
    **COMMAND_LINE,
)
@request_options
def run(call: Invocation, /, **options: Any) -> int:
    """Start COMMAND as a job, pass on what it writes, and exit as it exits.

    128+N stands for a signal, 124 for the deadline, 130 for a cancelled job, 125 for a failure of
    the supervisor itself, 126 and 127 for a command that is not executable or not found. An output
    that its kind does not accept gives 1 if the command exited with 0.

    The job reads nothing unless --stdin is given. If there is something to read on stdin, a warning says so.

    Ctrl-C cancels the job; a second one does not wait for that. When this program is killed or its
    terminal is closed, the job goes on.
    """
    from supervisor.cli.running import run_to_end

    spec = make_spec(**options)
    warned = inherited.warn_of_unread_input(spec.stdin)
    status = run_to_end(call, spec)
    if not warned:  # what came later than that
        inherited.warn_of_unread_input(spec.stdin)
    return status
