"""``run`` and ``start``: the two commands that launch, and so the two that need Trio."""

from __future__ import annotations

from typing import Any

from supervisor.cli import exits, inherited, streams
from supervisor.cli.front import DEFAULTS, Invocation, command
from supervisor.cli.request import make_spec, request_options
from supervisor.errors import InvalidArguments
from supervisor.model import Job, JobSpec, Result, to_json
from supervisor.states import Reason

__all__ = ["launch_status", "run", "start"]

# Everything from the command's name on is the command's own, options included.
_CONTEXT = {"allow_interspersed_args": False}
_MORE = {"context_settings": _CONTEXT, "epilog": DEFAULTS}


@command("run", short_help="Start a command, stream its output, exit as it exits.", **_MORE)
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
    warned = _warn_of_unread_input(spec)
    status = run_to_end(call, spec)
    if not warned:  # what came later than that
        _warn_of_unread_input(spec)
    return status


@command("start", short_help="Start a command as a job, print the job's id, return at once.", **_MORE)
@request_options
def start(call: Invocation, /, **options: Any) -> int:
    """Start COMMAND as a job, print the id of the job, and return at once.

    The exit status is 0 once the command runs, 126 or 127 when it could not be launched (there is
    a job even so, which says why). Its deadline is kept whether or not anybody asks for it.

    With a stdout that is closed, or not open for writing, nothing is started. If the id cannot be written
    once the job is there, it is said on stderr, and the exit status is 125, or 141 if the reader has gone.
    """
    if not inherited.is_writable(1):
        message = "stdout cannot be written, so the id of the job could not be told: nothing was started"
        raise InvalidArguments(message, repair="Redirect stdout to a file, a pipe or /dev/null.")
    spec = make_spec(**options)
    job, failed = _start(call, spec)
    _warn_of_unread_input(spec)
    status = exits.OK
    try:
        call.answer(lambda: to_json(job if failed is None else failed), job.job_id)
    except (BrokenPipeError, streams.StdoutFailed) as error:
        broken = isinstance(error, BrokenPipeError)
        status = exits.PIPE if broken else exits.BROKEN
        streams.say(f"supervisor: {'the reader of stdout has gone' if broken else error}; the job is {job.job_id}")
    if failed is None or failed.error is None:
        return status
    call.note(f"supervisor: {failed.error.message}")
    call.note(f"  {failed.error.repair}")
    return launch_status(failed)


def _warn_of_unread_input(spec: JobSpec) -> bool:
    """Say so if there is input that the job is not given; return whether there is."""
    if spec.stdin is not None or not inherited.has_unread_input():
        return False
    streams.say(
        "supervisor: there is input on stdin, and the job is not given it; "
        "--stdin - gives it, --stdin /dev/null says that it is not wanted"
    )
    return True


def launch_status(failed: Result) -> int:
    """Return what a shell would exit with for a command that could not be launched."""
    status = None if failed.error is None else failed.error.details.get("exit_status")
    return status if isinstance(status, int) else exits.BROKEN


def _start(call: Invocation, spec: JobSpec) -> tuple[Job, Result | None]:
    """Start a job; return it, and its result if it was never launched."""
    import trio

    from supervisor.runtime.opening import open_supervisor

    async def main() -> tuple[Job, Result | None]:
        async with open_supervisor(call.settings) as sup:
            job = await sup.start(spec)
            return job, await sup.result(job.job_id) if job.reason is Reason.LAUNCH_FAILED else None

    return trio.run(main)
