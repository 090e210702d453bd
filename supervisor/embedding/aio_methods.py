"""The methods of ``AsyncioSupervisor``, made by docs/generate_facades.py from those of ``Supervisor``."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar, Unpack, overload

from supervisor.jobs.validation import spec_of
from supervisor.metrics import Metrics
from supervisor.model import (
    Explanation,
    GroupInfo,
    GroupOptions,
    Job,
    JobEvent,
    JobOptions,
    JobPage,
    JobSpec,
    Result,
    SpendReport,
)

if TYPE_CHECKING:
    from supervisor.model.schedules import ScheduleInfo
    from supervisor.runtime.supervisor import Supervisor

__all__ = ["AsyncioSupervisorMethods"]

_T = TypeVar("_T")


class AsyncioSupervisorMethods:
    """Makes the calls of ``Supervisor`` through the portal of ``AsyncioSupervisor``."""

    if TYPE_CHECKING:

        async def _ask(
            self,
            ask: Callable[[Supervisor], Awaitable[_T]],
            at_once: Callable[[Supervisor], _T | None] | None = None,
            *,
            scoped: bool = False,
        ) -> _T: ...

        def _open(
            self,
            enter: Callable[[Supervisor], AbstractAsyncContextManager[AsyncIterator[_T]]],
        ) -> AbstractAsyncContextManager[AsyncIterator[_T]]: ...

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
        return await self._ask(lambda sup: sup.start(spec_of(argv, options)))

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
        return await self._ask(lambda sup: sup.start_many(specs))

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
        return await self._ask(lambda sup: sup.rerun(job_id, argv, resume=resume, **options))

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
        return await self._ask(lambda sup: sup.run(spec_of(argv, options)), scoped=True)

    async def status(self, job_id: str) -> Job:
        """Return a job as it is now.

        The answer for a job that this supervisor launched comes from memory, unless its end is on record. The answer
        for any other comes from the store, after a check of the evidence if the job has not ended.

        Raises:
            JobNotFound: there is no job of this id.
        """
        return await self._ask(lambda sup: sup.status(job_id), lambda sup: sup.glance(job_id))

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
        return await self._ask(lambda sup: sup.list(workspace, state, limit, cursor, labels, group))

    async def wait(self, job_id: str, timeout: float | None = None) -> Job:
        """Wait until a job has ended, and return it.

        The end itself wakes the call; nothing is polled. Cancelling the call changes nothing.
        A job that is tried again has not ended: the call waits for the last attempt, and returns that.

        Raises:
            JobNotFound: there is no job of this id.
            JobRunning: ``timeout`` seconds have passed and it has not ended.
        """
        return await self._ask(lambda sup: sup.wait(job_id, timeout))

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
        return await self._ask(lambda sup: sup.result(job_id, consume, detail))

    async def metrics(self) -> Metrics:
        """Return the counters of this supervisor since it was opened, its present load, and that of the groups.

        The call measures nothing, so it may be made often; it counts the jobs in memory, and reads up to 100 groups.
        """
        return await self._ask(lambda sup: sup.metrics())

    async def forget(self, job_id: str) -> None:
        """Forget a finished job now.

        Raises:
            JobRunning: it has not ended; cancel it first.
            JobNotFound: there is no job of this id.
            InvalidArguments: a waiting job depends on it.
        """
        return await self._ask(lambda sup: sup.forget(job_id))

    async def prune(self, workspace: str | os.PathLike[str] | None = None) -> Sequence[str]:
        """Forget jobs that have expired or exceed the cap, in one workspace or in all; return their ids."""
        return await self._ask(lambda sup: sup.prune(workspace))

    def events(self, job_id: str | None = None) -> AbstractAsyncContextManager[AsyncIterator[JobEvent]]:
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
        return self._open(lambda sup: sup.events(job_id))

    async def pause(self, job_id: str, *, hold_deadline: bool = False) -> Job:
        """Stop all processes of a running job until ``resume``, and return it; a paused one stays paused.

        Its deadline runs on, unless ``hold_deadline``: then the time until ``resume`` does not count. ``cancel``, the
        deadline and the output limit end a paused job as any other: its processes get SIGTERM, and go on.
        Any process may pause and resume any job of the state root.

        Raises:
            JobNotFound: there is no job of this id.
            InvalidArguments: it waits (see ``hold``), has ended or is being stopped, or this process belongs to it.
            JobRunning: it is about to be launched.
            JobElsewhere: it runs on another host or in another pid namespace.
            FeatureUnavailable: it runs on a cluster, or its keeper is of an older version that holds no deadlines.
            PermissionDenied: a process of it belongs to another user; the others were continued.
            StateBusy: its processes did not stop within 10 seconds, and were continued.

        Cancellation
            Is delayed until its processes are stopped.
        """
        return await self._ask(lambda sup: sup.pause(job_id, hold_deadline=hold_deadline))

    async def resume(self, job_id: str) -> Job:
        """Continue all processes of a paused job, and return it; one that is not paused is returned as it is.

        Raises:
            JobNotFound, InvalidArguments, JobElsewhere, FeatureUnavailable, PermissionDenied, StateBusy: as ``pause``.
        """
        return await self._ask(lambda sup: sup.resume(job_id))

    async def send(self, job_id: str, data: bytes, eof: bool = False) -> None:  # noqa: FBT001, FBT002  # the contract's
        """Deliver a message to the stdin, or the terminal, of a running job: whole, and at most once.

        Any process may send to any job of the state root that was started with ``stdin_open`` or ``pty``. The call
        returns when the message is in the pipe, whether or not the job has read it.

        Input
            data: at most 64 KiB.
            eof: close its stdin after that; on a terminal, type Ctrl-D.

        Errors
            InputRefused: nothing was delivered. It is retryable while the job does not read, or waits for its launch;
                it is not once its stdin is closed, or its keeper has ended.
            InvalidArguments: the message is too long or empty, or the job has ended or has no such input.
            JobNotFound: there is no job of this id.
            JobElsewhere: it runs on another host or in another pid namespace.

        Cancellation
            The call is not cancelled once it has begun to send, which takes ten seconds at most.
        """
        return await self._ask(lambda sup: sup.send(job_id, data, eof))

    async def signal(self, job_id: str, signal: int | str) -> Job:
        """Send a signal to the process of a running job, its leader, and return the job.

        The other processes of the job do not get it. A paused job gets it when it is resumed.

        Input
            signal: its number, or its name with or without ``SIG``. Not SIGSTOP, which would stop a part of the job
                unseen: see ``pause``; and while the job is paused not SIGCONT, see ``resume``.

        Raises:
            JobNotFound: there is no job of this id.
            InvalidArguments: there is no such signal, it cannot be sent, or the job waits or has ended.
            JobRunning, JobElsewhere, FeatureUnavailable: as ``pause``.
            PermissionDenied: the process belongs to another user.
        """
        return await self._ask(lambda sup: sup.signal(job_id, signal))

    async def cancel(self, job_id: str, *, signal: int | str | None = None) -> Job:
        """Stop a job, and return it when no process of it is left; a finished one is returned unchanged.

        SIGTERM to everything that belongs to it, its grace, SIGKILL until nothing is left.

        Input
            signal: sent first, in the place of SIGTERM, to a job that runs on this machine: its number or its name.
                What outlives the leader then gets SIGTERM. A keeper of an older version sends SIGTERM at once.

        Cancelling the call does not take the request back.
        A job that is tried again is stopped for good: the call stops the last attempt, and returns that.

        Raises:
            JobNotFound: there is no job of this id.
            InvalidArguments: there is no such signal, or it ends nothing.
            FeatureUnavailable: a signal is given, and the job runs on a cluster.
            JobElsewhere: it runs on another host or in another pid namespace.
            PermissionDenied: the processes left after the grace belong to another user; the job goes on.
            JobRunning: some seconds after the grace it still lives, as it is frozen or hangs in the kernel. The stop
                goes on by itself.
        """
        return await self._ask(lambda sup: sup.cancel(job_id, signal=signal))

    async def read(self, job_id: str, stream: str = "stdout", offset: int = 0, limit: int = 65536) -> tuple[bytes, int]:
        """Return a part of the output of a job, and the offset of the next part. It waits for no output.

        Input
            stream: ``"stdout"`` or ``"stderr"``.
            offset: of the first byte, at least 0.
            limit: the most bytes, from 1 to 1 GiB; by default 64 KiB.

        Output
            The bytes that are there, fewer at the end; none past the end, and none past the output limit of the job. If
            a running command has truncated its output below ``offset``, the part is from the beginning, and the
            next offset shows that.

        Raises:
            JobNotFound: there is no job of this id.
            InvalidArguments: an argument is none of these.
            OutputLost: the job has ended, and there are fewer bytes than its record says.
            StateBusy: it cannot be read now.
        """
        return await self._ask(lambda sup: sup.read(job_id, stream, offset, limit))

    def follow(
        self,
        job_id: str,
        stream: str = "stdout",
        offset: int = 0,
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Read the output of a job as it is written, from the beginning or from another byte.

        Gives an async iterator of ``bytes``, at most 64 KiB each, that ends when the job has ended
        and everything was read. If the command truncates its output, the bytes that were not read by then are lost, and
        the iterator goes on from the new beginning. Cancelling a wait for the next bytes
        loses none. Bytes past its output limit are left out.

        ``offset``: where to begin, as ``read`` returns it.

        Raises:
            JobNotFound: there is no job of this id.
            InvalidArguments: ``stream`` is neither ``"stdout"`` nor ``"stderr"``, or ``offset`` is below 0.
            OutputLost: (from the iterator) it has ended, and there are fewer bytes than its record says.
        """
        return self._open(lambda sup: sup.follow(job_id, stream, offset))

    async def set_group(self, name: str, **options: Unpack[GroupOptions]) -> GroupInfo:
        """Make a group, or change what ``options`` name and keep the rest. Lowering a limit stops no job.

        Input
            name: 1 to 64 letters, digits, ``.``, ``_`` or ``-``.
            options: the attributes of ``GroupOptions``, which explains them, by their names. ``limit`` is the weight
                that may run at a time (``None``: unlimited, 0: closed). A change of ``fair_by`` orders jobs that come
                later; those that wait keep their ranks.

        Raises:
            InvalidArguments: an option is out of range, or the limit is below the weight of a waiting job.
            StateCorrupt: the file of the group is damaged or of a newer version; it is left as it is.
        """
        return await self._ask(lambda sup: sup.set_group(name, **options))

    async def pause_group(self, name: str, *, until: datetime | None = None, reason: str | None = None) -> GroupInfo:
        """Admit no more jobs to a group, until a time or until ``resume_group``; running jobs go on.

        Raises:
            GroupNotFound: there is no such group.
        """
        return await self._ask(lambda sup: sup.pause_group(name, until=until, reason=reason))

    async def resume_group(self, name: str, *, every: bool = False) -> GroupInfo:
        """End the pause that a user has made; other pauses stay. Without such a pause, end the only one.

        ``every``: end all pauses.

        Raises:
            GroupNotFound: there is no such group.
            InvalidArguments: several causes pause it, and none of them is the user.
        """
        return await self._ask(lambda sup: sup.resume_group(name, every=every))

    async def remove_group(self, name: str, *, to: str | None = None) -> None:
        """Remove a group; its waiting jobs move to the group ``to``, if that is given.

        They keep their other groups and their priorities, and are ordered among the jobs of ``to`` by their starts.

        Raises:
            GroupNotFound: there is no such group, or no group ``to``.
            GroupClosed: the limit of ``to`` is 0.
            InvalidArguments: jobs of it run, or wait and there is no ``to``; or ``to`` is the same group, or has a
                limit below the weight of a waiting job. In these cases, nothing was changed. If a job is started in
                the group at the same moment, the others may have moved.
        """
        return await self._ask(lambda sup: sup.remove_group(name, to=to))

    async def groups(self) -> tuple[GroupInfo, ...]:
        """Return the groups of the state root, by their names."""
        return await self._ask(lambda sup: sup.groups())

    async def spend(
        self, by: str = "group", *, since: datetime | None = None, label: tuple[str, str] | None = None
    ) -> SpendReport:
        """Return what jobs have spent, also those that are deleted.

        A job counts when it has ended, and if its output has said what it has spent, or one of its groups has a budget.

        Input
            by: sum by ``group``, ``day``, ``session``, or the values of a label (``label:NAME``).
            since: count only jobs that have ended since this time, which has a time zone.
            label: count only jobs with this label, a name and a value.

        Raises:
            InvalidArguments: ``by`` is none of these, or ``since`` has no time zone.
            StateBusy: the records cannot be read now.
        """
        return await self._ask(lambda sup: sup.spend(by, since=since, label=label))

    async def hold(self, job_id: str) -> Job:
        """Keep a waiting job from being launched until ``release``; a held one stays held.

        Any process may hold, release and move any job of the state root that waits.

        Raises:
            JobNotFound: there is no job of this id.
            JobRunning: it runs, or is about to be launched.
            InvalidArguments: it has ended.
        """
        return await self._ask(lambda sup: sup.hold(job_id))

    async def release(self, job_id: str) -> Job:
        """End the hold of a waiting job. It is launched once it has to wait for nothing else.

        Raises:
            JobNotFound, JobRunning, InvalidArguments: as for ``hold``.
        """
        return await self._ask(lambda sup: sup.release(job_id))

    async def move(self, job_id: str, *, priority: int | None = None, first: bool = False) -> Job:
        """Change the order of a waiting job among those in the same groups.

        Input
            priority: order it as if it had been started with this priority.
            first: put it before all others instead.

        Raises:
            InvalidArguments: neither or both are given, the priority is out of range, or the job has ended.
            JobNotFound, JobRunning: as for ``hold``.
        """
        return await self._ask(lambda sup: sup.move(job_id, priority=priority, first=first))

    async def explain(self, job_id: str) -> Explanation:
        """Return why a job waits, with all that it waits for, or which evidence says that it runs or has ended.

        Raises:
            JobNotFound: there is no job of this id.
            StateBusy: some of the evidence cannot be read now.
        """
        return await self._ask(lambda sup: sup.explain(job_id))

    async def add_schedule(
        self,
        name: str,
        argv: Sequence[str] | JobSpec,
        *,
        cron: str,
        tz: str | None = None,
        overlap: str = "skip",
        catch_up: str = "latest",
        catch_up_window_seconds: float = 3600,
        jitter_seconds: float = 0,
        replace: bool = False,
        **options: Unpack[JobOptions],
    ) -> ScheduleInfo:
        """Add a schedule: a start that is repeated at the instants of a cron expression.

        Each instant starts one job, whichever processes are there, and however many. The schedule stays when the
        program ends; any supervisor of the state root fires it. Its environment (by default that of this process) and
        its input are kept on disk, in files that only the user can read.

        Input
            name: 1 to 64 letters, digits, ``.``, ``_`` or ``-``.
            argv, options: what it starts, as for ``start``. No idempotency key, dependency, delay or hold.
            cron: five fields, six with seconds first, or ``@hourly`` and the like.
            tz: the time zone of ``cron``, such as ``Europe/Berlin``; by default that of this machine.
            overlap: what an instant does while a job of the schedule has not ended: ``skip``, ``buffer_one``,
                ``cancel_other`` or ``allow_all``.
            catch_up: which instants are made up for that were missed: ``latest``, ``none`` or ``all``.
            catch_up_window_seconds: how old a missed instant may be that is made up for.
            jitter_seconds: each instant is delayed by up to this time, by the same in each process.
            replace: change a schedule that exists; its running jobs go on.

        Raises:
            InvalidArguments: an argument is wrong, the expression never fires, or there is a schedule of this name.
            GroupNotFound, GroupClosed: its jobs could never run.
            StateFull, StateBusy, PermissionDenied: it cannot be recorded.
        """
        return await self._ask(
            lambda sup: sup.add_schedule(
                name,
                argv,
                cron=cron,
                tz=tz,
                overlap=overlap,
                catch_up=catch_up,
                catch_up_window_seconds=catch_up_window_seconds,
                jitter_seconds=jitter_seconds,
                replace=replace,
                **options,
            )
        )

    async def schedules(self) -> tuple[ScheduleInfo, ...]:
        """Return the schedules of the state root, by their names; ``detail`` says of one why it is not understood."""
        return await self._ask(lambda sup: sup.schedules())

    async def pause_schedule(self, name: str) -> ScheduleInfo:
        """Have a schedule start no jobs until ``resume_schedule``; its running jobs go on.

        Raises:
            ScheduleNotFound: there is no such schedule.
            StateCorrupt: its file is damaged or of a newer version.
        """
        return await self._ask(lambda sup: sup.pause_schedule(name))

    async def resume_schedule(self, name: str) -> ScheduleInfo:
        """Have a schedule start jobs again, from its next instant on. What it has missed is not made up for.

        Raises:
            ScheduleNotFound, StateCorrupt: as for ``pause_schedule``.
        """
        return await self._ask(lambda sup: sup.resume_schedule(name))

    async def run_schedule(self, name: str) -> Job:
        """Start the job of a schedule now, also while the schedule is paused or another job of it runs.

        Raises:
            ScheduleNotFound, StateCorrupt: as for ``pause_schedule``.
            SupervisorError: the job cannot be started, see ``start``.

        Cancellation
            As for ``start``.
        """
        return await self._ask(lambda sup: sup.run_schedule(name))

    async def remove_schedule(self, name: str) -> None:
        """Remove a schedule, with the environment and the input that are on disk; its jobs go on.

        Raises:
            ScheduleNotFound: there is no such schedule.
        """
        return await self._ask(lambda sup: sup.remove_schedule(name))
