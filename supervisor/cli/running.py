"""The loop of ``run`` while its job runs: output, clock, signals, exit status.

Signals: the first SIGINT cancels the job, whose processes get SIGINT too, and waits for its end; the second stops
waiting. SIGTERM, SIGHUP and a closed stdout end this program, and the job runs on. A signal that is ignored when the
program starts (``nohup``) stays ignored.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Generator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import trio

from supervisor.cli import exits, streams, terminal, text
from supervisor.cli.front import Invocation, write_document
from supervisor.errors import FeatureUnavailable, OutputLost, SupervisorError
from supervisor.model import ErrorInfo, Job, JobSpec, to_json
from supervisor.states import State
from supervisor.system.signals import heard

if TYPE_CHECKING:
    from supervisor.runtime.supervisor import Supervisor

__all__ = ["run_to_end"]

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_STDOUT: Final = 1
_STDERR: Final = 2
_TICK_SECONDS: Final = 1


def run_to_end(call: Invocation, spec: JobSpec) -> int:
    """Run a job to its end and return the exit status of ``run``."""
    sys.stdout.flush()
    return trio.run(_main, call, spec)


async def _main(call: Invocation, spec: JobSpec) -> int:
    from supervisor.runtime.opening import open_supervisor

    with heard(*_SIGNALS) as signals:
        async with open_supervisor(call.settings) as sup:
            return await _Run(call, sup).go(spec, signals)


class _Run:
    """One job, from its start to its end, or until this program detaches from it."""

    def __init__(self, call: Invocation, sup: Supervisor) -> None:
        self._call = call
        self._sup = sup
        self._screen = _Screen(used=not call.as_json)
        self._job: Job | None = None
        self._progress: Mapping[str, Any] | None = None
        self._started = trio.Event()
        self._cancel_wanted = trio.Event()
        self._attached = trio.CancelScope()
        self._detached_status = exits.BROKEN
        self._stdout_failure: str | None = None
        self._lost: OutputLost | None = None

    async def go(self, spec: JobSpec, signals: AsyncIterator[int]) -> int:
        status: int | None = None
        failure: SupervisorError | BrokenPipeError | None = None
        with self._attached:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen, signals)
                nursery.start_soon(self._cancel)
                try:
                    status = await self._to_end(spec)
                except (SupervisorError, BrokenPipeError) as error:  # raised below, outside of an exception group
                    failure = error
                nursery.cancel_scope.cancel()
        self._screen.erase()
        if failure is not None:
            raise failure
        return self._report_detached() if status is None else status

    async def _to_end(self, spec: JobSpec) -> int:
        with contextlib.ExitStack() as protection:
            return await self._to_end_of(await self._sup.start(spec), protection)

    async def _to_end_of(self, job: Job, protection: contextlib.ExitStack) -> int:
        self._job = job
        self._sup.launcher.protect(job.job_id, protection)  # its TTL may be 0
        self._started.set()
        if not self._call.as_json:
            await self._show(job)
            while (attempt := await self._sup.status(job.job_id)).retried_by is not None:
                self._note_retry(attempt)
                self._sup.launcher.protect(attempt.retried_by, protection)
                self._job = job = await self._sup.status(attempt.retried_by)
                self._lost = None
                await self._show(job)
        if self._lost is not None:
            raise self._lost
        job = await self._sup.wait(job.job_id)
        if job.status is State.DONE and not self._call.as_json and job.worktree is None:
            return exits.of_command(job)
        result = await self._sup.result(job.job_id)
        self._screen.erase()
        if self._call.as_json:
            try:
                write_document(to_json(result))
            except (BrokenPipeError, streams.StdoutFailed):
                streams.write_stderr(f"supervisor: the result of job {job.job_id} was not written; it is kept")
                raise
        else:
            self._comment(job, result.error)
            if (line := text.changed(result)) is not None:
                self._screen.note(line)
        return exits.of_command(job, launch_status=exits.of_launch(result))

    async def _show(self, job: Job) -> None:
        """Show the output of one attempt until its end."""
        async with trio.open_nursery() as nursery:
            if self._screen.on_terminal:
                nursery.start_soon(self._tick, job)
                nursery.start_soon(self._watch_progress, job.job_id)
            async with trio.open_nursery() as both:
                both.start_soon(self._stream, job.job_id, "stdout", _STDOUT)
                both.start_soon(self._stream, job.job_id, "stderr", _STDERR)
            nursery.cancel_scope.cancel()

    def _note_retry(self, ended: Job) -> None:
        if ended.next_attempt_at is None:
            when = "after the pause of its group"
        else:
            when = f"in {_whole(max(0.0, (ended.next_attempt_at - datetime.now(UTC)).total_seconds()))}"
        of = f"attempt {ended.attempt} of {ended.maximum_attempts}"
        self._screen.note(f"{of}: {text.outcome(ended)}; the next one begins {when}")

    def _comment(self, job: Job, error: ErrorInfo | None) -> None:
        """Write an error that the exit status alone does not express."""
        if error is None or exits.is_expressed(job, error.code):
            return
        self._screen.note(f"job {job.job_id}: {error.message}")
        if job.status is State.FAILED:
            if job.detail and job.detail not in error.message:
                self._screen.note(f"  {job.detail}", head="")
            self._screen.note(f"  {error.repair}", head="")

    # ------------------------------------------------------------ concurrent tasks

    async def _stream(self, job_id: str, name: str, descriptor: int) -> None:
        try:
            await self._copy(job_id, name, descriptor)
        except OutputLost as error:  # raised later, outside of an exception group
            self._lost = error

    async def _copy(self, job_id: str, name: str, descriptor: int) -> None:
        """Copy a stream of the job to a descriptor, in a thread, because its reader may be slow."""
        restarts = 0
        async with self._sup.follow(job_id, stream=name) as chunks:
            async for chunk in chunks:
                if chunks.restarts > restarts:
                    restarts = chunks.restarts
                    self._screen.note(f"the command has truncated its {name}; reading from its start")
                with self._screen.output(descriptor, chunk):
                    try:
                        await trio.to_thread.run_sync(streams.write_all, descriptor, chunk, abandon_on_cancel=True)
                    except OSError as error:
                        if descriptor == _STDOUT:
                            broken = isinstance(error, BrokenPipeError)
                            self._stdout_failure = None if broken else f"stdout cannot be written: {error.strerror}"
                            self._detach(exits.PIPE if broken else exits.BROKEN)
                        return  # if stderr is closed, the job still has all of its output

    async def _tick(self, job: Job) -> None:
        waited = job.status is State.QUEUED
        began = trio.current_time() - job.elapsed_ms / 1000
        while True:
            if waited:  # what it waits for may have changed, and once it runs, its clock begins
                with contextlib.suppress(SupervisorError):  # as below
                    job = await self._sup.status(job.job_id)
                waited = job.status is State.QUEUED
                began = trio.current_time() - job.elapsed_ms / 1000
                self._show_clock(job, began)
            await trio.sleep(_TICK_SECONDS)
            self._show_clock(job, began)

    def _show_clock(self, job: Job, began: float) -> None:
        elapsed = trio.current_time() - began
        self._screen.show(_clock(job, elapsed, self._progress, cancelling=self._cancel_wanted.is_set()))

    async def _watch_progress(self, job_id: str) -> None:
        with contextlib.suppress(SupervisorError):  # if the job was deleted, the other tasks report it
            async with self._sup.events(job_id) as events:
                self._progress = (await self._sup.status(job_id)).progress
                async for event in events:
                    self._progress = event.job.progress or self._progress

    async def _listen(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            if number != signal.SIGINT:
                self._detach(128 + number)
            elif self._cancel_wanted.is_set():
                self._detach(exits.CANCELLED)
            else:
                self._cancel_wanted.set()
                if not self._call.as_json:
                    self._screen.note("cancelling the job; press Ctrl-C again to return without waiting for its end")

    async def _cancel(self) -> None:
        await self._cancel_wanted.wait()
        await self._started.wait()
        assert self._job is not None  # noqa: S101  # _started is set after it
        try:
            try:
                await self._sup.cancel(self._job.job_id, signal=signal.SIGINT)
            except FeatureUnavailable:  # its engine sends its own signals
                await self._sup.cancel(self._job.job_id)
        except SupervisorError as error:
            self._screen.note(error.message)

    # ------------------------------------------------------------ detaching

    def _detach(self, status: int) -> None:
        self._detached_status = status
        self._attached.cancel()

    def _report_detached(self) -> int:
        if self._stdout_failure is not None:
            self._screen.note(self._stdout_failure)
        if self._job is None:
            self._screen.note("the job was not started")
        elif self._call.as_json:
            write_document(to_json(self._job))
        else:
            state = "is being cancelled" if self._cancel_wanted.is_set() else "runs on"
            self._screen.note(f"job {self._job.job_id} {state}; `supervisor logs --follow {self._job.job_id[:8]}`")
        return self._detached_status


def _clock(job: Job, elapsed: float, progress: Mapping[str, Any] | None, *, cancelling: bool) -> str:
    if cancelling:
        rest = "cancelling"
    elif job.deadline_seconds is None:
        rest = "no deadline"
    else:
        left = job.deadline_seconds - elapsed
        rest = f"deadline in {_whole(left)}" if left > 0 else "at its deadline"
    if not cancelling and (waits := text.waiting(job)) is not None:
        return f"[waiting: {waits}, {_whole(elapsed)}, job {job.job_id[:8]}]"
    words = [_whole(elapsed), text.progress(progress), rest, f"job {job.job_id[:8]}"]
    return f"[{', '.join(filter(None, words))}]"


def _whole(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 59.5 else text.duration(seconds)


class _Screen:
    """A status line at the bottom of the terminal, if stderr is one, and notes above it."""

    def __init__(self, *, used: bool) -> None:
        self.on_terminal = used and terminal.can_redraw(sys.stderr)
        self._used = used
        self._drawn = False
        self._at_line_start = True
        self._writing = 0

    def show(self, line: str) -> None:
        if self.on_terminal and self._at_line_start and not self._writing:
            terminal.write(f"\r{terminal.fitted(line)}\x1b[K")
            self._drawn = True

    def erase(self) -> None:
        if self._drawn:
            self._drawn = False
            terminal.write("\r\x1b[K")

    @contextlib.contextmanager
    def output(self, descriptor: int, chunk: bytes) -> Generator[None]:
        """Erase the line while output of the job is written to a terminal."""
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

    def note(self, message: str, head: str = "supervisor: ") -> None:
        if self._used:
            self.erase()
            begin = "" if self._at_line_start else "\n"
            self._at_line_start = True
            terminal.write(f"{begin}{head}{text.one_line(message)}\n")
