"""Stops the running jobs of groups that have spent more than a budget allows, where the group is to do so.

The supervisor of a job stops it. If that does not do so, as an older version, another one asks the keeper of the job.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Sequence
from functools import partial
from typing import Final

import trio

from supervisor import log
from supervisor.errors import SupervisorError
from supervisor.jobdir import factories, records
from supervisor.jobs.catalog import Catalog
from supervisor.runtime.access import StoreAccess
from supervisor.runtime.registry_actor import Registry
from supervisor.store.queue.queries import End

__all__ = ["ExceededBudgets"]

_BY: Final = "the budget"
_OTHERS_SECONDS: Final = 1.0
"""How long the supervisor of a job has to stop it, before another one does."""
_LONGEST_WAIT_SECONDS: Final = 10.0
"""Between two looks at the wall clock, which may be set."""
_REST_SECONDS: Final = 0.05
"""Between two looks: short jobs begin and end hundreds of times a second."""


class ExceededBudgets:
    """Stops jobs.

    Args:
        catalog: of the state root.
        registry: learns when jobs may have spent too much.
        access: the way to the store, for jobs of other supervisors.
    """

    def __init__(self, catalog: Catalog, registry: Registry, access: StoreAccess) -> None:
        """Do nothing until ``serve``."""
        self._catalog = catalog
        self._registry = registry
        self._access = access
        self._known: dict[str, float] = {}

    async def serve(self) -> None:
        """Stop jobs until cancelled."""
        wait, rested = math.inf, -math.inf
        while True:
            with trio.move_on_after(wait):
                await self._registry.spent.wait()
            await trio.sleep_until(rested)
            rested = trio.current_time() + _REST_SECONDS
            self._registry.spent = trio.Event()
            try:
                now = self._catalog.layout.clock.moment()
                stops, seconds = self._catalog.index.read_queue(lambda queue: queue.to_stop(now), snapshot=True)  # noqa: B023  # called at once
                wait = math.inf if seconds is None else min(max(seconds, 0.0), _LONGEST_WAIT_SECONDS)
                if await self._stop(stops):
                    wait = min(wait, _OTHERS_SECONDS)
            except (SupervisorError, OSError, RuntimeError) as problem:  # RuntimeError: no thread can be started now
                log.warning("job_not_stopped", job_id="", error=str(problem))
                wait = _OTHERS_SECONDS

    async def _stop(self, stops: Sequence[End]) -> bool:
        """Stop jobs; return whether some are left to their supervisors for a moment."""
        now = trio.current_time()
        self._known = {stop.job_id: self._known.get(stop.job_id, now) for stop in stops}
        others = [stop for stop in stops if stop.job_id not in self._registry.entries]
        late = [stop for stop in others if now - self._known[stop.job_id] >= _OTHERS_SECONDS]
        if late:
            await self._access.in_thread(lambda catalog: _ask_keepers(catalog, late))
            for stop in late:  # asked once; asking again follows after another change
                self._known[stop.job_id] = math.inf
        for stop in stops:
            entry = self._registry.entries.get(stop.job_id)
            if entry is None or entry.row.finished or entry.stop_why is not None:
                continue
            request = factories.stop_request("budget", _BY, cause=json.loads(stop.cause))
            with contextlib.suppress(OSError):  # without it the reason stands, and the detail is missing
                await trio.to_thread.run_sync(records.create, entry.directory, records.STOP, request)
            entry.stop("budget", _BY)
        return any(self._known[stop.job_id] != math.inf for stop in others)


def _ask_keepers(catalog: Catalog, stops: Sequence[End]) -> None:
    """Record requests to stop running jobs, and signal their keepers."""
    for stop in stops:
        with contextlib.suppress(SupervisorError):
            row, observation = catalog.refresh(catalog.row(stop.job_id), drive=False)
            if row.finished or observation is None or observation.problem is not None:
                continue
            directory, client = catalog.directory(row), catalog.client(row)
            records.create(directory, records.STOP, factories.stop_request("budget", _BY, cause=json.loads(stop.cause)))
            may_write = partial(catalog.layout.is_sound, row.workspace_key, row.job_id)
            client.begin_stop(directory, _BY, may_write=may_write).advance("budget")
            client.signal()
