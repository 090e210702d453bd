"""Which thread of the keeper runs its loop, so that a step that blocks stops nothing but itself.

The thread that runs the loop does each step that may block (a search of ``PATH``, an exec), since handing a launch to
another thread costs more than the launch. A step that takes longer than ``PATIENCE`` keeps its thread, and a standby
thread runs the loop from there on. When the step returns, its thread leaves the result to the loop and stands by.

The standby thread sleeps until a timer expires, which is set at most once in ``PATIENCE`` and only while there are
such steps: it never wakes a keeper without launches.
"""

from __future__ import annotations

import _thread
import os
import signal
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import Final

__all__ = ["MAX_BLOCKED", "PATIENCE", "Relay", "Relieved"]

PATIENCE: Final = 0.05
MAX_BLOCKED: Final = 64
_STACK_BYTES: Final = 512 << 10


class Relieved(BaseException):
    """Another thread runs the loop: this one leaves it, from wherever it is."""


class Relay:
    """Threads that run one loop in turn.

    Args:
        loop: when it returns the process ends.
        came_back: called with the arguments of a step that has returned after its thread was relieved.
        signals: those that wake the loop.
    """

    def __init__(self, loop: Callable[[], None], came_back: Callable[..., None], signals: Collection[int]) -> None:
        self._signals = signals
        self._loop = loop
        self._came_back = came_back
        self._lock = _thread.allocate_lock()
        self._runner = _thread.get_ident()
        self._since = 0.0
        self._timed = self._runs = False
        self._standing = 0
        self.blocked = 0

    def recruit(self) -> None:
        """Start a standby thread if there is none, as far as possible."""
        if self._standing or self.blocked >= MAX_BLOCKED or not self._runs:
            return
        if not hasattr(signal, "sigwait") or not hasattr(signal, "setitimer"):
            return
        # For all threads: only the one that waits for the timer gets its signal.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
        try:
            _thread.stack_size(_STACK_BYTES)
            _thread.start_new_thread(self._stand_by, ())
        except (RuntimeError, MemoryError, ValueError):  # no more processes or memory: as without threads
            return
        self._standing += 1

    @property
    def may_block(self) -> bool:
        """Whether the loop goes on if a step blocks now; where there are no threads, whether no step blocks yet."""
        if not self._standing:
            self.recruit()
        return self._standing > 0 or not self.blocked

    def run(self) -> None:
        """Run the loop, and stand by when relieved; does not return before the process may end."""
        self._runs = True
        self.recruit()
        try:
            self._loop()
        except Relieved:
            self._stand_by()

    def guard(self, step: Callable[..., object], *args: object) -> None:
        """Do a step that may block, which raises nothing.

        Raises:
            Relieved: it has taken so long that another thread runs the loop.
        """
        if not self._standing:
            step(*args)
            return
        me = _thread.get_ident()
        # The kernel gives a signal to one thread, which may be blocked: the others are to get it.
        signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)
        self._since = time.monotonic()
        if not self._timed:
            self._timed = True
            signal.setitimer(signal.ITIMER_REAL, PATIENCE)
        try:
            step(*args)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self._signals)
            with self._lock:
                relieved = self._runner != me
                if relieved:
                    self.blocked -= 1
                    self._standing += 1
                else:
                    self._since = 0.0
        if relieved:
            self._came_back(*args)
            raise Relieved

    def _stand_by(self) -> None:
        while True:
            signal.sigwait([signal.SIGALRM])
            self._timed = False  # first: a step that begins now sets the timer, or counts below
            with self._lock:
                since = self._since
                if not since:
                    continue
                left = since + PATIENCE - time.monotonic()
                if left > 0:
                    self._timed = True
                    signal.setitimer(signal.ITIMER_REAL, left)
                    continue
                self._since = 0.0
                self._runner = _thread.get_ident()
                self._standing -= 1
                self.blocked += 1
            try:
                self.recruit()
                self._loop()
            except Relieved:
                continue
            os._exit(0)  # also with steps that still block
