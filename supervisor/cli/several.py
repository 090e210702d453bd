"""Several jobs on one command line: their ids resolved, and one answer about all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from supervisor.cli import exits, text
from supervisor.cli.front import Invocation, write_document
from supervisor.errors import SupervisorError
from supervisor.jobs.catalog import Catalog
from supervisor.model import Job, JobPage, error_to_json, to_json

__all__ = ["answer", "resolve"]


def resolve(catalog: Catalog, jobs: Sequence[str]) -> tuple[list[str], list[SupervisorError]]:
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


def answer(call: Invocation, asked: Sequence[str], found: Sequence[Job], errors: Sequence[SupervisorError]) -> None:
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
