"""Lists all processes of the machine, again and again."""

from __future__ import annotations

import os
from errno import EACCES, EPERM

from supervisor.system import processes
from supervisor.system.observing import ABSENT, NotKnown, not_known

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator
    from typing import Any, Final, TypeVar

    T = TypeVar("T")

__all__ = ["REFUSED", "ProcessTable", "in_portions", "is_of_another_user", "pass_by"]

REFUSED: Final = frozenset({EACCES, EPERM})
_KERNEL_THREAD: Final = 0x0020_0000  # PF_KTHREAD, include/linux/sched.h
_PORTION: Final = 32


def pass_by() -> None:
    """Do nothing between two portions."""


def in_portions(items: Iterable[T], pause: Callable[[], object]) -> Iterator[T]:
    """Yield ``items``, with a call of ``pause`` before every thirty-second."""
    for number, item in enumerate(items):
        if not number % _PORTION:
            pause()
        yield item


class ProcessTable:
    """Lists all processes, and drops from its caches what belongs to processes that are gone.

    ``incomplete`` says why the last list may lack some, ``None`` if it is whole. Processes that another user hides
    (``hidepid``) do not count: this process could not signal them. ``caches`` are by pid and start time.
    """

    def __init__(self, *caches: dict[tuple[int, int], Any]) -> None:
        self.incomplete: NotKnown | None = None
        self._caches = caches

    def list(
        self,
        pause: Callable[[], object] = pass_by,
        without: Container[int] = (),
    ) -> dict[int, processes.Process]:
        """Return every process that is alive (zombies left out), by pid; ``pause`` is called now and then.

        ``without`` are pids that need not be read.
        """
        self.incomplete = None
        table: dict[int, processes.Process] = {}
        try:
            names = os.listdir("/proc") if processes.HAVE_PROC else []
            if not processes.HAVE_PROC:
                table = {pid: found for pid, found in processes.list_by_ps().items() if not found.dead}
        except OSError as error:
            self.incomplete = not_known(error, "/proc")
            return table
        for name in in_portions(names, pause):
            if name[0] in "123456789" and (pid := int(name)) not in without:
                try:
                    found = processes.read_process(pid)
                except NotKnown as error:
                    if error.errno not in REFUSED or not is_of_another_user(pid):
                        self.incomplete = error
                    continue
                if found is not None and not found.dead and not found.flags & _KERNEL_THREAD:
                    table[pid] = found
        if self.incomplete is None:
            for cache in self._caches:
                for key in [key for key in cache if key[0] not in table or table[key[0]].start != key[1]]:
                    del cache[key]
        return table


def is_of_another_user(pid: int) -> bool:
    """Whether a process belongs to another user, or hides from this one as if it did."""
    try:
        return os.stat(f"/proc/{pid}").st_uid != os.geteuid()
    except ABSENT:
        return True
    except OSError as error:
        return error.errno in REFUSED
