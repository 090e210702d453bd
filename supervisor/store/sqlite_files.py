"""The files of SQLite: what stands in their places, and whether the file system takes more of them."""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from supervisor.errors import PermissionDenied, StateFull
from supervisor.store.state_errors import state_error

__all__ = ["SUFFIXES", "content_of", "has_foreign_files", "has_log", "refusal_of", "refuses_every_file", "uri_of"]

SUFFIXES: Final = ("-wal", "-shm", "-journal")
"""What SQLite appends to the name of a database for the files beside it."""
_PROBE_BYTES: Final = 1 << 16


def has_foreign_files(path: str) -> bool:
    """Whether something other than a regular file stands in the place of a file that SQLite makes beside ``path``."""
    for suffix in SUFFIXES:
        try:
            if not stat.S_ISREG(os.lstat(path + suffix).st_mode):
                return True
        except FileNotFoundError:
            continue
    return False


def content_of(path: str) -> os.stat_result | None:
    """Return the status of ``path`` if it is a regular file that is not empty, and not a link to one."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    return found if stat.S_ISREG(found.st_mode) and found.st_size > 0 else None


def has_log(path: str) -> bool:
    """Whether there is a write-ahead log that is not empty."""
    try:
        return os.lstat(f"{path}-wal").st_size > 0
    except FileNotFoundError:
        return False


def refusal_of(directory: str) -> OSError | None:
    """Return the error of the operating system for a small new file in ``directory``, ``None`` if there is none."""
    path = f"{directory}/.probe.{os.urandom(8).hex()}"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        return error
    try:
        os.unlink(path)
        if os.write(descriptor, bytes(_PROBE_BYTES)) < _PROBE_BYTES:
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        return error
    finally:
        os.close(descriptor)
    return None


def refuses_every_file(directory: str) -> bool:
    """Whether the file system refuses new files in ``directory`` to every process, and not to this one for now."""
    refused = refusal_of(directory)
    return refused is not None and isinstance(state_error(refused, ""), StateFull | PermissionDenied)


def uri_of(path: str) -> str:
    """Return the URI that opens ``path`` read-only and as it is, without a log."""
    quoted = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    return f"file:{quoted}?mode=ro&immutable=1"
