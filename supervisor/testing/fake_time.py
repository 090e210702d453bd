"""The time by which fake commands live, and the waiting jobs of their supervisor."""

from __future__ import annotations

import time
from collections.abc import Callable

import trio

from supervisor.system import processes

__all__ = ["FakeTime"]


def _in_trio() -> bool:
    """Whether this thread is inside a Trio program."""
    try:
        trio.lowlevel.current_trio_token()
    except RuntimeError:
        return False
    return True


class FakeTime:
    """Seconds by Trio's clock, continued from one ``trio.run`` to the next; any thread may ask.

    Attributes:
        serving: how many supervisors are open. While it is 0, time stands still.
    """

    def __init__(self) -> None:
        """Begin at 0 with the first supervisor."""
        self.serving = 0
        self._run: trio.lowlevel.TrioToken | None = None
        self._clock: trio.abc.Clock | None = None
        self._last = 0.0
        self._shift = 0.0
        self._wall_ns = self._boot_ns = 0

    def now(self) -> float:
        """Return the seconds since the begin."""
        here = _in_trio()
        if here and (run := trio.lowlevel.current_trio_token()) is not self._run:
            self._clock = trio.lowlevel.current_clock()
            self._shift = self._last - self._clock.current_time()
            if self._run is None:
                self._wall_ns, self._boot_ns = time.time_ns(), processes.boottime_ns()
            self._run = run
        if self._clock is not None and (here or self.serving):
            self._last = self._clock.current_time() + self._shift
        return self._last

    def wall_ns(self) -> int:
        """Return the time of day: that of the begin, plus the seconds since then."""
        passed = int(self.now() * 1e9)
        return time.time_ns() if self._run is None else self._wall_ns + passed

    def boot_ns(self) -> int:
        """Return the boot clock in the same way."""
        passed = int(self.now() * 1e9)
        return processes.boottime_ns() if self._run is None else self._boot_ns + passed

    def there(self, action: Callable[[], object]) -> None:
        """Call a function in the supervisor's thread, and return when it is done; asyncio tests are in another."""
        if self.serving and not _in_trio():
            trio.from_thread.run_sync(action, trio_token=self._run)
        else:
            action()
