"""Runs calls that may wait for a file system that does not answer, in threads of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar, TypeVarTuple

import trio

__all__ = ["HangingCalls"]

_Given = TypeVarTuple("_Given")
_Got = TypeVar("_Got")

_AT_ONCE: Final = 4


class HangingCalls:
    """Runs calls in threads, a few for each path.

    A call that hangs keeps its thread. So these threads have limits of their own, by path: the calls of one
    path wait for each other, and no other call waits for them.
    """

    def __init__(self) -> None:
        self._limiters: dict[str, trio.CapacityLimiter] = {}

    async def run(self, path: str, call: Callable[[*_Given], _Got], *args: *_Given) -> _Got:
        """Return what ``call`` returns; when cancelled, abandon it."""
        limiter = self._limiters.setdefault(path, trio.CapacityLimiter(_AT_ONCE))
        try:
            return await trio.to_thread.run_sync(call, *args, limiter=limiter, abandon_on_cancel=True)
        finally:
            if not limiter.borrowed_tokens and not limiter.statistics().tasks_waiting:
                self._limiters.pop(path, None)
