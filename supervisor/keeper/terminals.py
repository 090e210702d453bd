"""The terminals of jobs: the keeper holds one end, records what the job writes, and types what clients send."""

from __future__ import annotations

import os
import select
import sys

from supervisor.keeper.channels import AGAIN_NS, HAS_IOCTL, LINUX, PIECE, Channel, Channels, Client, Pipe, ioctl
from supervisor.system import processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from supervisor.keeper import protocol

__all__ = ["Inputs", "Terminal"]

_MAX_DRAINED: Final = 1 << 21  # a terminal of Linux holds less
_TCGETS, _TCSETS, _ICANON, _IUTF8 = 0x5401, 0x5402, 0x2, 0x4000
_TIOCSWINSZ: Final = 0x5414 if LINUX else 0x80087467
_MAX_LINE: Final = 4095
_END_OF_FILE: Final = b"\x04"


class Terminal(Channel):
    """A terminal, and the file into which it is recorded.

    Args:
        channels: those of the keeper.
        asked: the launch.
        output: a descriptor of the file, which is taken over.
    """

    def __init__(self, channels: Channels, asked: protocol.Launch, output: int) -> None:
        super().__init__(channels, asked)
        self._output = output
        # The keeper holds the other end too: else the job could close it for good while it runs.
        self._master, self._slave = os.openpty()
        self.path = os.fsencode(os.ttyname(self._slave))
        os.set_blocking(self._master, False)
        self._windows: list[Client] = []
        self._unheard: list[Client] = []  # what they type finds no room
        self._untyped = b""
        self._unwritten = b""
        self._drained = 0
        self._busy = False
        self.is_drained = False
        self._prepare(asked.pty or (24, 80))
        self._watch()

    def _prepare(self, window: tuple[int, int]) -> None:
        if not HAS_IOCTL:
            return
        self._resize(b"".join(number.to_bytes(2, "little") for number in window))
        if LINUX:  # erasing a character erases all of its bytes
            settings = bytearray(ioctl(self._slave, _TCGETS, bytes(64)))
            flags = int.from_bytes(settings[:4], sys.byteorder) | _IUTF8
            settings[:4] = flags.to_bytes(4, sys.byteorder)
            ioctl(self._slave, _TCSETS, bytes(settings))

    def _watch(self) -> None:
        events = 0 if self._busy or self._unwritten or self.is_ending else select.POLLIN
        events |= select.POLLOUT if self._untyped else 0
        if events:
            self._all.watch(self._master, events, self._handle)
        else:
            self._all.unwatch(self._master)

    def _handle(self) -> None:
        if self._untyped:
            self._type()
        if not (self._busy or self._unwritten or self.is_ending) and self._take():
            self._record()
        self._watch()

    # ------------------------------------------------------------ its output

    def _take(self) -> bool:
        """Read what the job has written; return whether that is anything."""
        parts: list[bytes] = []
        size = 0
        while size < PIECE:
            try:
                data = os.read(self._master, PIECE)
            except OSError:  # nothing more is there now
                break
            if not data:
                break
            parts.append(data)
            size += len(data)
        self._unwritten = b"".join(parts)
        return bool(parts)

    def _record(self) -> None:
        """Write it to the file: in a step of its own, as the disk may be slow."""
        if not self._all.may_block():
            self.retry_ns = processes.boottime_ns() + AGAIN_NS
            return
        self._busy = True
        self._all.writing.add(self)
        self._watch()
        self._all.guard(self._write)
        self.recorded()

    def _write(self) -> None:
        try:
            while self._unwritten:
                self._unwritten = self._unwritten[os.write(self._output, self._unwritten) :]
        except OSError:  # a full disk: it is tried again
            self.retry_ns = processes.boottime_ns() + AGAIN_NS
        finally:
            self._busy = False

    def recorded(self) -> None:
        """Go on after a write, which may have taken long."""
        if self._busy:
            return
        self._all.writing.discard(self)
        if self.is_ending and self._unwritten:  # no process waits for the disk, as the job has ended
            self._unwritten, self.lost = b"", True
        self._watch()

    def retry(self) -> None:
        """Write again."""
        super().retry()
        if self._unwritten and not self._busy:
            self._record()

    def drain(self) -> None:
        """Record what is left in the terminal."""
        self.is_ending = True
        while not self._busy and not self.is_drained:
            if not self._unwritten and (self._drained > _MAX_DRAINED or not self._take()):
                self.is_drained = True
                return
            self._drained += len(self._unwritten)
            self._record()
            if self.retry_ns is not None and self._unwritten:
                return

    # ------------------------------------------------------------ its input

    def send(self, data: bytes, *, eof: bool) -> bytes:
        """Type a message, unless an earlier one has found no room yet."""
        if self.is_ending:
            return b"closed"
        if self._untyped:
            return b"full"
        longest = max(map(len, data.replace(b"\r", b"\n").split(b"\n")))
        if longest > _MAX_LINE and self._reads_lines():  # the kernel would drop the rest of the line
            return b"line"
        if eof:
            data += _END_OF_FILE if not data or data.endswith((b"\r", b"\n")) else 2 * _END_OF_FILE
        self._untyped = data
        self._type()
        if data and self._untyped == data:
            self._untyped = b""
            self._watch()
            return b"full"
        self._watch()
        return b""

    def _reads_lines(self) -> bool:
        if not (LINUX and HAS_IOCTL):
            return True
        local = ioctl(self._master, _TCGETS, bytes(64))[12:16]
        return bool(int.from_bytes(local, sys.byteorder) & _ICANON)

    def typed(self, client: Client, kind: bytes, payload: bytes) -> bool:
        """Type, or take the size of a window."""
        if kind == b"w":
            if len(payload) != 4:
                return False
            client.window = payload
            self._windows = [*(each for each in self._windows if each is not client), client]
            self._resize(payload)
            return True
        if self.is_ending:
            return True
        self._untyped += payload
        self._type()
        if self._untyped:
            self._all.unwatch(client.connection.fileno())
            self._unheard.append(client)
        self._watch()
        return True

    def _type(self) -> None:
        try:
            self._untyped = self._untyped[os.write(self._master, self._untyped) :]
        except OSError:  # it has no room now
            return
        unheard, self._unheard = ([], self._unheard) if self._untyped else (self._unheard, [])
        for client in unheard:
            if client.connection.fileno() >= 0:  # it has not left meanwhile
                self.hear(client)

    def _resize(self, window: bytes) -> None:
        rows, columns = (int.from_bytes(window[at : at + 2], "little") for at in (0, 2))
        if HAS_IOCTL and rows and columns:
            size = b"".join(number.to_bytes(2, sys.byteorder) for number in (rows, columns, 0, 0))
            ioctl(self._master, _TIOCSWINSZ, size)

    def left(self, client: Client) -> None:
        """Give the window the size of the client that has sent one before."""
        if client in self._windows:
            self._windows.remove(client)
            if self._windows and self._windows[-1].window is not None:
                self._resize(self._windows[-1].window)

    def close(self) -> None:
        """Close everything; processes that the command has left behind lose their terminal."""
        self._windows = []
        self._all.writing.discard(self)
        self._all.unwatch(self._master)
        for descriptor in (self._master, self._slave, self._output):
            os.close(descriptor)
        super().close()


class Inputs(Channels):
    """The channels of a keeper."""

    def open(self, asked: protocol.Launch, first: int | None, output: int) -> Pipe | Terminal:
        """Return the channel of a job that is about to be launched.

        ``first`` and ``output`` are descriptors of what it reads first, and of its stdout; both stay with the caller.

        Raises:
            OSError: it cannot be made.
        """
        made: Pipe | Terminal
        if asked.pty is not None:
            made = Terminal(self, asked, os.dup(output))
        else:
            made = Pipe(self, asked, None if first is None else os.dup(first))
        self.add(made)
        return made
