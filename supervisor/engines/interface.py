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

from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

import attrs

from supervisor.errors import SupervisorError
from supervisor.jobdir.facts import Ended, Launched
from supervisor.jobdir.validation import input_of

if TYPE_CHECKING:
    import os
    import socket

    import trio

__all__ = [
    "Client",
    "Engine",
    "EngineFactory",
    "JobPhase",
    "LaunchRequest",
    "MakesWorktrees",
    "Observation",
    "Running",
    "StopInProgress",
]

_USUAL_GRACE_SECONDS: Final = 5.0
_USUAL_OUTPUT_LIMIT: Final = 1 << 26
"""Of a record that does not have them, as those of the first versions."""


@attrs.frozen(slots=True, kw_only=True, eq=False)
class LaunchRequest:
    """Everything that an engine needs to start a command.

    Attributes:
        directory: the job directory; stdout and stderr go into it.
        record: ``job.json`` of that directory.
        argv: the command, as bytes for the operating system.
        workspace: the real path it runs in.
        env: its environment; ``None`` is that of this process.
        changes: variables that it gets beside those, or with another value.
        stdin: its input; ``None`` is ``/dev/null``.
        stop_leftovers: whether processes that it leaves behind are ended; ``False`` leaves them alone.
        queued: whether a supervisor has something to do at its end: a waiting job may begin, or the end is delivered.
        may_be_launched: whether another process may have begun to launch it, and was killed meanwhile.
        settings: the umask, the niceness and the resource limits that it has, by their numbers; ``None`` is those of
            this process.
    """

    directory: str
    record: Mapping[str, Any] = attrs.field(repr=False)
    argv: tuple[bytes, ...]
    workspace: str
    env: Mapping[bytes, bytes] | None = attrs.field(default=None, repr=False)
    changes: Mapping[bytes, bytes] = attrs.field(factory=dict[bytes, bytes], repr=False)
    stdin: bytes | None = attrs.field(default=None, repr=False)
    stop_leftovers: bool = False
    queued: bool = False
    may_be_launched: bool = False
    settings: tuple[int, int, dict[int, tuple[int, int]]] | None = None

    @property
    def job_id(self) -> str:
        """The mark that every process of the job carries in its environment."""
        return str(self.record["job_id"])

    @property
    def deadline_seconds(self) -> float | None:
        """Its deadline; ``None`` without one."""
        deadline: float | None = self.record["deadline_seconds"]
        return deadline

    @property
    def grace_seconds(self) -> float:
        """The time between SIGTERM and SIGKILL."""
        return float(self.record.get("grace_seconds", _USUAL_GRACE_SECONDS))

    @property
    def output_limit(self) -> int:
        """The most bytes of stdout, and of stderr; with more it is stopped."""
        return int(self.record.get("output_limit", _USUAL_OUTPUT_LIMIT))

    @property
    def options(self) -> Mapping[str, Any]:
        """What only this engine understands; it has checked them."""
        return self.record.get("engine_options") or {}

    @property
    def merge_stderr(self) -> bool:
        """Whether its stderr goes where its stdout goes."""
        return bool(self.record.get("merge_stderr"))

    @property
    def stdin_open(self) -> bool:
        """Whether its stdin stays open after its input, for messages."""
        return input_of(self.record)[0]

    @property
    def pty(self) -> tuple[int, int] | None:
        """The rows and columns of its terminal; ``None`` without one."""
        return input_of(self.record)[1]


class JobPhase(Enum):
    """The state of a job in one observation."""

    QUEUED = "queued"
    RUNNING = "running"
    ENDED = "ended"
    ELSEWHERE = "elsewhere"


@attrs.frozen(slots=True, kw_only=True)
class Observation:
    """What is known about an unfinished job, from evidence alone.

    Attributes:
        phase: its state.
        launched: its launch, once it was spawned.
        ended: its end, once it has ended.
        stop_requested: the reason of a requested stop.
        to_stop: the reason for which the observing process has to stop the job, since no other process does.
        damage: the records that cannot be read, in words.
        newer: whether only a newer version of this package can judge it.
        unkept: whether it runs without a keeper, so that no other process watches its output.
        queue_reason: why it waits, in the words of its engine.
        problem: the error that made the observation impossible; then the other attributes are of an earlier one.
    """

    phase: JobPhase
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
    """A submitted or adopted command.

    ``changed`` is called when ``launched`` has changed: a pause has begun or ended, or holds the deadline.
    """

    changed: Callable[[], object] | None

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
        """The reason of a stop that another process has requested, if the engine reads such requests itself."""
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

    def refresh(self) -> None:
        """Read again whether it is paused."""
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


@runtime_checkable
class HoldsOrders(Protocol):
    """An engine that can hold the orders of a waiting job in memory."""

    async def hold(self, directory: str, orders: bytes) -> None:
        """Hold the orders of a job until they are deleted: ``orders`` in its directory leads to them meanwhile.

        Raises:
            FeatureUnavailable, LaunchFailed: they cannot be held.
        """
        ...


@runtime_checkable
class MakesWorktrees(Protocol):
    """An engine that makes the git worktree of a job right before its launch, if ``job.json`` asks for one."""

    async def make_worktree(self, request: LaunchRequest) -> None:
        """Make it, unless it is there.

        Raises:
            LaunchFailed: it cannot be made.
        """
        ...


class Engine(Protocol):
    """Runs commands.

    Attributes:
        opens_input: whether its jobs can have a stdin that stays open, or a terminal; its client connects to them.
    """

    opens_input: bool

    @property
    def name(self) -> str:
        """Recorded with every job."""
        ...

    @property
    def on_this_machine(self) -> bool:
        """Whether it runs the jobs of this machine, so that it takes the place of the local engine."""
        ...

    def client(self) -> Client:
        """Return a new client of this engine, for one thread."""
        ...

    async def serve(self, *, task_status: trio.TaskStatus[None] = ...) -> None:
        """Do the background work until cancelled. Cancelling it leaves every command running."""
        ...

    def submit(self, request: LaunchRequest, accepted: Callable[[], None] = lambda: None) -> Running:
        """Return the command of a new job, which ``Running.started`` launches.

        A job directory is launched at most once, whatever crashes in between. ``accepted`` is called when the engine
        has queued the job, so that its start need not be awaited; an engine without a queue never calls it.
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


class StopInProgress(Protocol):
    """The stop of one job by a program that is not its supervisor."""

    @property
    def until(self) -> float | None:
        """The monotonic time to advance it again; ``None`` when its end is on record, or is about to be."""
        ...

    def advance(self, to_stop: str | None) -> bool:
        """Advance the stop by one step; return whether this process has to end the job itself, with ``Client.end``.

        ``to_stop`` is that of the last ``Observation``.

        Raises:
            SupervisorError: the job cannot be stopped, or not within a reasonable time.
            OSError: the request cannot be written; no process was signalled.
        """
        ...


class Client(Protocol):
    """One engine, for programs and threads without an event loop. One thread at a time may use it."""

    @property
    def on_this_machine(self) -> bool:
        """Whether its job directories are on a local disk, which answers quickly."""
        ...

    @property
    def poll_seconds(self) -> float:
        """How often to observe a job that is waited for; infinite where the kernel reports changes."""
        ...

    def observe(self, directory: str, *, owner_lives: bool, launched: bool = False, drive: bool = False) -> Observation:
        """Return what the evidence proves about an unfinished job now.

        ``launched``: whether the job is known to have been launched, whatever is left in its directory. ``drive``: stop
        a job that has to be stopped, and that no other process stops, here and now, which can take its grace.

        Raises:
            OSError: that is not known now.
        """
        ...

    def cached(self, directory: str, found: os.stat_result) -> Observation | None:
        """Return an observation that provably still holds, in microseconds; ``None`` without one.

        ``found`` is the status of the job directory since this call began.
        """
        ...

    def is_unended(self, directory: str) -> bool:
        """Return whether a job provably has no recorded end; takes microseconds."""
        ...

    def stop_requested(self, directory: str) -> str | None:
        """Return why a stop of the job was requested, as ``is_unended`` has read it."""
        ...

    def can_adopt(self, record: Mapping[str, Any]) -> bool:
        """Return whether a supervisor on this machine can watch and stop the job whose ``job.json`` is given."""
        ...

    def has_processes(self, job_id: str) -> bool:
        """Return whether processes of a job, whose directory is lost, live on this machine."""
        ...

    def request_stop(self, directory: str, *, by: str, first_signal: int) -> None:
        """Record that a running job is to be stopped, and that its processes get this signal instead of SIGTERM.

        The stop that follows finds the request. If there is one already, that stays.

        Raises:
            FeatureUnavailable: the engine sends its own signals.
            OSError: the request cannot be written.
        """
        ...

    def send_signal(self, directory: str, number: int) -> bool:
        """Send a signal to the leader of a running job, its identity proved; ``False`` when it has ended.

        Raises:
            SupervisorError: that is not possible here, or not allowed.
            OSError: its identity cannot be proved now; no process was signalled.
        """
        ...

    def begin_stop(self, directory: str, by: str, *, may_write: Callable[[], bool]) -> StopInProgress:
        """Return the stop of a job, to be advanced step by step.

        ``may_write`` returns whether the directory of the job in the state root is in order, so that this process may
        write to it; it may raise ``SupervisorError``.
        """
        ...

    def signal(self) -> None:
        """Deliver the requests of all stops that were advanced."""
        ...

    def end(self, stops: Iterable[StopInProgress]) -> None:
        """End jobs concurrently, from this process; blocks until they have ended.

        Raises:
            OSError: their processes could not be observed for some time.
        """
        ...

    def retry_stop(self, directory: str, by: str) -> None:
        """Try a stop again that the operating system has refused.

        Raises:
            OSError: the request cannot be written.
        """
        ...

    def obstacle(self, directory: str, *, overdue: bool) -> SupervisorError | None:
        """Return the error that names what keeps a job from ending; ``None`` while nothing is known to do so.

        ``overdue``: whether the stop has had the time to take effect.

        Raises:
            OSError: its processes cannot be observed now.
        """
        ...

    def survivors(self, directory: str) -> SupervisorError | None:
        """Return the error of an ended job that has left processes that this user may not signal."""
        ...

    def pause(self, directory: str, *, by: str, hold_deadline: bool) -> None:
        """Stop all processes of a running job until ``resume``; blocks until they are stopped.

        Raises:
            SupervisorError: they cannot be stopped, and were continued; or the engine pauses no jobs.
            OSError: the records of the job cannot be read or written now.
        """
        ...

    def resume(self, directory: str, *, by: str) -> None:
        """Continue all processes of a paused job.

        Raises:
            SupervisorError, OSError: as for ``pause``.
        """
        ...

    def connect(self, directory: str) -> socket.socket:
        """Return a connection to the keeper of a running job, for its stdin or its terminal.

        Raises:
            InputRefused: there is no keeper any more.
            FeatureUnavailable: no job of the engine has such a connection.
            OSError: it cannot be made now.
        """
        ...

    def close(self) -> None:
        """Close what it holds."""
        ...


class EngineFactory(Protocol):
    """Makes an engine and its clients; ``registry`` finds it by its name."""

    def engine(self, root: str, python: str | os.PathLike[str] | None) -> Engine:
        """Return the engine, to be served by the caller.

        ``root`` is the state root, ``python`` the interpreter that runs keepers, if the user has named one.
        """
        ...

    def client(self) -> Client:
        """Return a new client, for one thread."""
        ...

    def accepted_options(self) -> dict[str, str]:
        """Return the names of its options, and in words what each accepts."""
        ...

    def check_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of a job as they are recorded with it.

        Raises:
            InvalidArguments: there is no such option, or a value does not fit.
        """
        ...
