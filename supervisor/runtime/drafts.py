"""Drafts of jobs: requests that were checked, and what is derived from them before anything is on disk.

A new option of a job is a member of ``job.json`` in ``Drafts._record``, and what its engine gets is an attribute of
``LaunchRequest``, set in ``Drafts.launch_request``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import attrs
import trio

from supervisor.admission.sessions import in_its_session
from supervisor.engines.interface import Engine, LaunchRequest
from supervisor.engines.limits import Granted, LimitsJobs, asked
from supervisor.engines.limits import granted as no_limits
from supervisor.errors import IdempotencyConflict, InvalidArguments, JobNotFound
from supervisor.interpret import new_session_id, session_command
from supervisor.jobdir import durability
from supervisor.jobdir.records import IGNORED_LIMITS
from supervisor.jobs import inputs
from supervisor.jobs.catalog import Catalog
from supervisor.jobs.validation import digest_of
from supervisor.model import Job, JobSpec, Limits, to_ns
from supervisor.retry import Retry
from supervisor.runtime import tracing
from supervisor.runtime.access import StoreAccess
from supervisor.runtime.engines_in_use import EnginesInUse
from supervisor.runtime.lookup import Lookup
from supervisor.runtime.workspaces import Workspaces
from supervisor.settings import Settings
from supervisor.states import State
from supervisor.store.groups import Group
from supervisor.store.state_root import new_job_id, workspace_key
from supervisor.store.tickets import Ticket, ticket_of
from supervisor.system import processes
from supervisor.worktrees.record import MEMBER as WORKTREE
from supervisor.worktrees.record import launch_directory

if TYPE_CHECKING:
    from supervisor.jobs.scheduled import FiredSpec

__all__ = ["Draft", "Drafts"]

_WITHOUT_LIMITS: Final = frozenset({"raw", "json"})
"""The kinds of which no job meets a usage limit."""


def _first(own: float | None, default: float) -> float:
    """Return what a request says, or the setting."""
    return default if own is None else own


def _admission_members(spec: JobSpec, boot_ns: int) -> dict[str, Any]:
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


def _series_members(spec: JobSpec, engine: Engine, job_id: str) -> dict[str, Any]:
    """Return the members of ``job.json`` about attempts, for a job that may have more than one.

    An agent in a group may meet a usage limit. Then it comes back when its group has waited that out, also if it has
    only one attempt for failures.
    """
    may_wait = spec.groups and spec.kind not in _WITHOUT_LIMITS and spec.spool == "disk" and engine.on_this_machine
    policy = Retry(maximum_attempts=1) if spec.retry is None else spec.retry
    if policy.maximum_attempts == 1 and not may_wait:
        return {}
    return {"retry": policy.to_record(), "series_id": job_id, "attempt": 1}


def _fired(spec: JobSpec) -> FiredSpec | None:
    """Return a request that a schedule has made; ``None`` for that of a caller."""
    if type(spec) is JobSpec:
        return None
    from supervisor.jobs.scheduled import FiredSpec  # few supervisors fire a schedule

    return spec if isinstance(spec, FiredSpec) else None


async def _granted(engine: Engine, limits: Limits | None) -> Granted:
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


def _check_no_self(spec: JobSpec, job: Job) -> None:
    """Raise ``IdempotencyConflict`` for a request to wait for the job that holds its key: that job is another one."""
    if any(job_id == job.job_id for _, job_id in spec.after):
        message = (
            f"idempotency key {spec.idempotency_key!r} belongs to job {job.job_id}, which is not to wait for itself"
        )
        raise IdempotencyConflict(message, details={"job_id": job.job_id})


class Drafts:
    """Makes drafts of jobs.

    Args:
        settings: of the supervisor.
        catalog: the jobs over a connection that never waits.
        access: closed with the supervisor.
        lookup: finds jobs.
        engines: runs them.
        owner: returns the name of this supervisor as an owner of jobs.
    """

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        access: StoreAccess,
        lookup: Lookup,
        engines: EnginesInUse,
        owner: Callable[[], str],
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._access = access
        self._lookup = lookup
        self._engines = engines
        self._owner = owner
        self.workspaces = Workspaces()
        self._birthplace = {"host": processes.host_id(), "boot": processes.boot_id(), "ns": processes.pid_namespace()}

    async def draft(self, spec: JobSpec, real: str) -> Draft | Job:
        """Return what is needed to make a job, or the job that has its key."""
        engine, options = await self._engines.for_request(spec)
        if spec.retry is not None and not engine.on_this_machine:
            message = f"retry is given, and engine {engine.name} runs its jobs on other machines"
            raise InvalidArguments(message, repair="Start the job without retry, or without that engine.")
        key, digest = workspace_key(real), ""
        if spec.idempotency_key is not None:
            digest = digest_of(spec, real)
            existing = await self._existing(key, spec.idempotency_key, digest)
            if existing is not None:
                _check_no_self(spec, existing)
                return existing
        record, directory = self._record(spec, real, digest, engine, options), real
        if spec.worktree is not None:
            from supervisor.runtime import worktrees  # few jobs need it

            record[WORKTREE] = await worktrees.asked_worktree(self._catalog, engine, spec, record["job_id"], real)
            spec = worktrees.without_other_repositories(spec)
            directory = launch_directory(self._catalog.layout.root, record)
        changes = await self._environment_changes(spec, directory)
        if spec.pty:
            changes = {**changes, **inputs.environment_for(spec, os.environ if spec.env is None else spec.env)}
        allowed = await _granted(engine, spec.limits)
        if spec.limits:
            record["limits"] = spec.limits.to_record()
        if allowed.options:
            record["engine_options"] = {**record.get("engine_options", {}), **allowed.options}
        if allowed.lacking:
            record[IGNORED_LIMITS] = " ".join(allowed.lacking)
        if spec.on_end or spec.webhook:
            from supervisor.jobs.deliveries import members_of  # few jobs need it

            root = self._catalog.layout.root
            record |= await trio.to_thread.run_sync(members_of, spec, self._settings, root, real)
        if "admission" in record.get("engine_options", ()):
            from supervisor.admission.by_cluster import leave_to_cluster  # few jobs need it

            await self._access.in_thread(lambda catalog: leave_to_cluster(catalog.index, record))
        return Draft(spec, key, record, engine, changes, ticket_of(record))

    def take_defaults(self, draft: Draft, groups: Sequence[Group]) -> None:
        """Enter what the groups of a job say about the delivery of its end, where its request says nothing.

        Of several groups with a command, or a URL, the first by name counts. Reads files.

        Raises:
            InvalidArguments, InvalidSettings, FeatureUnavailable: its end could not be delivered.
        """
        spec = draft.spec
        for group in groups:
            if spec.on_end is None and group.on_end is not None:
                spec = attrs.evolve(spec, on_end=group.on_end)
            if spec.webhook is None and group.webhook is not None:
                spec = attrs.evolve(spec, webhook=group.webhook)
        if spec is draft.spec:
            return
        from supervisor.jobs.deliveries import members_of  # few jobs need it

        try:
            members = members_of(spec, self._settings, self._catalog.layout.root, draft.record["workspace"])
        except InvalidArguments as error:
            message = f"{error.message}; this is a default of a group of the job: {', '.join(spec.groups)}"
            raise InvalidArguments(message, repair=error.repair, details=error.details) from error
        draft.record.update(members)

    def _record(
        self, spec: JobSpec, real: str, digest: str, engine: Engine, options: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        """Return the contents of ``job.json``."""
        settings = self._settings
        deadline = _first(spec.deadline_seconds, settings.job_max_seconds)
        record: dict[str, Any] = {
            "v": 1,
            "job_id": new_job_id(),
            "kind": spec.kind,
            "argv": spec.argv,
            "workspace": real,
            "labels": dict(spec.labels),
            "created_ns": self._catalog.layout.clock.wall_ns(),
            "deadline_seconds": None if math.isinf(deadline) else deadline,
            "ttl_seconds": _first(spec.ttl_seconds, settings.job_ttl),
            "grace_seconds": _first(spec.grace_seconds, settings.stop_grace_seconds),
            "output_limit": _first(spec.max_output_bytes, settings.job_max_output_bytes),
            "idempotency_key": spec.idempotency_key,
            "digest": digest,
            "engine": engine.name,
            "owner": self._owner(),
            **self._birthplace,
        }
        if settings.durability == durability.POWER:
            record[durability.MEMBER] = durability.POWER
        if spec.stdin_open or spec.pty:
            record |= inputs.members_of(spec, engine)
        if spec.asks_for_admission:
            record |= _admission_members(spec, self._catalog.layout.clock.boot_ns())
        if spec.retry is not None or spec.groups:
            record |= _series_members(spec, engine, record["job_id"])
        if spec.merge_stderr:
            record["merge_stderr"] = True
        if spec.no_new_privs:
            record["no_new_privs"] = True
        if (begun := session_command(spec.kind, spec.argv, new_session_id(record["job_id"]), None)) is not None:
            record["session_id"] = begun.session_id
        if (span := tracing.caller()) is not None:
            record["traceparent"] = span
        if (fired := _fired(spec)) is not None:
            record |= fired.members()
        if options is not None:
            record["deadline_from"] = options["deadline_from"]
            record["engine_options"] = options["own"]
            record["directory"] = f"{options['shared_dir']}/{record['job_id']}"
        return record

    def launch_request(self, draft: Draft, directory: str) -> LaunchRequest:
        """Return what the engine of a job gets."""
        env, record = draft.spec.env, draft.record
        argv, stdin = in_its_session(record, tuple(map(os.fsencode, draft.spec.argv)), draft.spec.stdin)
        return LaunchRequest(
            directory=directory,
            record=record,
            argv=argv,
            workspace=launch_directory(self._catalog.layout.root, record),
            env=None if env is None else {os.fsencode(name): os.fsencode(env[name]) for name in env},
            changes=draft.changes,
            stdin=stdin,
            stop_leftovers=self._settings.job_leftovers == "stop",
            queued=ticket_of(record) is not None or "on_end" in record or "webhook" in record,
            settings=None if (fired := _fired(draft.spec)) is None else fired.settings,
        )

    async def _environment_changes(self, spec: JobSpec, real: str) -> Mapping[bytes, bytes]:
        """Return the change to the environment that a job inherits: PWD, unless that names its workspace.

        A PWD that a caller has set for the job stays.
        """
        inherited = os.environ.get("PWD")
        if inherited is None or inherited == real or (inherited == spec.workspace and spec.worktree is None):
            return {}
        if spec.env is not None and spec.env.get("PWD") != inherited:
            return {}
        by_a_link = spec.workspace == os.curdir and os.path.isabs(inherited) and spec.worktree is None
        if by_a_link and await self.workspaces.real(inherited) == real:
            return {}
        return {b"PWD": os.fsencode(real)}

    async def _existing(self, key: str, idempotency_key: str, digest: str) -> Job | None:
        """Return the job that holds a key; ``None`` when the key is free."""
        row = await self._access.query(lambda catalog: catalog.index.with_key(key, idempotency_key))
        if row is None:
            return None
        job_id = row.job_id
        try:
            job = await self._lookup.status(job_id)
        except JobNotFound:  # expired, and not removed yet
            await self._release_key(job_id)
            return None
        if row.digest != digest:
            message = f"idempotency key {idempotency_key!r} belongs to job {job_id}, whose request is different"
            raise IdempotencyConflict(message, details={"job_id": job_id})
        if job.status is State.FAILED:
            ended = await self._access.query(lambda catalog: catalog.index.get(job_id))
            facts = None if ended is None or ended.retried_by is not None else ended.ended
            if facts is not None and facts.get("never_launched"):
                await self._release_key(job_id)
                return None
        return job

    async def _release_key(self, job_id: str) -> None:
        await self._access.in_thread(lambda catalog: catalog.index.write(lambda: catalog.index.release_key(job_id)))
