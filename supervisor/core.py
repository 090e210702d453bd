"""The front door in Trio: ``open_supervisor`` and ``Supervisor``.

Which errors a caller meets. What a caller did wrong, or what the state root refuses, is a
``SupervisorError`` with a code and a repair, raised bare from the call that met it. What ends badly
with a job is no exception: the job says so, and its ``Result`` holds the error. A defect in an actor
costs its own job (stopped, ``failed``); a defect in the registry ends the supervisor, out of its
``async with``. An exception of the caller's own block comes out of that block as itself, not
in a group, unless others were raised beside it.

The nursery::

    caller's block
       |  start / cancel / wait
    job actors, one each -- messages --> registry (commits, then wakes waiters)
    janitor (expiry, adoption)
    engine (keeper, watching)

Leaving the block cancels the actors, which let go of their jobs: those run on.
"""

from __future__ import annotations

import contextlib
import math
import operator
import os
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar, overload

import trio

from supervisor import log, tracing
from supervisor.actors.janitor import Janitor
from supervisor.actors.job import care_for
from supervisor.actors.progress import Follower
from supervisor.actors.registry import Create, Entry, Registry, Subscription
from supervisor.catalog import Catalog, check_detail, running_error
from supervisor.engines import Engine, LaunchRequest, processes, remote
from supervisor.errors import (
    IdempotencyConflict,
    InvalidArguments,
    JobElsewhere,
    JobNotFound,
    SupervisorClosed,
)
from supervisor.follow import Chunks
from supervisor.forking import forked_error, tell_in_child
from supervisor.metrics import Metrics
from supervisor.model import Job, JobPage, JobSpec, Result, from_ns
from supervisor.requests import checked_spec, digest_of, spec_of
from supervisor.settings import Settings
from supervisor.states import State
from supervisor.store import Row
from supervisor.store.layout import new_job_id, remove_tree, state_error, workspace_key
from supervisor.store.rows import dump, row_of_record
from supervisor.workspaces import Workspaces

__all__ = ["Supervisor", "open_supervisor"]

_T = TypeVar("_T")
_LAUNCH_SHIELD_SECONDS: Final = 5


class Supervisor:
    """Starts jobs and answers for them. Made by ``open_supervisor``.

    All methods may be called from any task of the Trio program. Cancelling a call never stops a
    job, except for ``run``.

    Attributes:
        settings: what it was opened with.
    """

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        foreign: Catalog,
        registry: Registry,
        engine: Engine,
        nursery: trio.Nursery,
        services: trio.Nursery,
    ) -> None:
        """Put together what ``open_supervisor`` has opened."""
        self.settings = settings
        self._catalog = catalog
        self._foreign = foreign
        self._foreign_lock = trio.Lock()
        self._registry = registry
        self._engine = engine
        self._engines = {engine.name: engine}
        self._nursery = nursery
        self._services = services
        self._shared: set[str] = set()
        self._follower = Follower(nursery, registry.tell_progress)
        self._owner: str | None = None
        self._opened_ns = time.time_ns()
        self._workspaces = Workspaces()
        self._born = {
            "host": processes.host_id(),
            "boot": processes.boot_id(),
            "ns": processes.pid_namespace(),
        }
        self._closed = False
        self._forked = False
        tell_in_child(self)

    # ------------------------------------------------------------ starting

    @overload
    async def start(self, argv: JobSpec) -> Job: ...

    @overload
    async def start(
        self,
        argv: Sequence[str],
        *,
        workspace: str | os.PathLike[str] = ".",
        kind: str = "raw",
        deadline_seconds: float | None = None,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> Job: ...

    async def start(
        self,
        argv: Sequence[str] | JobSpec,
        *,
        workspace: str | os.PathLike[str] = ".",
        kind: str = "raw",
        deadline_seconds: float | None = None,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
        engine: str | None = None,
        engine_options: Mapping[str, Any] | None = None,
    ) -> Job:
        """Start a command as a job and return as soon as it runs (or provably never will).

        Input
            argv: the command, or a ``JobSpec``, which holds all that follows.
            workspace: the directory it runs in; relative to the current one.
            kind: how its output is read.
            deadline_seconds: ``None`` takes the settings' default, ``math.inf`` is none.
            stdin: bytes it reads before end of file; ``None`` is ``/dev/null``.
            env: its whole environment; ``None`` passes this process's own. Never written to disk.
            labels: names and values to find it by.
            idempotency_key: the same key with the same request in the same workspace returns the
                first job, as it is now, and starts nothing.
            engine: what runs it, ``"slurm"`` for instance; ``None`` is what the supervisor was opened with.
            engine_options: what that engine is to know: ``shared_dir``, ``partition``, ... (``docs/slurm.md``).

        Output
            The job: ``running``, or already ended; ``queued`` where it has to wait for its turn, once its
            engine has accepted it. A command that cannot be started still is a
            job: ``failed``, reason ``launch_failed``.

        Errors
            InvalidArguments: something given does not fit; no job was made.
            IdempotencyConflict: the key belongs to a different request.
            StateFull, PermissionDenied, StateBusy: the job could not be recorded; nothing was started.

        Cancellation
            Is delivered before anything was done, or after the job was started and recorded. If the
            launch itself takes longer than a few seconds it is delivered then, and the job, whose
            id the caller does not know, goes on; an idempotency key finds it again.
        """
        spec = spec_of(
            argv,
            workspace=workspace,
            kind=kind,
            deadline_seconds=deadline_seconds,
            stdin=stdin,
            env=env,
            labels=labels,
            idempotency_key=idempotency_key,
            engine=engine,
            engine_options=engine_options or {},
        )
        made = await self._begin(spec)
        return made if isinstance(made, Job) else await self._begun(made, spec)

    async def _begin(self, spec: JobSpec) -> Entry | Job:
        """Do as ``start`` does up to the launch; once there is a job it is returned, cancelled or not."""
        self._check_open()
        spec = checked_spec(spec)
        real = await self._workspaces.real(spec.workspace)
        made = await self._create(spec, real)
        if isinstance(made, Entry):
            patience_ends = trio.current_time() + _LAUNCH_SHIELD_SECONDS
            try:
                await made.started.wait()
            except trio.Cancelled:  # delivered again by whatever the caller awaits next, when it knows the id
                with trio.CancelScope(deadline=patience_ends, shield=True):
                    await made.started.wait()
                if not made.started.is_set():
                    raise
        return made

    async def _begun(self, made: Entry, spec: JobSpec) -> Job:
        if not made.started.is_set():
            await made.started.wait()
        if made.taken or made.problem is not None:
            await trio.to_thread.run_sync(self._catalog.layout.remove_job, made.row.workspace_key, made.row.job_id)
            if made.problem is not None:
                raise made.problem
            return await self.start(spec)  # somebody was first under the same key
        job = made.job()
        if job.status is State.QUEUED:
            self._check_open()
        return job

    async def _create(self, spec: JobSpec, real: str) -> Entry | Job:
        digest = "" if spec.idempotency_key is None else digest_of(spec, real)
        engine, options = self._engine, None
        if spec.engine is not None and (spec.engine != self._engine.name or engine.capabilities.shared_directory):
            given = {"shared_dir": self.settings.shared_dir, **spec.engine_options}
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
            self._owner = self._catalog.layout.register_owner()
        deadline = self.settings.job_max_seconds if spec.deadline_seconds is None else spec.deadline_seconds
        record: dict[str, Any] = {
            "v": 1,
            "job_id": new_job_id(),
            "kind": spec.kind,
            "argv": spec.argv,
            "workspace": real,
            "labels": dict(spec.labels),
            "created_ns": time.time_ns(),
            "deadline_seconds": None if math.isinf(deadline) else deadline,
            "ttl_seconds": self.settings.job_ttl,
            "grace_seconds": self.settings.stop_grace_seconds,
            "output_limit": self.settings.job_max_output_bytes,
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
        self._check_open()  # it may have been closed while a thread was waited for
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
            stdin=spec.stdin,
            deadline_seconds=record["deadline_seconds"],
            grace_seconds=self.settings.stop_grace_seconds,
            output_limit=self.settings.job_max_output_bytes,
            options={} if options is None else options["own"],
        )

        def begin() -> None:
            if self._closed:  # nobody is left to launch it, and whoever opens the root next will say so
                return
            self._nursery.start_soon(care_for, entry, engine, self._registry, request, record["deadline_seconds"])
            self._follower.attend(entry)

        try:
            await self._registry.send(Create(entry, self.settings.job_max_count, begin))
        except BaseException:  # nobody has heard of it
            remove_tree(directory)
            raise
        return entry

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
        row = self._catalog.index.with_key(key, idempotency_key)
        if row is None:
            return None
        try:
            job = await self.status(row.job_id)
        except JobNotFound:  # expired, and not swept away yet
            await self._in_thread(lambda catalog: catalog.index.write(lambda: catalog.index.release_key(row.job_id)))
            return None
        if row.digest != digest:
            message = f"idempotency key {idempotency_key!r} belongs to job {row.job_id}, whose request is different"
            raise IdempotencyConflict(message, details={"job_id": row.job_id})
        if job.status is State.FAILED and _never_launched(self._catalog.index.get(row.job_id)):
            await self._in_thread(lambda catalog: catalog.index.write(lambda: catalog.index.release_key(row.job_id)))
            return None
        return job

    @overload
    async def run(self, argv: JobSpec) -> Result: ...

    @overload
    async def run(
        self,
        argv: Sequence[str],
        *,
        workspace: str | os.PathLike[str] = ".",
        kind: str = "raw",
        deadline_seconds: float | None = None,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> Result: ...

    async def run(
        self,
        argv: Sequence[str] | JobSpec,
        *,
        workspace: str | os.PathLike[str] = ".",
        kind: str = "raw",
        deadline_seconds: float | None = None,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
        engine: str | None = None,
        engine_options: Mapping[str, Any] | None = None,
    ) -> Result:
        """Start a command, wait for its end and return its result: the scoped twin of ``start``.

        Takes what ``start`` takes and raises what it raises. Cancelling it stops the job, and
        waits for that: its grace and a little more at most.
        """
        spec = spec_of(
            argv,
            workspace=workspace,
            kind=kind,
            deadline_seconds=deadline_seconds,
            stdin=stdin,
            env=env,
            labels=labels,
            idempotency_key=idempotency_key,
            engine=engine,
            engine_options=engine_options or {},
        )
        made: Entry | Job | None = None
        try:
            made = await self._begin(spec)
            job = made if isinstance(made, Job) else await self._begun(made, spec)
            with self._registry.keeping(job.job_id):
                await self.wait(job.job_id)
                return await self.result(job.job_id)
        except (trio.Cancelled, KeyboardInterrupt):
            if made is not None:
                with trio.move_on_after(self.settings.stop_grace_seconds + 5, shield=True):
                    if isinstance(made, Entry):
                        await made.started.wait()
                    with contextlib.suppress(JobNotFound, JobElsewhere):
                        await self.cancel(made.row.job_id if isinstance(made, Entry) else made.job_id)
            raise

    # ------------------------------------------------------------ asking

    async def status(self, job_id: str) -> Job:
        """Return a job as it is now.

        An own job is answered from memory, unless another process has written since; any other from
        the store, after a look at the evidence if it has not ended.

        Raises:
            JobNotFound: none of this id is kept.
        """
        self._check_open()
        await trio.lowlevel.checkpoint()
        job = self.glance(job_id)
        if job is not None:
            return job
        row = self._catalog.row(job_id)
        if row.finished:
            return self._catalog.job(row)
        known = None if (adopted := self._registry.entries.get(job_id)) is None else adopted.progress
        return await self._in_thread(lambda catalog: catalog.now(row, progress=known))

    def glance(self, job_id: str) -> Job | None:
        """Return a job as ``status`` would, if it is in memory."""
        entry = self._own(job_id)
        return None if entry is None else entry.job()

    def _own(self, job_id: str) -> Entry | None:
        """Return the entry of a job of ours that lives, if nobody else has changed it."""
        self._check_open()
        entry = self._registry.entries.get(job_id)
        if entry is None or entry.adopted:
            return None
        self._registry.look_for_changes()
        if entry.generation != self._registry.generation:
            entry.generation = self._registry.generation
            row = self._catalog.index.get(job_id)
            if row is not None and row.finished:
                return None
        return entry

    async def list(
        self,
        workspace: str | os.PathLike[str] | None = None,
        state: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> JobPage:
        """Return a page of jobs, newest first.

        Input
            workspace: only jobs of this directory; ``None`` is all.
            state: only jobs in this state.
            limit: jobs on a page, 1 to 1000.
            cursor: ``next_cursor`` of the page before.
            labels: only jobs with all of these.

        Raises:
            InvalidArguments: one of them does not fit.
        """
        self._check_open()

        def own(job_id: str) -> Job | None:
            entry = self._registry.entries.get(job_id)
            return None if entry is None or entry.adopted else entry.job()

        return await self._in_thread(
            lambda catalog: catalog.list(
                workspace=workspace,
                state=state,
                labels=labels,
                limit=limit,
                cursor=cursor,
                own=own,
            ),
        )

    async def wait(self, job_id: str, timeout: float | None = None) -> Job:  # the contract's
        """Wait until a job has ended, and return it.

        Woken by its end; nothing is polled. Cancelling the wait changes nothing.

        Raises:
            JobNotFound: none of this id is kept.
            JobRunning: ``timeout`` seconds have passed and it has not ended.
        """
        self._check_open()
        # A job in our care needs no look at the store: whatever others do to it, we see its end.
        entry = self._registry.entries.get(job_id) or await self._care(job_id)
        if not isinstance(entry, Entry):
            return entry
        entry.waiters += 1
        try:
            if timeout is None:
                await entry.finished.wait()
            else:
                with trio.move_on_after(max(0, timeout)):
                    await entry.finished.wait()
        finally:
            entry.waiters -= 1
        if entry.problem is not None:
            raise entry.problem
        job = entry.job()
        if not job.status.terminal:
            self._check_open()
            raise running_error(job)
        return job

    async def _care(self, job_id: str) -> Entry | Job:
        """Return the entry of a live job, taking it into our care if need be, or the ended job."""
        self._check_open()
        await trio.lowlevel.checkpoint()
        entry = self._own(job_id)
        if entry is not None:
            return entry
        entry = self._registry.entries.get(job_id)
        if entry is not None:  # settled by somebody else a moment ago; its actor is about to see it
            return entry
        row = self._catalog.row(job_id)
        if not row.finished:
            row, seen = await self._in_thread(lambda catalog: catalog.settled(row, drive=False))
            if not row.finished:
                if seen is not None and seen.seen.value == "elsewhere":
                    from supervisor.endings import elsewhere_error

                    raise elsewhere_error(row)
                self._check_open()
                return self._registry.entries.get(job_id) or self.adopt(row, owned=False)
        return self._catalog.job(row)

    def take_over(self, rows: Sequence[Row]) -> None:
        """Note that jobs whose supervisor is gone are ours from now on; a hint for others, no more."""
        launched = [row for row in rows if row.started_ns is not None]  # nobody owns what nobody will launch
        if not launched:
            return
        if self._owner is None:
            self._owner = self._catalog.layout.register_owner()
        owner, index = self._owner, self._catalog.index
        with contextlib.suppress(Exception):
            index.write(lambda: [index.set_owner(row.job_id, owner, row.owner) for row in launched])

    def adopt(self, row: Row, owned: bool) -> Entry:  # noqa: FBT001  # the janitor's callback
        """Take an unfinished job of somebody else into our care; ``owned``: nobody else is there to launch it."""
        entry = Entry(row, self._catalog.directory(row))
        entry.adopted = True
        if not owned:
            entry.owner_lives = partial(self._catalog.layout.owner_lives, row.owner)
        entry.started.set()
        self._registry.entries[row.job_id] = entry
        self._registry.meter.adoptions += 1
        log.info("job_adopted", job_id=row.job_id)
        deadline = row.request["deadline_seconds"]
        self._nursery.start_soon(care_for, entry, self._engine_of(row), self._registry, None, deadline)
        self._follower.attend(entry)
        return entry

    async def result(self, job_id: str, consume: bool = False, detail: str | None = None) -> Result:  # noqa: FBT001, FBT002
        """Return the result of a finished job.

        Input
            consume: forget the job in the same breath; of several who consume, one gets the result.
            detail: ``"summary"`` or ``"full"``, for kinds that can be rendered in both ways.

        Output
            A ``Result`` with a value, or with an error for a job that is not ``done``.

        Raises:
            InvalidArguments: ``detail`` is something else.
            JobRunning: it has not ended.
            JobNotFound: none of this id is kept.
            StateCorrupt: its output is gone or damaged.
        """
        self._check_open()
        await trio.lowlevel.checkpoint()
        check_detail(detail)
        entry = self._own(job_id)
        if entry is not None:
            raise running_error(entry.job())
        return await self._in_thread(lambda catalog: catalog.result(job_id, consume=consume, detail=detail))

    async def metrics(self) -> Metrics:
        """Return what this supervisor has done since it was opened, and what it is at now.

        Nothing is measured for it that was not counted already, so it may be asked for often; it
        looks at every job in its care once.
        """
        self._check_open()
        await trio.lowlevel.checkpoint()
        registry, meter = self._registry, self._registry.meter
        jobs = {State(name): count for name, count in meter.ended.items()}
        alive = [entry.row.started_ns is not None for entry in registry.entries.values()]
        return Metrics(
            since=from_ns(self._opened_ns),
            jobs={State.QUEUED: alive.count(False), State.RUNNING: alive.count(True), **jobs},
            launches=(launches := meter.launches.so_far()).count,
            launch_failures=meter.launch_failures,
            adoptions=meter.adoptions,
            launch_seconds=launches,
            stop_seconds=meter.stops.so_far(),
            deadline_overshoot_seconds=meter.overshoots.so_far(),
            uncommitted=registry.queue_length,
            unnoted_launches=registry.launches_put_aside,
            waiting_for_disk=self._foreign_lock.statistics().tasks_waiting,
            subscribers=len(registry.subscriptions),
            unread_events=sum(subscription.unread for subscription in registry.subscriptions),
        )

    # ------------------------------------------------------------ doing

    async def cancel(self, job_id: str) -> Job:
        """Stop a job, and return it when nothing of it is left; a finished one is returned unchanged.

        SIGTERM to everything that belongs to it, its grace, SIGKILL until nothing is left.
        Cancelling the call does not take the request back.

        Raises:
            JobNotFound: none of this id is kept.
            JobElsewhere: it runs on another host or in another pid namespace.
        """
        entry = await self._care(job_id)
        if not isinstance(entry, Entry):
            return entry
        entry.stop("cancelled", "supervisor")
        await entry.finished.wait()
        if entry.problem is not None:
            raise entry.problem
        job = entry.job()
        if not job.status.terminal:
            self._check_open()  # it was closed meanwhile; the stop goes on
        return job

    async def forget(self, job_id: str) -> None:
        """Forget a finished job now.

        Raises:
            JobRunning: it has not ended; cancel it first.
            JobNotFound: none of this id is kept.
        """
        self._check_open()
        await trio.lowlevel.checkpoint()
        entry = self._own(job_id)
        if entry is not None:
            raise running_error(entry.job())
        await self._in_thread(lambda catalog: catalog.forget(job_id))

    async def prune(self, workspace: str | os.PathLike[str] | None = None) -> Sequence[str]:
        """Forget what has expired or is beyond the cap, in one workspace or in all; returns the ids."""
        self._check_open()
        spared = {*self._registry.entries, *self._registry.wanted}
        return await self._in_thread(lambda catalog: catalog.prune(workspace, spared=spared))

    # ------------------------------------------------------------ following

    @contextlib.asynccontextmanager
    async def events(self, job_id: str | None = None) -> AsyncGenerator[Subscription]:
        """Subscribe to changes of state and progress, of one job or of all that this supervisor takes care of.

        Gives an async iterator of ``JobEvent``. When only the progress of a job has changed, which its
        kind may report a few times a second, ``previous`` is the state that it is in; of what was not
        fetched by then only the latest is kept. The iterator holds at most 256 events: a reader that is
        too slow misses the oldest, is told how many (``lagged``), and never delays anybody.
        """
        self._check_open()
        if job_id is not None:
            await self._care(job_id)
        subscription = Subscription(job_id)
        self._registry.subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._registry.subscriptions.discard(subscription)
            subscription.close()

    @contextlib.asynccontextmanager
    async def follow(self, job_id: str, stream: str = "stdout") -> AsyncGenerator[Chunks]:
        """Read what a job writes, from the beginning, as it is written.

        Gives an async iterator of ``bytes``, at most 64 KiB each, that ends when the job has ended
        and everything was read.

        Raises:
            JobNotFound: none of this id is kept.
            InvalidArguments: ``stream`` is neither ``"stdout"`` nor ``"stderr"``.
        """
        if stream not in {"stdout", "stderr"}:
            message = f"stream is {stream!r}; it must be stdout or stderr"
            raise InvalidArguments(message)
        entry = await self._care(job_id)
        if isinstance(entry, Entry):
            directory, finished = entry.directory, entry.finished
        else:
            directory, finished = self._catalog.directory(self._catalog.row(job_id)), trio.Event()
            finished.set()
        chunks = Chunks(directory, stream, finished)
        # Not in a nursery around the caller's block, whose exceptions have to come out as themselves.
        await self._nursery.start(_serve, chunks)
        try:
            yield chunks
        finally:
            chunks.close()

    # ------------------------------------------------------------ inside

    def in_child(self) -> None:
        """Refuse every call from now on: this is a forked child."""
        self._forked = True

    def _check_open(self) -> None:
        if self._forked:
            raise forked_error()
        if self._closed:
            message = "the supervisor is closed"
            raise SupervisorClosed(message)

    async def _in_thread(self, action: Callable[[Catalog], _T]) -> _T:
        """Do something that may wait for the disk, in a thread, one at a time."""
        async with self._foreign_lock:
            self._check_open()
            return await trio.to_thread.run_sync(action, self._foreign)

    async def finish_threads(self) -> None:
        """Wait, but not for long, for what is under way in a thread; whoever is next in line is refused."""
        with trio.move_on_after(_LAUNCH_SHIELD_SECONDS, shield=True):
            async with self._foreign_lock:
                pass

    def close(self) -> None:
        """Refuse further calls, and tell others that nothing more will be launched from here."""
        self._closed = True
        log.info("supervisor_closed", state_dir=str(self.settings.state_dir), jobs=len(self._registry.entries))
        for subscription in self._registry.subscriptions:
            subscription.close()
        if self._owner is not None and not self._forked:
            self._catalog.layout.unregister_owner(self._owner)


async def _serve(chunks: Chunks, *, task_status: trio.TaskStatus[None]) -> None:
    """Serve a reader; a defect in there is the reader's, not everybody's."""
    try:
        await chunks.serve(task_status=task_status)
    except Exception as error:  # noqa: BLE001  # whatever it was, it is raised where the bytes are read
        chunks.fail(error)


def _never_launched(row: Row | None) -> bool:
    if row is None or row.outcome is None:
        return False
    return '"never_launched":true' in row.outcome


@contextlib.asynccontextmanager
async def open_supervisor(
    settings: Settings | None = None,
    *,
    engine: Engine | None = None,
) -> AsyncGenerator[Supervisor]:
    """Open a state root: an async context manager that gives a ``Supervisor``.

    Input
        settings: ``None`` reads them from the environment.
        engine: how commands are run; ``None`` is the local engine.

    Jobs whose supervisor is gone are adopted in the background. Leaving the block, also by an
    exception, lets running jobs go on; they can be asked about from anywhere.

    After ``os.fork()`` every call in the child raises ``SupervisorClosed``; a child that is forked off
    inside of Trio must leave by ``os._exit`` or by executing a program, as it shares Trio's own
    descriptors with its parent.

    Errors
        InvalidSettings: a setting does not parse.
        StateUnsafe, PermissionDenied, StateFull, StateBusy: the state root cannot be used.

    Cancellation
        Leaves the block as any exception does.
    """
    settings = Settings() if settings is None else settings
    raised: list[BaseException] = []
    try:
        async with _opened(settings, engine) as supervisor:
            try:
                yield supervisor
            except BaseException as error:
                raised.append(error)
                raise
    except BaseExceptionGroup as group:
        if raised and _is_only(raised[0], group):
            raise raised[0] from raised[0].__cause__
        raise


def _is_only(error: BaseException, inside: BaseException) -> bool:
    """Whether ``inside`` holds nothing but ``error``, which may be a group itself, however deep."""
    wanted, found = _leaves(error), _leaves(inside)  # groups are copied on their way, what they hold is not
    return len(wanted) == len(found) and all(map(operator.is_, wanted, found))


def _leaves(error: BaseException) -> list[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    held: tuple[BaseException, ...] = error.exceptions  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return [leaf for each in held for leaf in _leaves(each)]


@contextlib.asynccontextmanager
async def _opened(settings: Settings, engine: Engine | None) -> AsyncGenerator[Supervisor]:
    tracing.prepare()
    catalog = Catalog(settings, wait_seconds=0)
    try:
        if engine is None:
            from supervisor.engines.local import LocalEngine

            engine = LocalEngine(catalog.layout.root)
        running_on = engine

        def look(row: Row, directory: str) -> Any:
            if remote.made_elsewhere(row.request) not in {None, running_on.name}:
                return catalog.look(row, directory)
            return running_on.observe(directory, owner_lives=catalog.layout.owner_lives(row.owner))

        foreign = Catalog(settings, any_thread=True, observe=look)
        registry = Registry(catalog)
        catalog.owed = foreign.owed = registry.owed
        try:
            async with trio.open_nursery() as around_services:
                services = await around_services.start(_sheltered)
                try:
                    await services.start(engine.serve)
                    services.start_soon(registry.run)
                    async with trio.open_nursery() as around_actors:
                        actors = await around_actors.start(_sheltered)
                        supervisor = Supervisor(settings, catalog, foreign, registry, engine, actors, services)
                        janitor = Janitor(
                            catalog, registry, foreign_remove(settings), supervisor.adopt, supervisor.take_over
                        )
                        actors.start_soon(janitor.run)
                        log.info("supervisor_opened", state_dir=str(settings.state_dir))
                        try:
                            yield supervisor
                        finally:
                            supervisor.close()
                            await supervisor.finish_threads()
                            actors.cancel_scope.cancel()
                    registry.close()
                finally:
                    services.cancel_scope.cancel()  # the registry commits what it still holds on its way out
        finally:
            registry.let_go()
            foreign.close()
    finally:
        catalog.close()


async def _sheltered(*, task_status: trio.TaskStatus[trio.Nursery]) -> None:
    """Keep a nursery open that a cancellation around the caller's block does not reach.

    A ``run`` in that block is cancelled by it too, and needs everybody here to stop its job. Whoever
    leaves the block cancels the nursery itself.
    """
    with trio.CancelScope(shield=True):
        async with trio.open_nursery() as nursery:
            task_status.started(nursery)
            await trio.sleep_forever()


def foreign_remove(settings: Settings) -> Callable[[Iterable[Row]], None]:
    """Return what forgets finished jobs over a connection of its own, for a thread."""

    def remove(rows: Iterable[Row]) -> None:
        with Catalog(settings) as catalog:
            catalog.remove(rows)

    return remove
