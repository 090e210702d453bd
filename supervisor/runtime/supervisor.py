"""The front door in Trio: what can be asked of a ``Supervisor``, which ``opening.py`` puts together.

Which errors a caller meets. What a caller did wrong, or what the state root refuses, is a
``SupervisorError`` with a code and a repair, raised bare from the call that met it. What ends badly
with a job is no exception: the job says so, and its ``Result`` holds the error. A defect in an actor
costs its own job (stopped, ``failed``); a defect in the registry ends the supervisor, out of its
``async with``. An exception of the caller's own block comes out of that block as itself, not
in a group, unless others were raised beside it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Final, Unpack, overload

import trio

from supervisor import log
from supervisor.engines import registry as remote
from supervisor.engines.interface import Engine
from supervisor.engines.local.liveness_cache import Unended
from supervisor.errors import (
    InvalidArguments,
    JobElsewhere,
    JobNotFound,
    JobRunning,
    PermissionDenied,
    StateBusy,
)
from supervisor.jobs.catalog import Catalog, check_detail, running_error
from supervisor.jobs.listing import page_at_a_glance, page_of, query_of
from supervisor.jobs.validation import spec_of
from supervisor.metrics import Metrics
from supervisor.model import Job, JobOptions, JobPage, JobSpec, Result, from_ns
from supervisor.runtime.access import Gate
from supervisor.runtime.entry import Entry
from supervisor.runtime.events import Subscription
from supervisor.runtime.follow import Chunks
from supervisor.runtime.launcher import Launcher
from supervisor.runtime.registry_actor import NoteFetched, Registry
from supervisor.runtime.stops import see_it_stop
from supervisor.settings import Settings
from supervisor.states import State, state_of
from supervisor.store import Row
from supervisor.store.state_root import workspace_key
from supervisor.system.notifier import Notifier

__all__ = ["Supervisor"]

_MOST_AT_A_GLANCE: Final = 100
_LAUNCHED_SOON_SECONDS: Final = 2.0
"""Jobs on a page that is put together on the event loop: in some milliseconds, none of them known yet."""


class Supervisor:
    """Starts jobs and answers for them. Made by ``open_supervisor``.

    All methods may be called from any task of the Trio program. Cancelling a call never stops a
    job, except for ``run``.

    Attributes:
        settings: what it was opened with.
        launcher: for the package's own use.
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
        self._registry = registry
        self._nursery = nursery
        self._gate = Gate(catalog, foreign)
        self._unended = Unended()
        self.launcher = Launcher(settings, catalog, registry, engine, nursery, services, self._gate, self.status)
        self._opened_ns = time.time_ns()
        self._notifier = Notifier()
        services.start_soon(self._notifier.serve)

    # ------------------------------------------------------------ starting

    @overload
    async def start(self, argv: JobSpec) -> Job: ...

    @overload
    async def start(self, argv: Sequence[str], **options: Unpack[JobOptions]) -> Job: ...

    async def start(self, argv: Sequence[str] | JobSpec, **options: Unpack[JobOptions]) -> Job:
        """Start a command as a job and return as soon as it runs (or provably never will).

        Input
            argv: the command, or a ``JobSpec``, which holds the options as well.
            options: the attributes of ``JobSpec``, which explains them, by their names.

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
        spec = spec_of(argv, options)
        made = await self.launcher.begin(spec)
        return made if isinstance(made, Job) else await self.launcher.begun(made, spec)

    @overload
    async def run(self, argv: JobSpec) -> Result: ...

    @overload
    async def run(self, argv: Sequence[str], **options: Unpack[JobOptions]) -> Result: ...

    async def run(self, argv: Sequence[str] | JobSpec, **options: Unpack[JobOptions]) -> Result:
        """Start a command, wait for its end and return its result: the scoped twin of ``start``.

        Takes what ``start`` takes and raises what it raises. Cancelling it stops the job, and
        waits for that: its grace and a little more at most.
        """
        spec = spec_of(argv, options)
        made: Entry | Job | None = None
        try:
            with contextlib.ExitStack() as kept:
                made = await self.launcher.begin(spec, kept)
                job = made if isinstance(made, Job) else await self.launcher.begun(made, spec, kept)
                kept.enter_context(self._registry.protected_job(job.job_id))  # it may be one that had its key
                await self.wait(job.job_id)
                return await self.result(job.job_id)
        except (trio.Cancelled, KeyboardInterrupt):
            if made is not None:
                with trio.move_on_after(self.settings.stop_grace_seconds + 5, shield=True):
                    if isinstance(made, Entry):
                        with trio.move_on_after(_LAUNCHED_SOON_SECONDS):  # a launch that hangs is cancelled as it is
                            await made.started.wait()
                    with contextlib.suppress(JobNotFound, JobElsewhere, JobRunning, PermissionDenied):
                        await self.cancel(made.row.job_id if isinstance(made, Entry) else made.job_id)
            raise

    # ------------------------------------------------------------ asking

    async def status(self, job_id: str) -> Job:
        """Return a job as it is now.

        An own job is answered from memory, unless its end is on record, which another process may have
        seen first; any other from the store, after a look at the evidence if it has not ended.

        Raises:
            JobNotFound: none of this id is kept.
        """
        self._gate.check_open()
        await trio.lowlevel.checkpoint()
        job = self.glance(job_id)
        if job is not None:
            return job
        row = await self._gate.ask(lambda catalog: catalog.row(job_id))
        if row.finished:
            return self._catalog.job(row)
        known = None if (adopted := self._registry.entries.get(job_id)) is None else adopted.progress
        job = self._catalog.at_a_glance(row, progress=known)
        if job is not None:
            return job
        return await self._gate.in_thread(lambda catalog: catalog.now(row, progress=known))

    def glance(self, job_id: str) -> Job | None:
        """Return a job as ``status`` would, if it is in memory."""
        entry = self._own(job_id)
        return None if entry is None else entry.job()

    def _own(self, job_id: str) -> Entry | None:
        """Return the entry of a job of ours that lives, if nobody else has changed it."""
        self._gate.check_open()
        entry = self._registry.entries.get(job_id)
        if entry is None or entry.adopted:
            return None
        # Others settle a job only once its end is on record. Whatever else they write is noticed by the janitor.
        if not self._is_unended(entry):
            self._registry.check_for_changes()
        if entry.generation != self._registry.generation:
            try:
                row = self._catalog.index.get(job_id)
            except StateBusy:  # for a moment; what we know ourselves is true as well
                return entry
            entry.generation = self._registry.generation
            if row is not None and row.finished:
                return None
        return entry

    def _is_unended(self, entry: Entry) -> bool:
        """Whether no end of a job of ours is on record, having noted the stop that another process has asked for."""
        if remote.made_elsewhere(entry.row.request):  # its engine reads what is on record
            return False
        unended = self._unended.is_unended(entry.directory)
        entry.stop_seen = self._unended.stop_requested(entry.directory)
        return unended

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
        self._gate.check_open()

        def own(job_id: str) -> Job | None:
            entry = self._registry.entries.get(job_id)
            if entry is None or entry.adopted:
                return None
            self._is_unended(entry)
            return entry.job()

        key = None if workspace is None else workspace_key(await self.launcher.workspaces.real(os.fspath(workspace)))
        query = query_of(key, state, labels, limit, cursor)
        await trio.lowlevel.checkpoint()
        if limit <= _MOST_AT_A_GLANCE:
            with contextlib.suppress(StateBusy):
                page = page_at_a_glance(self._catalog, query, own)
                if page is not None:
                    return page
        return await self._gate.in_thread(lambda catalog: page_of(catalog, query, own))

    async def wait(self, job_id: str, timeout: float | None = None) -> Job:  # the contract's
        """Wait until a job has ended, and return it.

        Woken by its end; nothing is polled. Cancelling the wait changes nothing.

        Raises:
            JobNotFound: none of this id is kept.
            JobRunning: ``timeout`` seconds have passed and it has not ended.
        """
        self._gate.check_open()
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
            self._gate.check_open()
            raise running_error(job)
        return job

    async def _care(self, job_id: str) -> Entry | Job:
        """Return the entry of a live job, taking it into our care if need be, or the ended job."""
        self._gate.check_open()
        await trio.lowlevel.checkpoint()
        entry = self._own(job_id)
        if entry is not None:
            return entry
        entry = self._registry.entries.get(job_id)
        if entry is not None:  # settled by somebody else a moment ago; its actor is about to see it
            return entry
        row = await self._gate.ask(lambda catalog: catalog.row(job_id))
        if not row.finished:
            row, seen = await self._gate.in_thread(lambda catalog: catalog.settled(row, drive=False))
            if not row.finished:
                if seen is None or seen.seen.value == "elsewhere":
                    from supervisor.jobs.bulk import elsewhere_error

                    raise elsewhere_error(row)
                self._gate.check_open()
                return self._registry.entries.get(job_id) or self.launcher.adopt(row, owned=False)
        return self._catalog.job(row)

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
            OutputLost: there are fewer bytes of its output than its record says.
            StateCorrupt: its output is damaged.
        """
        self._gate.check_open()
        await trio.lowlevel.checkpoint()
        check_detail(detail)
        entry = self._own(job_id)
        if entry is not None:
            raise running_error(entry.job())
        if not consume:
            with contextlib.suppress(StateBusy):
                seen = self._catalog.result_at_a_glance(job_id, detail)
                if seen is not None:
                    result, fetched = seen
                    if not fetched:
                        await self._registry.send(NoteFetched(job_id))
                    return result
        return await self._gate.in_thread(lambda catalog: catalog.result(job_id, consume=consume, detail=detail))

    async def metrics(self) -> Metrics:
        """Return what this supervisor has done since it was opened, and what it is at now.

        Nothing is measured for it that was not counted already, so it may be asked for often; it
        looks at every job in its care once.
        """
        self._gate.check_open()
        await trio.lowlevel.checkpoint()
        registry, counters = self._registry, self._registry.counters
        jobs = {state_of(name, ended=True): count for name, count in counters.ended.items()}
        alive = [entry.row.started_ns is not None for entry in registry.entries.values()]
        return Metrics(
            since=from_ns(self._opened_ns),
            jobs={State.QUEUED: alive.count(False), State.RUNNING: alive.count(True), **jobs},
            launches=(launches := counters.launches.so_far()).count,
            launch_failures=counters.launch_failures,
            adoptions=counters.adoptions,
            launch_seconds=launches,
            stop_seconds=counters.stops.so_far(),
            deadline_overshoot_seconds=counters.overshoots.so_far(),
            uncommitted=registry.queue_length,
            unnoted_launches=registry.deferred_launches,
            waiting_for_disk=self._gate.waiting,
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
            PermissionDenied: after the grace what is left of it belongs to another user; the job goes on.
            JobRunning: some seconds after the grace it still lives, as it is frozen or hangs in the kernel. The stop
                goes on by itself.
        """
        entry = await self._care(job_id)
        if not isinstance(entry, Entry):
            return entry
        again = entry.stop_why is not None
        entry.stop("cancelled", "supervisor")
        await see_it_stop(entry, again=again)
        if entry.problem is not None:
            raise entry.problem
        job = entry.job()
        if not job.status.terminal:
            self._gate.check_open()  # it was closed meanwhile; the stop goes on
        return job

    async def forget(self, job_id: str) -> None:
        """Forget a finished job now.

        Raises:
            JobRunning: it has not ended; cancel it first.
            JobNotFound: none of this id is kept.
        """
        self._gate.check_open()
        await trio.lowlevel.checkpoint()
        entry = self._own(job_id)
        if entry is not None:
            raise running_error(entry.job())
        await self._gate.in_thread(lambda catalog: catalog.forget(job_id))

    async def prune(self, workspace: str | os.PathLike[str] | None = None) -> Sequence[str]:
        """Forget what has expired or is beyond the cap, in one workspace or in all; returns the ids."""
        self._gate.check_open()
        spared = {*self._registry.entries, *self._registry.protected}
        return await self._gate.in_thread(lambda catalog: catalog.prune(workspace, spared=spared))

    # ------------------------------------------------------------ following

    @contextlib.asynccontextmanager
    async def events(self, job_id: str | None = None) -> AsyncGenerator[Subscription]:
        """Subscribe to changes of state and progress, of one job or of all that this supervisor takes care of.

        Gives an async iterator of ``JobEvent``. When only the progress of a job has changed, which its
        kind may report a few times a second, ``previous`` is the state that it is in; of what was not
        fetched by then only the latest is kept. The iterator holds at most 256 events: a reader that is
        too slow misses the oldest, is told how many (``lagged``), and never delays anybody. Each step of it can
        be cancelled; of events that are there already it may give 16 before other tasks get their turn.
        """
        self._gate.check_open()
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
        and everything was read. If the command truncates its output, what was not read by then is lost, and the
        iterator goes on from the beginning of what was written since; its ``restarts`` counts that.

        Raises:
            JobNotFound: none of this id is kept.
            InvalidArguments: ``stream`` is neither ``"stdout"`` nor ``"stderr"``.
            OutputLost: (from the iterator) it has ended, and there are fewer bytes than its record says.
        """
        if stream not in {"stdout", "stderr"}:
            message = f"stream is {stream!r}; it must be stdout or stderr"
            raise InvalidArguments(message)
        entry = await self._care(job_id)
        row: Row | None = None
        if isinstance(entry, Entry):
            directory, finished = entry.directory, entry.finished
        else:
            row = await self._gate.ask(lambda catalog: catalog.row(job_id))
            directory, finished = self._catalog.directory(row), trio.Event()
            finished.set()

        def end() -> int | None:
            found = entry.row if isinstance(entry, Entry) else row
            ended = None if found is None else found.ended
            return None if ended is None else int(ended[f"{stream}_bytes"])

        chunks = Chunks(directory, stream, finished, end)
        # Not in a nursery around the caller's block, whose exceptions have to come out as themselves.
        await self._nursery.start(_serve, chunks, self._notifier)
        try:
            yield chunks
        finally:
            chunks.close()

    # ------------------------------------------------------------ inside

    async def finish_threads(self) -> None:
        """Wait, but not for long, for what is under way in a thread."""
        await self._gate.finish_threads()

    def close(self) -> None:
        """Refuse further calls, and tell others that nothing more will be launched from here."""
        self._gate.closed = True
        log.info("supervisor_closed", state_dir=str(self.settings.state_dir), jobs=len(self._registry.entries))
        for subscription in self._registry.subscriptions:
            subscription.close()
        if not self._gate.forked:
            self.launcher.close()


async def _serve(chunks: Chunks, notifier: Notifier, *, task_status: trio.TaskStatus[None]) -> None:
    """Serve a reader; a defect in there is the reader's, not everybody's."""
    try:
        await chunks.serve(notifier, task_status=task_status)
    except Exception as error:  # noqa: BLE001  # whatever it was, it is raised where the bytes are read
        chunks.fail(error)
