"""What a caller can do with a running job: a part of ``Supervisor``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial

import trio

from supervisor.engines.interface import Client
from supervisor.errors import JobNotFound
from supervisor.jobdir import factories, records
from supervisor.jobs import pausing, signalling
from supervisor.jobs.catalog import Catalog
from supervisor.jobs.inputs import check_message, connection_to, deliver
from supervisor.model import Job
from supervisor.runtime.access import StoreAccess
from supervisor.runtime.entry import Entry
from supervisor.runtime.launcher import Launcher
from supervisor.runtime.lookup import Lookup
from supervisor.runtime.registry_actor import Registry
from supervisor.runtime.stops import wait_for_stop
from supervisor.store.state_errors import state_error

__all__ = ["ControlMethods"]


class ControlMethods:
    """The methods that act on a running job; ``Supervisor`` has the attributes."""

    access: StoreAccess
    launcher: Launcher
    _catalog: Catalog
    _lookup: Lookup
    _registry: Registry

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

        def act(client: Client, directory: str) -> None:
            client.pause(directory, by="supervisor", hold_deadline=hold_deadline)

        return await self._control(job_id, "paused", act)

    async def resume(self, job_id: str) -> Job:
        """Continue all processes of a paused job, and return it; one that is not paused is returned as it is.

        Raises:
            JobNotFound, InvalidArguments, JobElsewhere, FeatureUnavailable, PermissionDenied, StateBusy: as ``pause``.
        """
        return await self._control(
            job_id, "resumed", lambda client, directory: client.resume(directory, by="supervisor")
        )

    async def _control(self, job_id: str, what: str, act: Callable[[Client, str], None]) -> Job:
        """Act on a running job, in a thread of its own, as that may take seconds; return the job."""
        self.access.check_open()
        row = await self.access.in_thread(lambda catalog: pausing.prepare(catalog, job_id, what))
        directory = self._catalog.directory(row)
        try:
            await trio.to_thread.run_sync(act, self.launcher.engine_of(row).client(), directory)
        except OSError as error:
            raise state_error(error, f"job {job_id} cannot be {what}") from error
        entry = self._registry.entries.get(job_id)
        if entry is not None and entry.running is not None:
            entry.running.refresh()
        return await self._lookup.status(job_id)

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
        self.access.check_open()
        check_message(data, eof=eof)
        connection = await self.access.in_thread(lambda catalog: connection_to(catalog, job_id))
        await trio.to_thread.run_sync(partial(deliver, connection, job_id, data, eof=eof))

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

        def act(client: Client, directory: str) -> None:
            signalling.send(client, directory, signal)

        signalling.number_of(signal)
        return await self._control(job_id, "signalled", act)

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
        first = None if signal is None else signalling.check_first(signal)
        job = await self._cancel_attempt(job_id, first)
        while job.retried_by is not None:
            try:
                job = await self._cancel_attempt(job.retried_by, first)
            except JobNotFound:  # it was forgotten
                break
        return job

    async def _cancel_attempt(self, job_id: str, first_signal: int | None) -> Job:
        entry = await self.launcher.supervised(job_id)
        if not isinstance(entry, Entry):
            return entry
        client = self._catalog.client(entry.row)
        if first_signal is not None and entry.row.started_ns is not None:
            ask = partial(client.request_stop, entry.directory, by="supervisor", first_signal=first_signal)
            with contextlib.suppress(OSError):  # a full disk must not keep a job alive
                await trio.to_thread.run_sync(ask)
        if entry.row.may_be_retried:  # its end may be about to be recorded: the request is on record before that
            request = factories.stop_request("cancelled", "supervisor")
            with contextlib.suppress(OSError):
                await trio.to_thread.run_sync(records.create, entry.directory, records.STOP, request)
        again = entry.stop_why is not None
        entry.stop("cancelled", "supervisor")
        await wait_for_stop(entry, client, again=again)
        if entry.problem is not None:
            raise entry.problem
        job = entry.job()
        if not job.status.terminal:
            self.access.check_open()  # it was closed meanwhile; the stop goes on
        return job
