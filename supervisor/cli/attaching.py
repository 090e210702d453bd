"""The terminal of this command, attached to the terminal of a job: for ``attach`` and ``run -t``.

What is typed goes to the keeper of the job, over the socket in the job directory. What the job writes is read from the
file into which its keeper records it, so that a slow terminal delays no other process. The kernel reports each write.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import termios
import time
import tty
from collections.abc import Generator
from typing import Final

import attrs

from supervisor.cli import exits, inherited
from supervisor.cli.front import Invocation
from supervisor.cli.screen_modes import Modes
from supervisor.cli.streams import write_all
from supervisor.engines.waiting import Change
from supervisor.errors import InputRefused, InvalidArguments
from supervisor.jobdir.output import Output
from supervisor.jobs.catalog import Catalog
from supervisor.jobs.inputs import connection_to
from supervisor.model import Job, JobSpec
from supervisor.system.inotify import MODIFIED, Inotify

__all__ = ["attach_to_end", "check_terminal", "run_on_terminal"]

ENDED: Final = 0
"""What ``Attached.run`` returns when the other end of the terminal is closed."""
DETACHED: Final = -1

_REPLAYED: Final = 32 << 10
_SCANNED: Final = 1 << 20
_PIECE: Final = 1 << 16
_MAX_UNSENT: Final = 1 << 18
_REPAINT_SECONDS: Final = 0.05
_BLIND_SECONDS: Final = 0.05
_KEEPER_DIED_SECONDS: Final = 2.0
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def check_terminal(call: Invocation) -> None:
    """Raise ``InvalidArguments`` unless stdin and stdout are a terminal, which ``--json`` leaves to no document."""
    if call.as_json:
        message = "a terminal and --json exclude each other"
        raise InvalidArguments(message, repair="Leave out --json.")
    if inherited.is_closed(0) or not (os.isatty(0) and os.isatty(1)):
        message = "stdin and stdout are not a terminal"
        raise InvalidArguments(message, repair="Use `supervisor send` and `supervisor logs --follow` without one.")


def _window() -> tuple[int, int] | None:
    """Return the rows and columns of the terminal on stdout, if it has any."""
    try:
        size = os.get_terminal_size(1)
    except OSError:
        return None
    return (size.lines, size.columns) if size.lines and size.columns else None


def run_on_terminal(call: Invocation, spec: JobSpec, key: int | None) -> int:
    """Start a job with a terminal, attach to it, and return the exit status of ``run``."""
    spec = attrs.evolve(spec, pty=True, window=_window())
    return attach_to_end(call, call.ask(lambda sup: sup.start(spec)).job_id, key, fresh=True)


def attach_to_end(call: Invocation, job_id: str, key: int | None, *, fresh: bool) -> int:
    """Attach to the terminal of a job, and return the exit status: that of the job once it has ended.

    ``fresh``: it was started with the window of this terminal, for this command, which ends badly where it did.

    Raises:
        SupervisorError: as ``connection_to`` raises it.
    """
    with call.catalog() as catalog:
        while True:
            job = _started(call, catalog, job_id)
            if job.status.terminal and not fresh:
                connection_to(catalog, job_id, terminal=True)  # which says that it has ended
            how = ENDED
            if job.started_at is not None:
                connection = None if job.status.terminal else _connected(catalog, job_id, fresh=fresh)
                how = Attached(catalog.directory(catalog.row(job_id)), connection, key).run(fresh=fresh)
            if how != ENDED:
                _write(b"\r\n")  # the cursor may be anywhere
                call.note(f"supervisor: detached; job {job_id} runs on; `supervisor attach {job_id[:8]}`")
                return exits.OK if how == DETACHED else 128 + how
            job = catalog.status(job_id, progress=False)
            if not job.status.terminal:  # its end is about to be recorded
                (job,) = catalog.wait([job_id], timeout=_KEEPER_DIED_SECONDS)
            following = job.retried_by or job.job_id
            if following != job_id:  # the next attempt, which has a terminal of its own
                job_id = following
                continue
            if not job.status.terminal:
                call.note(f"supervisor: the keeper of job {job_id} was killed, and its terminal is closed; it runs on")
                return exits.BROKEN
            return _report(call, catalog, job)


def _connected(catalog: Catalog, job_id: str, *, fresh: bool) -> socket.socket | None:
    try:
        return connection_to(catalog, job_id, terminal=True)
    except (InputRefused, InvalidArguments):
        if fresh and catalog.wait([job_id], timeout=_KEEPER_DIED_SECONDS)[0].status.terminal:
            return None  # it was quicker: its keeper closes the terminal a moment before it records the end
        raise


def _report(call: Invocation, catalog: Catalog, job: Job) -> int:
    result = catalog.result(job.job_id)
    if result.error is not None and not exits.is_expressed(job, result.error.code):
        call.note(f"supervisor: job {job.job_id}: {result.error.message}")
        call.note(f"  {result.error.repair}")
    return exits.of_command(job, launch_status=exits.of_launch(result))


def _started(call: Invocation, catalog: Catalog, job_id: str) -> Job:
    """Wait until a job runs, or has ended; Ctrl-C leaves it waiting."""
    job = catalog.status(job_id, progress=False)
    if job.started_at is None and not job.status.terminal:
        call.note(f"supervisor: job {job_id} waits: {job.queue_reason or 'for its launch'}")
        catalog.wait([job_id], timeout=0)  # which sees to it that a process launches it
        with Change([catalog.directory(catalog.row(job_id))]) as change:
            while (job := catalog.status(job_id, progress=False)).started_at is None and not job.status.terminal:
                change.wait(None)
    return job


@attrs.define
class Attached:
    """One terminal attached to that of a job.

    Attributes:
        directory: of the job.
        connection: to its keeper; ``None`` if that has ended.
        key: detaches.
    """

    directory: str
    connection: socket.socket | None
    key: int | None
    _modes: Modes = attrs.field(factory=Modes)
    _unsent: bytes = b""
    _number: int | None = None
    _repaint_at: float | None = None

    def run(self, *, fresh: bool) -> int:
        """Copy in both directions; return ``DETACHED``, ``ENDED``, or the number of a signal that came."""
        output = Output(self.directory, "stdout")
        notify = Inotify.open()
        try:
            if notify is not None:
                notify.watch(self.directory, MODIFIED)
            with _signals() as wake, _raw():
                try:
                    self._begin(output, fresh=fresh)
                    return self._copy(output, notify, wake)
                finally:
                    _write(self._modes.undo())
        finally:
            output.close()
            if notify is not None:
                notify.close()
            if self.connection is not None:
                self.connection.close()

    def _begin(self, output: Output, *, fresh: bool) -> None:
        """Show what was last written, and have the job paint its screen anew."""
        if self.connection is not None:
            self.connection.setblocking(False)
        begin = 0 if fresh else max(0, output.size() - _REPLAYED)
        if begin:
            output.seek(max(0, begin - _SCANNED))
            while output.offset < begin and (data := output.read(begin - output.offset)):
                self._modes.see(data)
            _write(self._modes.redo())
            line = output.read(4096).find(b"\n")  # not from the middle of a line or a sequence
            output.seek(begin + line + 1)
        self._resize()
        size_now = _window()
        if not fresh and size_now is not None:  # a window that changes is what makes programs paint
            rows, columns = size_now
            self._send(b"w", (rows - 1 or 2).to_bytes(2, "little") + columns.to_bytes(2, "little"))
            self._repaint_at = time.monotonic() + _REPAINT_SECONDS

    def _resize(self) -> None:
        size = _window()
        if size is not None:
            self._send(b"w", b"".join(number.to_bytes(2, "little") for number in size))

    def _send(self, kind: bytes, payload: bytes) -> None:
        if len(self._unsent) < _MAX_UNSENT:  # the job does not read; more is not taken
            self._unsent += kind + len(payload).to_bytes(4, "little") + payload

    # ------------------------------------------------------------ both directions

    def _copy(self, output: Output, notify: Inotify | None, wake: int) -> int:
        poll = select.poll()
        poll.register(0, select.POLLIN)
        poll.register(wake, select.POLLIN)
        if notify is not None:
            poll.register(notify.descriptor, select.POLLIN)
        while True:
            more = self._show(output)
            if self.connection is None:
                self._show_all(output)
                return ENDED
            poll.register(self.connection, select.POLLIN | (select.POLLOUT if self._unsent else 0))
            ready = {descriptor for descriptor, _ in poll.poll(0 if more else self._timeout_ms(blind=notify is None))}
            if notify is not None and notify.descriptor in ready:
                notify.read()
            if wake in ready and (number := self._heed(wake)) is not None:
                return number
            if 0 in ready and (left := self._type()) is not None:
                return left
            if self._repaint_at is not None and self._repaint_at <= time.monotonic():
                self._repaint_at = None
                self._resize()
            if not self._exchange():
                self._show_all(output)
                return ENDED

    def _timeout_ms(self, *, blind: bool) -> int | None:
        left = [] if self._repaint_at is None else [self._repaint_at - time.monotonic()]
        left += [_BLIND_SECONDS] if blind else []
        return max(0, int(min(left) * 1000) + 1) if left else None

    def _show(self, output: Output) -> bool:
        """Write a part of what is new; return whether there may be more."""
        data = output.read()
        if data:
            self._modes.see(data)
            _write(data)
        return bool(data)

    def _show_all(self, output: Output) -> None:
        while self._show(output):
            pass

    def _heed(self, wake: int) -> int | None:
        """Handle signals; return the number of one that ends this command."""
        numbers = set(os.read(wake, 4096))
        if signal.SIGCONT in numbers:
            tty.setraw(0, termios.TCSANOW)
        if numbers & {signal.SIGWINCH, signal.SIGCONT}:
            self._resize()
        return next((number for number in _SIGNALS if number in numbers), None)

    def _type(self) -> int | None:
        """Pass on what was typed; return why this command ends, if it does."""
        try:
            data = os.read(0, _PIECE)
        except OSError:
            data = b""
        if not data:
            return int(signal.SIGHUP)
        end = self._detaches_at(data)
        if data[:end]:
            self._send(b"t", data[:end])
        if end is None:
            return None
        self._exchange()
        return DETACHED

    def _detaches_at(self, data: bytes) -> int | None:
        """Return where the key that detaches begins; if the job asked for that, terminals send it as a sequence."""
        if self.key is None:
            return None
        code = ord(chr(self.key ^ 0x40).lower())
        found = [data.find(each) for each in (bytes([self.key]), b"\x1b[%d;5u" % code, b"\x1b[27;5;%d~" % code)]
        return min((at for at in found if at >= 0), default=None)

    def _exchange(self) -> bool:
        """Send what is unsent; return ``False`` when the keeper has closed the connection."""
        assert self.connection is not None  # noqa: S101  # checked before
        try:
            if self._unsent:
                self._unsent = self._unsent[self.connection.send(self._unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            return False
        try:
            return bool(self.connection.recv(4096))
        except BlockingIOError:
            return True
        except OSError:
            return False


def _write(data: bytes) -> None:
    with contextlib.suppress(OSError):  # the terminal is gone, as a signal says too
        write_all(1, data)


@contextlib.contextmanager
def _raw() -> Generator[None]:
    """Have keys reach the job one by one, Ctrl-C too; the settings of the terminal are restored at the end."""
    sys.stdout.flush()
    before = termios.tcgetattr(0)
    try:
        tty.setraw(0, termios.TCSANOW)
        yield
    finally:
        with contextlib.suppress(termios.error):  # it is gone
            termios.tcsetattr(0, termios.TCSADRAIN, before)


def _wake(_number: int, _frame: object) -> None:
    """Do nothing: the number of the signal is in the pipe."""


@contextlib.contextmanager
def _signals() -> Generator[int]:
    """Yield a descriptor from which the numbers of signals are read."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    numbers = [*_SIGNALS, signal.SIGWINCH, signal.SIGCONT]
    ignored = [number for number in _SIGNALS if signal.getsignal(number) is signal.SIG_IGN]
    held = {number: signal.signal(number, _wake) for number in numbers if number not in ignored}
    former = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield reading
    finally:
        signal.set_wakeup_fd(former)
        for number, handler in held.items():
            signal.signal(number, handler)
        os.close(reading)
        os.close(writing)
