"""How the keeper starts a command: which file that is, with what, and why it could not be started.

Standard library only, no import from the package: the keeper runs this file.
"""

from __future__ import annotations

import errno
import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

__all__ = ["RESET", "LaunchError", "find_executable", "spawn", "why_not"]

# Python ignores these two, and an ignored signal stays ignored across exec.
RESET: Final = [signal.SIGPIPE, *([signal.SIGXFSZ] if hasattr(signal, "SIGXFSZ") else [])]


class LaunchError(Exception):
    """A command could not be started: ``status`` is what a shell would exit with."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def find_executable(name: bytes, environment: dict[bytes, bytes]) -> bytes:
    """Return the file that ``name`` means, by the job's own PATH and from its own directory.

    Raises:
        LaunchError: 127 when there is none, 126 when there is one that cannot be executed.
    """
    if b"/" in name:
        candidates = [name]
    else:
        path = environment.get(b"PATH", os.fsencode(os.defpath))
        candidates = [(directory or b".") + b"/" + name for directory in path.split(b":")]
    refused: bytes | None = None
    for candidate in candidates:
        if os.access(candidate, os.X_OK) and not os.path.isdir(candidate):
            return candidate
        if refused is None and os.path.lexists(candidate) and os.path.exists(candidate):
            refused = candidate
    shown = os.fsdecode(name)
    if refused is not None:
        why = "is a directory" if os.path.isdir(refused) else "is not executable"
        raise LaunchError(126, f"{os.fsdecode(refused)} {why}")
    if b"/" in name:
        raise LaunchError(127, f"{shown}: no such file")
    raise LaunchError(127, f"{shown}: command not found in its PATH")


def spawn(
    executable: bytes,
    argv: list[bytes],
    environment: dict[bytes, bytes],
    standard: tuple[int, ...],
) -> int:
    """Start a process in a session of its own and return its pid; ``standard`` becomes its first descriptors."""
    actions = [(os.POSIX_SPAWN_DUP2, descriptor, number) for number, descriptor in enumerate(standard)]
    try:
        return os.posix_spawn(
            executable,
            argv,
            environment,
            file_actions=actions,
            setsid=True,
            setsigmask=(),
            setsigdef=RESET,
        )
    except NotImplementedError:  # no POSIX_SPAWN_SETSID here
        import subprocess

        process = subprocess.Popen(
            argv,
            executable=executable,
            env=environment,
            stdin=standard[0],
            stdout=standard[1],
            stderr=standard[2],
            start_new_session=True,
        )
        process.returncode = 0  # reaped by our own wait, not by its destructor
        return process.pid


def why_not(error: OSError, executable: bytes) -> LaunchError:
    """Say what it means that ``spawn`` has failed."""
    shown = os.fsdecode(executable)
    if error.errno == errno.ENOENT:
        if os.path.exists(executable):
            return LaunchError(126, f"{shown}: the interpreter that its first line names does not exist")
        return LaunchError(127, f"{shown}: no such file")
    if error.errno == errno.ENOEXEC:
        return LaunchError(126, f"{shown}: neither a program nor a script with a #! line")
    if error.errno in {errno.EACCES, errno.EPERM, errno.E2BIG, errno.ETXTBSY, errno.ELOOP, errno.ENAMETOOLONG}:
        return LaunchError(126, f"{shown}: {error.strerror}")
    return LaunchError(125, f"cannot spawn a process: {error.strerror}")
