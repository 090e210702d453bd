"""Git as this package runs it: one command at a time, within limits of time and output, and without other programs.

The configuration of a repository can name programs for git to run. Commands that read or write files of a working tree
(checkout, status, diff) get the environment of a ``git_view``, which has none of that configuration. Commands that
change the repository itself (``git worktree add``, ``git update-ref``) get ``plain_environment`` and the options
``NO_PROGRAMS``: they apply no filters, and no hook or monitor is left for them to run.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from typing import IO, Final

__all__ = ["MAX_READ", "NO_PROGRAMS", "SAFE", "Git", "GitFailed", "GitStopped", "plain_environment"]

MAX_READ: Final = 32 << 20

SAFE: Final = {
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_ALLOW_PROTOCOL": "",
    "LC_ALL": "C",
}
"""For every command: it changes no more than it has to, asks for nothing, and fetches nothing."""

NO_PROGRAMS: Final = (
    *("-c", f"core.hooksPath={os.devnull}", "-c", "core.fsmonitor=false"),
    *("-c", "gc.auto=0", "-c", "maintenance.auto=false", "-c", "worktree.useRelativePaths=false"),
)


def plain_environment() -> dict[str, str]:
    """Return this environment for git, without the variables that name another repository or other settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GIT_")} | SAFE


class GitFailed(Exception):
    """A command has failed, or git is not there; the message says how."""


class GitStopped(GitFailed):
    """The command was stopped by its caller, so nothing is known of what it would have said."""


class Git:
    """Runs git commands; another thread may stop it.

    Args:
        seconds: the time limit of one command. It would wait forever for a pipe in place of a file such as .gitignore.
        inherits: descriptors that git and its children hold open.
    """

    def __init__(self, seconds: float = 300.0, inherits: Sequence[int] = ()) -> None:
        self._seconds = seconds
        self.inherits = tuple(inherits)
        self._stopped = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None

    def stop(self) -> None:
        """Kill the command that runs, and let no other one run."""
        self._stopped.set()
        if (process := self._process) is not None:
            process.kill()

    def _check_stopped(self) -> None:
        if self._stopped.is_set():
            message = "git was stopped"
            raise GitStopped(message)

    def run(
        self,
        environment: Mapping[str, str],
        *arguments: str,
        statuses: Sequence[int] = (0,),
        most: int = MAX_READ,
        directory: str | None = None,
        output: IO[bytes] | None = None,
        given: bytes = b"",
    ) -> bytes:
        """Return the output of a command, of which ``most`` bytes are read; then it is killed.

        ``statuses`` are the exit statuses that are no failure. With ``output``, that gets the output, all of it.
        ``given`` is the input.

        Raises:
            GitStopped: ``stop`` was called.
            GitFailed: it has another exit status, takes too long, or there is no git.
        """
        self._check_stopped()
        try:
            with tempfile.TemporaryFile() as errors, tempfile.TemporaryFile() as stdin:
                if given:
                    stdin.write(given)
                    stdin.seek(0)
                with subprocess.Popen(
                    ["git", "--no-pager", *arguments],  # noqa: S607  # the git that PATH has
                    env=dict(environment),
                    cwd=directory,
                    stdin=stdin if given else subprocess.DEVNULL,
                    stdout=subprocess.PIPE if output is None else output,
                    stderr=errors,
                    pass_fds=self.inherits,
                ) as process:
                    self._process = process
                    overdue = threading.Timer(0 if self._stopped.is_set() else self._seconds, process.kill)
                    overdue.daemon = True
                    overdue.start()
                    try:
                        data = b"" if process.stdout is None else process.stdout.read(most)
                        cut = output is None and len(data) == most
                        if cut:  # far more than its reader has use for
                            process.kill()
                        process.wait()
                    except BaseException:  # such as a cancel by SIGTERM, which a git before its exec does not notice
                        process.kill()
                        raise
                    finally:
                        overdue.cancel()
                        self._process = None
                errors.seek(0)
                reason = errors.read(4096).decode(errors="replace").partition("\nusage:")[0].strip()
        except FileNotFoundError as error:
            message = "git is not installed, or not in PATH"
            if directory is not None and error.filename == directory:
                message = f"{directory} is not there any more"
            raise GitFailed(message) from None
        if not cut and process.returncode not in statuses:
            self._check_stopped()
            if process.returncode == -signal.SIGKILL:
                reason = f"it was killed, as it is after {self._seconds:g} s; a file that it reads may be a pipe"
            name = next((word for word in arguments if word.isalpha() or "-" in word[1:-1]), arguments[0])
            message = f"git {name} failed: {reason or process.returncode}"
            raise GitFailed(message)
        return data
