"""Tools that a user would choose instead, and limits of the machine, behind one interface.

A peer that cannot do a thing raises ``Cannot``, which becomes a dash with the reason.
Each runs in a directory of its own, is ended by its pid, and leaves nothing.
"""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

import attrs

from benchmarks.figures import Cannot

__all__ = [
    "PATIENCE_SECONDS",
    "PausedSession",
    "Peer",
    "Session",
    "brought_up",
    "debian_version",
    "every_peer",
    "own_environment",
]


PATIENCE_SECONDS: Final = 8.0
"""The time-out for a peer that may never answer. A time-out is not counted as a time."""

_TURN_SECONDS: Final = 120
"""The time-out of a whole turn: a peer that hangs does not end the run of the others."""


class Session:
    """A running peer. Jobs have the peer's own ids; the caller measures times."""

    most_output: float = math.inf
    """In bytes, for one job."""

    most_waits: float = math.inf
    """How many ends of jobs are awaited in a turn; few for a peer that takes a second for each."""

    def resume(self) -> None:
        """Continue after ``rest``."""

    def rest(self) -> None:
        """Use no processor time until ``resume``: it is another peer's turn."""

    def turn(self, measure: Callable[[], float]) -> Callable[[], float]:
        """Return ``measure`` for a peer that rests outside its turn."""

        def take() -> float:
            self.resume()
            try:
                with _patience():
                    return measure()
            finally:
                self.rest()

        return take

    def run_all(self, argv: Sequence[str], jobs: int, flight: int) -> None:
        """Run ``argv`` as ``jobs`` jobs, ``flight`` at a time, and return when the exit of each is recorded."""
        raise Cannot("runs no jobs")

    def queue(self, argv: Sequence[str], jobs: int, slots: int) -> float | None:
        """Enter ``jobs`` jobs at once, of which ``slots`` run at a time, and return when the exit of each is recorded.

        Returns the seconds until the last one was accepted; ``None`` for a peer that does not tell.
        """
        raise Cannot("has no queue of jobs that wait for a slot")

    def start(self, argv: Sequence[str]) -> str:
        """Start a job and return its id as soon as the peer accepts it."""
        raise Cannot("has no start that returns")

    def wait(self, job: str) -> None:
        """Return when the job has ended, as soon as the peer reports that."""
        raise Cannot("has no wait")

    def output(self, job: str) -> bytes:
        """Return the stdout of the job."""
        raise Cannot("keeps no output")

    def status(self, job: str) -> object:
        """Query the state of a job."""
        raise Cannot("knows no single job")

    def list(self) -> int:
        """Query all jobs and return their number."""
        raise Cannot("has no list of jobs")

    def stop(self, job: str) -> None:
        """Stop a job, and return when the peer reports that it is stopped."""
        raise Cannot("has no stop")


@contextmanager
def _patience() -> Iterator[None]:
    """Abort a turn that does not end. It runs in the main thread, so an alarm interrupts any call."""

    def too_late(*_: object) -> None:
        reason = f"was not done within {_TURN_SECONDS} s"
        raise Cannot(reason)

    before = signal.signal(signal.SIGALRM, too_late)
    signal.alarm(_TURN_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class _AbsentSession(Session):
    """A peer that did not start: a dash in every table, with the reason."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def turn(self, measure: Callable[[], float]) -> Callable[[], float]:
        def take() -> float:
            raise Cannot(self._reason)

        return take


@contextmanager
def brought_up(peer: Peer, folder: Path, flight: int, tell: Callable[[str], object]) -> Iterator[Session]:
    """Start a peer; an error of its start or its end does not affect other peers."""
    with ExitStack() as stack:
        try:
            session = stack.enter_context(peer.opened(folder, flight))
        except Exception as error:  # noqa: BLE001  # other exceptions of peers are not known
            session = _AbsentSession(str(error) if isinstance(error, Cannot) else f"did not come up: {error!r}"[:200])
        try:
            yield session
        finally:
            try:
                stack.close()
            except Exception as error:  # noqa: BLE001  # as above
                tell(f"{peer.name} did not go well: {error!r}")


class PausedSession(Session):
    """A program that polls: a signal stops it while other peers are measured."""

    def __init__(self, daemon: subprocess.Popen[Any]) -> None:
        self._daemon = daemon

    def resume(self) -> None:
        self._daemon.send_signal(signal.SIGCONT)

    def rest(self) -> None:
        self._daemon.send_signal(signal.SIGSTOP)


class Peer(Protocol):
    """Runs commands for its users.

    Attributes:
        name: as the tables show it.
        about: what of it was measured.
    """

    name: str
    about: str

    def version(self) -> str:
        """Return its version.

        Raises:
            Cannot: it is not installed.
        """

    def opened(self, folder: Path, flight: int) -> AbstractContextManager[Session]:
        """Start it in ``folder``, with room for ``flight`` jobs at a time; it is ended at the end."""


@attrs.define
class Elsewhere:
    """A tool that a user may choose, and that the session cannot install.

    Attributes:
        name: as the tables show it.
        reason: why it is a dash.
    """

    name: str
    reason: str
    about: str = ""

    def version(self) -> str:
        raise Cannot(self.reason)

    def opened(self, folder: Path, flight: int) -> AbstractContextManager[Session]:
        raise Cannot(self.reason)


_ELSEWHERE: Final = {
    "process-compose": "not measured: a program in Go, which neither Debian nor PyPI nor npm has",
    "pueue": "not measured: a program in Rust, which neither Debian nor PyPI nor npm has",
}


def own_environment(folder: Path, **others: str) -> dict[str, str]:
    """Return an environment with which a peer leaves nothing outside ``folder``."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "PYTHONDONTWRITEBYTECODE") if name in os.environ}
    return {**kept, "HOME": str(folder), "TMPDIR": str(folder), **others}


def debian_version(package: str, program: str) -> str:
    """Return the version of a program that a Debian package has installed.

    Raises:
        Cannot: it is not there.
    """
    if shutil.which(program) is None:
        reason = f"not installed (Debian's {package})"
        raise Cannot(reason)
    if shutil.which("dpkg-query") is None:
        return "unknown"
    argv = ["dpkg-query", "--show", "--showformat", "${Version}", package]
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout or "unknown"


def every_peer() -> list[Peer]:
    """Return all peers, installed or not, limits first."""
    from benchmarks.peers.baselines import Bare, Original
    from benchmarks.peers.hyperqueue import HyperQueue
    from benchmarks.peers.managers import Circus, Supervisord
    from benchmarks.peers.mcp_servers import McpBackgroundJob
    from benchmarks.peers.pm2 import Pm2
    from benchmarks.peers.queues import Nq, TaskSpooler
    from benchmarks.peers.runners import Parallel, SystemdRun
    from benchmarks.peers.task_queues import Docket

    return [
        Bare(),
        Original(50),
        TaskSpooler(),
        Nq(),
        Parallel(),
        HyperQueue(),
        SystemdRun(),
        Supervisord(),
        Circus(),
        Pm2(),
        McpBackgroundJob(),
        Docket(on_redis=False),
        Docket(on_redis=True),
        *(Elsewhere(name, reason) for name, reason in _ELSEWHERE.items()),
    ]
