"""``rerun``: start a job again, with changes."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

from supervisor.cli.commands.start import start_and_answer
from supervisor.cli.front import DEFAULTS, Invocation, command
from supervisor.cli.job_options import changing_options
from supervisor.cli.job_request import ATTRIBUTES, make_spec, prepare
from supervisor.engines import registry
from supervisor.jobs.rerunning import request_again

__all__ = ["rerun"]


@command("rerun", epilog=DEFAULTS)
@click.option(
    "--resume",
    is_flag=True,
    help="Continue the session of an agent: the words after JOB are the prompt, not a command.",
)
@changing_options
def rerun(call: Invocation, /, job: str, *, resume: bool, **options: Any) -> int:
    """Start a new job with the request of JOB, and print its id. JOB may run, wait, or have ended.

    An option, or a COMMAND after `--`, takes the place of what JOB had. The directory, the labels, the
    groups, the limits and the retries are those of JOB. The environment is that of this command. If JOB had
    input on stdin, give it again with --stdin: a job's environment and input are not kept. What JOB waited
    for (--hold, --after, --delay and the like) and its --key are not repeated.

    With --resume the new job continues the session of an agent that has ended: `supervisor rerun --resume JOB "and now
    the tests"`.
    """
    source = click.get_current_context().get_parameter_source
    given = {name for name in options if source(name) is ParameterSource.COMMANDLINE}
    create_group = options.pop("create_group")
    with call.catalog() as catalog:
        job_id = catalog.resolve_prefix(job)
        options["engine"] = options["engine"] or registry.engine_of(catalog.row(job_id).request)
        asked = make_spec(**options)
        names = {ATTRIBUTES.get(name, name) for name in given - {"command", "create_group"}}
        changes = {name: getattr(asked, name) for name in names}
        words = options["command"]
        if resume:
            spec = request_again(catalog, job_id, None, changes, " ".join(words))
        else:
            spec = request_again(catalog, job_id, words or None, changes)
    return start_and_answer(call, prepare(call, spec, create_group=create_group))
