"""The job actor: one task that supervises one job: launch, wait, stop, and the decision what its end means.

A cancellation from outside means *let go*: the command runs on under its keeper, and the next supervisor on the
state root adopts it. Only the entry's own scope, which holds the deadline and is cancelled by a cancel, means *stop*.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Final

import trio

from supervisor import log
from supervisor.engines.interface import Engine, LaunchRequest, Running
from supervisor.errors import InvalidArguments, LaunchFailed, SupervisorError
from supervisor.jobdir.facts import Ended
from supervisor.jobdir.output import size_of
from supervisor.jobs.outcome import outcome_of
from supervisor.model import ErrorInfo, Exit
from supervisor.runtime.entry import Entry
from supervisor.runtime.messages import Finish
from supervisor.runtime.registry_actor import Registry
from supervisor.states import Reason, State
from supervisor.store.rows import JobOutcome
from supervisor.system.backoff import Patience
from supervisor.worktrees.record import MEMBER as WORKTREE

__all__ = ["supervise"]

_READ_INLINE: Final = 65536


async def supervise(entry: Entry, engine: Engine, registry: Registry, request: LaunchRequest | None) -> None:
    """Supervise a job until its end. ``request`` launches it; without one it is adopted."""
    patience = Patience(entry.directory)
    try:
        while True:
            try:
                ended = await _live(entry, engine, registry, request)
                break
            except Exception as error:
                if not _may_pass(error):
                    raise
                # Whether and how it runs is not known now; the evidence decides, as for an adopted job.
                request = None
                entry.started.set()
                await trio.sleep(patience.seconds(error))
                _renew_scope(entry)
        outcome = await _decide(entry, ended)
    except trio.Cancelled:
        entry.started.set()  # let go: no task may wait for a launch that will not be reported here
        raise
    except Exception as error:  # noqa: BLE001  # a crash here must not take the siblings along
        log.warning("job_actor_failed", job_id=entry.row.job_id, error=repr(error))
        outcome = await _give_up(entry, engine, error)
    if outcome is not None:
        row = entry.row
        if row.started_ns is None and entry.running is not None and entry.running.launched.pid:
            row = row.with_launch(entry.running.launched)
        await registry.send(Finish(entry, row.with_outcome(outcome), outcome.reason.value))
        if WORKTREE in row.request:
            from supervisor.runtime.worktrees import settle_worktree  # few jobs need it

            await settle_worktree(entry, registry.settings)


async def _live(entry: Entry, engine: Engine, registry: Registry, request: LaunchRequest | None) -> Ended:
    if entry.running is not None:  # again, after a resource had run out
        running = entry.running
    elif request is not None:
        running = entry.running = engine.submit(request, entry.started.set)
    else:
        running = entry.running = await _adopt(entry, engine)
    running.changed = partial(_pause_changed, entry, running, registry)
    try:
        ended = await _until_stop(entry, running, registry)
    except LaunchFailed:
        if request is not None:
            registry.counters.launch_failures += 1
        return await running.wait()
    if ended is None:
        log.info("job_stopping", job_id=entry.row.job_id, why=entry.stop_why)
        begun = trio.current_time()
        await running.stop(entry.stop_why or "", entry.stop_by)
        ended = await running.wait()
        registry.counters.stops.add(trio.current_time() - begun)
    if ended.stopped == "deadline":
        registry.counters.overshoots.add(trio.current_time() - entry.scope.deadline)
    return ended


async def _adopt(entry: Entry, engine: Engine) -> Running:
    """Watch a job whose launch is not known to have taken place.

    Once a stop is requested, that stop rules on a job that was not launched. An observation that rules first would
    call the same job a failed launch.
    """

    def owner_lives() -> bool:
        return entry.stop_why is not None or entry.owner_lives()

    row = entry.row
    return await engine.adopt(entry.directory, row.launched(), record=row.request, owner_lives=owner_lives)


async def _until_stop(entry: Entry, running: Running, registry: Registry) -> Ended | None:
    """Wait for the launch and the end; return ``None`` once a stop is requested, or the deadline has passed."""
    _set_deadline(entry, running)
    with entry.scope:  # one for both: a scope is a fiftieth of a `start`
        try:
            await running.started()
        except LaunchFailed:
            raise
        except Exception:
            entry.running = None  # whether it was launched is open
            raise
        _note_launch(entry, running, registry)
        _set_deadline(entry, running)  # which runs from the launch
        return await running.wait()
    _note_launch(entry, running, registry)
    if entry.stop_why is None:
        entry.stop_why, entry.stop_by = "deadline", "supervisor"
    return None


def _set_deadline(entry: Entry, running: Running) -> None:
    left = running.seconds_left()
    if left != math.inf:
        entry.scope.deadline = trio.current_time() + left


def _pause_changed(entry: Entry, running: Running, registry: Registry) -> None:
    """Follow a pause of the job: it may hold the deadline."""
    if entry.row.started_ns is None or entry.row.finished:
        return
    entry.scope.deadline = trio.current_time() + running.seconds_left()
    registry.publish_pause(entry)


def _renew_scope(entry: Entry) -> None:
    entry.scope = trio.CancelScope()
    if entry.stop_why is not None:
        entry.scope.cancel()


def _note_launch(entry: Entry, running: Running, registry: Registry) -> None:
    launched = running.launched
    if not launched.pid or entry.row.started_ns is not None:
        entry.started.set()
        return
    if not entry.started.is_set():  # its start waits for the launch: it was not queued by its engine, nor adopted
        registry.counters.launches.add((launched.started_ns - entry.row.created_ns) / 1e9)
    entry.row = entry.row.with_launch(launched)
    log.info("job_launched", job_id=entry.row.job_id, pid=launched.pid)
    registry.launched(entry)


async def _decide(entry: Entry, ended: Ended) -> JobOutcome | None:
    """Return what the end means; ``None`` where this process has no interpreter for it."""
    patience = Patience(entry.directory)
    while True:
        try:
            is_long = entry.row.kind != "raw" and size_of(entry.directory, "stdout") > _READ_INLINE
            if is_long or entry.row.is_durable:
                return await trio.to_thread.run_sync(outcome_of, entry.row, entry.directory, ended)
            return outcome_of(entry.row, entry.directory, ended)
        except InvalidArguments:
            return None
        except Exception as error:
            if not _may_pass(error):
                raise
            await trio.sleep(patience.seconds(error))


def _may_pass(error: Exception) -> bool:
    """Whether an error says that a resource, or a file of this package, is missing, and nothing about the job."""
    if isinstance(error, RuntimeError):
        return "start new thread" in str(error)
    if isinstance(error, ImportError):  # the package was replaced or deleted under this process
        return True
    return isinstance(error, OSError | MemoryError) or (isinstance(error, SupervisorError) and error.retryable)


async def _give_up(entry: Entry, engine: Engine, error: Exception) -> JobOutcome:
    """Stop a job that cannot be supervised, and return why."""
    exit_ = Exit(ended_ns=entry.row.created_ns)
    try:
        # It may have been launched all the same. Then it must not run on as a job that failed; if it was not, no
        # process may launch it. The evidence decides, and the stop leaves an exit record.
        running: Running = entry.running or await engine.adopt(entry.directory, entry.row.launched())
        await running.stop("cancelled", "internal error")
        exit_ = (await running.wait()).exit
    except Exception as another:  # noqa: BLE001  # as in `supervise`
        log.warning("job_not_stopped", job_id=entry.row.job_id, error=repr(another))
    return JobOutcome(
        state=State.FAILED,
        reason=Reason.LOST,
        exit=exit_,
        detail=f"the supervisor failed: {error!r}"[:400],
        error=ErrorInfo(
            code="internal_error",
            message=f"The supervisor failed while it supervised this job: {error!r}",
            repair="Report this as a defect.",
        ),
    )
