"""The resource limits of the keeper and of its jobs: those that the caller has set are for the jobs."""

from __future__ import annotations

import os
import resource  # loaded at start: `os.wait4` needs it too
from errno import ENOMEM

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

__all__ = ["Limits"]

_NAMES: Final = ("CPU", "FSIZE", "DATA", "AS")
"""Limits that would end a keeper or keep it from writing."""


class Limits:
    """Raises the limits of this process, as far as it may, and gives its children those of the caller."""

    def __init__(self) -> None:
        self._own: list[tuple[int, tuple[int, int]]] = []
        self._callers: list[tuple[int, tuple[int, int]]] = []
        self.left: list[str] = []
        """The limits that stay, for the log: only root may raise a hard limit."""
        for name in _NAMES:
            number: int | None = getattr(resource, f"RLIMIT_{name}", None)
            if number is None:
                continue
            soft, hard = resource.getrlimit(number)
            if soft == hard == resource.RLIM_INFINITY:
                continue
            raised = _raise(number, hard)
            if raised[0] != resource.RLIM_INFINITY:
                self.left.append(f"RLIMIT_{name} {raised[0]}")
            if raised != (soft, hard):
                self._own.append((number, raised))
                self._callers.append((number, (soft, hard)))

    def spawn(
        self,
        spawn: Callable[..., int],
        *args: object,
        settings: tuple[int, int, dict[int, tuple[int, int]]] | None = None,
    ) -> int:
        """Call ``spawn`` so that the child has the limits of the caller, and return its pid.

        ``settings`` are those of a command whose caller was another process. Its niceness and limits are set right
        after the spawn, as far as this process may set them.
        """
        if settings is None:
            return self._spawn(spawn, *args)
        umask, nice, limits = settings
        own = os.umask(umask)  # files of the keeper get their modes by themselves
        try:
            pid = self._spawn(spawn, *args)
        finally:
            os.umask(own)
        _set_limits(pid, [*limits.items()])
        try:
            os.setpriority(os.PRIO_PROCESS, pid, nice)
        except OSError:  # it has ended, or this process may not
            return pid
        return pid

    def _spawn(self, spawn: Callable[..., int], *args: object) -> int:
        if not self._callers:
            return spawn(*args)
        for (number, limit), (_, own) in zip(self._callers, self._own, strict=True):
            # The keeper may have used more already: for passing the soft limit it gets a signal, which it catches.
            resource.setrlimit(number, (limit[0], own[1]))
        try:
            pid = spawn(*args)
        except (OSError, MemoryError) as error:
            if isinstance(error, OSError) and error.errno != ENOMEM:
                raise
            self._raise_again()  # the keeper alone is larger than the caller allows
            pid = spawn(*args)
        finally:
            self._raise_again()
        _set_limits(pid, self._callers)
        return pid

    def _raise_again(self) -> None:
        for number, limit in self._own:
            try:
                resource.setrlimit(number, limit)
            except (OSError, ValueError):
                continue


def _set_limits(pid: int, limits: list[tuple[int, tuple[int, int]]]) -> None:
    for number, limit in limits:
        try:
            resource.prlimit(pid, number, limit)
        except (OSError, ValueError, AttributeError):  # it has ended, this process may not, or not Linux
            continue


def _raise(number: int, hard: int) -> tuple[int, int]:
    for limit in ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), (hard, hard)):
        try:
            resource.setrlimit(number, limit)
        except (OSError, ValueError):
            continue
        break
    return resource.getrlimit(number)
