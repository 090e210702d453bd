"""Receives signals, but for those that this process was started to ignore."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import AsyncIterator, Generator

import trio

__all__ = ["heard"]


@contextlib.contextmanager
def heard(*numbers: int) -> Generator[AsyncIterator[int]]:
    """Yield an iterator of these signals as they arrive; one that is ignored (``nohup``) stays ignored."""
    wanted = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    if not wanted:  # Trio refuses an empty list
        yield _silence()
        return
    with trio.open_signal_receiver(*wanted) as signals:
        yield signals


async def _silence() -> AsyncIterator[int]:
    await trio.sleep_forever()
    yield 0  # never reached: it makes this an iterator
