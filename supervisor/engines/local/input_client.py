"""Connections to the keeper of a job that has an open stdin or a terminal."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import tempfile
from collections.abc import Generator
from typing import Final

from supervisor.errors import InputRefused
from supervisor.jobdir.records import INPUT

__all__ = ["connect"]

_LONGEST_PATH: Final = 100
"""Bytes of the path of a socket; the limit is 107 on Linux, and 103 on macOS."""
_SECONDS: Final = 10.0


def connect(directory: str) -> socket.socket:
    """Return a connection to the keeper of the job in ``directory``, which waits for ten seconds at most.

    Raises:
        InputRefused: the keeper listens no more.
        OSError: it cannot be made now.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # A blocking connect waits where others fill the queue of the keeper; one with Python's time-out fails at once.
        wait = struct.pack("@ll", int(_SECONDS), int(_SECONDS % 1 * 1e6))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, wait)
        with _short(directory) as path:
            connection.connect(f"{path}/{INPUT}")
        connection.settimeout(_SECONDS)
    except (FileNotFoundError, ConnectionRefusedError) as error:
        connection.close()
        job_id = directory.rpartition("/")[2]
        message = f"the keeper of job {job_id} has ended, and with it the other end of its stdin"
        repair = f"See whether it still runs: `supervisor status {job_id}`."
        raise InputRefused(message, repair=repair, retryable=False, details={"job_id": job_id}) from error
    except BaseException:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def _short(directory: str) -> Generator[str]:
    """Yield a path of a directory that fits into the address of a socket."""
    if len(os.fsencode(directory)) + 1 + len(INPUT) <= _LONGEST_PATH:
        yield directory
        return
    descriptor = os.open(directory, getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if os.path.isdir(path := f"/proc/self/fd/{descriptor}"):
            yield path
            return
    finally:
        os.close(descriptor)
    with tempfile.TemporaryDirectory() as aside:
        os.symlink(directory, f"{aside}/j")
        yield f"{aside}/j"
