"""The request of a job as a request for a new one."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, cast

import attrs

from supervisor.engines import registry
from supervisor.errors import InvalidArguments, JobElsewhere
from supervisor.interpret import session_command
from supervisor.jobdir import records
from supervisor.jobdir.validation import input_of
from supervisor.jobs.interface import Jobs
from supervisor.jobs.validation import spec_of
from supervisor.model import JobOptions, JobSpec
from supervisor.model.limits import Limits
from supervisor.retry import Retry
from supervisor.store import Row
from supervisor.store.changes import MEMBER
from supervisor.store.tickets import groups_of
from supervisor.system.observing import is_there
from supervisor.worktrees.record import MEMBER as WORKTREE

__all__ = ["request_again"]


def request_again(
    jobs: Jobs, job_id: str, argv: Sequence[str] | None, options: Mapping[str, Any], resume: str | None = None
) -> JobSpec:
    """Return the request of a job with a new command, if one is given, and these options instead of its own.

    The environment and the input of a job are not on record. What it waited for (hold, other jobs, times) belonged to
    its own start, as its idempotency key did.

    ``resume``: a prompt, with which the session of the agent is continued; the new command has the options of the old.

    Raises:
        JobNotFound: there is no job of this id.
        InvalidArguments: an option does not exist or fit, or the job had input, and none is given; its session is not
            known, cannot be continued, or is still in use.
        JobElsewhere: a newer version has made it.
    """
    row = jobs.row(job_id)
    if row.is_newer:
        message = f"job {job_id} was made by a newer version of this package"
        raise JobElsewhere(message, repair="Repeat the call with that version.", details={"job_id": job_id})
    if resume is not None:
        options = {**options, "stdin": None}
    elif "stdin" not in options and _had_input(jobs.directory(row)):
        message = f"job {job_id} had input on stdin, which is not kept"
        repair = "Give the input again (--stdin FILE), or none (--stdin /dev/null; in Python, stdin=None)."
        raise InvalidArguments(message, repair=repair, details={"job_id": job_id})
    spec_of(("true",), cast("JobOptions", dict(options)))  # raises for an option that does not exist
    changes = {**options} if argv is None else {**options, "argv": argv}
    if resume is not None:
        changes |= _continued(jobs, row, argv, resume)
        if WORKTREE in row.request:  # where the session is
            changes.setdefault("worktree", row.request[WORKTREE]["id"])
    return attrs.evolve(_spec_of_record(row.request), **changes)


def _continued(jobs: Jobs, row: Row, argv: Sequence[str] | None, prompt: str) -> dict[str, Any]:
    """Return the command and the input that continue the session of a job."""
    job, details = jobs.status(row.job_id), {"job_id": row.job_id}
    if argv is not None or not prompt.strip():
        message = "resume takes a prompt and no command: the command is that of the job"
        raise InvalidArguments(message, repair="Give what the agent is to do next, as one text.", details=details)
    if job.completed_at is None:
        message = f"job {row.job_id} has not ended, so its session is in use"
        raise InvalidArguments(message, repair="Wait for its end, or cancel it, then resume it.", details=details)
    session = job.session_id
    if session is None:
        message = f"the session of job {row.job_id} is not known"
        raise InvalidArguments(message, repair="Start it again without resume.", details=details)
    found = session_command(row.kind, row.request["argv"], session, prompt)
    if found is None:
        message = f"the command of job {row.job_id} cannot be continued: it has an option that is not known here"
        repair = f"Start the command that resumes session {session} by yourself."
        raise InvalidArguments(message, repair=repair, details={**details, "session_id": session})
    return {"argv": found.argv, "stdin": found.stdin}


def _had_input(directory: str) -> bool:
    process = records.read(directory, records.PROCESS) or {}
    return process.get("stdin") is True or is_there(f"{directory}/{records.STDIN}")


def _retry_of(record: Mapping[str, Any]) -> Retry | None:
    """Return the policy that was given; one without a second attempt may be that of any job in a group."""
    policy = Retry.from_record(record["retry"]) if "retry" in record else None
    return None if policy == Retry(maximum_attempts=1) else policy


def _spec_of_record(record: Mapping[str, Any]) -> JobSpec:
    engine: str | None = registry.engine_of(record)
    engine_options: dict[str, Any] = {}
    if engine == registry.LOCAL:
        engine = None
    else:
        shared_dir, deadline_from = os.path.dirname(record["directory"]), record.get("deadline_from")
        given = {**record.get("engine_options", {}), "shared_dir": shared_dir, "deadline_from": deadline_from}
        engine_options = {name: value for name, value in given.items() if value is not None}
    deadline = record["deadline_seconds"]
    stdin_open, window = input_of(record)
    return JobSpec(
        argv=record["argv"],
        workspace=record["workspace"],
        kind=record["kind"],
        deadline_seconds=math.inf if deadline is None else deadline,
        labels=record["labels"],
        engine=engine,
        engine_options=engine_options,
        groups=groups_of(record),
        priority=record.get(MEMBER, record).get("priority", record.get("priority", 0)),
        weight=record.get("weight", 1),
        spool=record.get("spool", "disk"),
        retry=_retry_of(record),
        ttl_seconds=record["ttl_seconds"],
        max_output_bytes=record.get("output_limit"),
        grace_seconds=record.get("grace_seconds"),
        merge_stderr=record.get("merge_stderr", False),
        no_new_privs=record.get("no_new_privs", False),
        stdin_open=stdin_open,
        pty=window is not None,
        window=window,
        limits=Limits.of(record),
        worktree=record[WORKTREE]["from"] if WORKTREE in record else None,
        on_end=record.get("on_end", ()),
        webhook=record.get("webhook", ""),
    )
