"""The waiting jobs that this supervisor launches: its own, and adopted ones.

A job that this supervisor has started waits without an actor: the request is in memory, and the actor starts when the
job has its slots. A job whose supervisor is gone has an actor that watches it; this supervisor becomes its owner and
launches it from its orders. The claim in the job directory decides if two processes launch a job.
"""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

import trio

from supervisor import log
from supervisor.admission import orders
from supervisor.engines.interface import Engine, LaunchRequest
from supervisor.errors import SupervisorError
from supervisor.jobs.catalog import Catalog
from supervisor.runtime.access import StoreAccess
from supervisor.runtime.entry import Entry, Pending
from supervisor.runtime.registry_actor import Registry
from supervisor.settings import Settings
from supervisor.store import Row
from supervisor.store.order_files import drop_orders
from supervisor.store.tickets import ticket_of
from supervisor.system.backoff import until_known
from supervisor.system.inotify import ATTRIBUTES
from supervisor.system.notifier import Notifier

__all__ = ["WaitingJobs"]

_PORTION: Final = 200
"""How many jobs one check covers, in some 5 ms of the event loop. The next checks cover the others."""

_LONGEST_WAIT_SECONDS: Final = 10.0
"""Between two looks at the wall clock, which may be set, and at the files of the groups: a process that has changed
one may have been killed before it told others."""


_REST_SECONDS: Final = 0.02
"""Between two checks of times."""

_TIMES: Final = frozenset({"not_before_ns", "delay_ns", "start_within_ns"})


class WaitingJobs:
    """Begins waiting jobs when they have their slots.

    Args:
        catalog: of the state root.
        registry: holds the entries.
        nursery: holds the actors.
        access: closed with the supervisor.
        engine_of: returns the engine of a job.
        register: returns the name of this supervisor as an owner of jobs.
        settings: of the supervisor.
        notifier: reports that another process has poked this supervisor.
    """

    def __init__(
        self,
        catalog: Catalog,
        registry: Registry,
        nursery: trio.Nursery,
        access: StoreAccess,
        engine_of: Callable[[Row], Engine],
        register: Callable[[], str],
        settings: Settings,
        notifier: Notifier,
    ) -> None:
        """Begin with no waiting jobs."""
        self._notifier = notifier
        self._listens = False
        self._catalog = catalog
        self._registry = registry
        self._nursery = nursery
        self._access = access
        self._engine_of = engine_of
        self._register = register
        self._settings = settings
        self._due = math.inf
        self._next = math.inf
        self._sooner = trio.Event()
        self._checked: deque[Entry] = deque()
        self._launching: set[Entry] = set()
        self._stale = 0

    def enter(
        self, entry: Entry, request: LaunchRequest, begin: Callable[[bool], None], *, has_orders: bool = False
    ) -> None:
        """Add a new job that waits; ``begin`` starts its actor, which launches it, or records its end.

        ``has_orders``: its orders are on disk already.
        """

        def begin_and_drop(launch: bool) -> None:  # noqa: FBT001  # as Pending calls it
            if not self._access.closed:  # else the next supervisor on the state root launches the job
                begin(launch)
                self._nursery.start_soon(self._drop_orders, entry)

        self._listen()
        self._checked.append(entry)
        self._due = -math.inf  # the next check looks up when its time comes, and when the pauses of its groups end
        self._check_soon(entry)
        entry.pending = Pending(
            begin=begin_and_drop,
            spool=(lambda: None) if has_orders else partial(orders.spool, request),
            standing=partial(self._catalog.index.standing, entry.row),
            limit_end=self._catalog.index.limit_end_ns,
        )

    @staticmethod
    async def _drop_orders(entry: Entry) -> None:
        await entry.started.wait()
        if entry.row.may_be_retried:  # its end moves them to the next attempt, or deletes them
            return
        if _is_launched(entry) or entry.row.finished:  # what a cluster has queued still needs its orders
            if "directory" in entry.row.request:  # a shared one may be slow
                await trio.to_thread.run_sync(drop_orders, entry.directory)
            else:  # some 20 us, and a thread takes 150
                drop_orders(entry.directory)

    def watch(self, entry: Entry) -> None:
        """Watch an adopted job that may wait; launch it if its supervisor is gone."""
        if not _is_launched(entry) and ticket_of(entry.row.request) is not None:
            self._checked.append(entry)
            self._due = -math.inf
            self._check_soon(entry)
            with contextlib.suppress(SupervisorError):  # the next check tries again
                self._take(entry)

    def _take(self, entry: Entry) -> None:
        """Become the supervisor that launches an adopted job, if its former one is gone.

        If several supervisors try this, one of them is recorded as the owner.
        """
        index, job_id = self._catalog.index, entry.row.job_id
        row, owner = index.get(job_id), self._register()
        if row is None or row.finished:
            return
        if row.owner != owner:
            if self._catalog.layout.owners.is_alive(row.owner):
                return
            if not index.write(lambda: index.set_owner(job_id, owner, row.owner)):
                return
        entry.pending = Pending(
            begin=partial(self._launch_adopted, entry),
            spool=lambda: None,
            standing=partial(index.standing, row),
            limit_end=index.limit_end_ns,
        )
        self._listen()
        if index.read_queue(lambda queue: queue.holds(job_id)):
            self._registry.begin_admitted(entry)

    def _is_lost(self, entry: Entry) -> bool:
        """Whether another supervisor is recorded as the owner of an adopted job: its record says so to a new index."""
        row = self._catalog.index.get(entry.row.job_id)
        return row is not None and row.owner != self._register()

    def _check_soon(self, entry: Entry) -> None:
        """Look up at once when a job is due that waits for a time, and have that met without a delay."""
        if _TIMES.isdisjoint(entry.row.request):
            return
        self._wake_at(trio.current_time())

    def _wake_at(self, when: float) -> None:
        if when < self._next:
            self._next = when
            self._sooner.set()

    async def keep_time(self) -> None:
        """Check when a time has come; the other checks are a second apart."""
        while True:
            self._sooner = trio.Event()
            with trio.move_on_at(self._next) as sleep:
                await self._sooner.wait()
            if sleep.cancelled_caught:
                self._next = math.inf
                with contextlib.suppress(SupervisorError):  # the next check tries again
                    self.check(changed=False)
                await trio.sleep(_REST_SECONDS)

    def _listen(self) -> None:
        """Have another process that admits a job of this supervisor wake it, where there is inotify."""
        if not self._listens:
            path = self._catalog.layout.owners.path(self._register())
            self._listens = self._notifier.watch(path, ATTRIBUTES, self._poked) is not None

    def _poked(self) -> None:
        if not self._access.closed:
            with contextlib.suppress(SupervisorError):  # the next check finds them
                self._begin_granted()

    def _begin_granted(self) -> None:
        for job_id in self._catalog.index.read_queue(lambda queue: queue.granted_to(self._register())):
            if (entry := self._registry.entries.get(job_id)) is not None:
                self._registry.begin_admitted(entry)

    def _launch_adopted(self, entry: Entry, launch: bool) -> None:  # noqa: FBT001  # as Pending calls it
        if launch and not self._access.closed:
            self._launching.add(entry)
            self._nursery.start_soon(self._launch_once, entry)

    async def _launch_once(self, entry: Entry) -> None:
        is_submitted = False
        try:
            is_submitted = await self._launch_from_orders(entry)
        finally:
            if not is_submitted:  # else until its actor has observed the launch, or it would be launched again
                self._launching.discard(entry)

    async def _launch_from_orders(self, entry: Entry) -> bool:
        """Launch an adopted job; its actor observes it as a launch by another process.

        Return whether its engine has the request.
        """
        engine = self._engine_of(entry.row)
        leftovers = self._settings.job_leftovers == "stop"
        read = partial(orders.read, entry.row, entry.directory, stop_leftovers=leftovers)
        request = await until_known(entry.directory, read, in_thread=not engine.on_this_machine)
        if request is None or entry.stop_why is not None:
            return False
        try:
            await engine.submit(request).started()
        except SupervisorError:  # the engine has recorded it, and the actor observes the record
            pass
        except OSError as error:  # the cluster has the job, and that cannot be recorded; the actor observes the job
            log.warning("submission_not_noted", job_id=entry.row.job_id, error=str(error))
            return True
        if not entry.row.may_be_retried:
            await trio.to_thread.run_sync(drop_orders, entry.directory)
        return True

    def check(self, *, changed: bool) -> None:
        """Take turns if another process has ``changed`` the index, or a time has come; begin the admitted jobs.

        Then check some of the waiting jobs: another process may have ended them, or their owner may be gone.

        Raises:
            SupervisorError: the index cannot be read now.
        """
        if not self._checked and not self._registry.ends:
            return
        index = self._catalog.index
        if changed or trio.current_time() >= self._due or self._registry.admission_due or self._registry.ends:
            self._registry.admit()
            seconds = index.read_queue(
                lambda queue: queue.next_seconds(self._catalog.layout.clock.moment()), snapshot=True
            )
            self._due = trio.current_time() + min(math.inf if seconds is None else seconds, _LONGEST_WAIT_SECONDS)
            if seconds is not None:
                self._wake_at(self._due)
            self._stale = len(self._checked)
            self._begin_granted()
        changed_since: list[Entry] = []
        for _ in range(min(len(self._checked), _PORTION)):
            entry = self._checked.popleft()
            if _is_launched(entry) or entry.finished.is_set() or entry.key_conflict or entry.problem is not None:
                self._launching.discard(entry)
                continue
            self._checked.append(entry)
            if entry.row.job_id not in self._registry.entries:  # it is not recorded yet
                continue
            if self._stale > 0 and entry.pending is not None:
                changed_since.append(entry)
            if entry.adopted:
                is_ours = entry.pending is not None and not (self._stale > 0 and self._is_lost(entry))
                if not is_ours and entry not in self._launching:
                    self._take(entry)
            elif self._stale > 0:
                row = index.get(entry.row.job_id)
                if row is None or row.finished:  # another process has cancelled or forgotten it
                    entry.begin(launch=False)
                elif entry.pending is not None:
                    entry.row = row  # another process may have moved it
            self._stale -= 1
        try:
            self._registry.publish_reasons([entry for entry in changed_since if entry.pending is not None])
        except SupervisorError:  # the next check tries again
            self._stale = len(self._checked)


def _is_launched(entry: Entry) -> bool:
    running = entry.running
    return entry.row.started_ns is not None or (running is not None and running.launched.pid > 0)
