"""The configuration file: where it is, and what is in it. Most users have none; that takes one system call to know."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final

from supervisor.errors import InvalidArguments, InvalidSettings, StateBusy
from supervisor.system.paths import expanded

if TYPE_CHECKING:
    from supervisor.text.toml_file import TomlFile

__all__ = ["DEFAULTS", "DEFAULT_PATH", "VARIABLE", "is_there", "place", "read"]

VARIABLE: Final = "SUPERVISOR_CONFIG_FILE"
DEFAULT_PATH: Final = "~/.config/trio-supervisor/config.toml"
DEFAULTS: Final = "defaults"
"""The table with defaults for options of ``run`` and ``start``; all other names are settings."""

_MAX_BYTES: Final = 1 << 20
_LASTING: Final = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EACCES, errno.EPERM}
)
"""Errors that say something about the file; after any other it may be read a moment later."""
_REPAIR: Final = f"Correct the file. To do without it for now: {VARIABLE}=/dev/null."


def place() -> str | None:
    """Return the path of the file, which need not exist; ``None`` for a user without a home directory.

    Raises:
        InvalidSettings: the variable holds no absolute path.
    """
    given = os.environ.get(VARIABLE)
    try:
        path = expanded(given or DEFAULT_PATH)
    except InvalidArguments:
        path = ""
    if os.path.isabs(path):
        return path
    if not given:
        return None
    # Processes with another current directory read it, too.
    message = f"{VARIABLE} is {given!r:.200}; it accepts the absolute path of a TOML file"
    raise InvalidSettings(message, details={"variable": VARIABLE, "value": given})


def is_there() -> bool:
    """Whether there is such a file, as far as this user can see."""
    path = place()
    return path is not None and os.path.lexists(path)


def read() -> TomlFile | None:
    """Return the file; ``None`` if there is none in its default place.

    Raises:
        InvalidSettings: it cannot be read, other users can change it, it is no TOML, or is not where the variable says.
        StateBusy: it cannot be read now.
    """
    path, given = place(), os.environ.get(VARIABLE)
    if path is None:
        return None
    try:
        with open(path, "rb", opener=_open) as file:
            _check_trust(path, os.fstat(file.fileno()))
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        # A directory that this user may not search is not the home of this user, whatever HOME says.
        if not given and (isinstance(error, FileNotFoundError | NotADirectoryError) or _is_out_of_reach(error, path)):
            return None
        source = f"{VARIABLE}: " if given else ""
        message = f"{source}{path} cannot be read: {error.strerror}"
        if error.errno not in _LASTING:
            raise StateBusy(message, repair=f"Try again; if the error persists: {_REPAIR}") from error
        raise InvalidSettings(message, repair=_REPAIR, details={"file": path}) from error
    if len(content) > _MAX_BYTES:
        message = f"{path} has more than {_MAX_BYTES} bytes"
        raise InvalidSettings(message, repair=_REPAIR, details={"file": path})
    from supervisor.text.toml_file import TomlFile  # 5 ms, and few users have a file

    return TomlFile(content, path, InvalidSettings, _REPAIR)


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe may have no writer


def _check_trust(path: str, found: os.stat_result) -> None:
    """Raise ``InvalidSettings`` if another user can change the file: it names the programs that run as this one."""
    if stat.S_ISCHR(found.st_mode):  # /dev/null
        return
    if not stat.S_ISREG(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is not a regular file")
    details = {"file": path}
    if found.st_uid not in {os.geteuid(), 0}:
        message = f"{path} belongs to user {found.st_uid}, who could change it"
        raise InvalidSettings(message, repair=f"Make a copy of your own, or set {VARIABLE}.", details=details)
    if found.st_mode & 0o022:
        message = f"others may write {path} (mode {stat.S_IMODE(found.st_mode):04o})"
        raise InvalidSettings(message, repair=f"If its contents are intact: chmod go-w {path}", details=details)
    from supervisor.system.trust import exposure_of

    if (exposure := exposure_of(path)) is not None:
        message = f"others may replace {path}: {exposure.place} {exposure.why}"
        raise InvalidSettings(message, repair=exposure.repair, details=details)


def _is_out_of_reach(error: OSError, path: str) -> bool:
    return isinstance(error, PermissionError) and not os.path.lexists(path)
