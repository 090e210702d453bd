"""Which instants of a schedule are due, and when to look next: decisions about times, without any action. Pure.

Missed instants are found from now backwards. So their number does not matter, nor how long no process was there. An
instant that was decided is not due again, even if the clock is set back to a time before it. One that was never decided
stays due, even if a later one was decided.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

import attrs

from supervisor.admission.cron import Cron
from supervisor.store.schedule_files import Schedule, State

__all__ = ["CATCH_UP", "MAX_CAUGHT_UP", "ON_TIME_NS", "OVERLAP", "Instants"]

OVERLAP: Final = ("skip", "buffer_one", "cancel_other", "allow_all")
CATCH_UP: Final = ("latest", "none", "all")
MAX_CAUGHT_UP: Final = 100
"""How many missed instants ``all`` fires, the newest ones."""
ON_TIME_NS: Final = 60 * 10**9
"""An instant that is not older than this is not missed: ``none`` fires it, and so does a window that is shorter."""


class Instants:
    """The instants of one schedule.

    Args:
        schedule: as its file says.
        state: what it has done.

    Raises:
        InvalidArguments: its expression or its zone is not understood here.
    """

    def __init__(self, schedule: Schedule, state: State) -> None:
        """Parse the expression."""
        self._schedule = schedule
        self._cron = Cron(schedule.cron, schedule.zone)
        self._state = state

    def since_ns(self, now_ns: int) -> int:
        """Return up to which time no instant is missed: a clock that was set back to before it moves it."""
        return min(self._state.since_ns, now_ns)

    def due(self, now_ns: int) -> list[int]:
        """Return the instants to fire now, the oldest first."""
        state, catch_up = self._state, self._schedule.catch_up
        window_ns = ON_TIME_NS if catch_up == "none" else max(self._schedule.window_ns, ON_TIME_NS)
        most = MAX_CAUGHT_UP if catch_up == "all" else 1
        found: list[int] = []
        instant = self._cron.preceding(now_ns)
        while instant is not None and len(found) < most:
            at_ns = self.fires_at(instant)
            if instant <= self.since_ns(now_ns) or at_ns < now_ns - window_ns or state.has_decided(instant):
                break
            if at_ns <= now_ns:
                found.append(instant)
            instant = self._cron.preceding(instant - 1)
        return found[::-1]

    def next_at(self, now_ns: int) -> int | None:
        """Return when the next instant fires; ``None`` if none does in the next decades."""
        instant = self._cron.preceding(now_ns)
        if instant is not None and instant > self.since_ns(now_ns) and not self._state.has_decided(instant):
            at_ns = self.fires_at(instant)
            if at_ns > now_ns:
                return at_ns
        instant = self._cron.following(now_ns)
        while instant is not None and self._state.has_decided(instant):
            instant = self._cron.following(max(last for first, last in self._state.spans if first <= instant <= last))
        return None if instant is None else self.fires_at(instant)

    def fires_at(self, instant: int) -> int:
        """Return when an instant fires: after the jitter, which is the same in every process, and before the next."""
        if not self._schedule.jitter_ns:
            return instant
        following = self._cron.following(instant)
        longest = self._schedule.jitter_ns if following is None else min(self._schedule.jitter_ns, following - instant)
        digest = sha256(f"{self._schedule.name}:{instant}".encode("ascii")).digest()
        return instant + int.from_bytes(digest[:8], "big") % longest

    def settled(self, now_ns: int) -> State:
        """Return the state in fewer words: adjacent spans are one."""
        spans: list[tuple[int, int]] = []
        for first, last in self._state.spans:
            if spans and spans[-1][1] < first and self._cron.following(spans[-1][1]) == first:
                spans[-1] = spans[-1][0], last
            else:
                spans.append((first, last))
        return attrs.evolve(self._state, spans=tuple(spans), since_ns=self.since_ns(now_ns))
