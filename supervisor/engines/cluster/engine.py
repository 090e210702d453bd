"""Jobs on a cluster: makes an ``Engine`` of any ``Backend``.

One task asks the cluster about all jobs at once, every second, or less often if that takes long. Another task reads the
records of the jobs that may have changed: the cluster reports a new state, or the kernel reports a write (which it does
only for a shared directory on this machine, so that is the faster way and not the only one). ``reconcile`` decides what
records and reports mean together.

A cluster that cannot be reached changes nothing: jobs go on, requests are repeated until they arrive, and the records
of the nodes are still read. A submission that the cluster does not know some time later, and that no node has claimed,
is repeated: a controller that is killed forgets jobs that it has just acknowledged.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final

import trio

from supervisor import log
from supervisor.engines.cluster.client import ClusterClient, read_submission, request_end
from supervisor.engines.cluster.interface import (
    Backend,
    JobReport,
    LimitsSubmissions,
    QueueState,
    Rejected,
    Unreachable,
)
from supervisor.engines.cluster.reconcile import REPEAT_WITHIN_SECONDS, is_unclaimed, resolve
from supervisor.engines.cluster.running import ClusterRunning
from supervisor.engines.cluster.submission import Submitter, rule_out
from supervisor.engines.interface import JobPhase, LaunchRequest, Observation
from supervisor.engines.limits import Granted, asked, granted
from supervisor.errors import LaunchFailed
from supervisor.jobdir import records
from supervisor.jobdir.facts import Ended, Launched
from supervisor.model import Exit, Limits
from supervisor.system.inotify import CHANGED
from supervisor.system.notifier import Notifier
from supervisor.system.observing import NotKnown, is_there

__all__ = ["ClusterEngine"]

_ROUND_SECONDS: Final = 1.0
_SHARE_OF_TIME: Final = 20  # a round that takes long is followed by a pause of so many times that
_LONGEST_PAUSE_SECONDS: Final = 10.0
_ABSENT_SECONDS: Final = 10.0
_SETTLED_SECONDS: Final = 10.0
_MAX_SUBMISSIONS: Final = 4
_SUBMIT_FOR_SECONDS: Final = 120.0
_BETWEEN_LOOKS_SECONDS: Final = 0.03
_DEADLINE_BACKSTOP_SECONDS: Final = 3.0


def _is_forgotten(directory: str) -> bool:
    """Whether a job directory is gone, and the shared directory around it is not."""
    try:
        return records.is_gone(directory) and is_there(os.path.dirname(directory))
    except NotKnown:
        return False


class ClusterEngine:
    """Runs commands on many machines.

    Args:
        backend: the engine, to a supervisor.
        client: makes a client of the same engine, for a thread.
        python: what runs the keeper on the nodes; the path of this interpreter unless given.
    """

    on_this_machine = False
    opens_input = False

    def __init__(self, backend: Backend, client: Callable[[], ClusterClient], *, python: str | None = None) -> None:
        """Prepare; nothing is asked before the first job."""
        self._backend = backend
        self.client = client
        self._client = client()
        self._submitter = Submitter(backend, python or sys.executable)
        self._nursery: trio.Nursery | None = None
        self._notifier = Notifier()
        self._handles: dict[str, list[ClusterRunning]] = {}
        self._dirty: dict[ClusterRunning, None] = {}
        self._heard = trio.Event()
        self._wanted = trio.Event()

    @property
    def name(self) -> str:
        """Recorded with every job."""
        return self._backend.name

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Do the background work until cancelled; every job goes on then."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._notifier.serve)
                nursery.start_soon(self._read_dirty)
                nursery.start_soon(self._poll)
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None

    # ------------------------------------------------------------ submit

    async def check_limits(self, limits: Limits) -> Granted:
        """Return the options of the cluster that limit a job, see ``LimitsJobs``."""
        await trio.lowlevel.checkpoint()
        if isinstance(self._backend, LimitsSubmissions):
            return self._backend.limit(limits)
        return granted(limits, dict.fromkeys(asked(limits), f"the engine {self.name} sets no limits"))

    def submit(self, request: LaunchRequest, accepted: Callable[[], None] = lambda: None) -> ClusterRunning:
        """Return the command of a new job, which its ``started`` submits."""
        return ClusterRunning(self, request.directory, request.record, request, accepted)

    async def launch(self, handle: ClusterRunning, request: LaunchRequest) -> None:
        """Submit a job: returns when the engine has accepted it. A cancelled call leaves that open.

        Raises:
            LaunchFailed: it was refused, or the engine could not be reached for two minutes; it will not run.
        """
        if self._nursery is None:
            message = "the engine is not being served"
            raise LaunchFailed(message)
        refusal: str | None = None
        in_time = True
        try:
            submission = await self._submitter.prepare(request)
        except OSError as error:
            refusal, submission = _text_of(error), None
        if submission is not None:
            refusal = f"{self.name} could not be reached"
            with trio.move_on_after(_SUBMIT_FOR_SECONDS) as patience:
                try:
                    number = await self._submitter.submit(submission, again=request.may_be_launched)
                except Rejected as error:
                    refusal = str(error)
                else:
                    handle.attempts, handle.submitted_ns = 1, time.time_ns()
                    handle.report = JobReport(queue_state=QueueState.QUEUED, handle=number)
                    self.watch(handle)
                    handle.accepted()
                    return
            if patience.cancelled_caught:
                in_time = False
                refusal += f": {self._submitter.complaint}" if self._submitter.complaint else ""
        if refusal is not None and await trio.to_thread.run_sync(rule_out, request.directory, refusal):
            raise LaunchFailed(refusal, retryable=not in_time)
        # Another process ruled it out, or it is under way, perhaps from a submission whose answer got lost.
        self.watch(handle)
        if await trio.to_thread.run_sync(is_unclaimed, request.directory):
            handle.accepted()

    # ------------------------------------------------------------ recover

    async def adopt(
        self,
        directory: str,
        launched: Launched | None,
        *,
        record: Mapping[str, Any] | None = None,
        owner_lives: Callable[[], bool] = lambda: False,
    ) -> ClusterRunning:
        """Watch a command that another supervisor has submitted, or is about to submit."""
        handle = ClusterRunning(self, directory, record or {}, owner_lives=owner_lives)
        if launched is not None:
            handle.set_launched(launched)
        handle.note(await trio.to_thread.run_sync(read_submission, directory))
        self.watch(handle)
        return handle

    def watch(self, handle: ClusterRunning) -> None:
        """Have the records of a job read, and its engine asked about it, until its end."""
        if self._nursery is not None and not handle.watched:
            handle.watched = True
            self._handles.setdefault(handle.key, []).append(handle)
            self._nursery.start_soon(self._listen, handle)
            self._wanted.set()
            self._mark_dirty(handle)

    # ------------------------------------------------------------ observe

    def _mark_dirty(self, handle: ClusterRunning) -> None:
        """Have the records of a job read."""
        self._dirty[handle] = None
        self._heard.set()

    async def _listen(self, handle: ClusterRunning) -> None:
        with self._notifier.watching(handle.directory, CHANGED, lambda: self._mark_dirty(handle)):
            await handle.finished.wait()

    async def _read_dirty(self) -> None:
        """Read the records of jobs of which there may be news."""
        while True:
            await self._heard.wait()
            self._heard = trio.Event()
            handles, self._dirty = [each for each in self._dirty if each.ended is None], {}
            asked: list[tuple[ClusterRunning, JobReport, bool]] = []
            for each in handles:
                try:
                    asked.append((each, each.report, each.owner_lives()))
                except NotKnown as error:  # the engine's next word brings us back to it
                    log.warning("job_not_looked_at", job_id=each.key, error=str(error))
            for handle, observation in await trio.to_thread.run_sync(self._resolve_all, asked):
                self._apply(handle, observation)
            await trio.sleep(
                _BETWEEN_LOOKS_SECONDS
            )  # a starting job writes half a dozen files: one look for all of them

    def _resolve_all(
        self,
        asked: Iterable[tuple[ClusterRunning, JobReport, bool]],
    ) -> list[tuple[ClusterRunning, Observation | None]]:
        found: list[tuple[ClusterRunning, Observation | None]] = []
        for handle, report, owner_lives in asked:
            observation: Observation | None
            try:
                observation = resolve(
                    handle.directory,
                    report,
                    owner_lives=owner_lives,
                    engine=self.name,
                    collect=self._client.collect,
                )
                if handle.submitted_ns is None:  # another process may have submitted it since
                    handle.note(read_submission(handle.directory))
            except OSError as error:  # full, away, or forgotten; the engine's next word brings us back to it
                log.warning("job_not_looked_at", job_id=handle.key, error=str(error))
                ended = Ended(exit=Exit(ended_ns=time.time_ns()))
                observation = (
                    Observation(phase=JobPhase.ENDED, ended=ended) if _is_forgotten(handle.directory) else None
                )
            found.append((handle, observation))
        return found

    def _apply(self, handle: ClusterRunning, observation: Observation | None) -> None:
        if observation is None:
            return
        handle.stop_seen = observation.stop_requested
        handle.waits = observation.phase is JobPhase.QUEUED and observation.queue_reason is None
        if observation.launched is not None and not handle.begun.is_set():
            handle.set_launched(observation.launched)
        if observation.ended is not None:
            self._end(handle, observation.ended)

    def _end(self, handle: ClusterRunning, ended: Ended) -> None:
        if handle.ended is None:
            handles = self._handles.get(handle.key, [])
            if handle in handles:
                handles.remove(handle)
            if not handles:
                self._handles.pop(handle.key, None)
            handle.set_ended(ended)

    async def _poll(self) -> None:
        """Ask the engine about all jobs at once, again and again while there are any."""
        failures = 0
        while True:
            if not self._handles:
                self._wanted = trio.Event()
                await self._wanted.wait()
            begun = trio.current_time()
            try:
                reports = await self._backend.observe(tuple(self._handles))
            except Unreachable as problem:
                failures += 1
                log.info("engine_unreachable", engine=self.name, error=str(problem))
                self._not_reached(begun)
                await trio.sleep(min(_ROUND_SECONDS * 2 ** (failures - 1), _LONGEST_PAUSE_SECONDS))
                continue
            failures = 0
            await self._apply_reports(reports)
            took = trio.current_time() - begun
            await trio.sleep(min(max(_ROUND_SECONDS, _SHARE_OF_TIME * took), _LONGEST_PAUSE_SECONDS))

    def _not_reached(self, now: float) -> None:
        for handles in self._handles.values():
            for handle in handles:
                if handle.waits:
                    continue
                if handle.unreached_since is None:
                    handle.unreached_since = now
                handle.absent_since = None
                self._mark_dirty(handle)  # what the nodes write can be read all the same

    async def _apply_reports(self, reports: Mapping[str, JobReport]) -> None:
        """Take in what the engine says, and look where that is news."""
        now, wall_ns = trio.current_time(), time.time_ns()
        confirmed: list[str] = []
        again: list[ClusterRunning] = []
        for key, handles in self._handles.items():
            report = reports.get(key)
            for handle in handles:
                if report is None:
                    self._handle_missing(handle, now, wall_ns, again)
                    continue
                handle.absent_since = handle.unreached_since = None
                news = report.queue_state is not handle.report.queue_state
                handle.report = report
                if (
                    news
                    or report.queue_state is QueueState.ENDED
                    or (report.queue_state is QueueState.RUNNING and not handle.launched.pid)
                ):
                    self._mark_dirty(handle)
                if not handle.confirmed and handle.submitted_ns is not None:
                    handle.confirmed = wall_ns - handle.submitted_ns >= _SETTLED_SECONDS * 1e9
                    if handle.confirmed and report.queue_state is QueueState.QUEUED:
                        confirmed.append(handle.directory)
        if confirmed:
            await trio.to_thread.run_sync(_note_confirmed, confirmed)
        for handle in again:
            if self._nursery is not None:
                self._nursery.start_soon(self._submit_again, handle)

    def _handle_missing(self, handle: ClusterRunning, now: float, wall_ns: int, again: list[ClusterRunning]) -> None:
        """Deal with a job that the engine does not know: at first it may be that it does not know it yet."""
        if handle.waits:
            return
        self._mark_dirty(handle)
        if handle.submitting:  # of course it does not
            return
        if handle.absent_since is None:
            handle.absent_since = now
        if now - handle.absent_since < _ABSENT_SECONDS:
            return
        recent = handle.submitted_ns is not None and (
            wall_ns - handle.submitted_ns < REPEAT_WITHIN_SECONDS * 1e9
            or (handle.unreached_since is not None and handle.attempts > 0)
        )
        handle.unreached_since = None
        if recent and not handle.confirmed and handle.attempts < _MAX_SUBMISSIONS and handle.stop_asked is None:
            handle.absent_since = None
            handle.submitting = True
            again.append(handle)
        else:
            handle.report = JobReport(queue_state=QueueState.ABSENT)

    async def _submit_again(self, handle: ClusterRunning) -> None:
        """Repeat a submission that its engine has forgotten, unless the job has run."""
        try:
            await self._repeat(handle)
        finally:
            handle.submitting = False
        self._mark_dirty(handle)

    async def _repeat(self, handle: ClusterRunning) -> None:
        submission = await self._submitter.again(handle.directory)
        if submission is None:
            handle.report = JobReport(queue_state=QueueState.ABSENT)
            return
        log.warning("submission_repeated", job_id=handle.key, engine=self.name)
        handle.attempts += 1
        try:
            handle.report = JobReport(queue_state=QueueState.QUEUED, handle=await self._submitter.submit(submission))
            handle.submitted_ns = time.time_ns()
        except Rejected as refusal:
            await trio.to_thread.run_sync(rule_out, handle.directory, str(refusal))
        except OSError as error:
            log.warning("submission_not_noted", job_id=handle.key, error=str(error))

    # ------------------------------------------------------------ cancel

    def stop(self, handle: ClusterRunning, why: str, by: str) -> None:
        """See to it that a job is ended: by its keeper, and by its engine if that does not do it."""
        over = handle.finished.is_set() or handle.failure is not None
        if self._nursery is None or over or handle.stop_asked is not None:
            return
        handle.stop_asked = why
        self._nursery.start_soon(self._stop, handle, why, by)

    async def _stop(self, handle: ClusterRunning, why: str, by: str) -> None:
        if why == "deadline" and handle.launched.pid and await _ends_within(handle, _DEADLINE_BACKSTOP_SECONDS):
            return  # its keeper has seen to that, to the second
        try:
            asked = partial(request_end, handle.directory, why, by, engine=self.name)
            unrun = await trio.to_thread.run_sync(asked)
        except OSError as error:
            log.warning("stop_not_recorded", job_id=handle.key, error=str(error))
            unrun = False
        self._mark_dirty(handle)
        if unrun:
            await self._until_asked(handle, nudge=False)
            return
        await self._until_asked(handle, nudge=True)
        if not await _ends_within(handle, handle.grace + 2 * _DEADLINE_BACKSTOP_SECONDS):
            await self._until_asked(handle, nudge=False)

    async def _until_asked(self, handle: ClusterRunning, *, nudge: bool) -> None:
        """Ask the engine until the request has arrived, or is void because the job has ended otherwise."""
        pause = 0.5
        while True:
            try:
                await self._backend.cancel(handle.key, nudge=nudge)
            except Unreachable as problem:
                log.info("engine_unreachable", engine=self.name, error=str(problem))
            else:
                return
            await trio.sleep(pause)
            if nudge and handle.finished.is_set():
                return
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


async def _ends_within(handle: ClusterRunning, seconds: float) -> bool:
    with trio.move_on_after(seconds):
        await handle.finished.wait()
    return handle.finished.is_set()


def _note_confirmed(directories: Iterable[str]) -> None:
    for directory in directories:
        note = read_submission(directory)
        note.pop("v", None)
        with contextlib.suppress(OSError):
            records.replace(directory, records.SUBMISSION, {**note, "confirmed": True})


def _text_of(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
