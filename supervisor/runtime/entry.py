"""What a supervisor keeps in memory of each job that it supervises."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import attrs
import trio

from supervisor.engines.interface import Client, Running
from supervisor.errors import SupervisorError
from supervisor.jobdir import records
from supervisor.model import Job
from supervisor.store import Row
from supervisor.store.jobs_of_rows import job_of
from supervisor.system.observing import NotKnown

__all__ = ["LAUNCHING", "Entry", "Pending"]


LAUNCHING: Final = "launching"


def _not_alive() -> bool:
    return False


class Pending(NamedTuple):
    """What is to be done about a job that waits for its slots.

    Attributes:
        begin: starts its actor: to launch it, or with ``False`` to see it end without a launch.
        spool: writes its orders, by which any process can launch it. The registry actor calls it in the transaction
            in which it turns out that the job has to wait.
        standing: returns its ``queue_reason`` and ``queue_position``.
        limit_end: returns when a usage limit ends that it waits out, see ``job_of``.
    """

    begin: Callable[[bool], None]
    spool: Callable[[], None]
    standing: Callable[[], tuple[str | None, int | None]]
    limit_end: Callable[[Row], int | None]


@attrs.define(slots=True, eq=False, repr=False)
class Entry:
    """A job that this supervisor supervises, from its creation or adoption to its end.

    Attributes:
        row: the job, as far as this process knows.
        directory: the job directory.
        running: the launched or adopted command, once there is one.
        pending: for a job in groups, until it has its slots or is stopped.
        client: the synchronous client of its engine, once it was asked for.
        adopted: another process made the job, so ``row`` may be out of date until its actor has observed it.
        owner_lives: tells whether another supervisor may still launch the job.
        scope: holds the deadline; a cancel of the job cancels it.
        started: set when the launch has succeeded or failed.
        finished: set when the end is committed.
        stop_why: why this supervisor stops the job.
        stop_by: who asked for that.
        stop_seen: why another process has asked for a stop, as of the last observation.
        problem: why the job could not be recorded, or is no longer kept.
        key_conflict: the job was not recorded, as another job holds its idempotency key.
        progress: the last progress snapshot, for kinds that report progress.
        limit_noted: what its progress said about a usage limit, as last recorded.
        spent_noted: what it has spent so far, as last recorded.
        reserves: whether it has reserved anything from the budget of a group; ``None`` if that is not known.
        generation: the generation of the index that ``row`` was compared with last.
        waiters: how many callers wait for the end.
        slot_free_ns: when the job ended whose slots it got, if this supervisor recorded that end.
        queue_reason: why it waits, as of the last event; ``None`` if that is not known.
        paused: whether it was paused, as of the last event.
    """

    row: Row
    directory: str
    running: Running | None = attrs.field(default=None, init=False)
    pending: Pending | None = attrs.field(default=None, init=False)
    client: Client | None = attrs.field(default=None, init=False)
    adopted: bool = attrs.field(default=False, init=False)
    owner_lives: Callable[[], bool] = attrs.field(default=_not_alive, init=False)
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    started: trio.Event = attrs.field(factory=trio.Event, init=False)
    finished: trio.Event = attrs.field(factory=trio.Event, init=False)
    stop_why: str | None = attrs.field(default=None, init=False)
    stop_by: str = attrs.field(default="", init=False)
    stop_seen: str | None = attrs.field(default=None, init=False)
    problem: SupervisorError | None = attrs.field(default=None, init=False)
    key_conflict: bool = attrs.field(default=False, init=False)
    progress: dict[str, Any] | None = attrs.field(default=None, init=False)
    limit_noted: Mapping[str, Any] | None = attrs.field(default=None, init=False)
    spent_noted: tuple[int, int] | None = attrs.field(default=None, init=False)
    reserves: bool | None = attrs.field(default=None, init=False)
    generation: int = attrs.field(default=0, init=False)
    waiters: int = attrs.field(default=0, init=False)
    slot_free_ns: int | None = attrs.field(default=None, init=False)
    queue_reason: str | None = attrs.field(default=None, init=False)
    paused: bool = attrs.field(default=False, init=False)

    @property
    def job_id(self) -> str:
        """The id of the job."""
        return self.row.job_id

    @property
    def is_gone(self) -> bool:
        """Whether its directory provably does not exist any more."""
        try:
            return records.is_gone(self.directory)
        except NotKnown:
            return False

    def stop(self, why: str, by: str) -> None:
        """Ask for the job to be stopped; the first reason stays."""
        if self.stop_why is None:
            self.stop_why, self.stop_by = why, by
            self.scope.cancel()
            self.begin(launch=False)

    def begin(self, *, launch: bool) -> None:
        """Start the actor of a job that waits for its slots."""
        if self.pending is not None:
            pending, self.pending = self.pending, None
            pending.begin(launch)

    def spool(self) -> None:
        """Write the orders of a job that waits for its slots."""
        if self.pending is not None:
            self.pending.spool()

    def job(self) -> Job:
        """Return the job as it is now."""
        running = self.running
        reason, position = (None, None) if self.pending is None else self.pending.standing()
        if self.pending is None:
            reason = None if running is None else running.queue_reason
            if reason is None and self.queue_reason == LAUNCHING and self.stop_why is None:
                reason = LAUNCHING
        elif self.queue_reason is None:
            self.queue_reason = reason
        return job_of(
            self.row,
            self.directory,
            stop_requested=self.stop_why or self.stop_seen or (None if running is None else running.stop_seen),
            progress=self.progress,
            queue_reason=reason,
            queue_position=position,
            launched=None if running is None else running.launched,
            limit_end=None if self.pending is None else self.pending.limit_end,
        )
