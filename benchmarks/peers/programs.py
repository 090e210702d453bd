"""Peers that are libraries: a program of their own uses each, and takes one JSON array a line as a request."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.figures import Cannot
from benchmarks.peers import PausedSession, own_environment

__all__ = ["ProgramSession", "dialogue", "process"]

_ROOT: Final = str(Path(__file__).parents[2])
_ANSWER_SECONDS: Final = 180.0
"""More than a turn lasts."""
_CLOSE_SECONDS: Final = 15.0


@contextlib.contextmanager
def process(argv: Sequence[str], folder: Path, *, stdin: int | None = None, stdout: int) -> Iterator[Any]:
    """Run a program in a session of its own, and kill the whole session at the end."""
    environment = own_environment(folder, PYTHONPATH=_ROOT, PM2_HOME=str(folder / "pm2"))
    with (folder / f"{Path(argv[0]).name}.log").open("wb") as log:
        started = subprocess.Popen(
            argv, stderr=log, cwd=folder, env=environment, text=True, start_new_session=True, stdin=stdin, stdout=stdout
        )
    with started:
        try:
            yield started
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)


@contextlib.contextmanager
def dialogue(argv: Sequence[str], folder: Path) -> Iterator[Any]:
    """Run a program that answers each line on its stdin with a line on its stdout."""
    with process(argv, folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as started:
        yield started


class ProgramSession(PausedSession):
    """A session of such a program, which a signal stops while it is another peer's turn."""

    def close(self) -> None:
        """Have it stop its jobs, unless it is stuck in a request; then the end of its session has to do."""
        self._daemon.send_signal(signal.SIGCONT)
        self.ask("close", within=_CLOSE_SECONDS)

    def ask(self, what: str, *given: object, within: float = _ANSWER_SECONDS) -> Any:
        """Return the answer to a request."""
        stdin, stdout = self._daemon.stdin, self._daemon.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps([what, *given]) + "\n")
        stdin.flush()
        if not select.select([stdout], [], [], within)[0]:
            reason = f"gave no answer to {what} within {within:.0f} s"
            raise Cannot(reason)
        if not (line := stdout.readline()):
            reason = f"ended at {what}"
            raise Cannot(reason)
        return json.loads(line)
