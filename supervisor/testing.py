"""Fakes for tests of code that uses the supervisor: no process, no thread, and time that is injected.

A ``FakeEngine`` replaces the machine that would run the commands. A ``Script`` says what a command does,
and ``FakeEngine.commands`` holds the commands that the code under test has launched.
Everything else is real: state root, states, results, deadlines. With one of Trio's test clocks
an hour passes in milliseconds::

    from supervisor import Settings, open_supervisor
    from supervisor.testing import FakeEngine, Script

    async def test_the_report_is_read(autojump_clock, tmp_path):
        engine = FakeEngine(Script(stdout='{"total": 87}', seconds=3600))
        async with open_supervisor(Settings(state_dir=tmp_path / "state"), engine=engine) as sup:
            result = await sup.run(["coverage", "json"], kind="json", deadline_seconds=7200)
        assert result.value == {"total": 87}
        assert engine.commands[0].argv == ("coverage", "json")

A test can also control a command step by step: one with ``Script(seconds=None)`` runs until
``engine.commands[0].finish()``, and ``write()`` adds to its output. Both may be called from any
thread, so tests of asyncio code can use them, too. Their supervisor runs in a thread of its own,
by the real clock.

The engine outlives the supervisor, as a machine does: give the same object to the next
``open_supervisor``, and the commands still run, older by the time
that has passed on Trio's clock.

Trio's autojump moves the clock whenever every task waits, also while a task waits for a thread.
The supervisor uses a thread for ``list`` and ``result``, for jobs that are not its own or have ended,
and for the first ``start`` in a workspace, so fake seconds may pass during these calls. Where that
matters use ``trio.testing.MockClock(autojump_threshold=0.01)``, which jumps only after ten real
milliseconds without activity, or ``MockClock()`` and ``jump()``.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any, Final, Literal

import attrs
import trio

from supervisor.engines.failed_launch import check_launch, recorded_end
from supervisor.engines.interface import JobPhase, LaunchRequest, Observation, Running
from supervisor.engines.local import reconcile, stopping
from supervisor.engines.local.client import LocalClient
from supervisor.engines.local.engine import seconds_left
from supervisor.errors import LaunchFailed
from supervisor.jobdir import factories, measures, records, validation
from supervisor.jobdir.facts import Ended, Launched
from supervisor.system import processes

__all__ = ["FakeCommand", "FakeEngine", "Script"]

_FIRST_PID: Final = (1 << 22) + 1  # no kernel gives out one as large as this
_BACKSTOP_SECONDS: Final = 2.0
_CHECK_SECONDS: Final = 1.0
_CLOSE_ENOUGH_SECONDS: Final = 1e-6  # sums of floats


def _in_trio() -> bool:
    """Whether this thread is inside a Trio program."""
    try:
        trio.lowlevel.current_trio_token()
    except RuntimeError:
        return False
    return True


def _bytes(given: str | bytes) -> bytes:
    return given.encode() if isinstance(given, str) else given


@attrs.frozen(slots=True, kw_only=True)
class Script:
    """The behaviour of a fake command, from its launch to its end. The default exits with 0 at once.

    Attributes:
        stdout: written to standard output as soon as it runs, text or bytes.
        stderr: the same for standard error.
        seconds: how long it runs by Trio's clock; ``None`` until ``FakeCommand.finish``, or a stop.
        exit_code: its exit code; with ``None`` here and in ``signal`` its exit is unknown.
        signal: the number of the signal that ends it; ``exit_code`` is ignored then.
        stop_seconds: the time between a stop and its end; if it is longer than the job's grace
            (``math.inf`` for a command that ignores SIGTERM), the command is killed after the grace.
        stop_exit_code: its exit code after a stop; with ``None`` SIGTERM ends it.
        launch_seconds: the duration of the launch, during which the job is ``queued``.
        launch_error: why it cannot be started; ``None`` if it can.
        launch_status: the exit status of a shell in that case: 127, 126 or 125.
    """

    stdout: bytes = attrs.field(default=b"", converter=_bytes)
    stderr: bytes = attrs.field(default=b"", converter=_bytes)
    seconds: float | None = 0
    exit_code: int | None = 0
    signal: int | None = None
    stop_seconds: float = 0
    stop_exit_code: int | None = None
    launch_seconds: float = 0
    launch_error: str | None = None
    launch_status: int = 127


class FakeCommand:
    """One launched command. ``FakeEngine`` makes it and keeps it in its ``commands``.

    Attributes:
        request: the request to the engine.
        script: its behaviour.
        pid: a number that no real process can have.
        deadline_at: the time of its deadline, by the clock of the engine.
        stop_reason: why a stop was requested (``cancelled``, ``deadline``, ``output_limit``), or ``None``.
        ended: how it ended; ``None`` while it runs.
    """

    def __init__(self, engine: FakeEngine, request: LaunchRequest, script: Script, pid: int, now: float) -> None:
        self.request = request
        self.script = script
        self.pid = pid
        self.stop_reason: str | None = None
        self.ended: Ended | None = None
        self._engine = engine
        self._finished = trio.Event()
        self._started_at = now
        self._started_ns = time.time_ns()
        self._ends_at = now + (math.inf if script.seconds is None else script.seconds)
        self._exit_code = None if script.signal is not None else script.exit_code
        self._signal = script.signal
        limit = request.deadline_seconds
        self.deadline_at = math.inf if limit is None else now + limit

    @property
    def job_id(self) -> str:
        """The id of its job."""
        return self.request.job_id

    @property
    def argv(self) -> tuple[str, ...]:
        """The command and its arguments."""
        return tuple(map(os.fsdecode, self.request.argv))

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.ended is None

    # ------------------------------------------------------------ for the test, which may be in another thread

    def write(self, data: str | bytes, *, stream: Literal["stdout", "stderr"] = "stdout") -> None:
        """Write output of the command, which is stopped beyond the job's output limit.

        Raises:
            RuntimeError: it has ended.
        """
        if self.ended is not None:
            message = f"the command of job {self.job_id} has ended; it cannot write any more"
            raise RuntimeError(message)
        name = records.STDOUT if stream == "stdout" else records.STDERR
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(f"{self.request.directory}/{name}", flags, 0o600)
        with open(descriptor, "ab") as file:
            file.write(_bytes(data))
            size = file.tell()
        if size > self.request.output_limit:
            self._engine.there(lambda: self.ask_to_stop("output_limit", "engine", self._engine.now()))

    def finish(self, exit_code: int | None = 0, *, signal: int | None = None) -> None:
        """End it now; with neither code nor signal its exit is unknown. An ended command does not change."""
        self._engine.there(lambda: self._finish(exit_code, signal))

    def _finish(self, exit_code: int | None, signal: int | None) -> None:
        if self.ended is None:
            self._exit_code, self._signal = None if signal is not None else exit_code, signal
            self._ends_at = self._engine.now()
            self._end()

    # ------------------------------------------------------------ for the engine

    async def wait(self) -> Ended:
        """Wait until it has ended, and return how. Cancelling the wait changes nothing."""
        await self._finished.wait()
        assert self.ended is not None  # noqa: S101  # set right before the event
        return self.ended

    def ask_to_stop(self, why: str, by: str, when: float) -> None:
        """Stop it as a SIGTERM at ``when`` would; a later stop does not change the reason."""
        if self.ended is not None or self.stop_reason is not None or self._ends_at <= when:
            return
        self.stop_reason = why
        now = processes.boottime_ns()
        request = factories.stop_request(why, by, requested_ns=self._wall_ns(when), signalled_boot_ns=now)
        with contextlib.suppress(OSError):  # a full disk must not keep a job alive
            records.create(self.request.directory, records.STOP, request)
        grace, script = self.request.grace_seconds, self.script
        stubborn = script.stop_seconds > grace
        ends_at = when + min(script.stop_seconds, grace)
        if ends_at < self._ends_at:
            self._ends_at = ends_at
            self._exit_code = None if stubborn else script.stop_exit_code
            self._signal = signal.SIGKILL.value if stubborn else None
            if not stubborn and self._exit_code is None:
                self._signal = signal.SIGTERM.value
        self._engine.changed()

    def due(self, *, late: float) -> float:
        """Return the time of its next event; ``late``: seconds after its deadline until the engine itself stops it."""
        if self.ended is not None:
            return math.inf
        return min(self._ends_at, self.deadline_at + late) if self.stop_reason is None else self._ends_at

    def advance(self, now: float, *, late: float) -> None:
        """Perform all of its events that are due."""
        if self.deadline_at + late <= now + _CLOSE_ENOUGH_SECONDS:
            self.ask_to_stop("deadline", "engine", self.deadline_at + late)
        if self.ended is None and self._ends_at <= now + _CLOSE_ENOUGH_SECONDS:
            self._end()

    def launched(self) -> Launched:
        """Return how it was launched."""
        return Launched(pid=self.pid, started_ns=self._started_ns)

    def launched_before(self, now: float) -> Launched:
        """Return its launch, with a start time that makes it as old by the wall clock as by Trio's clock."""
        return Launched(pid=self.pid, started_ns=time.time_ns() - int((now - self._started_at) * 1e9))

    def _wall_ns(self, when: float) -> int:
        return self._started_ns + int((when - self._started_at) * 1e9)

    def _end(self) -> None:
        sizes = measures.sizes(self.request.directory)
        exit_ = validation.exit_of(
            {"exit_code": self._exit_code, "signal": self._signal, "ended_ns": self._wall_ns(self._ends_at), **sizes}
        )
        end = factories.process_end(None, exit_.exit_code, exit_.signal, by="fake engine", ended_ns=exit_.ended_ns)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # its job was deleted: no reader will ask
            if self.stop_reason is not None:
                records.mark_stop(self.request.directory, gone=True)
            records.create(self.request.directory, records.EXIT, {**end, **sizes})
        self.ended = Ended(exit=exit_, stopped=self.stop_reason)
        self._finished.set()


class _FakeRunning:
    """A job as one supervisor observes it; without a ``command``, only the evidence tells its state."""

    queue_reason = None
    stop_seen = None

    def __init__(
        self,
        engine: FakeEngine,
        directory: str,
        deadline_seconds: float | None,
        *,
        request: LaunchRequest | None = None,
        command: FakeCommand | None = None,
        launched: Launched | None = None,
        owner_lives: Callable[[], bool] = lambda: True,
    ) -> None:
        self._engine = engine
        self._directory = directory
        self._deadline_seconds = deadline_seconds
        self._request = request
        self._command = command
        self._owner_lives = owner_lives
        self._failure: LaunchFailed | None = None
        self.launched = launched or Launched(pid=0, started_ns=0)

    async def started(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._request is not None:
            request, self._request = self._request, None
            try:
                self._command, self.launched = await self._engine.launch(request)
            except LaunchFailed as failure:
                self._failure = failure
        if self._failure is not None:
            raise self._failure
        while not self.launched.pid:
            observation = self._engine.observe(self._directory, owner_lives=self._owner_lives())
            if observation.ended is not None:
                check_launch(observation.ended)
                break
            if observation.launched is not None:
                self.launched = observation.launched
            else:
                await trio.sleep(_CHECK_SECONDS)

    def seconds_left(self) -> float:
        if self._command is not None and self.launched.deadline_boot_ns is None:
            return self._command.deadline_at - self._engine.now()
        return seconds_left(self.launched, self._deadline_seconds)

    async def wait(self) -> Ended:
        if self._failure is not None:
            return await recorded_end(self._directory, self._failure, self._engine.observe)
        if self._command is not None:
            return await self._command.wait()
        while True:
            await trio.lowlevel.checkpoint()
            observation = self._engine.observe(self._directory, owner_lives=self._owner_lives())
            if observation.ended is not None:
                return observation.ended
            await trio.sleep(_CHECK_SECONDS)

    async def stop(self, why: str, by: str) -> None:
        await trio.lowlevel.checkpoint()
        if self._command is not None:
            self._command.ask_to_stop(why, by, self._engine.now())
        elif self._failure is None and not stopping.cancel_queued(self._directory, by):
            message = f"{by} cannot stop what this engine has not launched ({why})"
            raise NotImplementedError(message)


class _FakeClient(LocalClient):
    def __init__(self, engine: FakeEngine) -> None:
        super().__init__()
        self._engine = engine

    def observe(self, directory: str, *, owner_lives: bool, launched: bool = False, drive: bool = False) -> Observation:
        del drive  # a fake engine stops its commands itself
        return self._engine.observe(directory, owner_lives=owner_lives, launched=launched)


class FakeEngine:
    """Runs no process, and reports as if it did: an ``Engine`` for ``open_supervisor(engine=...)``.

    Input
        script: the behaviour of every command, or a function that takes the ``LaunchRequest`` and
            returns the ``Script`` (or raises, for a defect in the engine).

    Output
        ``commands`` holds every launched command, in order; ``next()`` waits for one.
        stdout and stderr go into the job directory, and so do the records of a stop and of the
        end, so that a supervisor which is opened later finds them.

    Time
        Commands live by Trio's clock. Each recorded time is the wall-clock time of
        their launch plus the time that has passed on that clock, so that a job which "ran" for an hour of a
        mock clock has an ``elapsed_ms`` of an hour, and a ``completed_at`` in the future.
        While no supervisor is open nothing happens. Events that fall due meanwhile, deadlines included,
        happen as soon as one is open, with the times at which they were due.

    Cancellation
        A launch that is cancelled during ``launch_seconds`` does not take place.
    """

    def __init__(self, script: Script | Callable[[LaunchRequest], Script] | None = None) -> None:
        self._script = Script() if script is None else script
        self._commands: dict[str, FakeCommand] = {}
        self._pids = count(_FIRST_PID)
        self._serving = 0
        self._handed_out = 0
        self._wake = trio.Event()
        self._run: trio.lowlevel.TrioToken | None = None
        self._last = 0.0
        self._shift = 0.0

    @property
    def name(self) -> str:
        """Recorded with every job."""
        return "fake"

    on_this_machine = True

    # ------------------------------------------------------------ for the test

    @property
    def commands(self) -> Sequence[FakeCommand]:
        """Every launched command, in order; a failed launch is not among them."""
        return tuple(self._commands.values())

    def command(self, job_id: str) -> FakeCommand:
        """Return the command of a job.

        Raises:
            KeyError: none was launched.
        """
        for command in self._commands.values():
            if command.job_id == job_id:
                return command
        raise KeyError(job_id)

    async def next(self) -> FakeCommand:
        """Wait for the next launch, and return its command; each is returned once, in order."""
        await trio.lowlevel.checkpoint()
        while self._handed_out >= len(self._commands):
            await self._wake.wait()
        self._handed_out += 1
        return self.commands[self._handed_out - 1]

    # ------------------------------------------------------------ for the supervisor

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Perform the events of the commands as they fall due, until cancelled; the commands then keep their state."""
        if not self._serving:
            self._advance(late=0)
        self._serving += 1
        try:
            task_status.started()
            while True:
                due = min((each.due(late=_BACKSTOP_SECONDS) for each in self._commands.values()), default=math.inf)
                with trio.move_on_after(max(0.0, due - self.now())):
                    await self._wake.wait()
                self._advance(late=_BACKSTOP_SECONDS)
        finally:
            self.now()
            self._serving -= 1

    def submit(self, request: LaunchRequest, accepted: Callable[[], None] = lambda: None) -> Running:
        """Return the command of a new job, which its ``started`` launches."""
        del accepted  # nothing is queued here
        return _FakeRunning(self, request.directory, request.deadline_seconds, request=request)

    async def launch(self, request: LaunchRequest) -> tuple[FakeCommand, Launched]:
        """Record the launch of a command, at most once for one job directory.

        Raises:
            LaunchFailed: the script says so, or the engine is not being served.
        """
        if not self._serving:
            message = "the engine is not being served"
            raise LaunchFailed(message)
        script = self._script if isinstance(self._script, Script) else self._script(request)
        await trio.sleep(script.launch_seconds)
        holder = records.keeper_claim(*processes.own_identity(), processes.boot_id(), processes.pid_namespace())
        if not records.take_claim(request.directory, holder):
            return self._launched_already(request.directory)
        if script.launch_error is not None:
            failure = LaunchFailed(script.launch_error, exit_status=script.launch_status)
            record = factories.launch_failure(failure.message, failure.exit_status)
            records.create(request.directory, records.EXIT, record)
            raise failure
        command = FakeCommand(self, request, script, next(self._pids), self.now())
        self._commands[request.directory] = command
        command.write(script.stdout)
        command.write(script.stderr, stream="stderr")
        self.changed()
        return command, command.launched()

    def _launched_already(self, directory: str) -> tuple[FakeCommand, Launched]:
        command = self._commands.get(directory)
        if command is not None:
            return command, command.launched_before(self.now())
        check_launch(self.observe(directory, owner_lives=True).ended)
        message = "it was claimed by another process"
        raise LaunchFailed(message)

    def observe(self, directory: str, *, owner_lives: bool, launched: bool = False) -> Observation:
        """Return an observation of an unfinished job, from the evidence if this engine has not launched it."""
        command = self._commands.get(directory)
        if command is None:
            born = records.read(directory, records.JOB) or {}
            return reconcile.resolve(directory, owner_lives=owner_lives, born=born, launched=launched)
        return Observation(
            phase=JobPhase.RUNNING if command.ended is None else JobPhase.ENDED,
            launched=command.launched(),
            ended=command.ended,
            stop_requested=command.stop_reason,
        )

    def client(self) -> LocalClient:
        """Return a new client, which observes fake commands, and the evidence of all other jobs."""
        return _FakeClient(self)

    async def adopt(
        self,
        directory: str,
        launched: Launched | None,
        *,
        record: Mapping[str, Any] | None = None,
        owner_lives: Callable[[], bool] = lambda: False,
    ) -> Running:
        """Watch a command that was launched before, by any supervisor."""
        await trio.lowlevel.checkpoint()
        command = self._commands.get(directory)
        deadline_seconds = (record or {}).get("deadline_seconds")
        if command is not None:
            launched = command.launched_before(self.now())
        return _FakeRunning(
            self, directory, deadline_seconds, command=command, launched=launched, owner_lives=owner_lives
        )

    # ------------------------------------------------------------ time

    def now(self) -> float:
        """Return the time by which commands live: Trio's clock, continued from one ``trio.run`` to the next."""
        if not _in_trio():  # between two runs, or in a thread
            return self._last
        run, time_here = trio.lowlevel.current_trio_token(), trio.current_time()
        if run is not self._run:
            self._shift = 0.0 if self._run is None else self._last - time_here
            self._run = run
        self._last = time_here + self._shift
        return self._last

    def there(self, action: Callable[[], object]) -> None:
        """Call a function in the supervisor's thread, and return when it is done; asyncio tests are in another."""
        if self._serving and not _in_trio():
            trio.from_thread.run_sync(action, trio_token=self._run)
        else:
            action()

    def changed(self) -> None:
        """Wake ``serve`` and ``next``."""
        self._wake.set()
        self._wake = trio.Event()

    def _advance(self, *, late: float) -> None:
        now = self.now()
        for command in tuple(self._commands.values()):
            command.advance(now, late=late)
