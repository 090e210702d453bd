"""A job on a cluster, as the supervisor that has submitted or adopted it sees it.

``ClusterEngine`` makes it, and enters what records and reports say.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import attrs
import trio

from supervisor.engines.cluster.client import UNREACHABLE_REPORT, ClusterClient
from supervisor.engines.cluster.interface import JobReport, QueueState
from supervisor.engines.failed_launch import check_launch, recorded_end
from supervisor.engines.interface import LaunchRequest
from supervisor.errors import LaunchFailed
from supervisor.jobdir.facts import Ended, Launched

__all__ = ["ClusterRunning"]

_NOT_LAUNCHED: Final = Launched(pid=0, started_ns=0)


class _Engine(Protocol):
    """What a job needs of ``ClusterEngine``."""

    @property
    def client(self) -> Callable[[], ClusterClient]: ...

    async def launch(self, handle: ClusterRunning, request: LaunchRequest) -> None: ...

    def watch(self, handle: ClusterRunning) -> None: ...

    def stop(self, handle: ClusterRunning, why: str, by: str) -> None: ...


@attrs.define(eq=False)
class ClusterRunning:
    """A ``Running``: a job on a cluster. Made by ``ClusterEngine``."""

    engine: _Engine
    directory: str
    record: Mapping[str, Any]
    request: LaunchRequest | None = None
    accepted: Callable[[], None] = lambda: None
    owner_lives: Callable[[], bool] = lambda: False
    launched: Launched = _NOT_LAUNCHED
    changed: Callable[[], object] | None = attrs.field(default=None, init=False)
    begun: trio.Event = attrs.field(factory=trio.Event, init=False)
    finished: trio.Event = attrs.field(factory=trio.Event, init=False)
    failure: LaunchFailed | None = attrs.field(default=None, init=False)
    ended: Ended | None = attrs.field(default=None, init=False)
    report: JobReport = attrs.field(default=UNREACHABLE_REPORT, init=False)
    stop_asked: str | None = attrs.field(default=None, init=False)
    stop_seen: str | None = attrs.field(default=None, init=False)
    watched: bool = attrs.field(default=False, init=False)
    attempts: int = attrs.field(default=0, init=False)
    submitted_ns: int | None = attrs.field(default=None, init=False)
    submitting: bool = attrs.field(default=False, init=False)
    """A repeated submission is under way."""
    confirmed: bool = attrs.field(default=False, init=False)
    """The cluster has known it for long enough not to forget it in a crash."""
    waits: bool = attrs.field(default=False, init=False)
    """No process has submitted it: what changes that writes into its directory, and the kernel reports it."""
    absent_since: float | None = attrs.field(default=None, init=False)
    unreached_since: float | None = attrs.field(default=None, init=False)

    @property
    def key(self) -> str:
        """The name by which the cluster knows it."""
        return os.path.basename(self.directory)

    @property
    def grace(self) -> float:
        """Seconds that it may take to end by itself."""
        grace: float = self.record.get("grace_seconds", 5.0)
        return grace

    @property
    def queue_reason(self) -> str | None:
        """Why it waits, in the words of its engine."""
        if self.begun.is_set():
            return None
        if self.report.queue_state is QueueState.QUEUED:
            return self.report.reason
        if self.unreached_since is not None:
            return "unreachable"
        return "starting" if self.report.queue_state is QueueState.RUNNING else None

    def note(self, submission: Mapping[str, Any]) -> None:
        """Take in the record of a submission by another process."""
        if isinstance(submitted := submission.get("submitted_ns"), int):
            self.submitted_ns, self.attempts = submitted, 1
            self.confirmed = submission.get("confirmed") is True

    async def started(self) -> None:
        """Submit it, unless that was begun before, and wait until a node runs it, or it has ended without that."""
        if self.request is not None:
            request, self.request = self.request, None
            try:
                await self.engine.launch(self, request)
            except LaunchFailed as failure:
                self.failure = failure
                self.begun.set()
            except trio.Cancelled:  # the engine may have accepted it
                self.owner_lives = lambda: True
                self.engine.watch(self)
                raise
        await self.begun.wait()
        if self.failure is not None:
            raise self.failure
        check_launch(self.ended)

    def seconds_left(self) -> float:
        """Return the time until its deadline, by the wall clocks of this machine and of the node."""
        begun_ns = self.launched.started_ns
        if self.record.get("deadline_from") == "submission":
            begun_ns = self.record["created_ns"]
        seconds = self.record.get("deadline_seconds")
        if seconds is None or not begun_ns:
            return math.inf
        return float(seconds) - (time.time_ns() - begun_ns) / 1e9

    def refresh(self) -> None:
        """Do nothing: no job of a cluster is paused from here."""

    async def wait(self) -> Ended:
        """Wait until the command and every process that a stop has to reach have ended."""
        if self.failure is not None and self.ended is None:
            observe = self.engine.client().observe
            self.set_ended(await recorded_end(self.directory, self.failure, observe, in_thread=True))
        await self.finished.wait()
        assert self.ended is not None  # noqa: S101  # set right before the event
        return self.ended

    async def stop(self, why: str, by: str) -> None:
        """Have it ended; a job that has not begun never will."""
        await trio.lowlevel.checkpoint()
        self.engine.stop(self, why, by)

    def set_launched(self, launched: Launched) -> None:
        """Record the launch and wake the tasks that wait for it."""
        self.launched = launched
        self.begun.set()

    def set_ended(self, ended: Ended) -> None:
        """Record the end and wake the tasks that wait for it."""
        self.ended = ended
        self.begun.set()
        self.finished.set()
