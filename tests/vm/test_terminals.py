"""A program in a terminal, started over SSH: it outlives the death of the connection, and is attached to again."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path

import attrs
import pytest

from tests.vm.conftest import User

pytestmark = pytest.mark.vm

# Stands in for an agent: it reads keys in raw mode, and paints the whole conversation when the window changes.
AGENT = """
import os, signal, tty
tty.setraw(0)
turns = []
def paint(*_):
    os.write(1, b"\\x1b[2J\\x1b[H" + b"".join(b"turn %d: %s\\r\\n" % turn for turn in enumerate(turns, 1)) + b"ask: ")
signal.signal(signal.SIGWINCH, paint)
paint()
line = b""
while key := os.read(0, 1):
    if key != b"\\r":
        line += key
    elif line == b"bye":
        raise SystemExit(7)
    else:
        turns.append(line)
        line = b""
        paint()
"""


@attrs.frozen
class Terminal:
    """The terminal of a user at the end of a connection."""

    connection: subprocess.Popen[bytes]
    _unread: bytearray = attrs.field(factory=bytearray)

    def read_until(self, text: bytes) -> bytes:
        """Wait until it shows a text, and return what it has shown since the last one."""
        assert self.connection.stdout is not None
        while text not in self._unread:
            data = os.read(self.connection.stdout.fileno(), 4096)
            assert data, bytes(self._unread)
            self._unread.extend(data)
        end = self._unread.index(text) + len(text)
        shown = bytes(self._unread[:end])
        del self._unread[:end]
        return shown

    def type(self, keys: bytes) -> None:
        assert self.connection.stdin is not None
        self.connection.stdin.write(keys)
        self.connection.stdin.flush()


@contextlib.contextmanager
def _connected(user: User, key: Path, *argv: str) -> Generator[tuple[Terminal, int]]:
    """Run a command in a terminal over SSH; yield it, and the pid of the server's process for this connection."""
    script = f'stty rows 24 cols 80; echo "pid $PPID"; exec {shlex.join(["env", *user.settings, *argv])}'
    line = ["ssh", "-q", "-tt", "-i", str(key), "-o", "IdentitiesOnly=yes", f"{user.name}@localhost", script]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as connection:
        terminal = Terminal(connection)
        try:
            terminal.read_until(b"pid ")
            yield terminal, int(terminal.read_until(b"\n"))
        finally:
            connection.kill()


@pytest.fixture
def key(user: User, tmp_path: Path) -> Iterator[Path]:
    """A key that the server takes for the user."""
    made = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", made], check=True)
    accepted = Path(f"/home/{user.name}/.ssh/authorized_keys")
    before = accepted.read_text(encoding="ascii")
    accepted.write_text(before + made.with_suffix(".pub").read_text(encoding="ascii"), encoding="ascii")
    yield made
    accepted.write_text(before, encoding="ascii")


def test_an_agent_outlives_the_death_of_its_connection_and_goes_on_in_the_next(user: User, key: Path) -> None:
    with _connected(user, key, "supervisor", "run", "-t", "--", "python", "-c", AGENT) as (terminal, server):
        terminal.read_until(b"ask: ")
        terminal.type(b"one\r")
        terminal.read_until(b"turn 1: one\r\nask: ")
        os.kill(server, signal.SIGKILL)
        assert terminal.connection.wait() == 255
    (job,) = user.answer("list", "--all")["jobs"]
    assert job["status"] == "running"
    with _connected(user, key, "supervisor", "attach", job["job_id"]) as (terminal, _):
        terminal.read_until(b"turn 1: one\r\nask: ")  # what was written
        terminal.read_until(b"turn 1: one\r\nask: ")  # what it paints now
        terminal.type(b"two\r")
        terminal.read_until(b"turn 1: one\r\nturn 2: two\r\nask: ")
        terminal.type(b"bye\r")
        assert terminal.connection.wait() == 7
    assert user.answer("status", job["job_id"])["exit_code"] == 7
