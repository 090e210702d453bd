"""Commands that take several jobs: resolving the ids, and one answer for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from supervisor.cli import exits, text
from supervisor.cli.front import Invocation, write_document
from supervisor.errors import SupervisorError
from supervisor.jobs.catalog import Catalog
from supervisor.model import Job, JobPage, error_to_json, to_json

__all__ = ["answer", "change", "resolve"]


def resolve(catalog: Catalog, jobs: Sequence[str]) -> tuple[list[str], list[SupervisorError]]:
    """Return the ids of the jobs, each once, and an error for each word that names no job."""
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


def answer(call: Invocation, asked: Sequence[str], found: Sequence[Job], errors: Sequence[SupervisorError]) -> None:
    """Write the jobs: one as a document of its own if it was the only word, otherwise a list."""
    if not call.as_json:
        call.print(*(f"{job.job_id}  {click.style(text.outcome(job), fg=text.colour(job))}" for job in found))
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
            shape |= error_to_json(exits.worst_error(errors))
            shape["errors"] = [error_to_json(error)["error"] for error in errors]
    write_document(shape)


def change(call: Invocation, jobs: Sequence[str], action: Callable[[Catalog, str], Job]) -> int:
    """Apply ``action`` to each of several jobs, write the answer, and return the exit status."""
    found: list[Job] = []
    with call.catalog() as catalog:
        ids, errors = resolve(catalog, jobs)
        for job_id in ids:
            try:
                found.append(action(catalog, job_id))
            except SupervisorError as error:
                errors.append(error)
    answer(call, jobs, found, errors)
    return exits.worst(map(exits.of_error, errors))
