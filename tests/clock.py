"""A mock clock that does not jump while a thread works.

Trio's own does, as if the work took minutes: what a test then sees is chance.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import trio
import trio.testing

__all__ = ["jumping_clock"]


def jumping_clock(patched: pytest.MonkeyPatch, *, threshold: float = 0.0) -> trio.testing.MockClock:
    """Return a clock that jumps when every task has waited for ``threshold`` seconds, and none of them for a thread."""
    clock = trio.testing.MockClock(autojump_threshold=threshold)
    run_sync = trio.to_thread.run_sync
    working = 0

    async def hold(*args: Any, **options: Any) -> Any:
        nonlocal working
        working += 1
        clock.autojump_threshold = math.inf
        try:
            return await run_sync(*args, **options)
        finally:
            working -= 1
            if not working:
                clock.autojump_threshold = threshold

    patched.setattr(trio.to_thread, "run_sync", hold)
    return clock
