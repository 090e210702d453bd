"""Drafts of jobs: requests that were checked, and what is derived from them before anything is on disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from supervisor.engines.interface import Engine
from supervisor.engines.limits import Granted, LimitsJobs, asked
from supervisor.engines.limits import granted as no_limits
from supervisor.errors import IdempotencyConflict
from supervisor.model import Job, JobSpec, Limits, to_ns
from supervisor.store.tickets import Ticket

__all__ = ["Draft", "admission_members", "check_no_self", "first", "granted"]


def first(own: float | None, default: float) -> float:
    """Return what a request says, or the setting."""
    return default if own is None else own


def admission_members(spec: JobSpec, boot_ns: int) -> dict[str, Any]:
    """Return the members of ``job.json`` about admission; one that is not given is not there."""
    members: dict[str, Any] = {"priority": spec.priority, "weight": spec.weight}
    if spec.groups:
        members["groups"] = sorted(set(spec.groups))
    if spec.after:
        members["after"] = [{"job_id": job_id, "when": when} for when, job_id in spec.after]
    if spec.spool != "disk":
        members["spool"] = spec.spool
    if spec.hold:
        members["hold"] = True
    if spec.not_before is not None:
        members["not_before_ns"] = to_ns(spec.not_before)
    if spec.delay_seconds is not None:
        members["delay_ns"] = int(spec.delay_seconds * 1e9)
    if spec.start_within_seconds is not None:
        members["start_within_ns"] = int(spec.start_within_seconds * 1e9)
    if spec.delay_seconds is not None or spec.start_within_seconds is not None:
        members["created_boot_ns"] = boot_ns
    return members


async def granted(engine: Engine, limits: Limits | None) -> Granted:
    """Return what an engine does with the limits of a job.

    Raises:
        FeatureUnavailable: it cannot set them, and the job must not run without them.
    """
    if not limits:
        return Granted()
    if isinstance(engine, LimitsJobs):
        return await engine.check_limits(limits)
    return no_limits(limits, dict.fromkeys(asked(limits), f"engine {engine.name} does not limit jobs"))


class Draft(NamedTuple):
    """A request that was checked; nothing of it is on disk.

    Attributes:
        spec: as it was given.
        key: of its workspace.
        record: the contents of ``job.json``.
        engine: runs it.
        changes: to the environment that the job inherits.
        ticket: for a job that may have to wait.
    """

    spec: JobSpec
    key: str
    record: dict[str, Any]
    engine: Engine
    changes: Mapping[bytes, bytes]
    ticket: Ticket | None


def check_no_self(spec: JobSpec, job: Job) -> None:
    """Raise ``IdempotencyConflict`` for a request to wait for the job that holds its key: that job is another one."""
    if any(job_id == job.job_id for _, job_id in spec.after):
        message = (
            f"idempotency key {spec.idempotency_key!r} belongs to job {job.job_id}, which is not to wait for itself"
        )
        raise IdempotencyConflict(message, details={"job_id": job.job_id})
