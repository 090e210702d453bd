"""Waiting for the end of a job that was asked to stop, and finding out why it does not end."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Final

import trio

from supervisor.engines import registry
from supervisor.engines.local import stopping
from supervisor.engines.obstacles import obstacle, survivors_error
from supervisor.errors import SupervisorError
from supervisor.runtime.entry import Entry
from supervisor.store.state_errors import state_error

__all__ = ["wait_for_stop"]

_AFTER_GRACE_SECONDS: Final = 0.5
_BETWEEN_CHECKS_SECONDS: Final = 1.0
_OVERDUE_SECONDS: Final = 8.0


async def wait_for_stop(entry: Entry, *, again: bool) -> None:
    """Wait until a job that was asked to stop has ended; ``again``: an earlier call asked for the stop as well.

    Raises:
        StateFull, PermissionDenied: the request cannot be recorded.
        PermissionDenied: the remaining processes belong to another user.
        JobRunning: processes are alive some seconds after the grace, as signals have no effect on them for now.
    """
    if entry.finished.is_set() or registry.made_elsewhere(entry.row.request) is not None:
        await entry.finished.wait()
        return
    job_id, directory, grace = entry.row.job_id, entry.directory, entry.row.request["grace_seconds"]
    if again and stopping.refusal_of(directory):
        try:
            await trio.to_thread.run_sync(stopping.ask_again, directory, "supervisor")
        except OSError as error:
            raise state_error(error, "cannot ask for the stop") from error
    begun = trio.current_time()
    while not entry.finished.is_set():
        since_grace = trio.current_time() - begun - grace
        with trio.move_on_after(max(_BETWEEN_CHECKS_SECONDS, _AFTER_GRACE_SECONDS - since_grace)):
            await entry.finished.wait()
            break
        overdue = since_grace >= _OVERDUE_SECONDS
        try:
            problem = obstacle(job_id, directory, overdue=False)
            if problem is None and overdue:
                problem = await trio.to_thread.run_sync(partial(obstacle, job_id, directory, overdue=True))
        except OSError:  # not known now
            continue
        if problem is not None and not entry.finished.is_set():
            raise problem
    left: SupervisorError | None = None
    with contextlib.suppress(OSError):
        left = survivors_error(job_id, directory)
    if left is not None:
        raise left
