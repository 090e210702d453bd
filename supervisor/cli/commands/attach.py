"""``attach``: the terminal of a running job, on this one."""

from __future__ import annotations

from supervisor.cli.arguments import detach_option, job_argument
from supervisor.cli.attaching import attach_to_end, check_terminal
from supervisor.cli.front import Invocation, command

__all__ = ["attach"]


@command("attach")
@job_argument
@detach_option
def attach(call: Invocation, job: str, *, detach_key: int | None) -> int:
    """Attach this terminal to that of JOB, which was started with --pty or by `supervisor run -t`.

    What is typed goes to the job, Ctrl-C too. Ctrl-] detaches, and the job runs on. So it does if this command or
    its terminal is killed. Several terminals may be attached at once: the window of the job has the size of the
    one that was attached, or changed its size, last.

    The exit status is 0 after a detach, and that of the job, as of `supervisor run`, once it has ended.
    """
    check_terminal(call)
    with call.catalog() as catalog:
        job_id = catalog.resolve_prefix(job)
    call.note(f"supervisor: attached to job {job_id[:8]}")
    return attach_to_end(call, job_id, detach_key, fresh=False)
