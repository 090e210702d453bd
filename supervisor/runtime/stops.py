"""Waiting for the end of a job that was asked to stop, and finding out why it does not end."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Final

import trio

from supervisor.engines.interface import Client
from supervisor.errors import SupervisorError
from supervisor.runtime.entry import Entry
from supervisor.store.state_errors import state_error

__all__ = ["wait_for_stop"]

_AFTER_GRACE_SECONDS: Final = 0.5
_BETWEEN_CHECKS_SECONDS: Final = 1.0
_OVERDUE_SECONDS: Final = 8.0


async def wait_for_stop(entry: Entry, client: Client, *, again: bool) -> None:
    """Wait until a job that was asked to stop has ended; ``again``: an earlier call asked for the stop as well.

    Raises:
        StateFull, PermissionDenied: the request cannot be recorded.
        PermissionDenied: the remaining processes belong to another user.
        JobRunning: processes are alive some seconds after the grace, as signals have no effect on them for now.
    """
    directory, grace = entry.directory, entry.row.request["grace_seconds"]
    if again and not entry.finished.is_set():
        try:
            await trio.to_thread.run_sync(client.retry_stop, directory, "supervisor")
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
            problem = client.obstacle(directory, overdue=False)
            if problem is None and overdue:
                problem = await trio.to_thread.run_sync(partial(client.obstacle, directory, overdue=True))
        except OSError:  # not known now
            continue
        if problem is not None and not entry.finished.is_set():
            raise problem
    left: SupervisorError | None = None
    with contextlib.suppress(OSError):
        left = client.survivors(directory)
    if left is not None:
        raise left
