"""Seeing a job end that was asked to stop, for as long as there is hope that it does."""

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

__all__ = ["see_it_stop"]

_AFTER_GRACE_SECONDS: Final = 0.5
_LOOK_AGAIN_SECONDS: Final = 1.0
_OVERDUE_SECONDS: Final = 8.0


async def see_it_stop(entry: Entry, *, again: bool) -> None:
    """Wait until a job has ended that was asked to stop; ``again``: that was asked for before.

    Raises:
        StateFull, PermissionDenied: the request cannot be written down.
        PermissionDenied: what is left of it is not ours to signal.
        JobRunning: it lives on some seconds after the end of its grace, as no signal takes effect on it for now.
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
        with trio.move_on_after(max(_LOOK_AGAIN_SECONDS, _AFTER_GRACE_SECONDS - since_grace)):
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
