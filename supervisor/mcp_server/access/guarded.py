"""Paths that no caller's job may read or change, and the directories that are forbidden because of them.

The state root contains the tokens, the records by which processes are signalled, and the output of every job.
The kinds file contains the commands. An agent may read and change everything below its workspace. So a
directory that contains one of these paths is forbidden as a workspace, whatever else would allow it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from supervisor.errors import InvalidSettings
from supervisor.mcp_server.config import kinds_file
from supervisor.mcp_server.config.kinds import Kind
from supervisor.settings import Settings
from supervisor.store import groups

__all__ = ["exposed", "guarded", "is_inside", "load_kinds"]


def guarded(settings: Settings) -> dict[str, str]:
    """Return the real paths of the guarded files, each with its name in messages."""
    return {os.path.realpath(settings.state_dir): "the state root"}


def exposed(directory: str, paths: Mapping[str, str]) -> str | None:
    """Return how a directory (a real path) exposes one of the guarded paths; ``None`` if it exposes none."""
    for path, name in paths.items():
        if is_inside(path, [directory]):
            return f"{directory} contains {name}, {path}"
        if is_inside(directory, [path]):
            return f"{directory} lies in {name}, {path}"
    return None


def is_inside(path: str, directories: Iterable[str]) -> bool:
    """Whether a path is one of the directories, or below one."""
    return any(path == each or path.startswith(each.rstrip("/") + "/") for each in directories)


def load_kinds(settings: Settings, given: Path | None = None) -> tuple[Kind, ...]:
    """Return the kinds of a server with these settings; ``given`` is the file that ``--config`` names.

    Raises:
        InvalidSettings: the file cannot be read, is not to be trusted, or has a mistake.
        StateCorrupt: the file of a group that it names is damaged.
        StateBusy, PermissionDenied: the file of a group cannot be read now.
    """
    variable = os.environ.get("SUPERVISOR_CONFIG")
    if given is None and variable and not os.path.isabs(os.path.expanduser(variable)):
        message = f"SUPERVISOR_CONFIG is {variable!r}; it accepts an absolute path, so that no workspace can replace it"
        raise InvalidSettings(message)
    path = given or settings.config
    if path is None:
        return ()
    paths = {**guarded(settings), os.path.realpath(path): "the kinds file"}
    root = os.path.realpath(settings.state_dir)
    return kinds_file.load(
        path,
        shared_dir=settings.shared_dir,
        exposes=lambda directory: exposed(directory, paths),
        group_exists=lambda name: groups.load(root, name) is not None,
    )
