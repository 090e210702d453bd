"""The real paths of workspaces: no thread for each start, and no file system can block the event loop."""

from __future__ import annotations

import os
from typing import Final

import trio

from supervisor.jobs.scope import real_workspace
from supervisor.system.file_systems import may_hang, on_network
from supervisor.system.hanging_calls import HangingCalls
from supervisor.system.paths import absolute

__all__ = ["Workspaces"]

_MAX: Final = 256


class Workspaces:
    """Caches real paths, validated by the inode that each path leads to."""

    def __init__(self) -> None:
        """Begin with an empty cache."""
        self._known: dict[str, tuple[str, tuple[int, int]]] = {}
        self._may_hang = HangingCalls()

    async def real(self, path: str) -> str:
        """Return the real path of a workspace, whether or not it exists.

        Raises:
            InvalidArguments: it cannot be a path, or is relative to a current directory that was deleted.
        """
        given = absolute(path, "workspace")
        known = self._known.get(given)
        if known is not None:
            # Only paths on local file systems are cached, so this cannot wait for a network.
            try:
                found = os.stat(given)
                real = found if given == known[0] else os.stat(known[0])
            except OSError:
                del self._known[given]
            else:
                if (found.st_dev, found.st_ino) == (real.st_dev, real.st_ino) == known[1]:
                    await trio.lowlevel.checkpoint_if_cancelled()
                    return known[0]
        if may_hang():
            real_path, identity = await self._may_hang.run(given, _look_up, path)
        else:  # every file system is local
            await trio.lowlevel.checkpoint()
            real_path, identity = _look_up(path)
        if identity is not None:
            if len(self._known) >= _MAX:
                self._known.clear()
            self._known[given] = (real_path, identity)
        return real_path


def _look_up(path: str) -> tuple[str, tuple[int, int] | None]:
    real = real_workspace(path)
    try:
        found = os.stat(real)
    except OSError:
        return real, None
    return real, None if on_network(real) else (found.st_dev, found.st_ino)
