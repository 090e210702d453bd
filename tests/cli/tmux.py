"""A terminal to look at: a tmux server of its own, whose screen tests capture, resize and type into."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest

__all__ = ["Screen", "screen"]

PATIENCE_SECONDS = 60


@attrs.frozen
class Screen:
    """The screen of a program in tmux.

    Attributes:
        socket: that of the tmux server.
        output: what the program writes, as it writes it: a FIFO, opened for reading.
    """

    socket: Path
    output: int

    def tmux(self, *words: str) -> str:
        done = subprocess.run(
            ["tmux", "-u", "-S", str(self.socket), *words], check=True, capture_output=True, timeout=PATIENCE_SECONDS
        )
        return done.stdout.decode()

    def type(self, *keys: str) -> None:
        self.tmux("send-keys", *keys)

    def resize(self, columns: int, lines: int) -> None:
        self.tmux("resize-window", "-x", str(columns), "-y", str(lines))

    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.tmux("capture-pane", "-p").splitlines()]

    def until(self, is_shown: Callable[[list[str]], object]) -> list[str]:
        """Return the lines once they are as wanted; they are looked at after each output of the program."""
        give_up = time.monotonic() + PATIENCE_SECONDS
        while not is_shown(lines := self.lines()):
            left = give_up - time.monotonic()
            if left <= 0 or not select.select([self.output], [], [], left)[0] or not os.read(self.output, 65536):
                pytest.fail("\n".join(["the screen shows:", *self.lines()]))
        return lines

    def until_shown(self, *texts: str) -> list[str]:
        return self.until(lambda lines: all(text in "\n".join(lines) for text in texts))


@contextmanager
def screen(directory: Path, command: str, *, columns: int = 80, lines: int = 24) -> Iterator[Screen]:
    """Run a shell command in a terminal of this size. The program must not begin before it is watched."""
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed")
    directory = Path(directory)
    fifo, socket = directory / "screen.fifo", directory / "tmux"
    os.mkfifo(fifo)
    output = os.open(fifo, os.O_RDWR)
    shown = Screen(socket, output)
    environment = {**os.environ, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
    environment.pop("TMUX", None)
    # The shell waits for a line that is typed once its output is copied; it stays when the command has ended, also by
    # a Ctrl-C, which reaches both.
    script = f"trap : INT; stty -echo; read -r go; stty echo; {command}\nprintf 'ended with %s\\n' $?; exec cat"
    size = ["-x", str(columns), "-y", str(lines)]
    head = ["tmux", "-u", "-S", str(socket), "-f", "/dev/null"]
    try:
        subprocess.run([*head, "new-session", "-d", *size, "sh", "-c", script], check=True, env=environment, timeout=60)
        server = int(shown.tmux("display-message", "-p", "#{pid}"))
        try:
            shown.tmux("set-option", "-g", "status", "off")
            shown.resize(columns, lines)
            shown.tmux("pipe-pane", "-O", f"exec cat > '{fifo}'")
            shown.type("go", "Enter")
            yield shown
        finally:
            process = os.pidfd_open(server)
            shown.tmux("kill-server")
            assert select.select([process], [], [], PATIENCE_SECONDS)[0]
            os.close(process)
    finally:
        os.close(output)
