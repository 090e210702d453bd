"""Answers about jobs: from memory for those that this supervisor launched, from the store for all others."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, Final

import trio

from supervisor.errors import StateBusy
from supervisor.jobs.catalog import Catalog
from supervisor.jobs.listing import Query, page_at_a_glance, page_of
from supervisor.model import Job, JobPage
from supervisor.runtime.access import StoreAccess
from supervisor.runtime.entry import Entry
from supervisor.runtime.registry_actor import Registry
from supervisor.store import Row

__all__ = ["Lookup"]

_MAX_ON_THE_LOOP: Final = 100
"""Jobs on a page that is read on the event loop: that takes some milliseconds when none of them is cached."""


class Lookup:
    """Finds jobs.

    Args:
        catalog: the jobs over a connection that never waits.
        registry: the jobs in memory.
        access: the way to the store.
    """

    def __init__(self, catalog: Catalog, registry: Registry, access: StoreAccess) -> None:
        self._catalog = catalog
        self._registry = registry
        self._access = access

    async def row(self, job_id: str) -> Row:
        """Return the row of a job, or raise ``JobNotFound``."""
        return await self._access.query(lambda catalog: catalog.row(job_id))

    async def status(self, job_id: str) -> Job:
        """Return a job as it is now, or raise ``JobNotFound``."""
        self._access.check_open()
        await trio.lowlevel.checkpoint()
        own = self.own(job_id)
        if own is not None:
            return own.job()
        row = await self.row(job_id)
        if row.finished:
            return self._catalog.job(row)
        progress = self._adopted_progress(job_id)
        job = self._catalog.at_a_glance(row, progress=progress)
        if job is not None:
            return job
        return await self._access.in_thread(lambda catalog: catalog.now(row, progress=progress))

    def _adopted_progress(self, job_id: str) -> Mapping[str, Any] | None:
        adopted = self._registry.entries.get(job_id)
        return None if adopted is None else adopted.progress

    def own(self, job_id: str) -> Entry | None:
        """Return the entry of a live job that this supervisor launched; ``None`` if another process ended the job."""
        self._access.check_open()
        entry = self._registry.entries.get(job_id)
        if entry is None or entry.adopted:
            return None
        # Another process ends a job only once its end is on record. The janitor notices all other writes.
        if not self._is_unended(entry):
            self._registry.check_for_changes()
        if entry.generation != self._registry.generation:
            try:
                row = self._catalog.index.get(job_id)
            except StateBusy:  # for a moment; the entry is true as well
                return entry
            entry.generation = self._registry.generation
            if row is not None and row.finished:
                return None
            if row is not None and entry.pending is not None:
                entry.row = row  # another process may have moved it
        return entry

    def _is_unended(self, entry: Entry) -> bool:
        """Return whether no end of an own job is on record; note the stop that another process has asked for."""
        client = entry.client
        if client is None:
            client = entry.client = self._catalog.client(entry.row)
        unended = client.is_unended(entry.directory)
        entry.stop_seen = client.stop_requested(entry.directory)
        return unended

    async def page(self, query: Query) -> JobPage:
        """Return a page of jobs."""

        def own(job_id: str) -> Job | None:
            entry = self._registry.entries.get(job_id)
            if entry is None or entry.adopted:
                return None
            self._is_unended(entry)
            return entry.job()

        def own_off_the_loop(job_id: str) -> Job | None:  # the place of a waiting job is read by the thread's own index
            entry = self._registry.entries.get(job_id)
            return None if entry is None or entry.pending is not None else own(job_id)

        await trio.lowlevel.checkpoint()
        if query.limit <= _MAX_ON_THE_LOOP:
            with contextlib.suppress(StateBusy):
                page = page_at_a_glance(self._catalog, query, own)
                if page is not None:
                    return page
        return await self._access.in_thread(lambda catalog: page_of(catalog, query, own_off_the_loop))
