"""How commands run: the interface between the actors and the engines.

An engine launches a command, reports its end, and stops it. The actors know nothing of processes or clusters;
an engine knows nothing of states, settings or the registry. Every job has one life cycle, whatever runs it::

    running = engine.submit(request)     # or: await engine.adopt(...)
    await running.started()              # raises LaunchFailed
    running.seconds_left()
    ended = await running.wait()         # or: await running.stop(...), then wait

A new engine is a folder: implement ``Engine``, and ``Client`` for programs without an event loop. An engine for a
cluster implements ``cluster.interface.Backend`` and ``SyncBackend`` only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from supervisor.errors import SupervisorError
from supervisor.jobdir.facts import Ended, Launched

if TYPE_CHECKING:
    import trio

__all__ = ["Engine", "LaunchRequest", "Observation", "Running", "Seen"]


@attrs.frozen(slots=True, kw_only=True, eq=False)
class LaunchRequest:
    """Everything that an engine needs to start a command.

    Attributes:
        job_id: the mark that every process of the job carries in its environment.
        directory: the job directory; stdout and stderr go into it.
        record: ``job.json`` of that directory.
        argv: the command, as bytes for the operating system.
        workspace: the real path it runs in.
        env: its environment; ``None`` is that of this process.
        changes: variables that it gets beside those, or with another value.
        stdin: what it reads before end of file; ``None`` is ``/dev/null``.
        deadline_seconds: ``None`` when it has none.
        grace_seconds: between asking it to end and ending it.
        output_limit: bytes of stdout or of stderr past which it is stopped.
        stop_leftovers: whether processes that it leaves behind are ended; ``False`` leaves them alone.
        options: what only this engine understands; it has checked them.
    """

    job_id: str
    directory: str
    argv: tuple[bytes, ...]
    workspace: str
    record: Mapping[str, Any] = attrs.field(factory=dict[str, Any], repr=False)
    env: Mapping[bytes, bytes] | None = attrs.field(default=None, repr=False)
    changes: Mapping[bytes, bytes] = attrs.field(factory=dict[bytes, bytes], repr=False)
    stdin: bytes | None = attrs.field(default=None, repr=False)
    deadline_seconds: float | None = None
    grace_seconds: float = 5
    output_limit: int = 67108864
    stop_leftovers: bool = False
    options: Mapping[str, Any] = attrs.field(factory=dict[str, Any])


class Seen(Enum):
    """What one look at an unfinished job finds."""

    QUEUED = "queued"
    RUNNING = "running"
    ENDED = "ended"
    ELSEWHERE = "elsewhere"


@attrs.frozen(slots=True, kw_only=True)
class Observation:
    """What is known about an unfinished job, from evidence alone.

    Attributes:
        seen: the finding.
        launched: present once it was spawned.
        ended: present when it has ended.
        stop_requested: why a stop was asked for, if one was.
        to_stop: why it should be stopped now by whoever looks, because nobody else is there to.
        damage: what could not be read, in words.
        newer: whether only a newer version of this package can judge it.
        unkept: whether it runs without a keeper, so that nobody else watches what it writes.
        queue_reason: why it waits, in the words of its engine.
        problem: why nothing can be known of it now; then the rest is what was known before.
    """

    seen: Seen
    launched: Launched | None = None
    ended: Ended | None = None
    stop_requested: str | None = None
    to_stop: str | None = None
    damage: str | None = None
    newer: bool = False
    unkept: bool = False
    queue_reason: str | None = None
    problem: OSError | SupervisorError | None = None


class Running(Protocol):
    """A submitted or adopted command."""

    @property
    def launched(self) -> Launched:
        """When it was spawned, and its ``pid``, which is 0 before that, and while it is unknown."""
        ...

    @property
    def queue_reason(self) -> str | None:
        """Why it was not spawned yet, in the words of its engine."""
        ...

    @property
    def stop_seen(self) -> str | None:
        """Why another process has requested its stop, if the engine itself reads that."""
        ...

    async def started(self) -> None:
        """Wait until it was spawned, or has ended without that.

        Cancelling this wait during a submission leaves open whether the command runs; ``stop`` handles both cases.

        Raises:
            LaunchFailed: it did not start and never will; ``wait`` returns the recorded end.
        """
        ...

    def seconds_left(self) -> float:
        """Return the time until its deadline; infinite without one, and while its clock does not run yet."""
        ...

    async def wait(self) -> Ended:
        """Wait until the command and every process that a stop has to reach have ended.

        Cancelling the wait changes nothing about the command; the wait can be repeated.
        """
        ...

    async def stop(self, why: str, by: str) -> None:
        """Request its stop, and return when the request is on its way; ``wait`` returns the end.

        Idempotent: the first reason stays. The request is on disk before the first signal.
        """
        ...


class Engine(Protocol):
    """Runs commands."""

    @property
    def name(self) -> str:
        """Recorded with every job."""
        ...

    async def serve(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Do the background work until cancelled. Cancelling it leaves every command running."""
        ...

    def submit(self, request: LaunchRequest, accepted: Callable[[], None] = lambda: None) -> Running:
        """Return the command of a new job, which ``Running.started`` launches.

        A job directory is launched at most once, whatever crashes in between. ``accepted`` is called when the engine
        has queued the job, so that its start need not be awaited; an engine without a queue never calls it.
        """
        ...

    def observe(self, directory: str, *, owner_lives: bool, launched: bool = False) -> Observation:
        """Return what the evidence proves about an unfinished job now, without waiting.

        ``launched``: whether the job is known to have been launched, whatever is left in its directory.
        """
        ...

    async def adopt(
        self,
        directory: str,
        launched: Launched | None,
        *,
        record: Mapping[str, Any] | None = None,
        owner_lives: Callable[[], bool] = lambda: False,
    ) -> Running:
        """Watch a command that another supervisor has launched, or is about to launch.

        ``record`` is ``job.json``. ``owner_lives``, which may be called from any thread, returns whether the supervisor
        that created the job can still launch it; if not, and it has not, the job will never run. It raises ``NotKnown``
        while that cannot be determined.
        """
        ...
