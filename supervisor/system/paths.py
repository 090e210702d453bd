"""Resolves the paths of callers: ``~`` and the current directory, neither of which need exist."""

from __future__ import annotations

import os

from supervisor.errors import InvalidArguments

__all__ = ["absolute", "expanded"]


def absolute(path: str, name: str) -> str:
    """Return ``path`` as an absolute one; ``name`` is the argument or setting that it comes from.

    Raises:
        InvalidArguments: it is relative, and the current directory was deleted or cannot be found out.
    """
    if os.path.isabs(path):
        return path
    try:
        here = os.getcwd()
    except OSError as error:
        gone = isinstance(error, FileNotFoundError)
        why = "the current directory was deleted" if gone else f"the current directory is unknown: {error.strerror}"
        message = f"{name} is {path!r:.200}, and {why}"
        repair = "Change to a directory that exists, or give an absolute path (on the command line: --workspace DIR)."
        raise InvalidArguments(message, repair=repair, details={"argument": name}) from error
    return here if path == os.curdir else os.path.join(here, path)


def expanded(path: str) -> str:
    """Return ``path`` with a leading ``~`` or ``~user`` replaced; one of an unknown user stays. An empty HOME is none.

    Raises:
        InvalidArguments: it is in the home directory of a user without one.
    """
    if path != "~" and not path.startswith("~/"):
        return os.path.expanduser(path)
    home = os.environ.get("HOME")
    if not home:
        import pwd

        try:
            home = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:
            message = f"{path!r:.200} has no meaning: HOME is not set, and user id {os.getuid()} has no passwd entry"
            raise InvalidArguments(message, repair="Set HOME, or give an absolute path.") from None
    return home.rstrip("/") + path[1:] or "/"
