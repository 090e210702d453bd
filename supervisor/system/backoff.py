"""Repeats an observation, in a Trio program, for as long as its answer is not known."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

import trio

from supervisor import log
from supervisor.system.observing import FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS

__all__ = ["Patience", "until_known"]

_T = TypeVar("_T")


class Patience:
    """Gives the pauses between observations of a job, longer each time, and logs the first error."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._delay = 0.0

    def seconds(self, error: Exception) -> float:
        """Return how long to wait now, since the last observation has failed with this error."""
        if not self._delay:
            job_id = os.path.basename(self._directory)
            log.warning("job_not_looked_at", job_id=job_id, error=str(error) or repr(error))
        self._delay = min(2 * self._delay, LONGEST_DELAY_SECONDS) if self._delay else FIRST_DELAY_SECONDS
        return self._delay

    def over(self) -> None:
        """Begin anew: the last observation has succeeded."""
        self._delay = 0.0


async def until_known(
    directory: str,
    observe: Callable[[], _T],
    *,
    only: type[OSError] = OSError,
    in_thread: bool = False,
) -> _T:
    """Return ``observe()``, about the job in ``directory``, as soon as it does not fail with such an error."""
    patience = Patience(directory)
    while True:
        try:
            return await trio.to_thread.run_sync(observe) if in_thread else observe()
        except only as error:
            await trio.sleep(patience.seconds(error))
