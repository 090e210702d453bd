"""What ``run`` does while its job runs: output, clock, signals, and how it comes to its exit status.

Signals. The first SIGINT cancels the job and goes on until it has ended; a second one stops waiting
for that. SIGTERM and SIGHUP let go of the job, which runs on; so does a reader of our stdout who
has gone away. A signal that is ignored when the program starts (``nohup``) stays ignored.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from collections.abc import AsyncIterator, Generator, Mapping
from typing import TYPE_CHECKING, Any, Final

import trio

from supervisor.cli import exits, streams, text
from supervisor.cli.front import Invocation, write_document
from supervisor.errors import OutputLost, SupervisorError
from supervisor.model import ErrorInfo, Job, JobSpec, to_json
from supervisor.states import Reason, State
from supervisor.system.signals import heard

if TYPE_CHECKING:
    from supervisor.runtime.supervisor import Supervisor

__all__ = ["run_to_end"]

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_STDOUT: Final = 1
_STDERR: Final = 2
_TICK_SECONDS: Final = 1

# What a shell says nothing about either: the exit status does, unless the kind knows better what it means.
_NO_COMMENT: Final = frozenset({Reason.EXITED, Reason.NONZERO_EXIT, Reason.KILLED_BY_SIGNAL})


def run_to_end(call: Invocation, spec: JobSpec) -> int:
    """Run a job and return the exit status that tells how it ended."""
    sys.stdout.flush()
    return trio.run(_main, call, spec)


async def _main(call: Invocation, spec: JobSpec) -> int:
    from supervisor.runtime.opening import open_supervisor

    with heard(*_SIGNALS) as signals:
        async with open_supervisor(call.settings) as sup:
            return await _Run(call, sup).go(spec, signals)


class _Run:
    """One job, from its start to its end or to the moment at which we let go of it."""

    def __init__(self, call: Invocation, sup: Supervisor) -> None:
        self._call = call
        self._sup = sup
        self._screen = _Screen(used=not call.as_json)
        self._job: Job | None = None
        self._progress: Mapping[str, Any] | None = None
        self._started = trio.Event()
        self._cancel_wanted = trio.Event()
        self._all = trio.CancelScope()
        self._let_go: int | None = None
        self._trouble: str | None = None
        self._lost: OutputLost | None = None

    async def go(self, spec: JobSpec, signals: AsyncIterator[int]) -> int:
        """Run the job and return our exit status."""
        status: int | None = None
        failure: SupervisorError | BrokenPipeError | None = None
        with self._all:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen, signals)
                nursery.start_soon(self._cancel)
                try:
                    status = await self._to_end(spec)
                except (SupervisorError, BrokenPipeError) as error:  # kept, so that it comes out bare, not in a group
                    failure = error
                nursery.cancel_scope.cancel()
        self._screen.erase()
        if failure is not None:
            raise failure
        return self._tell_let_go() if status is None else status

    async def _to_end(self, spec: JobSpec) -> int:
        self._job = job = await self._sup.start(spec)
        self._started.set()
        if not self._call.as_json:
            async with trio.open_nursery() as nursery:
                if self._screen.on_terminal:
                    nursery.start_soon(self._tick, job)
                    nursery.start_soon(self._heed, job.job_id)
                async with trio.open_nursery() as both:
                    both.start_soon(self._stream, job.job_id, "stdout", _STDOUT)
                    both.start_soon(self._stream, job.job_id, "stderr", _STDERR)
                nursery.cancel_scope.cancel()
        if self._lost is not None:
            raise self._lost
        job = await self._sup.wait(job.job_id)
        if job.status is State.DONE and not self._call.as_json:
            return exits.of_command(job)
        result = await self._sup.result(job.job_id)
        self._screen.erase()
        if self._call.as_json:
            try:
                write_document(to_json(result))
            except (BrokenPipeError, streams.StdoutFailed):
                streams.say(f"supervisor: the result of job {job.job_id} was not written; it is kept")
                raise
        else:
            self._comment(job, result.error)
        return exits.of_command(job, launch_status=exits.of_launch(result))

    def _comment(self, job: Job, error: ErrorInfo | None) -> None:
        """Say what the exit status alone does not."""
        if error is None or (job.reason in _NO_COMMENT and error.code == "job_failed"):
            return
        self._screen.say(f"job {job.job_id}: {error.message}")
        if job.status is State.FAILED:
            if job.detail and job.detail not in error.message:
                self._screen.say(f"  {job.detail}", head="")
            self._screen.say(f"  {error.repair}", head="")

    # ------------------------------------------------------------ beside it

    async def _stream(self, job_id: str, name: str, descriptor: int) -> None:
        try:
            await self._pass_on(job_id, name, descriptor)
        except OutputLost as error:  # kept, so that it comes out bare and not in a group
            self._lost = error

    async def _pass_on(self, job_id: str, name: str, descriptor: int) -> None:
        """Pass on what the job writes, unchanged. A thread writes: whoever reads it may be slow."""
        restarts = 0
        async with self._sup.follow(job_id, stream=name) as chunks:
            async for chunk in chunks:
                if chunks.restarts > restarts:
                    restarts = chunks.restarts
                    self._screen.say(f"the command has truncated its {name}; from the beginning again")
                with self._screen.output(descriptor, chunk):
                    try:
                        await trio.to_thread.run_sync(_write, descriptor, chunk, abandon_on_cancel=True)
                    except OSError as error:
                        if descriptor == _STDOUT:
                            broken = isinstance(error, BrokenPipeError)
                            self._trouble = None if broken else f"stdout cannot be written: {error.strerror}"
                            self._release(exits.PIPE if broken else exits.BROKEN)
                        return  # nobody reads our stderr: the rest of it is kept with the job

    async def _tick(self, job: Job) -> None:
        began = trio.current_time() - job.elapsed_ms / 1000
        while True:
            await trio.sleep(_TICK_SECONDS)
            elapsed = trio.current_time() - began
            self._screen.show(_clock(job, elapsed, self._progress, cancelling=self._cancel_wanted.is_set()))

    async def _heed(self, job_id: str) -> None:
        """Keep what the job says about its progress for the next tick."""
        with contextlib.suppress(SupervisorError):  # somebody has forgotten the job meanwhile; others here say so
            async with self._sup.events(job_id) as events:
                self._progress = (await self._sup.status(job_id)).progress
                async for event in events:
                    self._progress = event.job.progress or self._progress

    async def _listen(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            if number != signal.SIGINT:
                self._release(128 + number)
            elif self._cancel_wanted.is_set():
                self._release(exits.CANCELLED)
            else:
                self._cancel_wanted.set()
                if not self._call.as_json:
                    self._screen.say("cancelling the job; Ctrl-C again does not wait for its end")

    async def _cancel(self) -> None:
        await self._cancel_wanted.wait()
        await self._started.wait()
        assert self._job is not None  # noqa: S101  # that is what started means
        try:
            await self._sup.cancel(self._job.job_id)
        except SupervisorError as error:
            self._screen.say(error.message)

    # ------------------------------------------------------------ letting go

    def _release(self, status: int) -> None:
        self._let_go = status
        self._all.cancel()

    def _tell_let_go(self) -> int:
        status = exits.BROKEN if self._let_go is None else self._let_go
        if self._trouble is not None:
            self._screen.say(self._trouble)
        if self._job is None:
            self._screen.say("the job was not started")
        elif self._call.as_json:
            write_document(to_json(self._job))
        else:
            what = "is being cancelled" if self._cancel_wanted.is_set() else "goes on"
            self._screen.say(f"job {self._job.job_id} {what}; `supervisor logs --follow {self._job.job_id[:8]}`")
        return status


def _clock(job: Job, elapsed: float, progress: Mapping[str, Any] | None, *, cancelling: bool) -> str:
    if cancelling:
        rest = "cancelling"
    elif job.deadline_seconds is None:
        rest = "no deadline"
    else:
        left = job.deadline_seconds - elapsed
        rest = f"deadline in {_whole(left)}" if left > 0 else "at its deadline"
    words = [_whole(elapsed), text.progress(progress), rest, f"job {job.job_id[:8]}"]
    return f"[{', '.join(filter(None, words))}]"


def _whole(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 59.5 else text.duration(seconds)


def _write(descriptor: int, data: bytes) -> None:
    """Write all of ``data``, even where somebody has made the descriptor non-blocking."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            poll.poll()


class _Screen:
    """One line at the bottom of the terminal that says how long it takes and how far it is, if stderr is a terminal."""

    def __init__(self, *, used: bool) -> None:
        self.on_terminal = used and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._used = used
        self._drawn = False
        self._at_line_start = True
        self._writing = 0

    def show(self, line: str) -> None:
        """Draw the line, unless it would stand in the middle of a line of output."""
        if self.on_terminal and self._at_line_start and not self._writing:
            try:
                width = os.get_terminal_size(_STDERR).columns or 80
            except OSError:
                width = 80
            self._put(f"\r{line[: width - 1]}\x1b[K")
            self._drawn = True

    def erase(self) -> None:
        """Take the line away."""
        if self._drawn:
            self._drawn = False
            self._put("\r\x1b[K")

    @contextlib.contextmanager
    def output(self, descriptor: int, chunk: bytes) -> Generator[None]:
        """Make room for output of the job while it is written."""
        if not self.on_terminal or not os.isatty(descriptor):
            yield
            return
        self.erase()
        self._writing += 1
        try:
            yield
        finally:
            self._writing -= 1
            self._at_line_start = chunk.endswith(b"\n")

    def say(self, message: str, head: str = "supervisor: ") -> None:
        """Tell people something, on a line of its own."""
        if self._used:
            self.erase()
            begin = "" if self._at_line_start else "\n"
            self._at_line_start = True
            self._put(f"{begin}{head}{text.one_line(message)}\n")

    @staticmethod
    def _put(words: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # a terminal that has gone away is not told
            sys.stderr.write(words)
            sys.stderr.flush()
