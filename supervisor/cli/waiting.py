"""``wait`` and ``cancel``: until jobs have ended, by themselves or because they were stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from supervisor.cli import exits, text
from supervisor.cli.arguments import finite, jobs_argument, label_option, seconds
from supervisor.cli.front import DEFAULTS, Invocation, command, write_document
from supervisor.errors import JobRunning, SupervisorError
from supervisor.jobs.catalog import Catalog
from supervisor.model import Job, JobPage, error_to_json, to_json
from supervisor.states import State

__all__ = ["cancel", "wait"]


@command("wait", short_help="Wait until jobs have ended.")
@jobs_argument(required=True)
@click.option("--any", "any_one", is_flag=True, help="Wait until one of them has ended, not all.")
@click.option("--timeout", type=seconds, metavar="SECONDS", help="Wait no longer than this; the jobs go on.")
def wait(call: Invocation, jobs: Sequence[str], *, any_one: bool, timeout: float | None) -> int:
    """Wait until every JOB has ended.

    The exit status is 0 when all are done, 1 when one ended badly, 75 when the time is over; with
    --any it is that of the jobs that have ended. With --json one JOB gives its JSON, and several
    a list as `supervisor list` has it.
    """
    with call.catalog() as catalog:
        ids, errors = _resolve(catalog, jobs)
        found = catalog.wait(ids, any_one=any_one, timeout=finite(timeout))
    ended = [job for job in found if job.status.terminal]
    counted = ended if any_one and ended else found
    late: SupervisorError | None = None
    if any(not job.status.terminal for job in counted):
        running = len(found) - len(ended)
        late = JobRunning(
            f"job {found[0].job_id} is still {found[0].status.value}"
            if len(found) == 1
            else f"{running} of {text.plural(len(found), 'job')} have not ended",
            retry_after_ms=next(job.poll_after_ms for job in found if not job.status.terminal),
        )
    _answer(call, jobs, found, errors if late is None else [*errors, late])
    return exits.worst([*map(exits.of_job, counted), *map(exits.of_error, errors)])


@command("cancel", short_help="Stop jobs, and everything that they started.", epilog=DEFAULTS)
@jobs_argument(required=False)
@click.option("--all", "everything", is_flag=True, help="Cancel every job that has not ended, of all workspaces.")
@label_option("Cancel the jobs with this label that have not ended, of all workspaces; repeat it for all of several.")
def cancel(call: Invocation, jobs: Sequence[str], *, everything: bool, labels: Mapping[str, str]) -> int:
    """Stop every JOB and wait until nothing of it is left; one that has ended stays as it is.

    Each gets SIGTERM and, if that does not end it, SIGKILL after its grace: its process group,
    its session, its descendants and everything that carries its mark. Several are stopped side by
    side. With --json one JOB gives its JSON, and several a list as `supervisor list` has it.
    """
    if sum(map(bool, (jobs, everything, labels))) != 1:
        message = "Say which jobs: by their ids, with --all, or with --label."
        raise click.UsageError(message)
    with call.catalog() as catalog:
        if jobs:
            ids, errors = _resolve(catalog, jobs)
        else:
            ids, errors = _unfinished(catalog, labels), []
        ends = catalog.cancel_all(ids)
    found = [end for end in ends if isinstance(end, Job)]
    errors += [end for end in ends if isinstance(end, SupervisorError)]
    _answer(call, jobs, found, errors)
    if not ends and not errors:
        call.note("There is nothing to cancel.")
    return exits.worst(map(exits.of_error, errors))


def _resolve(catalog: Catalog, jobs: Sequence[str]) -> tuple[list[str], list[SupervisorError]]:
    """Return the ids, each once, and what is wrong with those that are none."""
    ids: dict[str, None] = {}
    errors: list[SupervisorError] = []
    for job in jobs:
        try:
            job_id = catalog.resolve_prefix(job)
            catalog.row(job_id)
        except SupervisorError as error:
            errors.append(error)
        else:
            ids[job_id] = None
    return list(ids), errors


def _unfinished(catalog: Catalog, labels: Mapping[str, str]) -> list[str]:
    ids: list[str] = []
    for state in (State.RUNNING, State.QUEUED):  # in this order: what is launched between the two is seen twice
        cursor: str | None = None
        while True:
            page = catalog.list(state=state.value, labels=labels, limit=1000, cursor=cursor)
            ids += [job.job_id for job in page.jobs]
            cursor = page.next_cursor
            if cursor is None:
                break
    return list(dict.fromkeys(ids))


def _answer(call: Invocation, asked: Sequence[str], found: Sequence[Job], errors: Sequence[SupervisorError]) -> None:
    """Tell what became of the jobs: of a single one that was named as itself, else as a list."""
    if not call.as_json:
        call.tell(*(_line(job) for job in found))
        for error in errors:
            call.fail(error)
        return
    shape: dict[str, Any]
    if len(asked) == 1:
        job = found[0] if found else None
        shape = error_to_json(errors[0], job) if errors else to_json(job or JobPage(jobs=()))
    else:
        shape = to_json(JobPage(jobs=tuple(found)))
        if errors:
            worst = max(errors, key=lambda error: exits.rank(exits.of_error(error)))
            shape = {**shape, **error_to_json(worst), "errors": [error_to_json(error)["error"] for error in errors]}
    write_document(shape)


def _line(job: Job) -> str:
    return f"{job.job_id}  {click.style(text.outcome(job), fg=text.COLOURS[job.status])}"
