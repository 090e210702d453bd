"""Launches that failed: the error for the task that waits for the launch, and the end that is recorded for all."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from supervisor.engines.interface import Observation
from supervisor.errors import LaunchFailed
from supervisor.jobdir.facts import Ended
from supervisor.model import Exit
from supervisor.system.backoff import until_known
from supervisor.system.observing import NotKnown

__all__ = ["check_launch", "recorded_end"]


def check_launch(ended: Ended | None) -> None:
    """Raise the error of a launch that failed, if a job has ended with one.

    Raises:
        LaunchFailed: it has.
    """
    if ended is not None and ended.exit.launch_error is not None:
        raise LaunchFailed(ended.exit.launch_error, exit_status=ended.exit.launch_status or 125)


async def recorded_end(
    directory: str,
    failure: LaunchFailed,
    observe: Callable[..., Observation],
    *,
    in_thread: bool = False,
) -> Ended:
    """Return the recorded end of a job that was not launched, so that every process reports the same."""
    look = partial(observe, directory, owner_lives=True)
    observation = await until_known(directory, look, only=NotKnown, in_thread=in_thread)
    if observation.ended is not None and observation.ended.exit.launch_error is not None:
        return observation.ended
    exit_ = Exit(ended_ns=time.time_ns(), launch_error=failure.message, launch_status=failure.exit_status)
    return Ended(exit=exit_)
