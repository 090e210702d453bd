"""The runner of git commands."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
from pathlib import Path
from typing import NoReturn

import pytest

from supervisor.system.git import Git, GitFailed, plain_environment

SLOW = ("-c", "alias.slow=!sleep 0.3; echo said", "slow")
FAILS = ("-c", "alias.fails=!sleep 0.3; exit 3", "fails")

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


@pytest.mark.parametrize("most", [0, 3])
def test_a_command_that_writes_to_a_file_is_not_cut(most: int) -> None:
    with tempfile.TemporaryFile(buffering=0) as output:
        assert Git().run(plain_environment(), *SLOW, output=output, most=most) == b""
        output.seek(0)
        assert output.read() == b"said\n"


def test_a_command_that_writes_to_a_file_and_fails_is_a_failure() -> None:
    with tempfile.TemporaryFile(buffering=0) as output, pytest.raises(GitFailed, match="fails failed: 3"):
        Git().run(plain_environment(), *FAILS, output=output, most=0)


def test_an_exception_from_a_signal_does_not_wait_for_git(tmp_path: Path) -> None:
    """A git that was between fork and exec when its process group got the signal has lost it, and runs on."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    pids: list[int] = []

    def interrupt() -> None:
        pids.append(int(pipe.read_text(encoding="ascii")))
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    def stop(_number: int, _frame: object) -> NoReturn:
        raise SystemExit

    before = signal.signal(signal.SIGUSR1, stop)
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(SystemExit):
            Git().run(plain_environment(), "-c", f"alias.waits=!echo $$ > {pipe}; exec sleep 600", "waits")
    finally:
        signal.signal(signal.SIGUSR1, before)
        thread.join()
        os.kill(pids[0], signal.SIGKILL)  # the program of git
