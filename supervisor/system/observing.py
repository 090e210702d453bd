"""Observes processes and files: which errors are evidence, and which are not.

The rule: **an error of an observation is not evidence.** Only ``ENOENT`` and ``ESRCH`` say that a thing does not exist,
and only a record that was read whole counts. Every other error (no descriptor or memory to spare, no permission,
a disk that does not answer) says nothing about its object, which is not known now. So

* an observation returns "absent" for those two alone, and raises ``NotKnown`` for the rest;
* a caller that gets ``NotKnown`` answers with the last known state or a retryable error,
  changes nothing on disk because of it, and repeats the observation later, less and less often.
"""

from __future__ import annotations

import errno
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

__all__ = [
    "ABSENT",
    "FIRST_DELAY_SECONDS",
    "LONGEST_DELAY_SECONDS",
    "SCARCE",
    "NotKnown",
    "find",
    "identity_of",
    "is_absent",
    "is_there",
    "not_known",
]

ABSENT: Final = (FileNotFoundError, ProcessLookupError)
"""The errors that are evidence: ``ENOENT`` and ``ESRCH``."""

SCARCE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR})
"""The errors of a process or a machine that has run out of something, which passes."""

FIRST_DELAY_SECONDS: Final = 0.05
LONGEST_DELAY_SECONDS: Final = 2.0
"""Between two observations that fail: doubled from the first to the longest."""


class NotKnown(OSError):
    """An observation has failed, which says nothing about its object."""


def not_known(error: Exception, path: str) -> NotKnown:
    """Return the ``NotKnown`` for an error at ``path``."""
    if isinstance(error, OSError):
        return NotKnown(error.errno, error.strerror, path)
    number = errno.ENOMEM if isinstance(error, MemoryError) else errno.EIO
    return NotKnown(number, os.strerror(number), path)


def is_absent(error: OSError, path: str) -> bool:
    """Whether an error that was met at ``path`` says that there is nothing.

    It does as well where what should be a directory is found to be something else, such as a loop of links.
    """
    if isinstance(error, ABSENT):
        return True
    while (isinstance(error, NotADirectoryError) or error.errno == errno.ELOOP) and len(path) > 1:
        path = os.path.dirname(path)
        try:
            return not stat.S_ISDIR(os.stat(path).st_mode)
        except OSError as another:
            error = another
        if error.errno == errno.ELOOP and os.path.islink(path):
            return True
    return False


def find(path: str, *, follow: bool = False) -> os.stat_result | None:
    """Return the status of ``path`` itself, or with ``follow`` of what it leads to; ``None`` when that does not exist.

    Raises:
        NotKnown: that cannot be observed now.
    """
    try:
        return os.stat(path) if follow else os.lstat(path)
    except OSError as error:
        if is_absent(error, path):
            return None
        raise not_known(error, path) from error


def identity_of(path: str) -> tuple[int, int] | None:
    """Return device and inode, ``None`` when ``path`` does not exist.

    Raises:
        NotKnown: that cannot be observed now.
    """
    found = find(path)
    return None if found is None else (found.st_dev, found.st_ino)


def is_there(path: str) -> bool:
    """Whether ``path`` exists, links not followed.

    Raises:
        NotKnown: that cannot be observed now.
    """
    return find(path) is not None
