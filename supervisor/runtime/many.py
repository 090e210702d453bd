"""Makes many jobs in one transaction: all or none.

What one job costs is its directory, with ``job.json`` and the orders. So a thread makes them all, and commits them, and
the event loop goes on meanwhile.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from functools import partial
from typing import Final

import trio

from supervisor.admission import orders
from supervisor.admission.groups import check_ticket
from supervisor.engines.interface import LaunchRequest
from supervisor.engines.staging import Inherited
from supervisor.errors import IdempotencyConflict, InvalidArguments, SupervisorError
from supervisor.jobs.catalog import Catalog
from supervisor.jobs.validation import checked_spec
from supervisor.model import Job, JobSpec
from supervisor.runtime.access import StoreAccess
from supervisor.runtime.drafts import Draft
from supervisor.runtime.entry import Entry
from supervisor.runtime.launcher import LAUNCH_SECONDS, LAUNCH_SHIELD_SECONDS, Launcher
from supervisor.runtime.messages import CreateMany
from supervisor.runtime.registry_actor import Registry
from supervisor.store.groups import Group
from supervisor.store.jobs_of_rows import job_of
from supervisor.store.tickets import Ticket

__all__ = ["start_many"]

_PORTION: Final = 50
"""How many requests are checked before other tasks run: some milliseconds."""

_Made = list[tuple[Entry, LaunchRequest, bool]]
"""The entries of new jobs, each with what its engine gets, and whether its orders are on disk."""


async def start_many(
    launcher: Launcher, registry: Registry, access: StoreAccess, specs: Sequence[JobSpec]
) -> list[Job]:
    """Make a job of each request, or find the one that has its key; see ``Supervisor.start_many``."""
    while True:
        drafts, places = await _drafts(launcher, access, specs)
        new = [draft for draft in drafts if isinstance(draft, Draft)]
        made = await _made(launcher, access, new)
        entries = [entry for entry, _, _ in made]
        try:
            creations = [
                launcher.creation(draft, entry, request, has_orders=has_orders)
                for draft, (entry, request, has_orders) in zip(new, made, strict=True)
            ]
            if creations:
                await registry.send(CreateMany(creations))
        except BaseException:  # no process knows of them
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(_remove, launcher, entries)
            raise
        await _started(registry, entries)
        if any(entry.key_conflict or entry.problem is not None for entry in entries):
            await trio.to_thread.run_sync(_remove, launcher, entries)
            for entry in entries:
                if entry.problem is not None:
                    raise entry.problem
            continue  # another process has made a job with the key of one
        jobs = iter(await access.in_thread(partial(_jobs, entries)))
        found = [next(jobs) if isinstance(draft, Draft) else draft for draft in drafts]
        return [found[place] for place in places]


@contextlib.contextmanager
def _of_request(number: int) -> Generator[None]:
    """Say in the details of an error which request it is about."""
    try:
        yield
    except SupervisorError as error:
        error.details["index"] = number
        raise


async def _drafts(
    launcher: Launcher, access: StoreAccess, specs: Sequence[JobSpec]
) -> tuple[list[Draft | Job], list[int]]:
    """Return what is needed to make the jobs, and for each request which of these is its own."""
    access.check_open()
    drafts: list[Draft | Job] = []
    places: list[int] = []
    keys: dict[tuple[str, str], tuple[int, str]] = {}
    workspaces: dict[str, str] = {}
    for number, spec in enumerate(specs):
        if number % _PORTION == 0:
            await trio.lowlevel.checkpoint()
        with _of_request(number):
            if not isinstance(spec, JobSpec):  # pyright: ignore[reportUnnecessaryIsInstance]  # no type checker was used
                message = f"specs holds {spec!r:.80}; it must hold JobSpec"
                raise InvalidArguments(message)
            spec = checked_spec(spec)  # noqa: PLW2901  # the same request
            if spec.workspace not in workspaces:
                workspaces[spec.workspace] = await launcher.drafts.workspaces.real(spec.workspace)
            draft = await launcher.drafts.draft(spec, workspaces[spec.workspace])
            place, key = len(drafts), spec.idempotency_key
            if isinstance(draft, Draft) and key is not None:
                digest = draft.record["digest"]
                place, known = keys.setdefault((draft.key, key), (place, digest))
                if known != digest:
                    message = f"idempotency key {key!r} is given with two different requests"
                    raise IdempotencyConflict(message)
            if place == len(drafts):
                drafts.append(draft)
            places.append(place)
    return drafts, places


async def _made(launcher: Launcher, access: StoreAccess, drafts: Sequence[Draft]) -> _Made:
    """Make the directories of the jobs, with the orders of those that will probably wait."""
    names = {name for draft in drafts if draft.ticket is not None for name in draft.ticket.groups}

    def check(catalog: Catalog) -> dict[str, float]:
        checked: dict[object, list[Group]] = {}
        for number, draft in enumerate(drafts):
            if draft.ticket is not None:
                with _of_request(number):
                    if (same := draft.ticket[:5]) not in checked:
                        checked[same] = check_ticket(catalog.index, draft.ticket)
                    launcher.drafts.take_defaults(draft, checked[same])
        now = catalog.layout.clock.moment()
        return catalog.index.read_queue(lambda queue: queue.rooms(names, now), snapshot=True)

    rooms = await access.in_thread(check)
    access.check_open()
    made: _Made = []

    def make() -> None:
        inherited = Inherited.now()
        for number, draft in enumerate(drafts):
            with _of_request(number):
                entry = launcher.make_directory(draft.key, draft.record)
                request = launcher.drafts.launch_request(draft, entry.directory)
                on_disk = draft.engine.on_this_machine and draft.spec.spool == "disk"
                waits = draft.ticket is not None and on_disk and _waits(draft.ticket, rooms)
                made.append((entry, request, waits))
                if waits:
                    orders.spool(request, inherited)

    try:
        await trio.to_thread.run_sync(make)
        for number, (draft, (entry, request, spooled)) in enumerate(zip(drafts, made, strict=True)):
            if draft.ticket is not None and not spooled:
                with _of_request(number):
                    made[number] = (entry, request, await launcher.spool_now(draft, request))
    except BaseException:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(_remove, launcher, [entry for entry, _, _ in made])
        raise
    return made


def _waits(ticket: Ticket, rooms: dict[str, float]) -> bool:
    """Whether a job will have to wait; if not, take its part of the rooms."""
    if ticket.must_wait or any(rooms[name] < ticket.weight for name in ticket.groups):
        return True
    for name in ticket.groups:
        rooms[name] -= ticket.weight
    return False


def _remove(launcher: Launcher, entries: Sequence[Entry]) -> None:
    for entry in entries:
        launcher.remove(entry)


async def _started(registry: Registry, entries: Sequence[Entry]) -> None:
    """Wait until the jobs are recorded, then some time for their launches."""
    shield_ends = trio.current_time() + LAUNCH_SHIELD_SECONDS
    try:
        with trio.move_on_after(LAUNCH_SECONDS):
            for entry in entries:
                await entry.started.wait()
        if entries and not entries[0].started.is_set() and entries[0].row.job_id not in registry.entries:
            await entries[0].started.wait()  # no caller knows the ids yet
    except trio.Cancelled:  # delivered again by the caller's next await, when the jobs are recorded
        with trio.CancelScope(deadline=shield_ends, shield=True):
            for entry in entries:
                await entry.started.wait()
        raise


def _jobs(entries: Sequence[Entry], catalog: Catalog) -> list[Job]:
    """Return the jobs as they are now."""
    waiting = [entry for entry in entries if entry.pending is not None]
    standings = dict(zip(waiting, catalog.index.standings([entry.row for entry in waiting]), strict=True))
    jobs: list[Job] = []
    for entry in entries:
        if entry in standings and entry.pending is not None:
            reason, position = standings[entry]
            entry.queue_reason = entry.queue_reason or reason
            made = job_of(
                entry.row,
                entry.directory,
                queue_reason=reason,
                queue_position=position,
                limit_end=catalog.index.limit_end_ns,
            )
            jobs.append(made)
        else:
            jobs.append(entry.job())
    return jobs
