"""The engines for many machines by their names: what can be asked of them, and done, without an event loop.

Importing this costs nothing; an engine's own modules are imported when a job of it turns up.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from supervisor.engines.interface import Observation
from supervisor.errors import InvalidArguments, PermissionDenied, StateUnsafe
from supervisor.jobdir import records
from supervisor.system.paths import absolute, expanded

if TYPE_CHECKING:
    from supervisor.engines.cluster.engine import BatchEngine
    from supervisor.engines.cluster.interface import Desk

__all__ = [
    "NAMES",
    "Desks",
    "accepted_options",
    "check_options",
    "check_shared_directory",
    "made_elsewhere",
    "make_engine",
    "make_job_directory",
]

NAMES: Final = ("slurm",)

_ABOUT_DEADLINE: Final = ("start", "submission")


def make_engine(name: str) -> BatchEngine:
    """Return the engine of this name, to be served by whoever has asked for it.

    Raises:
        InvalidArguments: there is none.
    """
    _check_name(name)
    from supervisor.engines.cluster.engine import BatchEngine
    from supervisor.engines.cluster.slurm.backend import Slurm
    from supervisor.engines.cluster.slurm.commands import SlurmDesk

    return BatchEngine(Slurm(), SlurmDesk())


def _check_name(name: str) -> None:
    if name not in NAMES:
        message = f"engine is {name!r:.80}; it must be one of local, {', '.join(NAMES)}"
        raise InvalidArguments(message)


def accepted_options(name: str) -> dict[str, str]:
    """Return the options of an engine, and in words what each accepts.

    Raises:
        InvalidArguments: there is no such engine.
    """
    _check_name(name)
    from supervisor.engines.cluster.slurm.options import OPTIONS

    ours = {
        "shared_dir": "the path of a directory that this machine and the nodes share",
        "deadline_from": " or ".join(map(repr, _ABOUT_DEADLINE)),
    }
    return ours | {each: accepts for each, (_, _, accepts) in OPTIONS.items()}


def check_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a job as they are recorded with it: ``shared_dir``, ``deadline_from``, the engine's own.

    Whoever reads options from a file, of a kind for instance, calls this as well, so that a mistake is found there
    and not with the first job.

    Raises:
        InvalidArguments: there is no such engine or option, or a value does not fit.
    """
    _check_name(name)
    from supervisor.engines.cluster.slurm import commands

    own = dict(options)
    given = own.pop("shared_dir", None)
    shared = str(given) if isinstance(given, str | Path) else ""
    if not shared or "\0" in shared:
        message = f"the {name} engine needs shared_dir: a directory that this machine and the nodes share"
        raise InvalidArguments(message, repair="Give shared_dir among the engine's options, or --shared-dir.")
    begin = own.pop("deadline_from", "start")
    if begin not in _ABOUT_DEADLINE:
        message = f"deadline_from is {begin!r:.80}; it must be 'start' or 'submission'"
        raise InvalidArguments(message)
    path = os.path.realpath(absolute(expanded(shared), "shared_dir"))
    return {"shared_dir": path, "deadline_from": begin, "own": commands.check_options(own)}


def check_shared_directory(path: str) -> None:
    """Make a shared directory if it is not there, and check that nobody else can put things into it.

    Raises:
        StateUnsafe: it is somebody else's, or others may write into it.
        PermissionDenied: it cannot be made.
    """
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        found = os.stat(path)
    except OSError as error:
        message = f"the shared directory {path} cannot be used: {error.strerror}"
        raise PermissionDenied(message) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        message = f"the shared directory {path} is not yours alone to write to"
        raise StateUnsafe(message, repair=f"Give a directory of your own, mode 0700: {path}/{os.geteuid()}, say.")


class Desks:
    """Answers for the jobs of all engines for many machines; made once for each thread or program."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._desks: dict[str, Desk] = {}

    def _desk(self, name: str) -> Desk:
        if name not in self._desks:
            _check_name(name)
            from supervisor.engines.cluster.slurm.commands import SlurmDesk

            self._desks[name] = SlurmDesk()
        return self._desks[name]

    def observe(self, name: str, directory: str, *, owner_lives: bool) -> Observation:
        """Look at a job: at its records first, and then at what its engine says."""
        from supervisor.engines.cluster.sync_client import resolve_now

        return resolve_now(directory, self._desk(name), name, owner_lives=owner_lives)

    def request_end(self, name: str, directory: str, why: str, by: str) -> bool:
        """Put on record that a job is to end, and tell its engine; ``True`` if it had not begun, and never will.

        Raises:
            OSError: it cannot be written down.
        """
        from supervisor.engines.cluster.sync_client import request_end

        unrun = request_end(directory, why, by, engine=name)
        self._desk(name).cancel(os.path.basename(directory), nudge=not unrun)
        return unrun

    def end(self, name: str, directory: str) -> None:
        """Have the engine end a job whose keeper does not."""
        self._desk(name).cancel(os.path.basename(directory))


def made_elsewhere(request: Mapping[str, Any]) -> str | None:
    """Return the engine for many machines that a job was given to, ``None`` for a job of this machine."""
    name = request.get("engine")
    return name if name in NAMES and isinstance(request.get("directory"), str) else None


def make_job_directory(stub: str, directory: str, record: bytes) -> str:
    """Make the directory of a job in a shared one, have ``stub`` in the state root lead to it, and return its path.

    Raises:
        OSError: it cannot be made.
    """
    os.mkdir(directory, 0o700)
    os.symlink(directory, f"{stub}/{records.SHARED}")
    descriptor = os.open(f"{directory}/{records.JOB}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(record)
    return directory
