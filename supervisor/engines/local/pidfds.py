"""Pidfds of commands, from which an exit status can be read even after another process reaped the command."""

from __future__ import annotations

import contextlib
import os
import resource

import trio

from supervisor.system import pidfd

__all__ = ["Pidfds"]


class Pidfds:
    """Holds at most a quarter of the descriptors that this process may open."""

    def __init__(self) -> None:
        self._held: set[int] = set()
        self._most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4

    @property
    def has_room(self) -> bool:
        """Whether another one may be opened."""
        return len(self._held) < self._most

    def of_launched(self, pid: int) -> int | None:
        """Return a pidfd of a command whose keeper has just reported its launch; ``None`` if none can be had."""
        if not self.has_room or not hasattr(os, "pidfd_open"):
            return None
        try:
            descriptor: int = os.pidfd_open(pid)
        except OSError:
            return None
        with contextlib.suppress(OSError):
            # Its keeper has not reaped it, or it would have reported the end. Another process that has this pid
            # already would have to lead a session as well.
            if os.getsid(pid) == pid:
                self._held.add(descriptor)
                return descriptor
        os.close(descriptor)
        return None

    def of_process(self, pid: int, start: int) -> int | None:
        """Return a pidfd of the process of this identity; ``None`` if none can be had."""
        descriptor = pidfd.open_of(pid, start) if self.has_room else None
        if descriptor is not None:
            self._held.add(descriptor)
        return descriptor

    def close(self, descriptor: int) -> None:
        """Close a pidfd, once."""
        if descriptor in self._held:
            self._held.discard(descriptor)
            with contextlib.suppress(Exception):
                trio.lowlevel.notify_closing(descriptor)
            os.close(descriptor)

    def close_all(self) -> None:
        """Close every pidfd."""
        for descriptor in tuple(self._held):
            self.close(descriptor)
