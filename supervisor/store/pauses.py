"""The pauses of groups by causes that a transaction finds, ``<root>/pauses/NAME.CAUSE``: beside those of the user.

A transaction that finds a cause writes the file, so the lock of the root is not taken. If the process is killed before
the commit, the next process finds the same cause again. A file is one JSON object, with ``until_ns`` and ``detail``;
that of a usage limit has the members of ``LimitState`` too, and outlives the pause until a job succeeds.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from typing import Any, Final

from supervisor.errors import InvalidArguments
from supervisor.store.groups import Pause
from supervisor.store.named_files import replace_file
from supervisor.store.state_errors import delete_file, state_error

__all__ = ["DIRECTORY", "load", "load_all", "remove", "write"]

DIRECTORY: Final = "pauses"
_NAME: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\.([a-z_]+)")


def write(root: str, name: str, pause: Pause, *, durable: bool = False) -> None:
    """Write the file of a pause; the caller has the lock of the index. ``durable``: see ``named_files``.

    Raises:
        StateFull, StateBusy, PermissionDenied: it cannot be written.
    """
    path = f"{root}/{DIRECTORY}/{name}.{pause.by}"
    content = json.dumps({**pause.more, "v": 1, "until_ns": pause.until_ns, "detail": pause.detail}).encode("ascii")
    try:
        replace_file(path, content, root if durable else None)
    except OSError as error:
        raise state_error(error, f"cannot pause group {name}") from error


def remove(root: str, name: str, by: str, *, durable: bool = False) -> None:
    """Delete the file of a pause.

    Raises:
        StateBusy, PermissionDenied: it cannot be deleted.
    """
    what = f"cannot end the pause of group {name} by {by}"
    delete_file(f"{root}/{DIRECTORY}/{name}.{by}", what, root if durable else None)


def load_all(root: str) -> dict[str, tuple[Pause, ...]]:
    """Return the pauses of all groups that have any.

    A file that cannot be understood is a pause without an end.

    Raises:
        StateBusy, PermissionDenied: they cannot be read now.
    """
    found: dict[str, tuple[Pause, ...]] = {}
    try:
        for file_name in sorted(os.listdir(f"{root}/{DIRECTORY}")):
            parts = _NAME.fullmatch(file_name)
            if parts is not None:
                with contextlib.suppress(FileNotFoundError):  # it has just been removed
                    pause = _read(f"{root}/{DIRECTORY}/{file_name}", parts[2])
                    found[parts[1]] = (*found.get(parts[1], ()), pause)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise state_error(error, "cannot read the pauses of groups") from error
    return found


def load(root: str, name: str) -> tuple[Pause, ...]:
    """Return the pauses of one group; see ``load_all``."""
    return load_all(root).get(name, ())


def _read(path: str, by: str) -> Pause:
    with open(path, "rb") as file:
        content = file.read()
    try:
        held: Any = json.loads(content)
        return Pause(by, held["until_ns"], held["detail"], held)
    except (ValueError, KeyError, TypeError, InvalidArguments, RecursionError):
        return Pause(by, None, "the file of the pause cannot be understood")
