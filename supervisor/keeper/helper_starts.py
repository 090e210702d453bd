"""Starts the process that launches waiting jobs, where a job has ended and no supervisor is there to launch the next.

A supervisor does that itself as long as it lives, so a keeper starts nothing while its connection is open, nor while
any other supervisor of its pid namespace is alive. Many keepers may see the same at the same time: the kernel lock of
``lock_name`` decides. The started process gets the lock as its standard input, and holds it until it ends.
"""

from __future__ import annotations

import errno
import os
import time

from supervisor.jobdir import job_marks, records
from supervisor.keeper import spawn
from supervisor.system import processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ctypes
    import fcntl
    from typing import Any, Final

    from supervisor.keeper import launches, protocol
    from supervisor.keeper.resource_limits import Limits
else:
    try:
        import ctypes
    except ImportError:  # a Python that was built without libffi
        ctypes = None
        import fcntl  # here, as a keeper imports nothing once it runs

__all__ = ["OWNERS", "STATE_DIR", "Helper", "find_owners", "is_locked", "lock_name", "owner_lives", "take_lock"]

OWNERS: Final = ".owners"
"""The directory in the state root that has a file for each supervisor."""
STATE_DIR: Final = b"SUPERVISOR_STATE_DIR"

_LOCK_SH_NB: Final = 1 | 4
_LOCK_EX_NB: Final = 2 | 4
_LOOK_SECONDS: Final = 0.002
"""For longer than a process that looks whether the lock is held holds it itself."""
_MAX_TRIES: Final = 10
_DYING_NS: Final = 20_000_000
_AGAIN_NS: Final = 2_000_000_000


# ---------------------------------------------------------------- supervisors


def owner_lives(name: str) -> bool:
    """Whether the process of a supervisor lives, by the name of its file; ``False`` for one of another pid namespace.

    Raises:
        NotKnown: that cannot be observed now.
    """
    words = name.split(".")
    if len(words) != 5 or not (words[0].isdigit() and words[1].isdigit()):
        return False
    if words[3] != processes.pid_namespace() or processes.is_another_boot(words[2]):
        return False
    return processes.is_alive(int(words[0]), int(words[1]))


def find_owners(root: str) -> tuple[bool, bool]:
    """Return whether a supervisor of this pid namespace is alive, and whether one has died without leaving.

    Raises:
        OSError: that cannot be observed now.
    """
    try:
        names = os.listdir(f"{root}/{OWNERS}")
    except FileNotFoundError:
        return False, False
    here = processes.pid_namespace()
    lives = [owner_lives(name) for name in names if name.split(".")[3:4] == [here]]
    return any(lives), not all(lives)


# ---------------------------------------------------------------- the lock


def lock_name() -> str:
    """Return the name of the lock below the state root, held by the one process of this pid namespace that launches.

    Raises:
        NotKnown: the pid namespace cannot be read now.
    """
    return f"queue.{processes.pid_namespace() or 0}.lock"


def take_lock(path: str, given: int | None = None) -> int | None:
    """Return a descriptor that holds the lock at ``path``; ``None`` if another process holds it.

    ``given`` is a descriptor that is used, and returned, if it is of that file: the lock may have come with it.

    Raises:
        OSError: that is not known now.
    """
    if given is not None and _is_of(given, path):
        return given if _lock(given) else None
    for _ in range(_MAX_TRIES):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if not _lock(descriptor):
                time.sleep(_LOOK_SECONDS)
                if not _lock(descriptor):
                    os.close(descriptor)
                    return None
            if _is_of(descriptor, path):  # not one that was removed meanwhile, which no other process would find
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    return None


def is_locked(path: str) -> bool:
    """Whether another process holds the lock at ``path``.

    Raises:
        OSError: that is not known now.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        return not _lock(descriptor, _LOCK_SH_NB)
    finally:
        os.close(descriptor)


def _is_of(descriptor: int, path: str) -> bool:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(descriptor), found)


def _lock(descriptor: int, how: int = _LOCK_EX_NB) -> bool:
    try:
        _flock(descriptor, how)
    except OSError as error:
        if error.errno in {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}:
            return False
        raise
    return True


def _flock(descriptor: int, how: int) -> None:
    if ctypes is None:
        fcntl.flock(descriptor, how)
        return
    # `fcntl` is a file of its own, which every keeper would load at its start.
    library = ctypes.CDLL(None, use_errno=True)
    if library.flock(descriptor, how):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def is_awaited(directory: str) -> bool:
    """Whether another job may wait for the job of a directory."""
    try:
        os.lstat(f"{directory}/{records.AWAITED}")
    except FileNotFoundError:
        return False
    except OSError:
        pass
    return True


# ---------------------------------------------------------------- a keeper


class Helper:
    """What a keeper knows of the process that launches waiting jobs.

    Args:
        root: the state root, as the keeper names it.
        null: a descriptor of ``/dev/null``.
        limits: those of its children.
    """

    def __init__(self, root: str, null: int, limits: Limits) -> None:
        self._root = root
        self._null = null
        self._limits = limits
        self._command: list[bytes] = []
        self._entries: list[bytes] = []
        self._pids: set[int] = set()
        self._involved = self._freed = False
        self._alone = False  # the supervisor was found to be gone
        self._at_ns: int | None = None
        self._always = self._again = False

    def learn(self, asked: protocol.SetEnvironment) -> None:
        """Take the command that launches waiting jobs, and its environment."""
        if asked.helper:
            self._command = asked.helper
            kept = {name: value for name, value in asked.variables.items() if name not in {job_marks.MARK, STATE_DIR}}
            self._entries = [name + b"=" + value for name, value in kept.items()]

    def involve(self, asked: protocol.Launch) -> None:
        """Note that a job is launched."""
        self._involved |= asked.queued

    def free(self, job: protocol.Launch | launches.Child) -> None:
        """Note that a job has ended, or is never launched."""
        self._freed |= job.queued or (self._alone and is_awaited(job.directory))

    def has_ended(self, pid: int) -> bool:
        """Whether a child that was reaped is a process that this has started."""
        found = pid in self._pids
        self._pids.discard(pid)
        return found

    def next_ns(self, *, connected: bool) -> int | None:
        """Return when to call ``wake``, on the boot clock; ``connected``: the supervisor is there, as far as is known.

        If the supervisor has left in order, it has seen to the waiting jobs, and to every job that had ended. If it was
        killed, it may have missed the last ends.
        """
        if connected or not self._command:
            return None
        if not self._alone:
            self._alone, self._freed = True, False
            if self._involved:  # a killed process closes its files a little before it is dead
                self._at_ns = processes.boottime_ns() + _DYING_NS
        if self._freed:
            self._at_ns, self._always, self._again, self._freed = 0, True, False, False
        return self._at_ns

    def take(self) -> bool:
        """Return the argument of ``wake``, which is not due any more."""
        always, self._at_ns, self._always = self._always, None, False
        return always

    def wake(self, always: bool) -> None:  # noqa: FBT001  # a step of the keeper has no names for its arguments
        """Start the process unless a supervisor is alive, or another such process.

        ``always``: also if no supervisor was killed. One that is alive may be killed before it sees the last end: this
        looks once more.

        Raises:
            OSError: whether one is alive is not known, or the process cannot be started now.
        """
        alive, dead = find_owners(self._root)
        if not alive and (always or dead):
            self._start()
        elif alive and not self._again:
            self._at_ns, self._again = processes.boottime_ns() + _AGAIN_NS, True

    def _start(self) -> None:
        root = os.fsencode(os.getcwd())  # the state root, also after that was renamed
        lock = take_lock(f"{self._root}/{lock_name()}")
        if lock is None:
            return
        everywhere = os.open("/", getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            arguments: tuple[Any, ...] = (
                self._command[0],
                self._command,
                [*self._entries, STATE_DIR + b"=" + root],
                everywhere,
                (lock, self._null, self._null),
            )
            self._pids.add(self._limits.spawn(spawn.spawn, *arguments))
        finally:
            os.close(everywhere)
            os.close(lock)
