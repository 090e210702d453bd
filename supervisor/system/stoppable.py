"""Blocking work in a thread that a cancellation stops, and then waits for: it must not go on unobserved."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import trio

if TYPE_CHECKING:
    import outcome

__all__ = ["run_stoppable"]

_T = TypeVar("_T")


async def run_stoppable(work: Callable[[], _T], stop: Callable[[], object]) -> _T:
    """Return what ``work`` returns, in a thread.

    A cancellation calls ``stop``, in the thread of the event loop, waits until ``work`` has returned or raised, and is
    raised in place of that.
    """
    await trio.lowlevel.checkpoint_if_cancelled()
    task, token = trio.lowlevel.current_task(), trio.lowlevel.current_trio_token()
    stopped = False

    def deliver(result: outcome.Outcome[_T]) -> None:
        token.run_sync_soon(trio.lowlevel.reschedule, task, result)

    def abort(_: object) -> trio.lowlevel.Abort:
        nonlocal stopped
        stopped = True
        stop()
        return trio.lowlevel.Abort.FAILED

    trio.lowlevel.start_thread_soon(work, deliver)
    try:
        result: _T = await trio.lowlevel.wait_task_rescheduled(abort)
    finally:
        if stopped:
            await trio.lowlevel.checkpoint_if_cancelled()
    return result
