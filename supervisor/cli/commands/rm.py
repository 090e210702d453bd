"""``rm``: delete finished jobs by their ids."""

from __future__ import annotations

from collections.abc import Sequence

from supervisor.cli import completing, exits
from supervisor.cli.arguments import jobs_argument
from supervisor.cli.front import Invocation, command, write_document
from supervisor.errors import SupervisorError
from supervisor.model import error_to_json

__all__ = ["rm"]


@command("rm")
@jobs_argument(required=True, fits=completing.ended_jobs)
def rm(call: Invocation, jobs: Sequence[str]) -> int:
    """Delete every JOB and its output. An unfinished job is refused with exit status 75; cancel it first."""
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
        failure = error_to_json(exits.worst_error(errors)) if errors else {}
        write_document({"ok": True, **failure, "forgotten": forgotten})
    else:
        call.print(*forgotten)
        for problem in errors:
            call.fail(problem)
    return exits.worst(map(exits.of_error, errors))
