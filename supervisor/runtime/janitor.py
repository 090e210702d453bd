"""The janitor: forgets expired jobs, empties the trash, and adopts jobs whose supervisor is gone.

It delays no caller: one check a second costs a few microseconds while no other process writes, and work on the
disk runs in small portions in a thread.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import trio

from supervisor import log
from supervisor.errors import InternalError, SupervisorError
from supervisor.jobs import retention
from supervisor.jobs.catalog import Catalog
from supervisor.runtime.entry import Entry
from supervisor.runtime.registry_actor import Registry
from supervisor.store import Row
from supervisor.system import processes
from supervisor.system.observing import is_there
from supervisor.worktrees.record import DIRECTORY as WORKTREES

__all__ = ["Janitor"]

_TICK_SECONDS: Final = 1.0
_ROUND_SECONDS: Final = 30.0
_BACKSTOP_NS: Final = 3_000_000_000
_PORTION: Final = 20
_PAUSE_SECONDS: Final = 0.1
_CHECKPOINT_BYTES: Final = 4 << 20


class CheckWaiting(Protocol):
    """Begins the waiting jobs that have their slots."""

    def __call__(self, *, changed: bool) -> None:
        """Do so; ``changed``: another process has written to the index."""


class Janitor:
    """Keeps a state root in order while a supervisor is open on it.

    Args:
        catalog: for reading on the event loop.
        forget: forgets finished jobs, in a thread.
        adopt: adopts an unfinished job.
        take_over: records this supervisor as the owner of jobs.
        check_waiting: begins the waiting jobs that have their slots.
    """

    def __init__(
        self,
        catalog: Catalog,
        registry: Registry,
        forget: Callable[[Sequence[Row]], None],
        adopt: Callable[[Row, bool], Entry],
        take_over: Callable[[Sequence[Row]], None],
        check_waiting: CheckWaiting,
    ) -> None:
        """Do nothing until ``run``."""
        self._catalog = catalog
        self._registry = registry
        self._forget = forget
        self._adopt = adopt
        self._take_over = take_over
        self._check_waiting = check_waiting
        self._foreign: list[Row] = []
        self._living: set[str] = set()
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
                self._find_foreign(changed=changed)
                await self._adopt_foreign()
                self._check_waiting(changed=changed)
                if trio.current_time() >= self._next_round or changed:
                    self._next_round = trio.current_time() + _ROUND_SECONDS
                    self._follow_clock()
                    await self._expire()
                await self._checkpoint()
            except Exception as problem:  # noqa: BLE001  # no descriptor, no thread: it may pass, and jobs need the janitor
                code = problem.code if isinstance(problem, SupervisorError) else InternalError.code
                log.warning("janitor_failed", code=code, error=str(problem) or repr(problem))
                missed = changed
            await trio.sleep(_TICK_SECONDS)
            changed = self._registry.check_for_changes() or missed

    def _find_foreign(self, *, changed: bool) -> None:
        """Find the jobs of other supervisors that may have to be adopted: with a deadline, or without a supervisor."""
        index, is_alive = self._catalog.index, self._catalog.layout.owners.is_alive
        owners = set(index.owners()) if changed else self._living
        gone = [owner for owner in owners if not is_alive(owner)]
        if changed or gone:
            self._foreign = index.adoptable(gone, self._registry.entries)
        self._living = owners.difference(gone)

    async def _adopt_foreign(self) -> None:
        """Adopt jobs whose supervisor is gone, and jobs past their deadline whose supervisor has not acted."""
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
        """Move deadlines by the time of a suspend, which Trio's clock does not count."""
        suspended = _suspended_ns()
        slept = (suspended - self._suspended_ns) / 1e9
        self._suspended_ns = suspended
        if slept > 1:
            for entry in self._registry.entries.values():
                entry.scope.deadline -= slept

    async def _expire(self) -> None:
        self._catalog.layout.clock.mark()
        while True:
            now_ns = self._catalog.layout.clock.now_ns()
            expired = self._catalog.index.expired(now_ns, _PORTION)
            rows = retention.without_unread(
                self._catalog.layout, [row for row in expired if row.job_id not in self._registry.entries], now_ns
            )
            if rows:
                await trio.to_thread.run_sync(self._forget, rows)
            more = await trio.to_thread.run_sync(empty_trash, self._catalog)
            if not rows and not more:
                break
            await trio.sleep(_PAUSE_SECONDS)  # deleting in bulk slows the creation of new jobs
        await trio.to_thread.run_sync(self._catalog.layout.owners.sweep)
        if is_there(f"{self._catalog.layout.root}/{WORKTREES}"):
            await trio.to_thread.run_sync(sweep_worktrees, self._catalog)

    async def _checkpoint(self) -> None:
        try:
            size = os.stat(self._catalog.layout.index_path + "-wal").st_size
        except OSError:
            return
        if size > _CHECKPOINT_BYTES:
            await trio.to_thread.run_sync(checkpoint, self._catalog)


def empty_trash(catalog: Catalog) -> bool:
    """Delete a portion of the trash; ``True`` when more is left."""
    if not catalog.layout.discarded():
        return False
    with Catalog(catalog.settings) as own:
        return own.empty_trash(_PORTION)


def sweep_worktrees(catalog: Catalog) -> None:
    """Remove worktrees of ended jobs in which there is no work, over a connection of its own."""
    from supervisor.jobs.worktrees import sweep  # few state roots need it

    with Catalog(catalog.settings, create=False) as own:
        sweep(own)


def checkpoint(catalog: Catalog) -> None:
    """Checkpoint the index over a connection of its own, so that no other task waits for the disk."""
    with Catalog(catalog.settings, wait_seconds=1) as own:
        own.index.checkpoint()


def _suspended_ns() -> int:
    """Return the time for which this machine was suspended since boot, by its clocks."""
    return processes.boottime_ns() - time.clock_gettime_ns(time.CLOCK_MONOTONIC)
