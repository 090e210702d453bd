"""``run``: start a job, stream its output, and exit as it exits."""

from __future__ import annotations

from typing import Any

import click

from supervisor.cli import inherited
from supervisor.cli.arguments import detach_option
from supervisor.cli.front import Invocation, command
from supervisor.cli.job_options import COMMAND_LINE, request_options
from supervisor.cli.job_request import make_spec, prepare

__all__ = ["run"]


@command("run", has_defaults=True, **COMMAND_LINE)
@click.option("--tty", "-t", is_flag=True, help="Give it a terminal, attached to this one; Ctrl-] detaches.")
@detach_option
@request_options
def run(call: Invocation, /, *, tty: bool, detach_key: int | None, **options: Any) -> int:
    """Start COMMAND as a job, stream its output, and exit as it exits.

    The exit status is the command's own, or 128+N if signal N ended it. Other statuses: 124 the deadline
    passed, 130 the job was cancelled, 125 the supervisor itself failed, 126 the command is not executable,
    127 it was not found, 1 the command exited with 0, but its kind rejects the output.

    The job has an empty stdin unless --stdin is given. If this command's own stdin has input, a warning
    says so.

    With -t the job runs in a terminal, as in a shell: all keys go to it, Ctrl-C too. Ctrl-] detaches from it, and
    `supervisor attach` returns to it.

    Without -t, Ctrl-C cancels the job: it gets SIGINT, and after its grace period SIGKILL. A second Ctrl-C
    prints its id and returns without waiting for its end. If this program is killed or its terminal is closed,
    the job runs on.
    """
    create_group = options.pop("create_group")
    if tty:
        from supervisor.cli.attaching import check_terminal, run_on_terminal

        check_terminal(call)
        return run_on_terminal(call, prepare(call, make_spec(**options), create_group=create_group), detach_key)
    from supervisor.cli.running import run_to_end

    spec = prepare(call, make_spec(**options), create_group=create_group)
    warned = inherited.warn_of_unread_input(spec.stdin)
    status = run_to_end(call, spec)
    if not warned:  # the input may have arrived since
        inherited.warn_of_unread_input(spec.stdin)
    return status
