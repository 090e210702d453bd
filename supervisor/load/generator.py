"""Starts jobs when they are due, waits for the end of each, and measures latencies.

Each job has a task. The latency of a start counts from its due time, and also from the call. The delay of
the generator itself is a figure too: it shows whether the machine was too busy to generate the load.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Generator
from typing import Final

import attrs
import trio

from supervisor.load.check import Fault, Tracked, check_output, faults_of
from supervisor.load.driver import Driver, Refused, Request
from supervisor.load.mix import Mix
from supervisor.load.plan import plan
from supervisor.load.program import argv
from supervisor.load.series import Series
from supervisor.model import Job
from supervisor.states import State

__all__ = ["FIGURES", "Load"]

FIGURES: Final = {
    "start_due": "start acknowledged, from when it was due",
    "start_call": "start acknowledged, from the call",
    "exit_known": "exit until its caller knew",
    "cancel_ended": "cancel until nothing was left",
    "deadline_overshoot": "deadline until it had ended",
    "fetch": "output fetched",
    "behind": "the generator behind its plan",
}
"""All latencies, each with its description."""

_MAX_FETCHES: Final = 16
_SAFETY_SECONDS: Final = 600


class Load:
    """One load, with its figures so far.

    Attributes:
        mix: the description of the load.
        records: every job that was due so far, by its tag.
        figures: the latencies in seconds, by the names in ``FIGURES``.
        errors: the number of calls answered with an error, by ``call: code``.
        faults: the faults of calls and jobs.
        waited: seconds from the creation of each job to its launch, as its record says.
        ended: the number of ended jobs, by state.
        acknowledged: the number of acknowledged starts.
        in_flight: the number of jobs between their start and their end.
        held_back: the number of jobs that waited because too many were in flight.
        began: the begin of the load, by the clock of the event loop.
        last_start: the time of the last acknowledged start.
        interrupted: whether ``interrupt`` was called.
        all_due: whether all jobs have been started.
    """

    def __init__(
        self,
        driver: Driver,
        mix: Mix,
        run: str,
        *,
        marks: str = "",
        patience_seconds: float = 60,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Prepare a load.

        Input
            driver: the service that runs the jobs.
            mix: the description of the load.
            run: the name of the run.
            marks: the file for the marks of the jobs; empty for none.
            patience_seconds: how late a job may end, and how long a call may take.
            wall: the time of day in seconds. ``exit_known`` and ``deadline_overshoot`` are valid only if the
                driver's jobs use the same clock.
        """
        self.mix = mix
        self.records: dict[str, Tracked] = {}
        self.figures = {name: Series() for name in FIGURES}
        self.errors: Counter[str] = Counter()
        self.faults: list[Fault] = []
        self.waited = Series()
        self.ended: Counter[State] = Counter()
        self.acknowledged = self.in_flight = self.held_back = 0
        self.began = self.last_start = 0.0
        self.interrupted = self.all_due = False
        self._driver = driver
        self._run = run
        self._marks = marks
        self._patience = patience_seconds
        self._wall = wall
        self._ids: dict[str, str] = {}
        self._starting = trio.CancelScope()
        self._running = trio.CancelScope()
        self._slots = trio.Semaphore(mix.max_in_flight)
        self._fetches = trio.CapacityLimiter(_MAX_FETCHES)
        self._cancelling = trio.Event()

    async def run(self) -> None:
        """Start every job when it is due, and return once all have ended."""
        self.began = self.last_start = trio.current_time()
        with self._running:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._cancel_waiting, nursery)
                async with trio.open_nursery() as jobs:
                    with self._starting:
                        await self._start_all(jobs)
                    self.all_due = True
                nursery.cancel_scope.cancel()

    def interrupt(self, *, cancel: bool = True) -> None:
        """Start no more jobs, and optionally cancel the running ones."""
        self._starting.cancel()
        self.interrupted = True
        if cancel:
            self._cancelling.set()

    def abandon(self) -> None:
        """Stop waiting for jobs."""
        self._starting.cancel()
        self._running.cancel()
        for record in self.records.values():
            record.abandoned = record.abandoned or not record.done

    # ------------------------------------------------------------ one job

    async def _start_all(self, jobs: trio.Nursery) -> None:
        for order in plan(self.mix):
            due = self.began + order.due
            await trio.sleep_until(due)
            self.figures["behind"].add(trio.current_time() - due)
            try:
                self._slots.acquire_nowait()
            except trio.WouldBlock:
                self.held_back += 1
                await self._slots.acquire()
            tag = f"{self._run}-{order.number}"
            self.records[tag] = record = Tracked(order, tag, due)
            self.in_flight += 1
            jobs.start_soon(self._supervise, record)

    async def _supervise(self, record: Tracked) -> None:
        try:
            await self._start(record)
            if record.job is not None:
                await self._to_end(record)
        except Refused:
            pass  # counted already
        finally:
            self.in_flight -= 1
            self._slots.release()
        record.done = True
        if record.job is not None:
            self.faults += faults_of(record)
            record.job = attrs.evolve(record.job, argv=(), labels={})  # saves memory in a long load

    async def _start(self, record: Tracked) -> None:
        order = record.order
        sort = order.sort
        command = argv(
            record.tag,
            marks=self._marks,
            seconds=order.seconds,
            before=order.before,
            after=order.after,
            stderr=order.stderr,
            exit_code=sort.exit_code,
            stubborn=sort.stubborn,
        )
        deadline = order.seconds + _SAFETY_SECONDS if order.deadline is None else order.deadline
        request = Request(command, f"bench-{record.tag}", self._run, deadline)
        called = trio.current_time()
        try:
            with self._timed("start"):
                record.job = job = await self._driver.start(request)
        except Refused as error:
            record.refused, record.uncertain = error.certain, not error.certain
            self.errors[f"start: {error.code}"] += 1
            raise
        self.last_start = now = trio.current_time()
        self.figures["start_due"].add(now - record.due)
        self.figures["start_call"].add(now - called)
        self.acknowledged += 1
        if (other := self._ids.setdefault(job.job_id, record.tag)) != record.tag:
            self.faults.append(record.fault("same_id", f"{other} has the same id"))

    async def _to_end(self, record: Tracked) -> None:
        assert record.job is not None  # noqa: S101  # it was acknowledged
        await self._until_ended(record, record.job)
        self._measure_end(record, record.job)
        async with self._fetches:
            called = trio.current_time()
            with self._counted("fetch", record), self._timed("fetch"):
                output = await self._driver.fetch(record.job)
            self.figures["fetch"].add(trio.current_time() - called)
        record.output = check_output(record, output)

    async def _until_ended(self, record: Tracked, job: Job) -> None:
        """Wait for the end of a job, or cancel it as planned, and store the ended job in the record."""
        order = record.order
        if order.cancel_after is not None and not job.status.terminal:
            with trio.move_on_after(order.cancel_after):
                await self._cancelling.wait()
            if not self._cancelling.is_set():
                called = trio.current_time()
                await self._cancel(record, job)
                self.figures["cancel_ended"].add(trio.current_time() - called)
                return
        if self._cancelling.is_set():
            record.interrupted = True
            await self._cancel(record, job)
            return
        expected = order.seconds if order.deadline is None else order.deadline
        with self._counted("wait", record):
            while not job.status.terminal:
                waits, ended = job.status is State.QUEUED, self.ended.total()
                record.job = job = await self._driver.wait(job.job_id, expected + self._patience)
                stuck = job.status is State.QUEUED and self.ended.total() == ended
                if not waits or stuck:  # a job in a group waits for its turn as long as others end
                    break
        if not job.status.terminal:
            record.gave_up = True
            await self._cancel(record, job)

    async def _cancel(self, record: Tracked, job: Job) -> None:
        with self._counted("cancel", record), self._timed("cancel"):
            record.job = await self._driver.cancel(job.job_id)

    def _measure_end(self, record: Tracked, job: Job) -> None:
        self.ended[job.status] += 1
        if job.started_at is not None:
            self.waited.add((job.started_at - job.created_at).total_seconds())
        if job.completed_at is None or record.interrupted or record.gave_up:
            return
        ended = job.completed_at.timestamp()
        if job.status in {State.DONE, State.FAILED}:
            self.figures["exit_known"].add(max(0.0, self._wall() - ended))
        elif job.status is State.TIMEOUT and job.deadline_at is not None:
            self.figures["deadline_overshoot"].add(max(0.0, ended - job.deadline_at.timestamp()))

    async def _cancel_waiting(self, nursery: trio.Nursery) -> None:
        """Once the load is interrupted, cancel the running jobs; their tasks then observe the end."""
        await self._cancelling.wait()
        for record in self.records.values():
            if record.job is not None and not record.done and record.order.cancel_after is None:
                nursery.start_soon(self._stop, record, record.job)

    async def _stop(self, record: Tracked, job: Job) -> None:
        if record.job is job and not job.status.terminal:  # its end has not been observed since
            record.interrupted = True
            with contextlib.suppress(Refused), self._counted("cancel", record), self._timed("cancel"):
                await self._driver.cancel(job.job_id)

    # ------------------------------------------------------------ errors

    @contextlib.contextmanager
    def _counted(self, call: str, record: Tracked) -> Generator[None]:
        """Count a refused call about an acknowledged job, which is always a fault."""
        try:
            yield
        except Refused as error:
            self.errors[f"{call}: {error.code}"] += 1
            record.abandoned = True
            code = "lost" if error.code == "job_not_found" else "call"
            self.faults.append(record.fault(code, f"{call} was answered with {error.code}: {error.message}"))
            raise

    @contextlib.contextmanager
    def _timed(self, call: str) -> Generator[None]:
        """Refuse a call that has no answer within the patience."""
        try:
            with trio.fail_after(self._patience):
                yield
        except trio.TooSlowError:
            message = f"{call} was not answered within {self._patience:g} s"
            raise Refused(message, code="no_answer", certain=False) from None
