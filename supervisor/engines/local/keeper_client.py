"""The supervisor's end of the connection to its keeper: starting it, frames out, frames in."""

from __future__ import annotations

import array
import contextlib
import errno
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from typing import Final

import trio

from supervisor.engines.interpreter import find_python, keeper_program
from supervisor.errors import LaunchFailed
from supervisor.keeper import protocol
from supervisor.keeper.job_cgroups import CGROUPS_VARIABLE
from supervisor.system import processes
from supervisor.system.fork_safety import tell_in_child

__all__ = ["KeeperClient"]

_MAX_DESCRIPTORS: Final = 200
# A Python that needs the first three to start needs them in the keeper too; no other variable reaches the keeper.
_KEPT_VARIABLES: Final = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH", CGROUPS_VARIABLE)
_START_SECONDS: Final = 30
_REPAIR: Final = (
    "Name a Python 3.11 or newer that can be run here by SUPERVISOR_PYTHON; `supervisor doctor` shows which is used."
)
_MEMORY: Final = "MemoryError"


class KeeperClient:
    """One connection to one keeper, from its start to its end.

    Args:
        receive: called with every message of the keeper, in order, but for its greeting.
        lost: called once, when the keeper is gone.
        python: the interpreter that runs the keeper; by default the one that ``find_python`` finds.
    """

    def __init__(
        self,
        receive: Callable[[protocol.Message], None],
        lost: Callable[[KeeperClient], None],
        python: str | os.PathLike[str] | None = None,
    ) -> None:
        self._python = python
        self._receive = receive
        self._lost = lost
        self._socket: socket.socket | None = None
        self._outbox: list[tuple[protocol.Message, tuple[int, ...]]] = []
        self._unsent = b""
        self._passing: list[int] = []
        self._wake = trio.Event()
        self._greeted = trio.Event()
        self._protocol: int | None = None
        self.knows_limits = False
        """Whether it limits jobs, and answers questions about that."""
        self.alive = False
        self.pid = 0
        self.said = ""
        """What a keeper that sent no greeting has written to its stderr."""

    async def start(self, root: str, nursery: trio.Nursery) -> None:
        """Start a keeper on the state root and wait for its greeting.

        It may end at any time, even before this returns: see ``alive``.

        Raises:
            LaunchFailed: it cannot be started, or it does not answer.
        """
        argv = _command(root, self._python)
        own_end, its_end = socket.socketpair()
        reading, writing = os.pipe()  # not a file, which a keeper that hangs may hold for long
        try:
            os.set_blocking(reading, False)
            try:
                own_end.setblocking(False)
                process = await trio.lowlevel.open_process(
                    argv,
                    stdin=its_end.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=writing,
                    env={name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ},
                    cwd="/",
                )
            except OSError as error:
                own_end.close()
                message = f"the keeper could not be started: {argv[0]}: {error.strerror or error}"
                passing = error.errno in {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE}
                repair = None if passing else _REPAIR
                raise LaunchFailed(message, retryable=passing, repair=repair) from error
            except BaseException:
                own_end.close()
                raise
            finally:
                its_end.close()
                os.close(writing)
            self._socket = own_end
            self.alive = True
            tell_in_child(self)
            nursery.start_soon(self._read)
            nursery.start_soon(self._write)
            with trio.move_on_after(_START_SECONDS) as patience:
                await process.wait()  # that process leaves at once; its child is the keeper
                await self._greeted.wait()
            if self._protocol == protocol.PROTOCOL:
                return
            self.said = _last_line(reading)
        finally:
            os.close(reading)
        was_killed = process.returncode in {0, -signal.SIGKILL}  # itself, or the process that starts it
        if not self.alive and not patience.cancelled_caught and not self.said and was_killed:
            return
        self.close()
        if self._protocol is not None:
            message = "the keeper is of another version: the package was replaced under a running process"
            raise LaunchFailed(message, repair="Restart the process that embeds the supervisor.")
        if patience.cancelled_caught:
            message = f"the keeper did not come up within {_START_SECONDS} s{self.said and ': '}{self.said}"
            raise LaunchFailed(message, retryable=True, repair="Try again; see what keeps new processes from starting.")
        said = self.said or f"it ended with {process.returncode} and said nothing"
        message = f"the keeper did not come up: {argv[0]}: {said}"
        raise LaunchFailed(message, repair=_REPAIR, retryable=_MEMORY in said)

    def send(self, message: protocol.Message, descriptors: tuple[int, ...] = ()) -> None:
        """Send a message at once, or as soon as the keeper takes it; takes the descriptors over."""
        self._outbox.append((message, descriptors))
        if len(self._outbox) == 1 and self._socket is not None and not self._unsent:
            # The keeper is at work by the time that the next message comes, which then goes with others.
            with contextlib.suppress(OSError):  # the reader gets the same error
                self._send_frame(self._socket)
        if self._outbox or self._unsent:
            self._wake.set()

    def close(self) -> None:
        """Close the connection: the keeper goes on with its jobs, and leaves after the last."""
        if self._socket is not None:
            with contextlib.suppress(Exception):
                trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
            self._socket = None
        for descriptor in (*self._passing, *(each for _, descriptors in self._outbox for each in descriptors)):
            os.close(descriptor)
        self._passing = []
        self._outbox.clear()
        if self.alive:
            self.alive = False
            self._greeted.set()
            self._lost(self)

    def in_child(self) -> None:
        """Close the copy in a forked child, or the keeper would take the child for the supervisor."""
        if self._socket is not None:
            os.close(self._socket.detach())
            self._socket = None
        self.alive = False

    async def _write(self) -> None:
        with contextlib.suppress(trio.ClosedResourceError, OSError):
            while self._socket is not None:
                await self._wake.wait()
                self._wake = trio.Event()
                while (self._outbox or self._unsent) and (connection := self._socket) is not None:
                    await trio.lowlevel.wait_writable(connection)
                    if self._socket is connection:  # the reader may have closed it meanwhile
                        self._send_frame(connection)
        self.close()

    def _send_frame(self, connection: socket.socket) -> None:
        """Send the rest of the last frame, or a new one of the waiting messages, as far as the socket takes it."""
        if not self._unsent:
            batch: list[protocol.Message] = []
            while self._outbox and len(self._passing) + len(self._outbox[0][1]) <= _MAX_DESCRIPTORS:
                message, descriptors = self._outbox.pop(0)
                batch.append(message)
                self._passing += descriptors
            self._unsent = protocol.encode(batch)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", self._passing))] if self._passing else []
        try:
            self._unsent = self._unsent[connection.sendmsg([self._unsent], rights) :]
        except BlockingIOError:
            return
        for descriptor in self._passing:  # sent with the first byte
            os.close(descriptor)
        self._passing = []

    async def _read(self) -> None:
        frames = protocol.Frames()
        with contextlib.suppress(trio.ClosedResourceError, OSError):
            while (connection := self._socket) is not None:
                await trio.lowlevel.wait_readable(connection)
                try:
                    # The C library maps and unmaps memory for a larger buffer, which takes longer than most messages.
                    data = connection.recv(1 << 16)  # fails if it was closed meanwhile, as the writer may do
                except BlockingIOError:
                    continue
                if not data:
                    break
                frames.add(data)
                for message in frames.take():
                    if isinstance(message, protocol.Hello):
                        self._protocol, self.pid = message.protocol, message.pid
                        self.knows_limits = message.limits
                        self._greeted.set()
                    else:
                        self._receive(message)
        self.close()


def _command(root: str, python: str | os.PathLike[str] | None) -> list[str]:
    """Return the command line of a keeper.

    Raises:
        LaunchFailed: there is no Python, no program, or nothing that tells one process from another.
    """
    try:
        known = bool(processes.boot_id()) and bool(processes.own_identity()[1])
    except OSError:
        known = False
    if not known:
        message = "processes cannot be identified: /proc/sys/kernel/random/boot_id or /proc/self/stat cannot be read"
        repair = "Mount /proc whole: a unit has ProcSubset=all for that, and a container no mask on /proc/sys."
        raise LaunchFailed(message, repair=repair)
    try:
        return [find_python(python), "-I", "-S", keeper_program(root), root]
    except OSError as error:
        message = f"the keeper's program cannot be put below the state root: {error.strerror or error}"
        raise LaunchFailed(message) from error


def _last_line(descriptor: int) -> str:
    """Return the last line in a pipe: of a traceback, the exception."""
    try:
        said = os.read(descriptor, 1 << 16)
    except OSError:
        return ""
    lines = said.decode("utf-8", "replace").split("\n")
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")
