"""Sending signals to running jobs, without an event loop."""

from __future__ import annotations

import signal as signals
from functools import partial

from supervisor.engines.interface import Client
from supervisor.errors import InvalidArguments
from supervisor.jobdir import records
from supervisor.jobs import pausing
from supervisor.jobs.interface import Jobs
from supervisor.model import Job

__all__ = ["check_first", "number_of", "send", "signal_job"]


def number_of(signal: int | str) -> int:
    """Return the number of a signal, which is given by that or by its name, with or without ``SIG``.

    Raises:
        InvalidArguments: there is no such signal.
    """
    text = str(signal if isinstance(signal, str) else int(signal)).strip().upper()
    if text.isascii() and text.isdigit() and len(text) < 4 and int(text) in signals.valid_signals():
        return int(text)
    name = f"SIG{text.removeprefix('SIG')}"
    if name in signals.Signals.__members__:
        return signals.Signals[name].value
    message = f"there is no signal {signal!r:.40}"
    repair = "Give a name, with or without SIG (INT, SIGUSR1), or a number; `kill -l` lists them."
    raise InvalidArguments(message, repair=repair)


def check_first(signal: int | str) -> int:
    """Return the number of the first signal of a stop.

    Raises:
        InvalidArguments: there is no such signal, or it stops or continues processes.
    """
    number = number_of(signal)
    if number in {signals.SIGSTOP, signals.SIGTSTP, signals.SIGTTIN, signals.SIGTTOU, signals.SIGCONT}:
        message = f"a stop cannot begin with {signals.Signals(number).name}: it ends no process"
        raise InvalidArguments(message, repair="`supervisor pause` stops processes for a while.")
    return number


def signal_job(jobs: Jobs, job_id: str, signal: int | str) -> Job:
    """Send a signal to the leader of a running job, its identity proved, and return the job.

    Raises:
        JobNotFound: there is no job of this id.
        InvalidArguments: there is no such signal, it cannot be sent, or the job waits or has ended.
        JobRunning, JobElsewhere, FeatureUnavailable: as for ``pausing.pause``.
        PermissionDenied: the process belongs to another user.
    """
    number_of(signal)
    return pausing.act(jobs, job_id, pausing.SIGNALLED, lambda client: partial(send, client, signal=signal))


def send(client: Client, directory: str, signal: int | str) -> None:
    """Send a signal to the leader of a job that ran a moment ago. It raises as ``signal_job``."""
    number = number_of(signal)
    if number == signals.SIGSTOP:
        message = "SIGSTOP would stop a part of the job, and no status would show that"
        raise InvalidArguments(message, repair="`supervisor pause` stops all of its processes.")
    pause = records.read_pause(directory) if number == signals.SIGCONT else None
    if pause and pause["state"] == records.PAUSED:
        message = "the job is paused, and SIGCONT would continue a part of it"
        raise InvalidArguments(message, repair="`supervisor resume` continues all of its processes.")
    if not client.send_signal(directory, number):
        message = "the job has just ended"
        raise InvalidArguments(message, repair="Only a job that runs can be signalled.")
