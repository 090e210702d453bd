"""The directory that this machine and the nodes of a cluster share: it holds the directories of cluster jobs."""

from __future__ import annotations

import os
import stat

from supervisor.errors import PermissionDenied, StateUnsafe
from supervisor.jobdir import records

__all__ = ["check_shared_directory", "make_job_directory"]


def check_shared_directory(path: str) -> None:
    """Make a shared directory if it is not there, and check that no other user can put files into it.

    Raises:
        StateUnsafe: another user owns it, or may write to it.
        PermissionDenied: it cannot be made.
    """
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        found = os.stat(path)
    except OSError as error:
        message = f"the shared directory {path} cannot be used: {error.strerror}"
        raise PermissionDenied(message) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        message = f"the shared directory {path} is not yours alone to write to"
        raise StateUnsafe(message, repair=f"Give a directory of your own, mode 0700: {path}/{os.geteuid()}, say.")


def make_job_directory(stub: str, directory: str, record: bytes) -> str:
    """Make the directory of a job in a shared one, have ``stub`` in the state root lead to it, and return its path.

    Raises:
        OSError: it cannot be made.
    """
    os.mkdir(directory, 0o700)
    os.symlink(directory, f"{stub}/{records.SHARED}")
    descriptor = os.open(f"{directory}/{records.JOB}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(record)
    return directory
