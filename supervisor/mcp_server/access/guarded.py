"""What decides who may do what, and in which directories therefore no caller's job may run.

The state root holds the tokens, the records by which processes are signalled, and the output of every job; the kinds
file holds the commands. A job that runs in a directory above them, as an agent does whose tools end at its workspace,
could read or change them. So such a directory is not allowed, whatever else would allow it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from supervisor.errors import InvalidSettings
from supervisor.mcp_server.config import kinds
from supervisor.settings import Settings

__all__ = ["exposed", "guarded", "load_kinds"]


def guarded(settings: Settings) -> dict[str, str]:
    """Return the real paths of what is guarded, each with what it is called."""
    return {os.path.realpath(settings.state_dir): "the state root"}


def exposed(directory: str, held: Mapping[str, str]) -> str | None:
    """Return how a directory (a real path) exposes one of the guarded paths; ``None`` if it exposes none."""
    for path, what in held.items():
        if path == directory or path.startswith(directory.rstrip("/") + "/"):
            return f"{directory} contains {what}, {path}"
        if directory.startswith(path + "/"):
            return f"{directory} lies in {what}, {path}"
    return None


def load_kinds(settings: Settings, given: Path | None = None) -> tuple[kinds.Kind, ...]:
    """Return the kinds of a server with these settings; ``given`` is the file that ``--config`` names.

    Raises:
        InvalidSettings: the file is not there, not to be trusted, or has a mistake.
    """
    named = os.environ.get("SUPERVISOR_CONFIG")
    if given is None and named and not os.path.isabs(os.path.expanduser(named)):
        message = f"SUPERVISOR_CONFIG is {named!r}; it accepts an absolute path, lest a workspace bring its own"
        raise InvalidSettings(message)
    path = given or settings.config
    if path is None:
        return ()
    held = {**guarded(settings), os.path.realpath(path): "the kinds file"}
    return kinds.load(path, shared_dir=settings.shared_dir, exposed=lambda each: exposed(each, held))
