"""Looking again, in a Trio program, for as long as something cannot be known."""

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
    """Waits between looks at a job, longer each time, and says once in the log why."""

    def __init__(self, directory: str) -> None:
        """Have waited for nothing yet."""
        self._job_id = os.path.basename(directory)
        self._delay = 0.0

    def seconds(self, error: Exception) -> float:
        """Return how long to wait now, since this has kept the last look from coming to an answer."""
        if not self._delay:
            log.warning("job_not_looked_at", job_id=self._job_id, error=str(error) or repr(error))
        self._delay = min(2 * self._delay, LONGEST_DELAY_SECONDS) if self._delay else FIRST_DELAY_SECONDS
        return self._delay

    def over(self) -> None:
        """Begin anew: the last look has come to an answer."""
        self._delay = 0.0


async def until_known(
    directory: str,
    look: Callable[[], _T],
    *,
    only: type[OSError] = OSError,
    in_thread: bool = False,
) -> _T:
    """Return what ``look`` says of the job in ``directory``, as soon as it does not fail with such an error."""
    patience = Patience(directory)
    while True:
        try:
            return await trio.to_thread.run_sync(look) if in_thread else look()
        except only as error:
            await trio.sleep(patience.seconds(error))
