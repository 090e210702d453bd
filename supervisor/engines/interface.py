"""How commands are run: the interface between the actors and what does the running.

An engine launches, tells how a launched command ended, and stops it. Nothing in front of it
knows about processes; nothing behind it knows about states, settings or the registry.

Whatever runs the commands, five operations are all that is asked of it:

========  ============================  ===================================================
of it     here                          of an engine for many machines (``batch.Backend``)
========  ============================  ===================================================
submit    ``Engine.launch``             ``submit``: safe to repeat under one key
observe   ``Engine.observe``            ``observe``: all jobs in one request, never one by one
cancel    ``Running.stop``              ``cancel``: a request, idempotent
collect   ``Running.wait``              ``collect``: the engine's own word about an end
recover   ``Engine.adopt``              ``recover``: keys in, handles out
========  ============================  ===================================================

The local engine has the left column by itself, since here the kernel tells what happens. An engine
for many machines is a ``Backend``, to which ``batch.BatchEngine`` gives the left column: polling in
one batch, patience with what cannot be reached, records before hearsay are the same for all.
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

__all__ = ["Capabilities", "Engine", "LaunchRequest", "Observation", "Running", "Seen"]


@attrs.frozen(slots=True, kw_only=True)
class Capabilities:
    """What an engine can do; as it stands, what the local one can.

    Attributes:
        queues: a launch returns when the job is accepted, and its command may wait for its turn.
        shared_directory: commands run where only a shared directory is seen, so job directories stand in one.
    """

    queues: bool = False
    shared_directory: bool = False


@attrs.frozen(slots=True, kw_only=True, eq=False)
class LaunchRequest:
    """Everything that an engine needs to start a command.

    Attributes:
        job_id: the mark that every process of the job carries in its environment.
        directory: the job directory; stdout and stderr go into it.
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
    unkept: bool = False
    queue_reason: str | None = None
    problem: OSError | SupervisorError | None = None


class Running(Protocol):
    """A command under way."""

    @property
    def launched(self) -> Launched:
        """How and when it was spawned; its ``pid`` is 0 as long as it was not, or that is not known."""
        ...

    @property
    def queue_reason(self) -> str | None:
        """Why it was not spawned yet, in the words of its engine."""
        ...

    @property
    def stop_seen(self) -> str | None:
        """Why another process has asked for its stop, if the engine reads that itself."""
        ...

    async def begun(self) -> None:
        """Wait until it was spawned, or has ended without that; cancelling it changes nothing."""
        ...

    async def wait(self) -> Ended:
        """Wait until it and everything that a stop has to reach have ended.

        Cancelling the wait changes nothing about the command; it can be waited for again.
        """
        ...

    async def stop(self, why: str, by: str) -> None:
        """Ask for it to be stopped; returns once the request is on its way, ``wait`` tells the rest.

        Idempotent: the first reason stays. The request is on disk before the first signal.
        """
        ...


class Engine(Protocol):
    """Runs commands."""

    @property
    def name(self) -> str:
        """Recorded with every job."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""
        ...

    async def serve(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Do the background work until cancelled. Cancelling it leaves every command running."""
        ...

    async def launch(self, request: LaunchRequest) -> Running:
        """Start a command, at most once for one job directory, whatever crashes in between.

        Raises:
            LaunchFailed: it was not started and never will be.
        """
        ...

    def observe(self, directory: str, *, owner_lives: bool, launched: bool = False) -> Observation:
        """Say what the evidence tells about an unfinished job, now, without waiting.

        ``launched``: whether the job is known to have been launched, whatever is left in its directory.
        """
        ...

    async def adopt(
        self,
        directory: str,
        launched: Launched | None,
        *,
        owner_lives: Callable[[], bool] = lambda: False,
    ) -> Running:
        """Watch a command that somebody else has launched, or is about to.

        ``owner_lives``, which may be called from any thread, tells whether the supervisor that took
        the job on is still there to launch it; if not, and it has not, nothing will. It raises ``NotKnown`` while that
        cannot be seen.
        """
        ...
