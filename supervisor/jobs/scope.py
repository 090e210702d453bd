"""The workspace that a question is about: the real path of a directory, whether or not it exists."""

from __future__ import annotations

import os

from supervisor.errors import InvalidArguments
from supervisor.store.state_root import encodable
from supervisor.system.paths import absolute, expanded

__all__ = ["real_workspace"]


def real_workspace(path: str | os.PathLike[str]) -> str:
    """Return the real path of a workspace, whether or not it exists.

    Raises:
        InvalidArguments: it cannot be a path, or is relative to a current directory that was deleted.
    """
    text = os.fspath(path)
    if not text or "\0" in text or not encodable(text):
        message = f"workspace is {text!r}; it must be the path of a directory"
        raise InvalidArguments(message)
    return os.path.realpath(absolute(expanded(text), "workspace"))
