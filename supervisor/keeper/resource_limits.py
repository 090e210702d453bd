"""What the kernel grants the keeper and what it grants its jobs: resource limits, and the order in which it ends them.

The resource limits that the caller has set are for the jobs. When memory runs out, the kernel ends a job before its
keeper, which has the lower ``oom_score_adj``.
"""

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

_JOBS_OOM_SCORE: Final = 100
"""How much higher that of a job is: as if it used a tenth of the memory more, which is more than a keeper uses."""
_MAX_OOM_SCORE: Final = 1000


class Limits:
    """Raises the limits of this process, as far as it may, and gives its children those of the caller."""

    def __init__(self) -> None:
        self._scores = _OomScores()
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

    def spawn_job(
        self,
        spawn: Callable[..., int],
        *args: object,
        settings: tuple[int, int, dict[int, tuple[int, int]]] | None = None,
    ) -> int:
        """Call ``spawn`` so that the child has the limits of the caller and ends before this process; return its pid.

        ``settings`` are those of a command whose caller was another process. Its niceness and limits are set right
        after the spawn, as far as this process may set them.
        """
        self._scores.set_for_jobs()
        try:
            return self._spawn_job(settings, spawn, *args)
        finally:
            self._scores.set_own()

    def _spawn_job(
        self,
        settings: tuple[int, int, dict[int, tuple[int, int]]] | None,
        spawn: Callable[..., int],
        *args: object,
    ) -> int:
        if settings is None:
            return self.spawn(spawn, *args)
        umask, nice, limits = settings
        own = os.umask(umask)  # files of the keeper get their modes by themselves
        try:
            pid = self.spawn(spawn, *args)
        finally:
            os.umask(own)
        _set_limits(pid, [*limits.items()])
        try:
            os.setpriority(os.PRIO_PROCESS, pid, nice)
        except OSError:  # it has ended, or this process may not
            return pid
        return pid

    def spawn(self, spawn: Callable[..., int], *args: object) -> int:
        """Call ``spawn`` so that the child has the limits of the caller, and return its pid."""
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


class _OomScores:
    """The ``oom_score_adj`` of this process, which every child inherits.

    A process may raise it, and lower it again to where it was. So this one has the value of the jobs while it spawns:
    what a child starts itself has that value from its beginning, too.
    """

    def __init__(self) -> None:
        self._descriptor = -1
        self._own = self._of_jobs = b""
        try:
            # For as long as the keeper runs: a process that is not dumpable cannot open it any more.
            descriptor = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
        except OSError:  # not Linux, or a container in which /proc is read-only
            return
        try:
            own = int(os.pread(descriptor, 16, 0))
        except (OSError, ValueError):
            os.close(descriptor)
            return
        self._descriptor = descriptor
        self._own, self._of_jobs = b"%d" % own, b"%d" % min(own + _JOBS_OOM_SCORE, _MAX_OOM_SCORE)

    def set_for_jobs(self) -> None:
        """Set the value that the next child is to have."""
        self._set(self._of_jobs)

    def set_own(self) -> None:
        """Set the value of this process again."""
        self._set(self._own)

    def _set(self, value: bytes) -> None:
        try:
            if self._descriptor >= 0:
                os.pwrite(self._descriptor, value, 0)
        except OSError:  # a policy of this system; the jobs are as likely to be ended as the keeper
            return


def _set_limits(pid: int, limits: list[tuple[int, tuple[int, int]]]) -> None:
    if not hasattr(resource, "prlimit"):  # not Linux
        return
    for number, limit in limits:
        try:
            resource.prlimit(pid, number, limit)
        except (OSError, ValueError):  # it has ended, or this process may not
            continue


def _raise(number: int, hard: int) -> tuple[int, int]:
    for limit in ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), (hard, hard)):
        try:
            resource.setrlimit(number, limit)
        except (OSError, ValueError):
            continue
        break
    return resource.getrlimit(number)
