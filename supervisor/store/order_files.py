"""Deletes the orders of a job, for each process that launches the job or ends it without a launch."""

from __future__ import annotations

import contextlib
import os
import signal

from supervisor.jobdir import records
from supervisor.keeper import registration
from supervisor.system import processes

__all__ = ["drop_orders"]


def drop_orders(directory: str) -> None:
    """Delete the environment and the input of a job that was launched, or never will be.

    A keeper that holds them in memory gets a signal, so that it lets go of them.
    """
    keeper = _holder(directory)
    for name in (records.ORDERS, records.STDIN):
        with contextlib.suppress(OSError):
            os.unlink(f"{directory}/{name}")
    if keeper is not None:
        with contextlib.suppress(OSError):
            processes.send_signal(*keeper, signal.SIGUSR1)


def _holder(directory: str) -> tuple[int, int] | None:
    """Return (pid, start time) of the keeper that holds the orders of a job in memory, if one does."""
    try:
        _, proc, pid, *_ = os.readlink(f"{directory}/{records.ORDERS}").split("/")
        process = processes.read_process(int(pid)) if proc == "proc" else None
        if process is None:
            return None
        key = process.pid, process.start
        is_keeper = registration.is_keeper(*key, processes.boot_id(), processes.pid_namespace())
    except (OSError, ValueError):  # not known now, or no link: the keeper looks again by itself
        return None
    return key if is_keeper else None
