"""The janitor: forgets what has expired, empties the trash, adopts jobs that nobody takes care of.

Nothing here is on anybody's way: a look every second costs a few microseconds as long as no other
process has written, and work on the disk goes in small portions in a thread.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Final

import trio

from supervisor import log
from supervisor.errors import InternalError, SupervisorError
from supervisor.jobs.catalog import Catalog
from supervisor.runtime.entry import Entry
from supervisor.runtime.registry_actor import Registry
from supervisor.store import Row
from supervisor.system import processes

__all__ = ["Janitor"]

_TICK_SECONDS: Final = 1.0
_ROUND_SECONDS: Final = 30.0
_BACKSTOP_NS: Final = 3_000_000_000
_PORTION: Final = 20
_PAUSE_SECONDS: Final = 0.1
_CHECKPOINT_BYTES: Final = 4 << 20


class Janitor:
    """Keeps a state root in order for as long as a supervisor is open on it.

    Args:
        catalog: for reading on the event loop.
        forget: forgets finished jobs, in a thread.
        adopt: takes an unfinished job into care.
        take_over: notes that jobs are in the care of this supervisor from now on.
    """

    def __init__(
        self,
        catalog: Catalog,
        registry: Registry,
        forget: Callable[[list[Row]], None],
        adopt: Callable[[Row, bool], Entry],
        take_over: Callable[[Sequence[Row]], None],
    ) -> None:
        """Do nothing until ``run``."""
        self._catalog = catalog
        self._registry = registry
        self._forget = forget
        self._adopt = adopt
        self._take_over = take_over
        self._foreign: list[Row] = []
        self._next_round = 0.0
        self._suspended_ns = _suspended_ns()
        self._checkpointing = False

    async def run(self) -> None:
        """Tick until cancelled."""
        changed = True
        while True:
            missed = False
            try:
                self._registry.flush()
                if changed:
                    self._foreign = [
                        row for row in self._catalog.index.unfinished() if row.job_id not in self._registry.entries
                    ]
                await self._care_for_foreign()
                if trio.current_time() >= self._next_round or changed:
                    self._next_round = trio.current_time() + _ROUND_SECONDS
                    self._follow_clock()
                    await self._expire()
                await self._checkpoint()
            except Exception as problem:  # noqa: BLE001  # no descriptor, no thread: it may pass, and jobs need this one
                code = problem.code if isinstance(problem, SupervisorError) else InternalError.code
                log.warning("janitor_failed", code=code, error=str(problem) or repr(problem))
                missed = changed
            await trio.sleep(_TICK_SECONDS)
            changed = self._registry.check_for_changes() or missed

    async def _care_for_foreign(self) -> None:
        """Adopt what nobody takes care of, and what is overdue although somebody should."""
        known: dict[str, bool] = {}
        now = processes.boottime_ns()
        waiting: list[Row] = []
        mine: list[Row] = []
        for row in self._foreign:
            if row.job_id in self._registry.entries:
                continue
            if row.owner not in known:
                known[row.owner] = self._catalog.layout.owners.is_alive(row.owner)
            overdue = row.deadline_boot_ns is not None and row.deadline_boot_ns + _BACKSTOP_NS < now
            adoptable = not row.is_newer and self._catalog.client(row).can_adopt(row.request)
            if (known[row.owner] and not overdue) or not adoptable:
                waiting.append(row)
                continue
            mine.append(row)
        self._foreign = waiting
        self._take_over([row for row in mine if not known[row.owner]])
        for number, row in enumerate(mine, 1):
            if row.job_id not in self._registry.entries:
                self._adopt(row, not known[row.owner])
            if number % _PORTION == 0:
                await trio.lowlevel.checkpoint()

    def _follow_clock(self) -> None:
        """Move deadlines by the time that the machine slept, which Trio's clock does not see."""
        suspended = _suspended_ns()
        slept = (suspended - self._suspended_ns) / 1e9
        self._suspended_ns = suspended
        if slept > 1:
            for entry in self._registry.entries.values():
                entry.scope.deadline -= slept

    async def _expire(self) -> None:
        self._catalog.layout.clock.mark()
        while True:
            rows = [
                row
                for row in self._catalog.index.expired(self._catalog.layout.clock.now_ns(), _PORTION)
                if row.job_id not in self._registry.entries
            ]
            if rows:
                await trio.to_thread.run_sync(self._forget, rows)
            more = await trio.to_thread.run_sync(empty_trash, self._catalog)
            if not rows and not more:
                break
            await trio.sleep(_PAUSE_SECONDS)  # deleting in bulk slows the creation of new jobs
        await trio.to_thread.run_sync(self._catalog.layout.owners.sweep)

    async def _checkpoint(self) -> None:
        try:
            size = os.stat(self._catalog.layout.index_path + "-wal").st_size
        except OSError:
            return
        if size > _CHECKPOINT_BYTES:
            await trio.to_thread.run_sync(checkpoint, self._catalog)


def empty_trash(catalog: Catalog) -> bool:
    """Delete a portion of what was discarded; ``True`` when more is left."""
    if not catalog.layout.discarded():
        return False
    with Catalog(catalog.settings) as own:
        return own.empty_trash(_PORTION)


def checkpoint(catalog: Catalog) -> None:
    """Checkpoint the registry over a connection of its own, so that nobody waits for the disk."""
    with Catalog(catalog.settings, wait_seconds=1) as own:
        own.index.checkpoint()


def _suspended_ns() -> int:
    """Return how long this machine has been suspended since boot, as far as the clocks tell."""
    return processes.boottime_ns() - time.clock_gettime_ns(time.CLOCK_MONOTONIC)
