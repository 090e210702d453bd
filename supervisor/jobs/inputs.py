"""The stdin and the terminal of running jobs, without an event loop: who has one, and what is sent to it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping
from typing import Any, Final

from supervisor.engines.interface import Engine, JobPhase
from supervisor.errors import FeatureUnavailable, InputRefused, InvalidArguments, JobElsewhere, StateBusy
from supervisor.jobdir.validation import input_of
from supervisor.jobs.bulk import elsewhere_error
from supervisor.jobs.interface import Jobs
from supervisor.keeper.channels import MAX_MESSAGE
from supervisor.model import JobSpec
from supervisor.states import State

__all__ = ["MAX_MESSAGE", "check_message", "connection_to", "deliver", "members_of", "send"]

_TERM: Final = {b"TERM": b"xterm-256color"}
_NO_TERMINAL: Final = frozenset({None, "", "dumb", "unknown"})


def members_of(spec: JobSpec, engine: Engine) -> dict[str, Any]:
    """Return the members of ``job.json`` about the input of a job.

    Raises:
        FeatureUnavailable: the engine opens no input.
    """
    if not (spec.stdin_open or spec.pty):
        return {}
    if not getattr(engine, "opens_input", False):  # an engine of another package may not have the attribute
        option = "pty" if spec.pty else "stdin_open"
        message = f"{option} is given, and engine {engine.name} opens no stdin or terminal for its jobs"
        raise FeatureUnavailable(message, repair="Start the job without it, or without that engine.")
    given = {"stdin_open": spec.stdin_open, "pty": list(spec.window) if spec.pty and spec.window else spec.pty}
    return {name: value for name, value in given.items() if value}


def environment_for(spec: JobSpec, environment: Mapping[str, str]) -> Mapping[bytes, bytes]:
    """Return the changes that a terminal makes to the environment of a job: TERM, unless it names a terminal."""
    return _TERM if spec.pty and environment.get("TERM") in _NO_TERMINAL else {}


def check_message(data: bytes, *, eof: bool) -> None:
    """Raise ``InvalidArguments`` for a message that no job can get."""
    if not isinstance(data, bytes):  # pyright: ignore[reportUnnecessaryIsInstance]  # the caller may use no type checker
        message = f"data is of type {type(data).__name__}; it must be bytes"
        raise InvalidArguments(message)
    if len(data) > MAX_MESSAGE:
        message = f"data has {len(data)} bytes; a message has at most {MAX_MESSAGE}"
        repair = "Send it in several messages, or put it into a file that the job reads."
        raise InvalidArguments(message, repair=repair, details={"limit_bytes": MAX_MESSAGE})
    if not data and not eof:
        message = "data is empty, and eof is not given: there is nothing to send"
        raise InvalidArguments(message)


def send(jobs: Jobs, job_id: str, data: bytes, *, eof: bool = False) -> None:
    """Deliver a message to the stdin or the terminal of a running job, whole and at most once.

    Raises:
        InvalidArguments: the message is empty or too long, or the job has ended or has no such input.
        InputRefused: the job does not read, waits for its launch, or has closed its stdin.
        JobNotFound: there is no job of this id.
        JobElsewhere: it runs on another host or in another pid namespace.
        StateBusy: its keeper cannot be reached now.
    """
    check_message(data, eof=eof)
    deliver(connection_to(jobs, job_id), job_id, data, eof=eof)


def connection_to(jobs: Jobs, job_id: str, *, terminal: bool = False) -> socket.socket:
    """Return a connection to the keeper of a running job. It raises what ``send`` raises.

    ``terminal``: the job must have a terminal.
    """
    row, observation = jobs.refresh(jobs.row(job_id), drive=False)
    details: dict[str, Any] = {"job_id": job_id}
    if row.finished:
        message = f"job {job_id} has ended: it is {row.state}"
        raise InvalidArguments(message, repair=f"See its output: `supervisor logs {job_id}`.", details=details)
    stdin_open, pty = input_of(row.request)
    if pty is None and terminal:
        message = f"job {job_id} has no terminal"
        raise InvalidArguments(message, repair="Start a job with --pty.", details=details)
    if pty is None and not stdin_open:
        message = f"job {job_id} was started with a stdin that does not stay open"
        raise InvalidArguments(message, repair="Start a job with --stdin-open, or with --pty.", details=details)
    if row.is_newer:
        message = f"job {job_id} was made by a newer version of this package"
        raise JobElsewhere(message, repair="Repeat the call with that version.", details=details)
    if row.started_ns is None:
        message = f"job {job_id} does not run yet: it is {State.QUEUED.value}"
        repair = f"Send it when the job runs; `supervisor explain {job_id}` says what it waits for."
        raise InputRefused(message, repair=repair, details=details)
    if observation is None or observation.phase is JobPhase.ELSEWHERE:
        raise elsewhere_error(row, observation)
    try:
        return jobs.client(row).connect(jobs.directory(row))
    except InputRefused:
        row, _ = jobs.refresh(jobs.row(job_id), drive=False)
        if row.finished:  # meanwhile
            return connection_to(jobs, job_id)
        raise
    except OSError as error:
        message = f"the keeper of job {job_id} cannot be reached now: {error.strerror or error}"
        raise StateBusy(message, repair="Try again.", details=details) from error


def deliver(connection: socket.socket, job_id: str, data: bytes, *, eof: bool) -> None:
    """Send a message over a connection, which is closed, and wait for the answer of the keeper."""
    with contextlib.closing(connection):
        payload = bytes([eof]) + data
        sent = 0
        answer = b""
        try:
            frame = b"s" + len(payload).to_bytes(4, "little") + payload
            while sent < len(frame):
                sent += connection.send(frame[sent:])
            while len(answer) < 5 or len(answer) < 5 + answer[1]:
                more = connection.recv(256)
                if not more:
                    break
                answer += more
        except OSError as error:
            if sent < len(payload) + 5:  # the keeper has not got all of it
                message = f"the keeper of job {job_id} has not taken the message: {error.strerror or error}"
                raise StateBusy(message, repair="Try again.", details={"job_id": job_id}) from error
    if len(answer) < 5:
        message = f"the keeper of job {job_id} has not answered: whether the job has got the message is not known"
        repair = "See in its output whether it has; do not send it again before."
        raise InputRefused(message, repair=repair, retryable=False, details={"job_id": job_id})
    word, _, number = answer[5:].decode("ascii", "replace").partition(" ")
    if word:
        raise _refusal(job_id, word, number, data)


def _refusal(job_id: str, word: str, number: str, data: bytes) -> InputRefused | InvalidArguments:
    details: dict[str, Any] = {"job_id": job_id}
    match word:
        case "large":
            details["limit_bytes"] = int(number)
            message = f"the message has {len(data)} bytes, and the pipe to job {job_id} holds {number}"
            return InvalidArguments(message, repair="Send it in several messages.", details=details)
        case "line":
            message = "a line of the message is longer than the 4095 bytes that a terminal takes"
            return InvalidArguments(message, repair="Send shorter lines, or use --stdin-open.", details=details)
        case "closed":
            message = f"the stdin of job {job_id} is closed"
            return InputRefused(message, repair="Start the job again.", retryable=False, details=details)
        case "part":
            details["sent_bytes"] = int(number)
            message = f"only the first {number} bytes of the message were delivered to job {job_id}"
            return InputRefused(message, repair="Send the rest.", retryable=False, details=details)
        case "early":
            message = f"job {job_id} has not read all of the input that it was started with"
        case _:
            message = f"job {job_id} does not read its stdin: the message finds no room"
    return InputRefused(message, details=details)
