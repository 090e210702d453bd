"""The public interface in Trio: what a caller can ask of a ``Supervisor``, which ``opening.py`` puts together.

The methods about groups and waiting jobs are in ``queue_methods.py``, those that act on a running job in
``control_methods.py``, those that read output in ``output_methods.py``, those about schedules in
``schedule_methods.py``.

Which errors a caller meets. A mistake of the caller, and a refusal of the state root, is a
``SupervisorError`` with a code and a repair, raised bare from the call that met it. A job that ends badly
raises nothing: the job states it, and its ``Result`` holds the error. A defect in an actor
costs its own job (stopped, ``failed``); a defect in the registry ends the supervisor, out of its
``async with``. An exception of the caller's own block comes out of that block as itself, not
in a group, unless others were raised beside it.

``docs/generate_facades.py`` makes the facades for asyncio and for threads from the public coroutines of this class
and of its bases.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Final, Unpack, overload

import trio

from supervisor import log
from supervisor.engines.interface import Engine
from supervisor.errors import JobElsewhere, JobNotFound, JobRunning, PermissionDenied, StateBusy
from supervisor.jobs.catalog import Catalog
from supervisor.jobs.listing import query_of
from supervisor.jobs.rerunning import request_again
from supervisor.jobs.results import check_detail, running_error
from supervisor.jobs.validation import spec_of
from supervisor.metrics import Metrics
from supervisor.model import Job, JobOptions, JobPage, JobSpec, Result
from supervisor.runtime.access import StoreAccess
from supervisor.runtime.control_methods import ControlMethods
from supervisor.runtime.current_metrics import current_metrics
from supervisor.runtime.deliveries import Deliveries
from supervisor.runtime.entry import Entry
from supervisor.runtime.events import Subscription
from supervisor.runtime.launcher import Launcher
from supervisor.runtime.lookup import Lookup
from supervisor.runtime.many import start_many
from supervisor.runtime.messages import NoteFetched
from supervisor.runtime.output_methods import OutputMethods
from supervisor.runtime.progress import Follower
from supervisor.runtime.queue_methods import QueueMethods
from supervisor.runtime.registry_actor import Registry
from supervisor.runtime.schedule_methods import ScheduleMethods
from supervisor.settings import Settings
from supervisor.store.state_root import workspace_key
from supervisor.system.notifier import Notifier

__all__ = ["Supervisor"]

_LAUNCHED_SOON_SECONDS: Final = 2.0


class Supervisor(ControlMethods, OutputMethods, QueueMethods, ScheduleMethods):
    """Starts jobs and answers questions about them. Made by ``open_supervisor``.

    Any task of the Trio program may call any method. Cancelling a call never stops a job, except for ``run``.

    Attributes:
        settings: the settings it was opened with.
        launcher: for the package's own use.
        access: for the package's own use.
        deliveries: for the package's own use.
    """

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        patient: Catalog,
        registry: Registry,
        engine: Engine,
        nursery: trio.Nursery,
        services: trio.Nursery,
    ) -> None:
        self.settings = settings
        self._catalog = catalog
        self._registry = registry
        self._nursery = nursery
        self.access = StoreAccess(catalog, patient)
        self._lookup = Lookup(catalog, registry, self.access)
        # One for all that is written: a user may have few inotify instances. Engines watch other events.
        self._notifier = Notifier()
        services.start_soon(self._notifier.serve)
        follower = Follower(nursery, registry.publish_progress, self._notifier)
        wall_ns = catalog.layout.clock.wall_ns
        self.deliveries = Deliveries(catalog.layout.root, settings, self.start, self.wait, wall_ns)
        registry.deliver = self.deliveries.ended
        self.launcher = Launcher(
            settings,
            catalog,
            registry,
            engine,
            nursery,
            services,
            self.access,
            self._lookup,
            follower,
            self._notifier,
        )
        self._opened_ns = time.time_ns()

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
            The job: ``running``, or already ended; ``queued`` if it has to wait for its turn, once its
            engine has accepted it. A command that cannot be started is a job as well:
            ``failed``, reason ``launch_failed``.

        Errors
            InvalidArguments: an argument does not fit; no job was made.
            IdempotencyConflict: the key belongs to a different request.
            StateFull, PermissionDenied, StateBusy: the job could not be recorded; nothing was started.

        Cancellation
            The call is cancelled before anything was done, or after the job was started and recorded. If the
            launch itself takes longer than a few seconds, it is cancelled then. The job, whose
            id the caller does not know, goes on; an idempotency key finds it again.
        """
        spec = spec_of(argv, options)
        made = await self.launcher.begun(await self.launcher.begin(spec), spec)
        return made if isinstance(made, Job) else made.job()

    async def start_many(self, specs: Sequence[JobSpec]) -> Sequence[Job]:
        """Start many jobs in one transaction, thousands a second: all of them, or none.

        Input
            specs: the requests.

        Output
            A list of the jobs, in the order of the requests, each as ``start`` returns it. A job that has to
            wait is returned ``queued`` once all are recorded.

        Errors
            As ``start`` raises them. No job was made then; ``index`` in the details is the position of the
            request that was refused.

        Cancellation
            As for ``start``: the call is cancelled before anything was done, or after the jobs were recorded.
        """
        return await start_many(self.launcher, self._registry, self.access, specs)

    async def rerun(
        self,
        job_id: str,
        argv: Sequence[str] | None = None,
        *,
        resume: str | None = None,
        **options: Unpack[JobOptions],
    ) -> Job:
        """Start a new job with the request of another one, which may run, wait, or have ended.

        Input
            argv: a command in the place of that of the job.
            resume: a prompt; the new job continues the session of the agent with it, with the options of the command.
            options: attributes of ``JobSpec`` in the place of those of the job. Not repeated are its idempotency key,
                and ``hold``, ``after``, ``not_before``, ``delay_seconds`` and ``start_within_seconds``.
                Its environment and input are not on record: without ``env``, the new job has the environment of this
                process; ``stdin`` has to be given if the job had input (``None`` is none).

        Errors
            JobNotFound: there is no job of this id.
            InvalidArguments: the job had input, and ``stdin`` is not given; its session is not known, cannot be
                continued, or is still in use; and as ``start`` raises it.
            JobElsewhere: a newer version has made it.
            StateFull, PermissionDenied, StateBusy, IdempotencyConflict: as ``start`` raises them.

        Cancellation
            As for ``start``.
        """
        self.access.check_open()
        return await self.start(
            await self.access.in_thread(lambda catalog: request_again(catalog, job_id, argv, options, resume))
        )

    @overload
    async def run(self, argv: JobSpec) -> Result: ...

    @overload
    async def run(self, argv: Sequence[str], **options: Unpack[JobOptions]) -> Result: ...

    async def run(self, argv: Sequence[str] | JobSpec, **options: Unpack[JobOptions]) -> Result:
        """Start a command, wait for its end and return its result: the scoped twin of ``start``.

        It takes the arguments of ``start`` and raises the same errors.

        Cancellation
            Cancelling the call stops the job, and waits for that: its grace and a little more at most.
        """
        spec = spec_of(argv, options)
        made: Entry | Job | None = None
        try:
            with contextlib.ExitStack() as protection:
                made = await self.launcher.begin(spec, protection)
                begun = await self.launcher.begun(made, spec, protection)
                if isinstance(begun, Job):  # another one that has the key
                    self._registry.protect(begun.job_id, protection)
                ended = await self.wait(begun.job_id)
                self._registry.protect(ended.job_id, protection)  # of several attempts, the last
                return await self.result(ended.job_id)
        except (trio.Cancelled, KeyboardInterrupt):
            if made is not None:
                grace = self.settings.stop_grace_seconds if spec.grace_seconds is None else spec.grace_seconds
                with trio.move_on_after(grace + 5, shield=True):
                    if isinstance(made, Entry):
                        with trio.move_on_after(_LAUNCHED_SOON_SECONDS):  # a launch that hangs is cancelled as it is
                            await made.started.wait()
                    with contextlib.suppress(JobNotFound, JobElsewhere, JobRunning, PermissionDenied):
                        await self.cancel(made.job_id)
            raise

    # ------------------------------------------------------------ asking

    async def status(self, job_id: str) -> Job:
        """Return a job as it is now.

        The answer for a job that this supervisor launched comes from memory, unless its end is on record. The answer
        for any other comes from the store, after a check of the evidence if the job has not ended.

        Raises:
            JobNotFound: there is no job of this id.
        """
        return await self._lookup.status(job_id)

    def glance(self, job_id: str) -> Job | None:
        """Return a job as ``status`` does, if it is in memory."""
        entry = self._lookup.own(job_id)
        return None if entry is None else entry.job()

    async def list(
        self,
        workspace: str | os.PathLike[str] | None = None,
        state: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
        labels: Mapping[str, str] | None = None,
        group: str | None = None,
    ) -> JobPage:
        """Return a page of jobs, newest first.

        Input
            workspace: only jobs of this directory; ``None`` is all.
            state: only jobs in this state.
            limit: jobs on a page, 1 to 1000.
            cursor: ``next_cursor`` of the page before.
            labels: only jobs with all of these.
            group: only jobs in this group.

        Raises:
            InvalidArguments: an argument does not fit.
        """
        self.access.check_open()
        key = (
            None
            if workspace is None
            else workspace_key(await self.launcher.drafts.workspaces.real(os.fspath(workspace)))
        )
        return await self._lookup.page(query_of(key, state, labels, limit, cursor, group))

    async def wait(self, job_id: str, timeout: float | None = None) -> Job:
        """Wait until a job has ended, and return it.

        The end itself wakes the call; nothing is polled. Cancelling the call changes nothing.
        A job that is tried again has not ended: the call waits for the last attempt, and returns that.

        Raises:
            JobNotFound: there is no job of this id.
            JobRunning: ``timeout`` seconds have passed and it has not ended.
        """
        until = math.inf if timeout is None else trio.current_time() + max(0, timeout)
        job = await self._wait_for_attempt(job_id, until)
        while job.retried_by is not None:
            try:
                job = await self._wait_for_attempt(job.retried_by, until)
            except JobNotFound:  # it was forgotten
                break
        return job

    async def _wait_for_attempt(self, job_id: str, until: float) -> Job:
        self.access.check_open()
        # The store is not asked about a job in memory: its actor observes its end, whichever process records it.
        entry = self._registry.entries.get(job_id) or await self.launcher.supervised(job_id)
        if not isinstance(entry, Entry):
            return entry
        entry.waiters += 1
        try:
            if until == math.inf:
                await entry.finished.wait()
            else:
                with trio.move_on_at(until):
                    await entry.finished.wait()
        finally:
            entry.waiters -= 1
        if entry.problem is not None:
            raise entry.problem
        job = entry.job()
        if not job.status.terminal:
            self.access.check_open()
            raise running_error(job)
        return job

    async def result(self, job_id: str, consume: bool = False, detail: str | None = None) -> Result:  # noqa: FBT001, FBT002  # the contract's
        """Return the result of a finished job; of one that was tried again, that of the last attempt.

        Input
            consume: forget the job in the same step; of several calls that consume, one gets the result.
            detail: ``"summary"`` or ``"full"``, for kinds that can be rendered in both ways.

        Output
            A ``Result`` with a value, or with an error for a job that is not ``done``.

        Raises:
            InvalidArguments: ``detail`` is neither of the two, or it is to be consumed and a waiting job depends on it.
            JobRunning: the job has not ended.
            JobNotFound: there is no job of this id.
            OutputLost: there are fewer bytes of its output than its record says.
            StateCorrupt: its output is damaged.
        """
        self.access.check_open()
        await trio.lowlevel.checkpoint()
        check_detail(detail)
        self._check_not_running(job_id)
        if not consume:
            with contextlib.suppress(StateBusy):
                found = self._catalog.result_at_a_glance(job_id, detail)
                if found is not None:
                    result, fetched = found
                    if not fetched:
                        await self._registry.send(NoteFetched(result.job_id))
                    return result
        return await self.access.in_thread(lambda catalog: catalog.result(job_id, consume=consume, detail=detail))

    def _check_not_running(self, job_id: str) -> None:
        entry = self._lookup.own(job_id)
        if entry is not None:
            raise running_error(entry.job())

    async def metrics(self) -> Metrics:
        """Return the counters of this supervisor since it was opened, its present load, and that of the groups.

        The call measures nothing, so it may be made often; it counts the jobs in memory, and reads up to 100 groups.
        """
        self.access.check_open()
        await trio.lowlevel.checkpoint()
        return await current_metrics(self._registry, self._catalog, self.access, self._opened_ns)

    # ------------------------------------------------------------ doing

    async def forget(self, job_id: str) -> None:
        """Forget a finished job now.

        Raises:
            JobRunning: it has not ended; cancel it first.
            JobNotFound: there is no job of this id.
            InvalidArguments: a waiting job depends on it.
        """
        self.access.check_open()
        await trio.lowlevel.checkpoint()
        self._check_not_running(job_id)
        await self.access.in_thread(lambda catalog: catalog.forget(job_id))

    async def prune(self, workspace: str | os.PathLike[str] | None = None) -> Sequence[str]:
        """Forget jobs that have expired or exceed the cap, in one workspace or in all; return their ids."""
        self.access.check_open()
        spared = {*self._registry.entries, *self._registry.protected}
        return await self.access.in_thread(lambda catalog: catalog.prune(workspace, spared=spared))

    # ------------------------------------------------------------ following

    @contextlib.asynccontextmanager
    async def events(self, job_id: str | None = None) -> AsyncGenerator[Subscription]:
        """Subscribe to changes of state, ``queue_reason`` and progress, of one job or of all jobs of this supervisor.

        Gives an async iterator of ``JobEvent``. When only the progress of a job has changed, which its
        kind may report a few times a second, ``previous`` is its present state, and an event that was not fetched
        is replaced by the next.

        A waiting job has an event for each change of ``queue_reason`` that this supervisor causes or sees: it got its
        slots (``launching``), its group was paused or resumed, it was held or released, its time has come, or what it
        waits for has ended. It sees a change by another process within a second or so, and of several changes in
        that time only the last; one that concerns many jobs, such as a pause, for 200 jobs a second. Not seen are a
        change of ``queue_position`` alone, the words of a cluster, and the waits of jobs that another open supervisor
        is to launch.

        The iterator holds at most 256 events: a reader that is too slow misses the oldest, learns how many
        (``lagged``), and never delays a job or another reader.
        Cancelling a wait for the next event loses none.
        """
        self.access.check_open()
        if job_id is not None:
            await self.launcher.supervised(job_id)
        subscription = Subscription(job_id)
        self._registry.subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._registry.subscriptions.discard(subscription)
            subscription.close()

    def close(self) -> None:
        """Reject further calls, and withdraw the promise to launch queued jobs."""
        self.access.closed = True
        log.info("supervisor_closed", state_dir=str(self.settings.state_dir), jobs=len(self._registry.entries))
        for subscription in self._registry.subscriptions:
            subscription.close()
        if not self.access.forked:
            self.launcher.close()
