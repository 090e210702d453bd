"""The fake engine: launches fake commands and lets them live by a fake clock."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from itertools import count
from typing import Any, Final

import trio

from supervisor.engines.failed_launch import check_launch, recorded_end
from supervisor.engines.interface import JobPhase, LaunchRequest, Observation, Running
from supervisor.engines.local import reconcile, stopping
from supervisor.engines.local.client import LocalClient
from supervisor.engines.local.engine import seconds_left
from supervisor.errors import LaunchFailed
from supervisor.jobdir import factories, records
from supervisor.jobdir.facts import Ended, Launched
from supervisor.model import from_ns
from supervisor.system import processes
from supervisor.testing.command import FakeCommand, Script
from supervisor.testing.fake_time import FakeTime

__all__ = ["FakeEngine"]

_FIRST_PID: Final = (1 << 22) + 1  # no kernel gives out one as large as this
_BACKSTOP_SECONDS: Final = 2.0
_CHECK_SECONDS: Final = 1.0


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
        self._command: FakeCommand | None = None
        self._owner_lives = owner_lives
        self.changed: Callable[[], object] | None = None
        self._failure: LaunchFailed | None = None
        self._is_over = False
        self.launched = launched or Launched(pid=0, started_ns=0)
        self._watch(command)

    def _watch(self, command: FakeCommand | None) -> None:
        self._command = command
        if command is not None:
            command.watchers.append(self.refresh)

    def refresh(self) -> None:
        if self._command is not None:
            before, self.launched = self.launched, self._command.launched()
            if self.changed is not None and self.launched != before:
                self.changed()

    async def started(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._request is not None:
            request, self._request = self._request, None
            try:
                command, self.launched = await self._engine.launch(request)
                self._watch(command)
            except LaunchFailed as failure:
                self._failure = failure
        if self._failure is not None:
            raise self._failure
        while not self.launched.pid:
            observation = self._engine.observe(self._directory, owner_lives=self._owner_lives())
            if observation.launched is not None:
                self.launched = observation.launched
                self._watch(self._engine.launched_in(self._directory))
            if observation.ended is not None:
                check_launch(observation.ended)
                self._is_over = True
                break
            if observation.launched is None:
                await trio.sleep(_CHECK_SECONDS)

    def seconds_left(self) -> float:
        if self._is_over:
            return math.inf
        if self._command is not None and self.launched.deadline_boot_ns is None:
            return self._command.deadline_at - self._engine.clock.now()
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
            self._command.ask_to_stop(why, by, self._engine.clock.now())
        elif self._failure is None and not stopping.cancel_queued(self._directory, by, why):
            message = f"{by} cannot stop what this engine has not launched ({why})"
            raise NotImplementedError(message)


class _FakeClient(LocalClient):
    def __init__(self, engine: FakeEngine) -> None:
        super().__init__()
        self._engine = engine

    def observe(self, directory: str, *, owner_lives: bool, launched: bool = False, drive: bool = False) -> Observation:
        del drive  # a fake engine stops its commands itself
        return self._engine.observe(directory, owner_lives=owner_lives, launched=launched)

    def send_signal(self, directory: str, number: int) -> bool:
        command = self._engine.launched_in(directory)
        if command is None:
            return super().send_signal(directory, number)
        if command.running:
            command.signals.append(number)
        return command.running

    def pause(self, directory: str, *, by: str, hold_deadline: bool) -> None:
        command = self._engine.launched_in(directory)
        if command is None:
            super().pause(directory, by=by, hold_deadline=hold_deadline)
        else:
            self._engine.clock.there(lambda: command.pause(hold_deadline=hold_deadline))

    def resume(self, directory: str, *, by: str) -> None:
        command = self._engine.launched_in(directory)
        if command is None:
            super().resume(directory, by=by)
        else:
            self._engine.clock.there(command.resume)


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
        Commands live by Trio's clock, and so do jobs that wait. Each recorded time is the wall-clock time of
        the first opening plus the time that has passed on that clock, so that a job which "ran" for an hour of a
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
        self.clock = FakeTime()
        self._handed_out = 0
        self._wake = trio.Event()

    @property
    def name(self) -> str:
        """Recorded with every job."""
        return "fake"

    on_this_machine = True
    opens_input = False

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

    def running(self, group: str | None = None) -> Sequence[FakeCommand]:
        """Return the commands that have not ended, in the order of their launches; with ``group`` only those in it."""
        return tuple(
            command
            for command in self._commands.values()
            if command.running and (group is None or group in command.request.record.get("groups", ()))
        )

    def time(self) -> datetime:
        """Return the time of day of its supervisors: that of the first opening, plus what Trio's clock has counted.

        The end of a pause, for one, is compared with it.
        """
        return from_ns(self.clock.wall_ns())

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
        if not self.clock.serving:
            self._advance(late=0)
        self.clock.serving += 1
        try:
            task_status.started()
            while True:
                due = min((each.due(late=_BACKSTOP_SECONDS) for each in self._commands.values()), default=math.inf)
                with trio.move_on_after(max(0.0, due - self.clock.now())):
                    await self._wake.wait()
                self._advance(late=_BACKSTOP_SECONDS)
        finally:
            self.clock.now()
            self.clock.serving -= 1

    def submit(self, request: LaunchRequest, accepted: Callable[[], None] = lambda: None) -> Running:
        """Return the command of a new job, which its ``started`` launches."""
        del accepted  # nothing is queued here
        return _FakeRunning(self, request.directory, request.deadline_seconds, request=request)

    async def launch(self, request: LaunchRequest) -> tuple[FakeCommand, Launched]:
        """Record the launch of a command, at most once for one job directory.

        Raises:
            LaunchFailed: the script says so, or the engine is not being served.
        """
        if not self.clock.serving:
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
            records.create(request.directory, records.EXIT, {**record, "ended_ns": self.clock.wall_ns()})
            raise failure
        command = FakeCommand(request, script, next(self._pids), self.clock, self.changed)
        self._commands[request.directory] = command
        command.write(script.stdout)
        command.write(script.stderr, stream="stderr")
        self.changed()
        return command, command.launched()

    def _launched_already(self, directory: str) -> tuple[FakeCommand, Launched]:
        command = self._commands.get(directory)
        if command is not None:
            return command, command.launched()
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

    def launched_in(self, directory: str) -> FakeCommand | None:
        """Return the command of a job directory, ``None`` if this engine has launched none."""
        return self._commands.get(directory)

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
            launched = command.launched()
        return _FakeRunning(
            self, directory, deadline_seconds, command=command, launched=launched, owner_lives=owner_lives
        )

    # ------------------------------------------------------------ time

    def wall_ns(self) -> int:
        """Return the time of day by which waiting jobs of its supervisor are admitted."""
        return self.clock.wall_ns()

    def boot_ns(self) -> int:
        """Return the boot clock of its supervisor."""
        return self.clock.boot_ns()

    def changed(self) -> None:
        """Wake ``serve`` and ``next``."""
        self._wake.set()
        self._wake = trio.Event()

    def _advance(self, *, late: float) -> None:
        now = self.clock.now()
        for command in tuple(self._commands.values()):
            command.advance(now, late=late)
