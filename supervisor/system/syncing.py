"""Waits until files and directories are on the disk, as far as the operating system can tell.

``fsync`` on macOS leaves data in the cache of the disk; there ``F_FULLFSYNC`` is asked for first. A disk that reports
data as written that are not is beyond any of these calls.
"""

from __future__ import annotations

import errno
import os
import stat

try:
    import fcntl
except ImportError:  # a Python that was built without it
    fcntl = None  # type: ignore[assignment]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

__all__ = ["sync_descriptor", "sync_directory", "sync_file", "sync_names"]

_FULL: Final[int | None] = getattr(fcntl, "F_FULLFSYNC", None)
_UNSUPPORTED: Final = frozenset({errno.EINVAL, errno.ENOTSUP, errno.ENOTTY, errno.ENOSYS})
"""Errors of a file system that has no such call, as some have for directories: it promises nothing."""


def sync_descriptor(descriptor: int) -> None:
    """Wait until what was written to an open file, or the names in an open directory, are on the disk.

    Raises:
        OSError: they are not, and may never be: a later call can succeed although the data are lost.
    """
    if _FULL is not None and fcntl is not None:  # type: ignore[redundant-expr,unused-ignore]
        try:
            fcntl.fcntl(descriptor, _FULL)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
        else:
            return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise


def sync_file(path: str) -> bool:
    """Wait until the content of a regular file is on the disk; return whether there is such a file.

    Raises:
        OSError: as ``sync_descriptor``.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ELOOP, errno.ENXIO}:  # nothing, a link, a socket
            return False
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return False
        _with_path(descriptor, path)
    finally:
        os.close(descriptor)
    return True


def sync_directory(path: str) -> None:
    """Wait until the names in a directory are on the disk.

    Raises:
        OSError: as ``sync_descriptor``.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _with_path(descriptor, path)
    finally:
        os.close(descriptor)


def sync_names(directory: str, top: str) -> None:
    """Wait until a directory's names, and its own, are on the disk, as far as the name of ``top`` above it.

    Another process may have made any of these directories, and may not have waited.

    Raises:
        OSError: as ``sync_descriptor``.
    """
    while directory != top:
        sync_directory(directory)
        directory = os.path.dirname(directory)
    sync_directory(top)
    try:  # noqa: SIM105  # contextlib would cost the keeper 2 ms
        sync_directory(os.path.dirname(top))
    except PermissionError:  # a directory of another user is there since long
        pass


def _with_path(descriptor: int, path: str) -> None:
    try:
        sync_descriptor(descriptor)
    except OSError as error:
        error.filename = path
        raise
