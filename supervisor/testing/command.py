"""Fake commands: their behaviour, and the commands that were launched."""

from __future__ import annotations

import contextlib
import math
import os
import signal
from collections.abc import Callable
from typing import Final, Literal

import attrs
import trio

from supervisor.engines.interface import LaunchRequest
from supervisor.jobdir import factories, measures, records, stops, validation
from supervisor.jobdir.facts import Ended, Launched
from supervisor.jobdir.output import STREAMS
from supervisor.system import processes
from supervisor.testing.fake_time import FakeTime

__all__ = ["FakeCommand", "Script"]

_CLOSE_ENOUGH_SECONDS: Final = 1e-6  # sums of floats


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
        deadline_at: the time of its deadline, by the clock of the engine; infinite while a pause holds it.
        paused: whether it is paused; its ``seconds`` do not count then.
        stop_reason: why a stop was requested (``cancelled``, ``deadline``, ``output_limit``), or ``None``.
        stop_signal: the number of the first signal of that stop.
        signals: the numbers of the signals that were sent to it besides; they do nothing.
        ended: how it ended; ``None`` while it runs.
    """

    def __init__(
        self, request: LaunchRequest, script: Script, pid: int, clock: FakeTime, changed: Callable[[], None]
    ) -> None:
        self.request = request
        self.script = script
        self.pid = pid
        self.stop_reason: str | None = None
        self.stop_signal = signal.SIGTERM.value
        self.signals: list[int] = []
        self.ended: Ended | None = None
        self._clock = clock
        self._changed = changed
        self.watchers: list[Callable[[], object]] = []
        self._finished = trio.Event()
        self._started_at = now = clock.now()
        self._started_ns = clock.wall_ns()
        self._ends_at = now + (math.inf if script.seconds is None else script.seconds)
        self._exit_code = None if script.signal is not None else script.exit_code
        self._signal = script.signal
        limit = request.deadline_seconds
        self.deadline_at = math.inf if limit is None else now + limit
        self.paused = False
        self._left = 0.0  # of its time, while it is paused
        self._held_at: float | None = None
        self._deadline_left = self._moved = 0.0

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
        name = records.STDOUT if stream == "stdout" or self.request.merge_stderr else records.STDERR
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(f"{self.request.directory}/{name}", flags, 0o600)
        with open(descriptor, "ab") as file:
            file.write(_bytes(data))
            size = file.tell()
        if size > self.request.output_limit:
            self._clock.there(lambda: self.ask_to_stop("output_limit", "engine", self._clock.now()))

    def finish(self, exit_code: int | None = 0, *, signal: int | None = None) -> None:
        """End it now; with neither code nor signal its exit is unknown. An ended command does not change."""
        self._clock.there(lambda: self._finish(exit_code, signal))

    def _finish(self, exit_code: int | None, signal: int | None) -> None:
        if self.ended is None:
            self._exit_code, self._signal = None if signal is not None else exit_code, signal
            self._ends_at = self._clock.now()
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
        self._go_on(when)
        now = processes.boottime_ns()
        request = factories.stop_request(why, by, requested_ns=self._wall_ns(when), signalled_boot_ns=now)
        with contextlib.suppress(OSError):  # a full disk must not keep a job alive
            if not records.create(self.request.directory, records.STOP, request):
                there = stops.read_stop(self.request.directory) or {}
                self.stop_signal = there.get("signal", self.stop_signal)
                stops.mark_stop(self.request.directory, signalled=now)
        grace, script = self.request.grace_seconds, self.script
        stubborn = script.stop_seconds > grace
        ends_at = when + min(script.stop_seconds, grace)
        if ends_at < self._ends_at:
            self._ends_at = ends_at
            self._exit_code = None if stubborn else script.stop_exit_code
            self._signal = signal.SIGKILL.value if stubborn else None
            if not stubborn and self._exit_code is None:
                self._signal = self.stop_signal
        self._changed()

    def pause(self, *, hold_deadline: bool) -> None:
        """Let no time of it pass until ``resume``; ``hold_deadline``: nor of its deadline."""
        now = self._clock.now()
        if self.ended is not None or self.stop_reason is not None:
            return
        if not self.paused:
            self.paused, self._left, self._ends_at = True, self._ends_at - now, math.inf
        if hold_deadline and self._held_at is None:
            self._held_at, self._deadline_left, self.deadline_at = now, self.deadline_at - now, math.inf
        self._tell()

    def resume(self) -> None:
        """Let it go on."""
        self._go_on(self._clock.now())
        self._tell()

    def _go_on(self, when: float) -> None:
        if self.paused:
            self.paused, self._ends_at = False, when + self._left
        if self._held_at is not None:
            self.deadline_at, self._moved = when + self._deadline_left, self._moved + when - self._held_at
            self._held_at = None

    def _tell(self) -> None:
        for watcher in self.watchers:
            watcher()
        self._changed()

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
        moved = self._moved + (0.0 if self._held_at is None else self._clock.now() - self._held_at)
        return Launched(pid=self.pid, started_ns=self._started_ns, paused=self.paused, moved_ns=int(moved * 1e9))

    def _wall_ns(self, when: float) -> int:
        return self._started_ns + int((when - self._started_at) * 1e9)

    def _end(self) -> None:
        sizes = measures.sizes(self.request.directory)
        exit_ = validation.exit_of(
            {"exit_code": self._exit_code, "signal": self._signal, "ended_ns": self._wall_ns(self._ends_at), **sizes}
        )
        end = factories.process_end(None, exit_.exit_code, exit_.signal, by="fake engine", ended_ns=exit_.ended_ns)
        for name in STREAMS.values():  # its last words are of its end, by the clock of the engine
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                os.utime(f"{self.request.directory}/{name}", ns=(exit_.ended_ns, exit_.ended_ns))
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # its job was deleted: no reader will ask
            if self.stop_reason is not None:
                stops.mark_stop(self.request.directory, gone=True)
            records.create(self.request.directory, records.EXIT, {**end, **sizes})
        self.ended = Ended(exit=exit_, stopped=self.stop_reason)
        self._finished.set()
