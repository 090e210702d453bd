"""A terminal of a test, and a command on it: keys in, screen out."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from typing import Any

PATIENCE = 60.0


class Terminal:
    """The command line of the supervisor on a terminal of its own, in a session of its own."""

    def __init__(self, *words: str, rows: int = 24, columns: int = 80, **environment: str) -> None:
        self.master, self._slave = pty.openpty()
        self.resize(rows, columns, tell=False)
        self.settings = termios.tcgetattr(self._slave)
        self.shown = b""
        self._seen = 0
        code = (
            "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, sys.executable, "-m", "supervisor", *words],
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            env=os.environ | {"TERM": "xterm"} | environment,
            start_new_session=True,
        )

    def resize(self, rows: int, columns: int, *, tell: bool = True) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        if tell:
            self.process.send_signal(signal.SIGWINCH)

    def type(self, keys: str | bytes) -> None:
        os.write(self.master, keys.encode() if isinstance(keys, str) else keys)

    def _read(self, seconds: float) -> bool:
        if not select.select([self.master], [], [], max(0.0, seconds))[0]:
            return False
        self.shown += os.read(self.master, 65536)
        return True

    def until(self, text: str) -> bytes:
        """Wait until a text is shown after the last one, and return all up to it."""
        give_up = time.monotonic() + PATIENCE
        while (at := self.shown.find(text.encode(), self._seen)) < 0:
            assert self._read(give_up - time.monotonic()), f"{text!r} was not shown, but {self.shown[self._seen :]!r}"
        before, self._seen = self.shown[self._seen : at], at + len(text)
        return before

    def status(self) -> int:
        """Wait for the end of the command, and return its exit status."""
        give_up = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            assert time.monotonic() < give_up, self.shown
            self._read(0.02)
        while self._read(0):
            pass
        return self.process.returncode

    @property
    def is_restored(self) -> bool:
        return termios.tcgetattr(self._slave) == self.settings

    def kill(self) -> None:
        """End the command and its terminal, as a connection that dies does."""
        self.process.kill()
        self.process.wait(PATIENCE)
        self.close()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(PATIENCE)
        for name in ("master", "_slave"):
            descriptor = getattr(self, name)
            setattr(self, name, -1)
            if descriptor >= 0:
                os.close(descriptor)


@contextlib.contextmanager
def terminal(*words: str, **options: Any) -> Iterator[Terminal]:
    made = Terminal(*words, **options)
    try:
        yield made
    finally:
        made.close()
