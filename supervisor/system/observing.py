"""Looking at processes and at what jobs have left on disk: what is evidence, and what says nothing.

Standard library only, no import from the package: the keeper runs this file too.

The rule: **an error while looking is not evidence.** ``ENOENT`` and ``ESRCH`` say that something is not there;
a record that was read whole says what it says. Every other error (no descriptor or memory to spare, no permission,
a disk that does not answer) says nothing about what was looked for: it is not known now. So

* what looks returns "not there" for those two alone, and raises ``NotKnown`` for the rest;
* a caller that meets ``NotKnown`` answers with what was known before, or with an error that can be retried,
  changes nothing on disk because of it, and looks again later, less and less often.
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
"""Between two looks while it is not known: doubled from the first to the longest."""


class NotKnown(OSError):
    """What was looked for could not be seen just now, which says nothing about it."""


def not_known(error: Exception, path: str) -> NotKnown:
    """Return the ``NotKnown`` that stands for an error which was met while ``path`` was looked at."""
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


def find(path: str) -> os.stat_result | None:
    """Return what ``path`` itself is, links not followed; ``None`` when there is nothing.

    Raises:
        NotKnown: that cannot be seen now.
    """
    try:
        return os.lstat(path)
    except OSError as error:
        if is_absent(error, path):
            return None
        raise not_known(error, path) from error


def identity_of(path: str) -> tuple[int, int] | None:
    """Return what tells a file or directory from every other, ``None`` when there is nothing.

    Raises:
        NotKnown: that cannot be seen now.
    """
    found = find(path)
    return None if found is None else (found.st_dev, found.st_ino)


def is_there(path: str) -> bool:
    """Whether there is anything under this name, links not followed.

    Raises:
        NotKnown: that cannot be seen now.
    """
    return find(path) is not None
