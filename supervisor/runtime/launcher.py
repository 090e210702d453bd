"""Adds jobs to a supervisor: new ones, which it launches, and live ones of other supervisors, which it adopts.

The order of a launch: check the request; return the job that has its idempotency key, if there is one; make the
job directory, with all that any process needs to know of the job; commit a row; start the job's
actor, which launches the command. No caller knows of the job before the row is committed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import trio

from supervisor import log
from supervisor.admission import orders
from supervisor.admission.groups import check_ticket
from supervisor.engines.cluster.shared_directory import make_job_directory
from supervisor.engines.interface import Engine, HoldsOrders, JobPhase, LaunchRequest
from supervisor.errors import (
    FeatureUnavailable,
    SupervisorError,
)
from supervisor.jobdir.durability import is_durable, sync_job
from supervisor.jobs.bulk import elsewhere_error
from supervisor.jobs.catalog import Catalog
from supervisor.jobs.validation import checked_spec
from supervisor.model import Job, JobSpec
from supervisor.runtime.access import StoreAccess
from supervisor.runtime.drafts import Draft, Drafts
from supervisor.runtime.engines_in_use import EnginesInUse
from supervisor.runtime.entry import Entry
from supervisor.runtime.job_actor import supervise
from supervisor.runtime.lookup import Lookup
from supervisor.runtime.messages import Create
from supervisor.runtime.progress import Follower
from supervisor.runtime.registry_actor import Registry
from supervisor.runtime.waiting import WaitingJobs
from supervisor.settings import Settings
from supervisor.states import State
from supervisor.store import Row
from supervisor.store.rows import dump, row_of_record
from supervisor.store.state_errors import state_error
from supervisor.store.state_root import remove_tree
from supervisor.system.notifier import Notifier
from supervisor.system.syncing import sync_directory

__all__ = ["LAUNCH_SECONDS", "LAUNCH_SHIELD_SECONDS", "Launcher"]

LAUNCH_SHIELD_SECONDS: Final = 5
LAUNCH_SECONDS: Final = 10.0
"""How long a start waits for the launch, which may hang on a file system, or on a keeper that was stopped. After that
the job is queued, and is launched when that passes, unless it is cancelled before."""


class Launcher:
    """Makes jobs, and starts an actor for each.

    Args:
        settings: of the supervisor.
        catalog: the jobs over a connection that never waits.
        registry: commits the changes of jobs.
        engine: runs the jobs that name no other.
        nursery: holds the actors.
        services: holds the tasks of further engines.
        access: closed with the supervisor.
        lookup: finds jobs.
        follower: follows the progress of jobs.
        notifier: reports changes on disk.
    """

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        registry: Registry,
        engine: Engine,
        nursery: trio.Nursery,
        services: trio.Nursery,
        access: StoreAccess,
        lookup: Lookup,
        follower: Follower,
        notifier: Notifier,
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._registry = registry
        self._nursery = nursery
        self._access = access
        self._lookup = lookup
        self._follower = follower
        self._owner: str | None = None
        self._engines = EnginesInUse(settings, catalog.layout.root, engine, services)
        self.engine_of = self._engines.of_job
        self.drafts = Drafts(settings, catalog, access, lookup, self._engines, self._register)
        registry.supervise_next = self.supervise_next
        self.waiting = WaitingJobs(
            catalog, registry, nursery, access, self.engine_of, self._register, settings, notifier
        )

    def protect(self, job_id: str, protection: contextlib.ExitStack) -> None:
        """Protect a job from eviction and expiry until ``protection`` closes."""
        self._registry.protect(job_id, protection)

    # ------------------------------------------------------------ new jobs

    async def begin(self, spec: JobSpec, protection: contextlib.ExitStack | None = None) -> Entry | Job:
        """Make a job, or find the one that has its key. Return it once it exists, also when cancelled.

        The call waits ``LAUNCH_SECONDS`` for the launch. While ``protection`` is open, a job that was made is not
        evicted: it may end, and others be started, before its caller asks for the result.
        """
        self._access.check_open()
        spec = checked_spec(spec)
        real = await self.drafts.workspaces.real(spec.workspace)
        made = await self._create(spec, real, protection)
        if isinstance(made, Entry):
            shield_ends = trio.current_time() + LAUNCH_SHIELD_SECONDS
            try:
                with trio.move_on_after(LAUNCH_SECONDS):
                    await made.started.wait()
            except trio.Cancelled:  # delivered again by the caller's next await, when the caller knows the id
                with trio.CancelScope(deadline=shield_ends, shield=True):
                    await made.started.wait()
                if not made.started.is_set() and made.row.job_id not in self._registry.entries:
                    raise
        return made

    async def begun(
        self, made: Entry | Job, spec: JobSpec, protection: contextlib.ExitStack | None = None
    ) -> Entry | Job:
        """Return the job that ``begin`` has returned, or another one that got its key first.

        A job whose launch takes long is returned while it is queued.

        Raises:
            SupervisorError: it could not be recorded; there is no such job.
        """
        if isinstance(made, Job):
            return made
        if not made.started.is_set() and made.row.job_id not in self._registry.entries:
            await made.started.wait()  # no caller knows its id yet
        if made.key_conflict or made.problem is not None:
            await trio.to_thread.run_sync(self._catalog.layout.remove_job, made.row.workspace_key, made.row.job_id)
            if made.problem is not None:
                raise made.problem
            return await self.begun(await self.begin(spec, protection), spec, protection)
        if made.row.state == State.QUEUED:
            self._access.check_open()
        return made

    async def _create(self, spec: JobSpec, real: str, protection: contextlib.ExitStack | None) -> Entry | Job:
        draft = await self.drafts.draft(spec, real)
        if isinstance(draft, Job):
            return draft
        ticket = draft.ticket
        if ticket is not None and (ticket.groups or ticket.after):
            await self._access.in_thread(
                lambda catalog: self.drafts.take_defaults(draft, check_ticket(catalog.index, ticket))
            )
        entry = await self._make_directory(draft.key, draft.record)
        if protection is not None:
            self._registry.protect(entry.job_id, protection)
        try:
            request = self.drafts.launch_request(draft, entry.directory)
            has_orders = ticket is not None and await self.spool_now(draft, request)
            await self._registry.send(self.creation(draft, entry, request, has_orders=has_orders))
        except BaseException:  # no process knows of it
            self._catalog.layout.remove_job(draft.key, entry.row.job_id)
            raise
        return entry

    def creation(self, draft: Draft, entry: Entry, request: LaunchRequest, *, has_orders: bool) -> Create:
        """Return the message that records a job and then begins it; ``has_orders``: its orders are on disk."""

        def begin(launch: bool = True) -> None:  # noqa: FBT001, FBT002  # False: it is to end without a launch
            if self._access.closed:  # the next supervisor on the state root records that it never ran
                return
            self._nursery.start_soon(supervise, entry, draft.engine, self._registry, request if launch else None)
            self._follower.attend(entry)

        if draft.ticket is not None:
            self.waiting.enter(entry, request, begin, has_orders=has_orders)
        return Create(entry, self._settings.job_max_count, begin)

    @staticmethod
    async def spool_now(draft: Draft, request: LaunchRequest) -> bool:
        """Spool the orders of a job that cannot be spooled in the transaction; return whether it is such a job."""
        engine = draft.engine
        if draft.spec.spool == "memory":
            if not isinstance(engine, HoldsOrders):
                message = f"engine {engine.name} does not hold the orders of waiting jobs in memory"
                raise FeatureUnavailable(message, repair="Start the job with --spool disk.")
            await engine.hold(request.directory, orders.in_memory(request))
            return True
        if engine.on_this_machine:
            return False
        # A shared directory may be slow, and no transaction may wait for it. So a job for a cluster gets its
        # orders now, and needs them also if it does not have to wait.
        await trio.to_thread.run_sync(orders.spool, request)
        return True

    async def _make_directory(self, key: str, record: dict[str, Any]) -> Entry:
        """Make the directory of a job, in a thread if a part of it is on a cluster, or if that waits for the disk."""
        self._access.check_open()  # it may have been closed during a wait for a thread
        if "directory" in record or is_durable(record):
            return await trio.to_thread.run_sync(self.make_directory, key, record)
        return self.make_directory(key, record)

    def make_directory(self, key: str, record: dict[str, Any]) -> Entry:
        """Make the directory of a job; that of a cluster job is shared, and the one in the state root leads to it."""
        text = dump(record)
        row = row_of_record(key, record, text, ours=True)
        content = text.encode("ascii")
        directory = self._catalog.layout.make_job(key, row.job_id, content)
        shared = record.get("directory")
        if shared is None:
            return Entry(row, directory)
        try:
            entry = Entry(row, make_job_directory(directory, shared, content))
            if row.is_durable:
                sync_job(shared)
                sync_directory(os.path.dirname(shared))
                sync_directory(directory)
        except OSError as error:
            remove_tree(directory)
            raise state_error(error, "cannot make the job directory") from error
        return entry

    def remove(self, entry: Entry) -> None:
        """Delete the directory of a job that is not recorded."""
        self._catalog.layout.remove_job(entry.row.workspace_key, entry.row.job_id)

    # ------------------------------------------------------------ jobs of other supervisors

    async def supervised(self, job_id: str) -> Entry | Job:
        """Return the entry of a live job, which is adopted if need be, or the ended job.

        Raises:
            JobNotFound: there is no job of this id.
            JobElsewhere: it runs on another host or in another pid namespace.
        """
        self._access.check_open()
        await trio.lowlevel.checkpoint()
        # An own job that another process has just ended is still in memory; its actor is about to observe that.
        entry = self._lookup.own(job_id) or self._registry.entries.get(job_id)
        if entry is not None:
            return entry
        row = await self._lookup.row(job_id)
        if not row.finished:
            row, observation = await self._access.in_thread(lambda catalog: catalog.refresh(row, drive=False))
            if not row.finished:
                if observation is None or observation.phase is JobPhase.ELSEWHERE:
                    raise elsewhere_error(row, observation)
                self._access.check_open()
                return self._registry.entries.get(job_id) or self.adopt(row, owned=False)
        return self._catalog.job(row)

    def take_over(self, rows: Sequence[Row]) -> None:
        """Record this supervisor as the owner of jobs whose supervisor is gone: a hint for other processes."""
        launched = [row for row in rows if row.started_ns is not None]  # this supervisor launches none of the others
        if not launched:
            return
        index = self._catalog.index
        with contextlib.suppress(Exception):
            owner = self._register()
            index.write(lambda: [index.set_owner(row.job_id, owner, row.owner) for row in launched])

    def adopt(self, row: Row, owned: bool) -> Entry:  # noqa: FBT001  # the janitor's callback
        """Supervise an unfinished job of another process; ``owned``: no other supervisor may launch it."""
        self._registry.counters.adoptions += 1
        log.info("job_adopted", job_id=row.job_id)
        return self._supervise(row, owned=owned)

    def _supervise(self, row: Row, *, owned: bool) -> Entry:
        entry = Entry(row, self._catalog.directory(row))
        entry.adopted = True
        if not owned:
            entry.owner_lives = partial(self._catalog.layout.owners.observe, row.owner)
        entry.started.set()
        self._registry.entries[row.job_id] = entry
        self._nursery.start_soon(supervise, entry, self.engine_of(row), self._registry, None)
        self._follower.attend(entry)
        self.waiting.watch(entry)
        return entry

    def supervise_next(self, job_id: str) -> bool:
        """Supervise an attempt that follows the end of a job, unless another supervisor that lives owns it.

        Returns ``False`` if that is not known now.
        """
        if self._access.closed or job_id in self._registry.entries:
            return True
        try:
            row = self._catalog.index.get(job_id)
            if row is not None and not row.finished:
                owners = self._catalog.layout.owners
                if row.owner == self._register() or not owners.is_alive(row.owner):
                    self._supervise(row, owned=True)
        except (SupervisorError, OSError):
            return False
        return True

    def _register(self) -> str:
        """Return the name of this supervisor as an owner of jobs; the first call announces it to other processes."""
        if self._owner is None:
            self._owner = self._catalog.layout.owners.register()
        return self._owner

    def close(self) -> None:
        """Tell other processes that this supervisor launches no more jobs."""
        if self._owner is not None:
            self._catalog.layout.owners.unregister(self._owner)
