"""What a caller can do with a running job: a part of ``Supervisor``."""

from __future__ import annotations

import contextlib

import trio

from supervisor.errors import JobNotFound
from supervisor.jobdir import factories, records
from supervisor.jobs.catalog import Catalog
from supervisor.model import Job
from supervisor.runtime.access import StoreAccess
from supervisor.runtime.entry import Entry
from supervisor.runtime.launcher import Launcher
from supervisor.runtime.stops import wait_for_stop

__all__ = ["ControlMethods"]


class ControlMethods:
    """The methods that act on a running job; ``Supervisor`` has the attributes."""

    access: StoreAccess
    launcher: Launcher
    _catalog: Catalog

    async def cancel(self, job_id: str) -> Job:
        """Stop a job, and return it when no process of it is left; a finished one is returned unchanged.

        SIGTERM to everything that belongs to it, its grace, SIGKILL until nothing is left.
        Cancelling the call does not take the request back.
        A job that is tried again is stopped for good: the call stops the last attempt, and returns that.

        Raises:
            JobNotFound: there is no job of this id.
            JobElsewhere: it runs on another host or in another pid namespace.
            PermissionDenied: the processes left after the grace belong to another user; the job goes on.
            JobRunning: some seconds after the grace it still lives, as it is frozen or hangs in the kernel. The stop
                goes on by itself.
        """
        job = await self._cancel_attempt(job_id)
        while job.retried_by is not None:
            try:
                job = await self._cancel_attempt(job.retried_by)
            except JobNotFound:  # it was forgotten
                break
        return job

    async def _cancel_attempt(self, job_id: str) -> Job:
        entry = await self.launcher.supervised(job_id)
        if not isinstance(entry, Entry):
            return entry
        if entry.row.may_be_retried:  # its end may be about to be recorded: the request is on record before that
            request = factories.stop_request("cancelled", "supervisor")
            with contextlib.suppress(OSError):
                await trio.to_thread.run_sync(records.create, entry.directory, records.STOP, request)
        again = entry.stop_why is not None
        entry.stop("cancelled", "supervisor")
        await wait_for_stop(entry, self._catalog.client(entry.row), again=again)
        if entry.problem is not None:
            raise entry.problem
        job = entry.job()
        if not job.status.terminal:
            self.access.check_open()  # it was closed meanwhile; the stop goes on
        return job
