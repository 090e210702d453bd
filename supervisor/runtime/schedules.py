"""Fires the schedules of a state root: starts a job at each of their instants.

Every supervisor that is open does this; the transaction that records a job decides its instant, so each instant has one
job. A supervisor that is killed before that transaction has decided nothing, and the next one fires the instant. One
that is killed after it leaves a waiting job with its orders, which any process launches.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import trio

from supervisor import log
from supervisor.errors import (
    IdempotencyConflict,
    InvalidArguments,
    JobNotFound,
    StateCorrupt,
    SupervisorClosed,
    SupervisorError,
)
from supervisor.jobs.catalog import Catalog
from supervisor.model import Job
from supervisor.runtime.launcher import Launcher
from supervisor.system.observing import FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS

if TYPE_CHECKING:
    from supervisor.store.schedule_files import Schedule

__all__ = ["Schedules"]

_LONGEST_WAIT_SECONDS: Final = 10.0
"""Between two looks at the wall clock, which may be set, and at the files: a process that has changed one may have been
killed before it changed the index."""
_SHORTEST_WAIT_SECONDS: Final = 0.001
"""A shorter one can end before a clock has moved."""
_CANCEL_SECONDS: Final = 30.0
"""How long an instant waits for the end of the jobs that it cancels; then its job waits for them in the queue."""


class Schedules:
    """Fires the schedules while a supervisor is open.

    Args:
        catalog: of the state root, for the event loop.
        launcher: starts the jobs.
        status: returns a job as it is now.
        cancel: cancels a job and waits for its end.
        nursery: holds a task for each schedule that is due.
    """

    def __init__(
        self,
        catalog: Catalog,
        launcher: Launcher,
        status: Callable[[str], Awaitable[Job]],
        cancel: Callable[[str], Awaitable[Job]],
        nursery: trio.Nursery,
    ) -> None:
        """Fire nothing until ``look``."""
        self._catalog = catalog
        self._launcher = launcher
        self._status = status
        self._cancel = cancel
        self._nursery = nursery
        self._next: tuple[int, int] | None = None
        self._look_again = -math.inf
        self._firing: set[str] = set()
        self._sooner = trio.Event()

    def look(self, *, changed: bool) -> None:
        """Fire what is due, and find out what is due next; ``changed``: another process has written to the index.

        Raises:
            SupervisorError: the index cannot be read now.
        """
        index, clock = self._catalog.index, self._catalog.layout.clock
        if changed or trio.current_time() >= self._look_again:
            self._look_again = trio.current_time() + _LONGEST_WAIT_SECONDS
            index.follow_files()
            self._expect(index.read_schedules(lambda schedules: schedules.next_ns()))
        if self._next is None or self._next[1] <= (now_ns := clock.wall_ns()) < self._next[0]:
            return
        for name in index.read(lambda: index.schedules.due(now_ns)):
            if name not in self._firing:
                self._firing.add(name)
                self._nursery.start_soon(self._fire, name)
        self._next = None  # until one of these tasks has ended

    def _expect(self, following: tuple[int, int] | None) -> None:
        if following != self._next:
            self._next = following
            self._sooner.set()

    async def keep_time(self) -> None:
        """Fire at the instants; the other looks are a second apart, and so notice a clock that was set."""
        while True:
            self._sooner = trio.Event()
            seconds = math.inf
            if self._next is not None:
                left = (self._next[0] - self._catalog.layout.clock.wall_ns()) / 1e9
                seconds = min(max(_SHORTEST_WAIT_SECONDS, left), _LONGEST_WAIT_SECONDS)
            with trio.move_on_after(seconds) as sleep:
                await self._sooner.wait()
            if sleep.cancelled_caught:
                with contextlib.suppress(SupervisorError):  # the next look tries again
                    self.look(changed=False)

    async def _fire(self, name: str) -> None:
        """Fire what is due of one schedule, as soon as that is possible."""
        delay = 0.0
        try:
            while True:
                try:
                    if await self._fire_due(name):
                        return
                    delay = 0.0
                except SupervisorClosed:
                    return
                except (SupervisorError, OSError) as error:  # a full disk, for one
                    if not delay:
                        log.warning("schedule_not_fired", schedule=name, error=str(error))
                    delay = min(2 * delay, LONGEST_DELAY_SECONDS) if delay else FIRST_DELAY_SECONDS
                    await trio.sleep(delay)
        finally:
            self._firing.discard(name)
            self._look_again = -math.inf
            with contextlib.suppress(SupervisorError):  # the next look tries again
                self._expect(self._catalog.index.read_schedules(lambda schedules: schedules.next_ns()))

    async def _fire_due(self, name: str) -> bool:
        """Fire the instants that are due, then record when to look next; return whether that is not now."""
        from supervisor.admission.instants import Instants  # most state roots have no schedule
        from supervisor.store.schedule_files import load

        await trio.lowlevel.checkpoint()
        index, root, clock = self._catalog.index, self._catalog.layout.root, self._catalog.layout.clock
        try:
            schedule = load(root, name)
            if schedule is None or schedule.paused:
                return self._settle(name)
            state = index.read(lambda: index.schedules.state(schedule))
            if state is None:
                return True
            instants = Instants(schedule, state)
            for instant in instants.due(clock.wall_ns()):
                await self._fire_instant(schedule, instant, instants.fires_at(instant))
            return self._settle(name)
        except (StateCorrupt, InvalidArguments) as problem:
            log.warning("schedule_not_understood", schedule=name, error=problem.message)
            note = problem.message
            index.write(lambda: index.schedules.silence(name, note))
            return True

    def _settle(self, name: str) -> bool:
        """Record when to look at a schedule next; return whether that is not now."""
        from supervisor.admission.instants import Instants
        from supervisor.store.schedule_files import load

        index, clock = self._catalog.index, self._catalog.layout.clock

        def settle() -> bool:
            schedule = load(self._catalog.layout.root, name)  # here: it may have been changed since it was fired
            state = None if schedule is None else index.schedules.state(schedule)
            if schedule is None or state is None:
                index.schedules.forget(name)
                return True
            instants, now_ns = Instants(schedule, state), clock.wall_ns()
            is_due = not schedule.paused and bool(instants.due(now_ns))
            due_ns = now_ns if is_due else None if schedule.paused else instants.next_at(now_ns)
            index.schedules.settle(name, due_ns, instants.settled(now_ns), now_ns)
            return not is_due

        return index.write(settle)

    async def _fire_instant(self, schedule: Schedule, instant: int, at_ns: int) -> None:
        """Start the job of an instant, or decide that it has none."""
        from supervisor.jobs.scheduled import key_of, spec_of_schedule
        from supervisor.store.schedule_files import read_stdin

        name = schedule.name
        after = [] if schedule.overlap == "allow_all" else await self._unfinished(name)
        if after and schedule.overlap == "skip":
            self._pass_over(name, instant, f"passed over, as job {after[-1]} had not ended")
            return
        if len(after) > 1 and schedule.overlap == "buffer_one":
            self._pass_over(name, instant, f"passed over, as job {after[-1]} waited already")
            return
        if after and schedule.overlap == "cancel_other":
            await self._cancel_all(after)
            after = await self._unfinished(name)
        stdin = read_stdin(self._catalog.layout.root, schedule)
        key = key_of(name, instant)
        spec = spec_of_schedule(schedule, stdin, key, at_ns, instant_ns=instant, after=tuple(after))
        try:
            made = await self._launcher.begin(spec)
            job_id = made.job_id
            if not isinstance(made, Job):
                made = await self._launcher.begun(made, spec)
                job_id = made.job_id
        except IdempotencyConflict as conflict:  # another process has decided it
            self._decide(name, instant, conflict.details.get("job_id"))
        except SupervisorError as problem:
            if problem.retryable or isinstance(problem, SupervisorClosed):  # another supervisor fires it
                raise
            log.warning("schedule_not_fired", schedule=name, error=problem.message)
            self._pass_over(name, instant, problem.message)
        else:
            log.info("schedule_fired", schedule=name, job_id=job_id)
            self._decide(name, instant, job_id)  # if the job was there already

    def _pass_over(self, name: str, instant: int, note: str) -> None:
        self._decide(name, instant, None, note)

    def _decide(self, name: str, instant: int, job_id: str | None, note: str | None = None) -> None:
        index = self._catalog.index
        index.write(lambda: index.schedules.decide(name, instant, job_id, note))

    async def _unfinished(self, name: str) -> list[str]:
        """Return the ids of the jobs of a schedule that have not ended, the oldest first."""
        found: list[str] = []
        for row in self._catalog.index.of_schedule(name):
            with contextlib.suppress(JobNotFound):
                if not (await self._status(row.job_id)).status.terminal:
                    found.append(row.job_id)
        return found

    async def _cancel_all(self, job_ids: list[str]) -> None:
        async def cancel(job_id: str) -> None:
            with contextlib.suppress(SupervisorError):  # then its successor waits for its end
                await self._cancel(job_id)

        with trio.move_on_after(_CANCEL_SECONDS):
            async with trio.open_nursery() as nursery:
                for job_id in job_ids:
                    nursery.start_soon(cancel, job_id)
