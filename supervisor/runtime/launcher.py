"""Bringing jobs into the care of a supervisor: new ones, and live ones that somebody else has launched.

What a launch is, in order: the request is checked; a key that belongs to a job already gives that job; the
job directory is made, with everything that anybody needs to know of it; the registry commits a row; the job's
actor is started, and launches it. Until the row is there nobody has heard of the job.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import trio

from supervisor import log
from supervisor.engines import registry as remote
from supervisor.engines.interface import Engine, LaunchRequest
from supervisor.errors import IdempotencyConflict, JobNotFound
from supervisor.jobs.catalog import Catalog
from supervisor.jobs.validation import checked_spec, digest_of
from supervisor.model import Job, JobSpec
from supervisor.runtime import tracing
from supervisor.runtime.access import Gate
from supervisor.runtime.entry import Entry
from supervisor.runtime.job_actor import care_for
from supervisor.runtime.progress import Follower
from supervisor.runtime.registry_actor import Create, Registry
from supervisor.runtime.workspaces import Workspaces
from supervisor.settings import Settings
from supervisor.states import State
from supervisor.store import Row
from supervisor.store.rows import dump, row_of_record
from supervisor.store.state_errors import state_error
from supervisor.store.state_root import new_job_id, remove_tree, workspace_key
from supervisor.system import processes

__all__ = ["Launcher"]

_LAUNCH_SHIELD_SECONDS: Final = 5
_LAUNCH_SECONDS: Final = 10.0
"""How long a start waits for the launch. It may hang on a file system, or its keeper may have been stopped; the job is
queued then, and is launched when that passes, unless it is cancelled before."""


class Launcher:
    """Makes jobs, and has them launched and taken care of.

    Args:
        settings: of the supervisor.
        catalog: its jobs, without waiting.
        registry: commits what happens to them.
        engine: runs those that name no other.
        nursery: holds the actors.
        services: holds what further engines need to be served.
        gate: closed with the supervisor.
        status: tells how a job is now, as the supervisor does.
    """

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        registry: Registry,
        engine: Engine,
        nursery: trio.Nursery,
        services: trio.Nursery,
        gate: Gate,
        status: Callable[[str], Awaitable[Job]],
    ) -> None:
        """Have started nothing yet."""
        self._settings = settings
        self._catalog = catalog
        self._registry = registry
        self._engine = engine
        self._engines = {engine.name: engine}
        self._nursery = nursery
        self._services = services
        self._gate = gate
        self._status = status
        self._shared: set[str] = set()
        self._follower = Follower(nursery, registry.publish_progress)
        self._owner: str | None = None
        self.workspaces = Workspaces()
        self._born = {
            "host": processes.host_id(),
            "boot": processes.boot_id(),
            "ns": processes.pid_namespace(),
        }

    # ------------------------------------------------------------ new jobs

    async def begin(self, spec: JobSpec, kept: contextlib.ExitStack | None = None) -> Entry | Job:
        """Make a job, or find the one that has its key; once there is one it is returned, cancelled or not.

        A launch that takes longer than ``_LAUNCH_SECONDS`` is not waited for.

        While ``kept`` is open a job that was made is not forgotten, however many there are: it may have ended,
        and another be started, before whoever has asked for it gets his turn.
        """
        self._gate.check_open()
        spec = checked_spec(spec)
        real = await self.workspaces.real(spec.workspace)
        made = await self._create(spec, real, kept)
        if isinstance(made, Entry):
            patience_ends = trio.current_time() + _LAUNCH_SHIELD_SECONDS
            try:
                with trio.move_on_after(_LAUNCH_SECONDS):
                    await made.started.wait()
            except trio.Cancelled:  # delivered again by whatever the caller awaits next, when it knows the id
                with trio.CancelScope(deadline=patience_ends, shield=True):
                    await made.started.wait()
                if not made.started.is_set() and made.row.job_id not in self._registry.entries:
                    raise
        return made

    async def begun(self, made: Entry, spec: JobSpec, kept: contextlib.ExitStack | None = None) -> Job:
        """Return the job once it runs, or provably never will; it may turn out that its key belongs to another.

        One whose launch takes long is returned as it is, queued.

        Raises:
            SupervisorError: it could not be recorded; there is no such job.
        """
        if not made.started.is_set() and made.row.job_id not in self._registry.entries:
            await made.started.wait()  # its id is not told yet
        if made.key_conflict or made.problem is not None:
            await trio.to_thread.run_sync(self._catalog.layout.remove_job, made.row.workspace_key, made.row.job_id)
            if made.problem is not None:
                raise made.problem
            again = await self.begin(spec, kept)  # somebody was first under the same key
            return again if isinstance(again, Job) else await self.begun(again, spec, kept)
        job = made.job()
        if job.status is State.QUEUED:
            self._gate.check_open()
        return job

    async def _create(self, spec: JobSpec, real: str, kept: contextlib.ExitStack | None) -> Entry | Job:
        digest = "" if spec.idempotency_key is None else digest_of(spec, real)
        engine, options = self._engine, None
        if spec.engine is not None and (spec.engine != self._engine.name or engine.capabilities.shared_directory):
            given = {"shared_dir": self._settings.shared_dir, **spec.engine_options}
            options = remote.check_options(spec.engine, given)
            engine = self._engine_named(spec.engine)
            if options["shared_dir"] not in self._shared:
                await trio.to_thread.run_sync(remote.check_shared_directory, options["shared_dir"])
                self._shared.add(options["shared_dir"])
        key = workspace_key(real)
        if spec.idempotency_key is not None:
            existing = await self._existing(key, spec.idempotency_key, digest)
            if existing is not None:
                return existing
        if self._owner is None:
            self._owner = self._catalog.layout.owners.register()
        changes = await self._changes(spec, real)
        deadline = self._settings.job_max_seconds if spec.deadline_seconds is None else spec.deadline_seconds
        record: dict[str, Any] = {
            "v": 1,
            "job_id": new_job_id(),
            "kind": spec.kind,
            "argv": spec.argv,
            "workspace": real,
            "labels": dict(spec.labels),
            "created_ns": time.time_ns(),
            "deadline_seconds": None if math.isinf(deadline) else deadline,
            "ttl_seconds": self._settings.job_ttl,
            "grace_seconds": self._settings.stop_grace_seconds,
            "output_limit": self._settings.job_max_output_bytes,
            "idempotency_key": spec.idempotency_key,
            "digest": digest,
            "engine": engine.name,
            "owner": self._owner,
            **self._born,
        }
        if (span := tracing.caller()) is not None:
            record["traceparent"] = span
        if options is not None:
            record["deadline_from"] = options["deadline_from"]
            record["engine_options"] = options["own"]
            record["directory"] = f"{options['shared_dir']}/{record['job_id']}"
        text = dump(record)
        row = row_of_record(key, record, text, ours=True)
        self._gate.check_open()  # it may have been closed while a thread was waited for
        directory = self._catalog.layout.make_job(key, row.job_id, text.encode("ascii"))
        if options is not None:
            directory = await self._make_shared(directory, record["directory"], text.encode("ascii"))
        entry = Entry(row, directory)
        request = LaunchRequest(
            job_id=row.job_id,
            directory=directory,
            argv=tuple(map(os.fsencode, spec.argv)),
            workspace=real,
            env=None if spec.env is None else {os.fsencode(name): os.fsencode(spec.env[name]) for name in spec.env},
            changes=changes,
            stdin=spec.stdin,
            deadline_seconds=record["deadline_seconds"],
            grace_seconds=self._settings.stop_grace_seconds,
            output_limit=self._settings.job_max_output_bytes,
            stop_leftovers=self._settings.job_leftovers == "stop",
            options={} if options is None else options["own"],
        )

        def begin() -> None:
            if self._gate.closed:  # nobody is left to launch it, and whoever opens the root next will say so
                return
            self._nursery.start_soon(care_for, entry, engine, self._registry, request, record["deadline_seconds"])
            self._follower.attend(entry)

        if kept is not None:
            kept.enter_context(self._registry.protected_job(row.job_id))
        try:
            await self._registry.send(Create(entry, self._settings.job_max_count, begin))
        except BaseException:  # nobody has heard of it
            remove_tree(directory)
            raise
        return entry

    async def _changes(self, spec: JobSpec, real: str) -> Mapping[bytes, bytes]:
        """Return what differs from the environment that a job inherits: PWD, unless that names its workspace.

        A PWD that a caller has set for the job is left alone.
        """
        inherited = os.environ.get("PWD")
        if inherited is None or inherited in {real, spec.workspace}:
            return {}
        if spec.env is not None and spec.env.get("PWD") != inherited:
            return {}
        by_a_link = spec.workspace == os.curdir and os.path.isabs(inherited)
        if by_a_link and await self.workspaces.real(inherited) == real:
            return {}
        return {b"PWD": os.fsencode(real)}

    def _engine_named(self, name: str) -> Engine:
        """Return an engine for many machines, serving it from now on."""
        if name not in self._engines:
            made = remote.make_engine(name)
            self._engines[name] = made
            self._services.start_soon(made.serve)
        return self._engines[name]

    def _engine_of(self, row: Row) -> Engine:
        """Return the engine that a job was given to."""
        name = remote.made_elsewhere(row.request)
        return self._engine if name is None or name == self._engine.name else self._engine_named(name)

    @staticmethod
    async def _make_shared(stub: str, directory: str, record: bytes) -> str:
        """Make the directory of a job that runs elsewhere; what stands in the state root only leads to it."""
        try:
            return await trio.to_thread.run_sync(remote.make_job_directory, stub, directory, record)
        except OSError as error:
            await trio.to_thread.run_sync(remove_tree, stub)
            raise state_error(error, "cannot make the job directory") from error

    async def _existing(self, key: str, idempotency_key: str, digest: str) -> Job | None:
        """Return the job that holds a key already; ``None`` when the key is free."""
        row = await self._gate.ask(lambda catalog: catalog.index.with_key(key, idempotency_key))
        if row is None:
            return None
        try:
            job = await self._status(row.job_id)
        except JobNotFound:  # expired, and not swept away yet
            await self._gate.in_thread(
                lambda catalog: catalog.index.write(lambda: catalog.index.release_key(row.job_id))
            )
            return None
        if row.digest != digest:
            message = f"idempotency key {idempotency_key!r} belongs to job {row.job_id}, whose request is different"
            raise IdempotencyConflict(message, details={"job_id": row.job_id})
        if job.status is State.FAILED and _never_launched(
            await self._gate.ask(lambda catalog: catalog.index.get(row.job_id)),
        ):
            await self._gate.in_thread(
                lambda catalog: catalog.index.write(lambda: catalog.index.release_key(row.job_id))
            )
            return None
        return job

    async def _release_key(self, job_id: str) -> None:
        await self._gate.in_thread(lambda catalog: catalog.index.write(lambda: catalog.index.release_key(job_id)))

    # ------------------------------------------------------------ jobs of others

    def take_over(self, rows: Sequence[Row]) -> None:
        """Note that jobs whose supervisor is gone are ours from now on; a hint for others, no more."""
        launched = [row for row in rows if row.started_ns is not None]  # nobody owns what nobody will launch
        if not launched:
            return
        index = self._catalog.index
        with contextlib.suppress(Exception):
            owner = self._owner = self._owner or self._catalog.layout.owners.register()
            index.write(lambda: [index.set_owner(row.job_id, owner, row.owner) for row in launched])

    def adopt(self, row: Row, owned: bool) -> Entry:  # noqa: FBT001  # the janitor's callback
        """Take an unfinished job of somebody else into our care; ``owned``: nobody else is there to launch it."""
        entry = Entry(row, self._catalog.directory(row))
        entry.adopted = True
        if not owned:
            entry.owner_lives = partial(self._catalog.layout.owners.observe, row.owner)
        entry.started.set()
        self._registry.entries[row.job_id] = entry
        self._registry.counters.adoptions += 1
        log.info("job_adopted", job_id=row.job_id)
        deadline = row.request["deadline_seconds"]
        self._nursery.start_soon(care_for, entry, self._engine_of(row), self._registry, None, deadline)
        self._follower.attend(entry)
        return entry

    def close(self) -> None:
        """Tell others that nothing more will be launched from here."""
        if self._owner is not None:
            self._catalog.layout.owners.unregister(self._owner)


def _never_launched(row: Row | None) -> bool:
    if row is None or row.outcome is None:
        return False
    return '"never_launched":true' in row.outcome
