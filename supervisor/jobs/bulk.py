"""Stops many jobs, or waits for them, without an event loop.

An event observes only the jobs that it concerns. If each event observed all of a thousand jobs, a million observations
would follow.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Final, Self

from supervisor.engines.interface import Client, JobPhase, Observation, StopInProgress
from supervisor.engines.waiting import Change
from supervisor.errors import JobElsewhere, StateBusy, SupervisorError
from supervisor.jobdir import factories, records
from supervisor.jobs.interface import Jobs
from supervisor.model import Job
from supervisor.store import Row, is_job_id
from supervisor.store.rows import UNFINISHED
from supervisor.store.state_errors import state_error
from supervisor.system import installation
from supervisor.system.observing import FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS, NotKnown, is_there

__all__ = ["cancel_all", "elsewhere_error", "wait_for"]

_PATIENCE_SECONDS: Final = 10.0
"""A cancel fails, to be tried again by the caller, if the job could not be observed for this long."""
_NEVER: Final = float("inf")
_LOAD_SECONDS: Final = 3.0
"""How long a wait has lasted when it loads what its end may need, which takes a quarter of a second."""


def cancel_all(
    jobs: Jobs, job_ids: Iterable[str], *, by: str, first_signal: int | None = None
) -> Sequence[Job | SupervisorError]:
    """Stop jobs concurrently; return for each, in their order, the ended job or the error of its cancel.

    ``first_signal``: what their processes get instead of SIGTERM.
    Of a job that was tried again, the last attempt is stopped. A stop request is on record before the end is, so
    no attempt follows one that this function returns.
    """
    ids = list(job_ids)
    last = ids
    ends: dict[str, Job | SupervisorError] = {}
    while left := dict.fromkeys(job_id for job_id in last if job_id not in ends):
        ends |= _Cancelling(jobs, left, by, first_signal).run()
        last = [_next_of(jobs, ends[job_id]) or job_id for job_id in last]
    return [ends[job_id] for job_id in last]


def _next_of(jobs: Jobs, end: Job | SupervisorError) -> str | None:
    """Return the attempt that has followed an ended job, unless it is forgotten."""
    following = end.retried_by if isinstance(end, Job) else None
    return None if following is None or jobs.index.get(following) is None else following


def wait_for(jobs: Jobs, job_ids: Iterable[str], *, any_one: bool, timeout: float | None) -> Sequence[Job]:
    """Wait until all jobs (or any one) have ended, or ``timeout`` seconds have passed; return all jobs.

    A job that is tried again has not ended: the last attempt is waited for, and returned in its place.
    """
    last = list(job_ids)
    until = _NEVER if timeout is None else time.monotonic() + timeout
    while True:
        found = _wait_for_attempts(jobs, last, any_one=any_one, until=until)
        following = [_next_of(jobs, job) for job in found]
        if not any(following):
            return found
        last = [attempt or job.job_id for attempt, job in zip(following, found, strict=True)]


def _wait_for_attempts(jobs: Jobs, ids: Sequence[str], *, any_one: bool, until: float) -> Sequence[Job]:
    """Wait until all jobs (or any) have ended, or until then by the monotonic clock; return them all."""
    finished: dict[str, Job] = {}
    with _Watch(jobs, {job_id: jobs.row(job_id) for job_id in ids}) as watch:
        due: Iterable[str] = dict.fromkeys(ids)
        launched_for: int | None = None
        loads_at = time.monotonic() + _LOAD_SECONDS
        while True:
            for job_id in due:
                if job_id not in finished:
                    row, observation = jobs.refresh(jobs.row(job_id))
                    if row.finished:
                        finished[job_id] = jobs.status(job_id, progress=False)
                    watch.observed(job_id, known=observation is None or observation.problem is None)
            enough = bool(finished) if any_one else finished.keys() >= set(ids)
            if enough or until <= time.monotonic():
                return [finished.get(job_id) or jobs.status(job_id) for job_id in ids]
            if launched_for != len(finished):
                # A job may wait for its launch: one of these, or the next attempt after an end recorded here.
                jobs.ensure_launcher()
                launched_for = len(finished)
            due = watch.wait(min(until, loads_at))
            if loads_at <= time.monotonic():
                loads_at = _NEVER
                installation.load_rest()  # the package may be replaced or deleted before the jobs have ended


class _Watch:
    """Waits until one of several jobs has to be observed. A context manager."""

    def __init__(self, jobs: Jobs, rows: dict[str, Row]) -> None:
        unfinished = {job_id: row for job_id, row in rows.items() if not row.finished}
        self._ids = {jobs.directory(row): job_id for job_id, row in unfinished.items()}
        self._poll_seconds = {job_id: jobs.client(row).poll_seconds for job_id, row in unfinished.items()}
        self._polled = {job_id for job_id, seconds in self._poll_seconds.items() if seconds != _NEVER}
        self._unknown: dict[str, float] = {}
        self._change = Change(self._ids, is_relevant=_may_have_ended)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._change.__exit__()

    def observed(self, job_id: str, *, known: bool) -> None:
        """Observe a job again without an event if its state is not known, after a longer pause each time."""
        if known:
            self._unknown.pop(job_id, None)
        else:
            delay = 2 * self._unknown.get(job_id, FIRST_DELAY_SECONDS / 2)
            self._unknown[job_id] = min(delay, LONGEST_DELAY_SECONDS)

    def wait(self, until: float) -> Sequence[str]:
        """Wait for an event, at most until a time of the monotonic clock; return the jobs to observe."""
        if self._polled:
            until = min(until, time.monotonic() + min(map(self._poll_seconds.__getitem__, self._polled)))
        if self._unknown:
            until = min(until, time.monotonic() + min(self._unknown.values()))
        seconds = None if until == _NEVER else max(0.0, until - time.monotonic())
        changed = {self._ids[directory] for directory in self._change.wait(seconds)}
        return [*{*changed, *self._polled, *self._unknown}]


def _may_have_ended(directory: str) -> bool:
    """Whether the end of a job is on record, or its directory is gone. No other file there says that it has ended."""
    try:
        return is_there(f"{directory}/{records.EXIT}") or records.is_gone(directory)
    except NotKnown:
        return True


class _Cancelling:
    """Stops several jobs: requests every stop before it waits for any."""

    def __init__(self, jobs: Jobs, job_ids: Iterable[str], by: str, first_signal: int | None) -> None:
        self._jobs = jobs
        self._by = by
        self._first_signal = first_signal
        self._left = dict.fromkeys(job_ids, 0.0)
        """The jobs that have not ended, each with the time to observe it again without an event."""
        self._ends: dict[str, Job | SupervisorError] = {}
        self._stops: dict[str, StopInProgress] = {}
        self._clients: dict[StopInProgress, Client] = {}
        self._troubles: dict[str, tuple[float, float]] = {}
        """For a job whose state is not known: since when, and the last pause."""
        self._resisting: set[str] = set()
        """The jobs that this process has to end itself, and whose processes may still resist that."""

    def run(self) -> dict[str, Job | SupervisorError]:
        """Return for each the ended job, or the error of its cancel."""
        found = {job_id: self._jobs.index.get(job_id) for job_id in self._left if is_job_id(job_id)}
        with _Watch(self._jobs, {job_id: row for job_id, row in found.items() if row is not None}) as watch:
            due: Iterable[str] = list(self._left)
            launched_for = 0
            while True:
                to_end: set[str] = set()
                for job_id in due:
                    if job_id in self._left:
                        self._left[job_id] = _NEVER
                        self._note(job_id, self._go_on(job_id, to_end))
                for client in set(self._clients.values()):
                    client.signal()
                if not self._left:
                    return self._ends
                if to_end and self._end(to_end):
                    due = to_end
                elif self._left:
                    if launched_for != len(self._ends):  # the end of a job may let a waiting one run
                        self._jobs.ensure_launcher()
                        launched_for = len(self._ends)
                    changed = watch.wait(min(self._left.values()))
                    now = time.monotonic()
                    due = {*changed, *(job_id for job_id, at in self._left.items() if at <= now)}

    def _note(self, job_id: str, end: Job | SupervisorError | None) -> None:
        if end is not None:
            self._ends[job_id] = end
            del self._left[job_id]

    def _end(self, to_end: set[str]) -> bool:
        """End jobs in this process; return ``False`` if their processes cannot be observed now."""
        stops = [self._stops[job_id] for job_id in to_end]
        try:
            for client in {self._clients[stop] for stop in stops}:
                client.end([stop for stop in stops if self._clients[stop] is client])
        except OSError as error:
            for job_id in to_end:
                self._note(job_id, self._put_off(job_id, error))
            return False
        for job_id in to_end:
            self._troubles.pop(job_id, None)
        return True

    def _go_on(self, job_id: str, to_end: set[str]) -> Job | SupervisorError | None:
        """Advance one cancellation by a step; return its result, or ``None`` while it is in progress.

        A job that this process has to end is added to ``to_end``.
        """
        jobs = self._jobs
        try:
            row, observation = jobs.refresh(jobs.row(job_id), drive=False)
            stop = self._stops.get(job_id)
            if row.finished:
                left = None if stop is None else self._clients[stop].survivors(jobs.directory(row))
                return left or jobs.job(row)
            if observation is None or observation.phase is JobPhase.ELSEWHERE:
                return elsewhere_error(row, observation)
            if observation.problem is not None:
                if row.may_be_retried:  # it may have ended already, and be followed by another attempt
                    request = factories.stop_request("cancelled", self._by)
                    records.create(jobs.directory(row), records.STOP, request)
                return self._put_off(job_id, observation.problem)
            if stop is None:
                client = jobs.client(row)
                if self._first_signal is not None and observation.launched is not None:
                    client.request_stop(jobs.directory(row), by=self._by, first_signal=self._first_signal)
                may_write = partial(jobs.layout.is_sound, row.workspace_key, job_id)
                stop = self._stops[job_id] = client.begin_stop(jobs.directory(row), self._by, may_write=may_write)
                self._clients[stop] = client
            if stop.advance(observation.to_stop):
                to_end.add(job_id)
                self._resisting.add(job_id)
            elif job_id not in self._resisting:
                self._troubles.pop(job_id, None)
            self._left[job_id] = stop.until or 0.0  # without a time its end is on record: observe it at once
        except (NotKnown, StateBusy) as error:
            return self._put_off(job_id, error)
        except SupervisorError as error:
            return error
        except OSError as error:
            return state_error(error, "cannot ask for the stop")
        return None

    def _put_off(self, job_id: str, error: OSError | SupervisorError) -> SupervisorError | None:
        """Observe a job again later, as its state is not known now; return the error once that has lasted too long."""
        now = time.monotonic()
        since, delay = self._troubles.get(job_id, (now, FIRST_DELAY_SECONDS / 2))
        if now - since > _PATIENCE_SECONDS:
            return error if isinstance(error, SupervisorError) else state_error(error, "cannot look at the job")
        delay = min(2 * delay, LONGEST_DELAY_SECONDS)
        self._troubles[job_id] = since, delay
        self._left[job_id] = now + delay
        return None


def elsewhere_error(row: Row, observation: Observation | None) -> SupervisorError:
    """Return the error for a job that this process cannot stop."""
    if observation is not None and isinstance(observation.problem, SupervisorError):
        return observation.problem
    message = None
    if row.state not in UNFINISHED:
        message = f"job {row.job_id} is {row.state}, a state that this version of the package does not know"
    elif observation is not None and observation.newer:
        message = f"job {row.job_id} was made by a newer version of this package"
    if message is not None:
        repair = "Repeat the call with the version that started the job, or a newer one."
        return JobElsewhere(message, repair=repair, details={"job_id": row.job_id})
    message = f"job {row.job_id} was started on another host or in another container"
    return JobElsewhere(message, details={"job_id": row.job_id})
