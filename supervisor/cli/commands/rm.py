"""``rm``: forget finished jobs by their ids."""

from __future__ import annotations

from collections.abc import Sequence

from supervisor.cli import exits
from supervisor.cli.arguments import jobs_argument
from supervisor.cli.front import Invocation, command, write_document
from supervisor.errors import SupervisorError
from supervisor.model import error_to_json

__all__ = ["rm"]


def _badness(error: SupervisorError) -> int:
    return exits.rank(exits.of_error(error))


@command("rm", short_help="Forget finished jobs now.")
@jobs_argument(required=True)
def rm(call: Invocation, jobs: Sequence[str]) -> int:
    """Forget every JOB with its output. One that has not ended is refused (75): cancel it first."""
    forgotten: list[str] = []
    errors: list[SupervisorError] = []
    with call.catalog() as catalog:
        for job in jobs:
            try:
                job_id = catalog.resolve_prefix(job)
                if job_id not in forgotten:
                    catalog.forget(job_id)
                    forgotten.append(job_id)
            except SupervisorError as error:
                errors.append(error)
    if call.as_json:
        failure = {} if not errors else error_to_json(max(errors, key=_badness))
        write_document({"ok": True, **failure, "forgotten": forgotten})
    else:
        call.tell(*forgotten)
        for problem in errors:
            call.fail(problem)
    return exits.worst(map(exits.of_error, errors))
