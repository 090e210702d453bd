"""``start``: start a job, print its id, and return at once."""

from __future__ import annotations

from typing import Any

from supervisor.cli import exits, inherited, streams
from supervisor.cli.front import Invocation, command
from supervisor.cli.job_options import COMMAND_LINE, make_spec, request_options
from supervisor.errors import InvalidArguments
from supervisor.model import Job, JobSpec, Result, to_json
from supervisor.states import Reason

__all__ = ["start"]


@command(
    "start",
    short_help="Start a command as a job, print the job's id, return at once.",
    **COMMAND_LINE,
)
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
    inherited.warn_of_unread_input(spec.stdin)
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
    return exits.of_launch(failed)


def _start(call: Invocation, spec: JobSpec) -> tuple[Job, Result | None]:
    """Start a job; return it, and its result if it was never launched."""
    import trio

    from supervisor.runtime.opening import open_supervisor

    async def main() -> tuple[Job, Result | None]:
        async with open_supervisor(call.settings) as sup:
            job = await sup.start(spec)
            return job, await sup.result(job.job_id) if job.reason is Reason.LAUNCH_FAILED else None

    return trio.run(main)
