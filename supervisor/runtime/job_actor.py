"""The job actor: one task that sees one job through, from the launch to the settled end.

Being cancelled from outside means *let go*: the command runs on in the care of its keeper, and
whoever opens the state root next takes over. Only the entry's own scope, which holds the deadline
and is cancelled by a cancel, means *stop*.
"""

from __future__ import annotations

import math
import time
from typing import Final

import trio

from supervisor import log
from supervisor.engines.interface import Engine, LaunchRequest, Running
from supervisor.errors import InvalidArguments, LaunchFailed, SupervisorError
from supervisor.jobdir import records
from supervisor.jobdir.facts import Ended, Launched
from supervisor.jobs.outcome import outcome_of
from supervisor.model import ErrorInfo, Exit
from supervisor.runtime.entry import Entry
from supervisor.runtime.registry_actor import Finish, Registry
from supervisor.states import Reason, State
from supervisor.store.rows import JobOutcome, size_of
from supervisor.system import processes
from supervisor.system.backoff import Patience, until_known
from supervisor.system.observing import NotKnown

__all__ = ["care_for"]

_READ_INLINE: Final = 65536


async def care_for(
    entry: Entry,
    engine: Engine,
    registry: Registry,
    request: LaunchRequest | None,
    deadline_seconds: float | None,
) -> None:
    """See a job through. ``request`` launches it; without one it is adopted as it runs."""
    patience = Patience(entry.directory)
    try:
        while True:
            try:
                ended = await _live(entry, engine, registry, request, deadline_seconds)
                break
            except Exception as error:
                if not _may_pass(error):
                    raise
                # Whether and how it runs is not known now; the evidence tells, as of a job of another supervisor.
                request = None
                entry.started.set()
                await trio.sleep(patience.seconds(error))
                entry.scope = trio.CancelScope()
                if entry.stop_why is not None:
                    entry.scope.cancel()
        outcome = await _decide(entry, ended)
    except trio.Cancelled:
        entry.started.set()  # let go in the middle: nobody is to wait for a launch that nobody will report
        raise
    except Exception as error:  # noqa: BLE001  # a crash here must not take the siblings along
        log.warning("job_actor_failed", job_id=entry.row.job_id, error=repr(error))
        outcome = await _give_up(entry, engine, error)
    if outcome is not None:
        row = entry.row
        if row.started_ns is None and entry.running is not None and entry.running.launched.pid:
            row = row.with_launch(entry.running.launched)
        await registry.send(Finish(entry, row.with_outcome(outcome), outcome.reason.value))


async def _live(
    entry: Entry,
    engine: Engine,
    registry: Registry,
    request: LaunchRequest | None,
    deadline_seconds: float | None,
) -> Ended:
    try:
        if entry.running is not None:  # once more, after something had run out
            running = entry.running
        elif request is None:
            running = await _adopt(entry, engine)
        else:
            running = await _submit(entry, engine, request)
    except LaunchFailed as failure:
        registry.counters.launch_failures += 1
        return await _launch_failure(entry, engine, failure)
    entry.running = running
    launched = running.launched
    if launched.pid and entry.row.started_ns is None:
        entry.row = entry.row.with_launch(launched)
        if request is not None:
            registry.counters.launches.add((launched.started_ns - entry.row.created_ns) / 1e9)
            log.info("job_launched", job_id=entry.row.job_id, pid=launched.pid)
        registry.launched(entry)
    else:
        entry.started.set()
    queues = engine.capabilities.queues
    if queues and not launched.pid:
        await _queue(entry, running, registry, deadline_seconds)
    ended: Ended | None = None
    while entry.stop_why is None or not queues:
        launched = running.launched
        if queues:
            left = _seconds_left_elsewhere(entry, launched, deadline_seconds)
        else:
            left = _seconds_left(launched, deadline_seconds, fresh=request is not None)
        entry.scope.deadline = trio.current_time() + left
        with entry.scope:
            ended = await running.wait()
        if ended is not None or entry.stop_why is not None or launched.pid or request is not None:
            break
        entry.scope = trio.CancelScope()  # adopted before its launch: its time was not running yet
    if ended is None:  # the deadline has passed or somebody cancelled, and it had not ended by then
        if entry.stop_why is None:
            entry.stop_why, entry.stop_by = "deadline", "supervisor"
        log.info("job_stopping", job_id=entry.row.job_id, why=entry.stop_why)
        begun = trio.current_time()
        await running.stop(entry.stop_why, entry.stop_by)
        ended = await running.wait()
        registry.counters.stops.add(trio.current_time() - begun)
    if ended.stopped == "deadline":
        registry.counters.overshoots.add(trio.current_time() - entry.scope.deadline)
    return ended


async def _submit(entry: Entry, engine: Engine, request: LaunchRequest) -> Running:
    """Launch a job, without having a cancel wait for that.

    It may take minutes by itself: an engine queues, a file system does not answer. Whether the engine has accepted it
    is open then. Who takes care of it stops it in any case.
    """
    running: Running | None = None
    with entry.scope:
        running = await engine.launch(request)
    entry.scope = trio.CancelScope()
    if entry.stop_why is not None:
        entry.scope.cancel()
    return running or await _adopt(entry, engine)


async def _adopt(entry: Entry, engine: Engine) -> Running:
    """Watch a job whose launch is not known to have taken place.

    Once a stop is asked for, that stop rules on a job that was not launched. A look that rules first would call the
    same job a failed launch.
    """

    def owner_lives() -> bool:
        return entry.stop_why is not None or entry.owner_lives()

    return await engine.adopt(entry.directory, entry.row.launched(), owner_lives=owner_lives)


async def _queue(entry: Entry, running: Running, registry: Registry, deadline_seconds: float | None) -> None:
    """See a job through its time in the queue: to its spawn, to its end without one, or to a stop."""
    left = math.inf
    if deadline_seconds is not None and entry.row.request.get("deadline_from") == "submission":
        left = deadline_seconds - (time.time_ns() - entry.row.created_ns) / 1e9
    entry.scope.deadline = trio.current_time() + left
    with entry.scope:
        await running.begun()
    if running.launched.pid and entry.row.started_ns is None:
        entry.row = entry.row.with_launch(running.launched)
        log.info("job_launched", job_id=entry.row.job_id, pid=running.launched.pid)
        registry.launched(entry)
    if entry.scope.cancelled_caught and entry.stop_why is None:
        entry.stop_why, entry.stop_by = "deadline", "supervisor"
    if entry.stop_why is None:
        entry.scope = trio.CancelScope()


def _seconds_left_elsewhere(entry: Entry, launched: Launched, deadline_seconds: float | None) -> float:
    """Return the time until the deadline of a job on another machine, by the wall clocks of the two."""
    if deadline_seconds is None:
        return math.inf
    from_submission = entry.row.request.get("deadline_from") == "submission"
    begun_ns = entry.row.created_ns if from_submission else launched.started_ns
    return deadline_seconds - (time.time_ns() - begun_ns) / 1e9


async def _launch_failure(entry: Entry, engine: Engine, failure: LaunchFailed) -> Ended:
    """Return what is on record of a launch that failed (or was cancelled), so that everybody tells the same."""
    seen = await until_known(entry.directory, lambda: engine.observe(entry.directory, owner_lives=True), only=NotKnown)
    if seen.ended is not None and seen.ended.exit.launch_error is not None:
        return seen.ended
    exit_ = Exit(
        ended_ns=entry.row.created_ns,
        launch_error=failure.message,
        launch_status=failure.exit_status,
    )
    return Ended(exit=exit_)


def _seconds_left(launched: Launched, deadline_seconds: float | None, *, fresh: bool) -> float:
    if deadline_seconds is None:
        return math.inf
    if launched.deadline_boot_ns is not None:
        return (launched.deadline_boot_ns - processes.boottime_ns()) / 1e9
    if fresh or not launched.pid:  # not launched yet: whoever launches it will see to the deadline
        return deadline_seconds
    return deadline_seconds - (time.time_ns() - launched.started_ns) / 1e9


async def _decide(entry: Entry, ended: Ended) -> JobOutcome | None:
    """Decide what the end means; ``None`` when that is not for this process to say."""
    patience = Patience(entry.directory)
    while True:
        try:
            if entry.row.kind != "raw" and size_of(entry.directory, records.STDOUT) > _READ_INLINE:
                return await trio.to_thread.run_sync(outcome_of, entry.row, entry.directory, ended)
            return outcome_of(entry.row, entry.directory, ended)
        except InvalidArguments:
            return None
        except Exception as error:
            if not _may_pass(error):
                raise
            await trio.sleep(patience.seconds(error))


def _may_pass(error: Exception) -> bool:
    """Whether an error says that something has run out, and nothing about the job."""
    if isinstance(error, RuntimeError):
        return "start new thread" in str(error)
    return isinstance(error, OSError | MemoryError) or (isinstance(error, SupervisorError) and error.retryable)


async def _give_up(entry: Entry, engine: Engine, error: Exception) -> JobOutcome:
    """Stop what cannot be taken care of, and say why."""
    exit_ = Exit(ended_ns=entry.row.created_ns)
    try:
        # It may have been launched all the same; then it must not run on as a job that failed, and if not,
        # nobody must come to launch it: the evidence tells, and whoever ends it leaves an exit record.
        running: Running = entry.running or await engine.adopt(entry.directory, entry.row.launched())
        await running.stop("cancelled", "internal error")
        exit_ = (await running.wait()).exit
    except Exception as another:  # noqa: BLE001  # as in `care_for`
        log.warning("job_not_stopped", job_id=entry.row.job_id, error=repr(another))
    return JobOutcome(
        state=State.FAILED,
        reason=Reason.LOST,
        exit=exit_,
        detail=f"the supervisor failed: {error!r}"[:400],
        error=ErrorInfo(
            code="internal_error",
            message=f"The supervisor failed while it took care of this job: {error!r}",
            repair="Report this as a defect.",
        ),
    )
