"""Ends the waiting jobs that the queue does not launch: a dependency has failed, or it is too late.

There may be thousands of them at once. So a thread writes the records, for some at a time, and the jobs need no actor.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Final, NamedTuple

import trio

from supervisor import log
from supervisor.engines.interface import JobPhase
from supervisor.errors import InvalidArguments, JobNotFound, SupervisorError
from supervisor.jobs.catalog import Catalog
from supervisor.jobs.outcome import outcome_of
from supervisor.jobs.unlaunched import rule_out_end
from supervisor.runtime.access import StoreAccess
from supervisor.runtime.entry import Entry
from supervisor.runtime.messages import Finish
from supervisor.runtime.registry_actor import Registry
from supervisor.store import Row
from supervisor.store.order_files import drop_orders
from supervisor.store.queue.queries import End
from supervisor.store.rows import JobOutcome

__all__ = ["UnlaunchedJobs"]

_OTHERS_SECONDS: Final = 1.0
"""How long the supervisor of a waiting job has for the end of the job, before another one records it."""


class _Task(NamedTuple):
    """A job of this supervisor that is to end; ``row`` is as it was when the task was made."""

    entry: Entry
    row: Row
    end: End


class UnlaunchedJobs:
    """Records the ends of jobs that are not launched.

    Args:
        catalog: of the state root.
        registry: learns which jobs are to end.
        access: the way to the store, for jobs of other supervisors.
    """

    def __init__(self, catalog: Catalog, registry: Registry, access: StoreAccess) -> None:
        """Do nothing until ``serve``."""
        self._catalog = catalog
        self._registry = registry
        self._access = access
        self._known: dict[str, float] = {}

    async def serve(self) -> None:
        """Record ends until cancelled. An end that cannot be recorded now is returned by a later turn."""
        while True:
            await self._registry.ends_known.wait()
            self._registry.ends_known = trio.Event()
            ends = self._registry.ends
            try:
                await self._record(ends)
            except (SupervisorError, RuntimeError) as problem:  # RuntimeError: no thread can be started now
                log.warning("ruling_not_recorded", job_id=ends[0].job_id, error=str(problem))

    async def _record(self, ends: Sequence[End]) -> None:
        entries, now = self._registry.entries, trio.current_time()
        self._known = {end.job_id: self._known.get(end.job_id, now) for end in ends}
        mine = [
            _Task(entry, entry.row, end)
            for end in ends
            if (entry := entries.get(end.job_id)) is not None and not entry.row.finished
        ]
        late = [end for end in ends if end.job_id not in entries and now - self._known[end.job_id] >= _OTHERS_SECONDS]
        if late:
            await self._access.in_thread(lambda catalog: _record_others(catalog, late))
        for entry, outcome in await trio.to_thread.run_sync(self._rule_out, mine) if mine else ():
            if entry.pending is None or entry.adopted:  # it has an actor, which observes the records
                continue
            if outcome is None:
                entry.begin(launch=False)
            else:
                entry.pending = None
                await self._registry.send(Finish(entry, entry.row.with_outcome(outcome), outcome.reason.value))

    def _rule_out(self, tasks: Sequence[_Task]) -> list[tuple[Entry, JobOutcome | None]]:
        """Rule, in a thread, that jobs are never launched; return their ends, ``None`` where an actor has to see it."""
        found: list[tuple[Entry, JobOutcome | None]] = []
        for task in tasks:
            try:
                found.append((task.entry, self._ended(task)))
            except OSError as error:  # a later turn tries again
                log.warning("ruling_not_recorded", job_id=task.row.job_id, error=str(error))
        return found

    def _ended(self, task: _Task) -> JobOutcome | None:
        row, directory = task.row, task.entry.directory
        rule_out_end(directory, task.end)
        observation = self._catalog.client(row).observe(directory, owner_lives=True)
        if observation.phase is not JobPhase.ENDED or observation.ended is None or observation.launched is not None:
            return None
        drop_orders(directory)
        with contextlib.suppress(InvalidArguments):  # a kind that is not installed here
            return outcome_of(row, directory, observation.ended)
        return None


def _record_others(catalog: Catalog, ends: Sequence[End]) -> None:
    """Record the ends of jobs whose supervisors have not done it."""
    for end in ends:
        with contextlib.suppress(JobNotFound):
            catalog.refresh(catalog.row(end.job_id), drive=False)
