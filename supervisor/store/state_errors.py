"""What the operating system says about a state root, as errors of this package."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import Final

from supervisor.errors import PermissionDenied, StateBusy, StateFull, SupervisorError
from supervisor.system.observing import NotKnown, find, is_absent, not_known
from supervisor.system.syncing import sync_names

__all__ = ["delete_file", "find_in_root", "names_in", "state_error"]

_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_PERMANENT: Final = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.EEXIST}
)
"""Facts about a path. Other errors may pass: no descriptors, no memory, a disk that does not answer."""


def state_error(error: OSError, what: str) -> SupervisorError:
    """Return the error of this package for ``error`` of the operating system; ``what`` begins its message.

    After ``NotKnown`` nothing is known, whatever its errno: the caller may try again.
    """
    where = f" ({error.filename})" if error.filename else ""
    message = f"{what}: {error.strerror or error}{where}"
    known = not isinstance(error, NotKnown)
    if known and error.errno in _NO_ROOM:
        return StateFull(message)
    if known and error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return PermissionDenied(message)
    if known and error.errno in _PERMANENT:
        return SupervisorError(message)
    descriptors = error.errno in {errno.EMFILE, errno.ENFILE}
    more = "raise the limit of open files (`ulimit -n`)" if descriptors else "run `supervisor doctor`"
    return StateBusy(message, repair=f"Try again; if the error persists, {more}.")


def delete_file(path: str, what: str, durable_in: str | None = None) -> None:
    """Delete a file, if it is there; ``what`` begins the message of an error.

    ``durable_in``: the state root, if that is to be on the disk when this returns.

    Raises:
        StateBusy, PermissionDenied: it cannot be deleted.
    """
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        if durable_in is not None:
            with contextlib.suppress(FileNotFoundError):  # there never was its directory
                sync_names(os.path.dirname(path), durable_in)
    except OSError as error:
        raise state_error(error, what) from error


def find_in_root(path: str) -> os.stat_result | None:
    """Return the status of ``path``, ``None`` if there is nothing.

    Raises:
        StateBusy: that cannot be observed now.
    """
    try:
        return find(path)
    except NotKnown as error:
        raise state_error(error, "cannot read the state root") from error


def names_in(path: str) -> list[str]:
    """Return the names in a directory; none if it does not exist.

    Raises:
        StateBusy: they cannot be read now.
    """
    try:
        return os.listdir(path)
    except OSError as error:
        if is_absent(error, path):
            return []
        raise state_error(not_known(error, path), "cannot read the state root") from error
