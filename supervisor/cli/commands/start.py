"""``start``: start a job, print its id, and return at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from supervisor.cli import exits, inherited, streams
from supervisor.cli.front import Invocation, command
from supervisor.cli.job_options import COMMAND_LINE, request_options
from supervisor.cli.job_request import make_spec, prepare
from supervisor.errors import InvalidArguments
from supervisor.model import Job, JobSpec, Result, to_json
from supervisor.states import Reason

if TYPE_CHECKING:
    from supervisor.runtime.supervisor import Supervisor

__all__ = ["start", "start_and_answer"]


@command("start", has_defaults=True, **COMMAND_LINE)
@request_options
def start(call: Invocation, /, **options: Any) -> int:
    """Start COMMAND as a job, print the id of the job, and return at once.

    The exit status is 0 once the command runs. It is 126 or 127 if the command could not be launched; the
    job exists nevertheless, and its status has the reason. The deadline applies even if no process watches
    the job.

    If stdout is closed or not writable, no job is started. If writing the id to stdout fails later, the id
    goes to stderr, and the exit status is 125, or 141 if the reader of stdout has closed it.
    """
    create_group = options.pop("create_group")
    return start_and_answer(call, prepare(call, make_spec(**options), create_group=create_group))


def start_and_answer(call: Invocation, spec: JobSpec) -> int:
    """Start a job, print its id, and return the exit status."""
    if not inherited.is_writable(1):
        message = "stdout is not writable, so the job's id could not be printed: nothing was started"
        raise InvalidArguments(message, repair="Redirect stdout to a file, a pipe or /dev/null.")
    job, failed = call.ask(lambda sup: _start(sup, spec))
    inherited.warn_of_unread_input(spec.stdin)
    status = exits.OK
    try:
        call.answer(lambda: to_json(job if failed is None else failed), job.job_id)
    except (BrokenPipeError, streams.StdoutFailed) as error:
        broken = isinstance(error, BrokenPipeError)
        status = exits.PIPE if broken else exits.BROKEN
        reason = "the reader of stdout has closed it" if broken else error
        streams.write_stderr(f"supervisor: {reason}; the job is {job.job_id}")
    if failed is None or failed.error is None:
        return status
    call.note(f"supervisor: {failed.error.message}")
    call.note(f"  {failed.error.repair}")
    return exits.of_launch(failed)


def _is_refused(job: Job) -> bool:
    """Whether it could not be launched, and is not tried again."""
    return job.reason is Reason.LAUNCH_FAILED and job.retried_by is None


async def _start(sup: Supervisor, spec: JobSpec) -> tuple[Job, Result | None]:
    job = await sup.start(spec)
    return job, await sup.result(job.job_id) if _is_refused(job) else None
