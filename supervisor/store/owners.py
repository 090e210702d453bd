"""The supervisors that are open on a state root: one empty file for each, in ``.owners``.

The name of the file identifies the process, and stands as ``owner`` in every job that the supervisor makes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from typing import Final

from supervisor.errors import SupervisorError
from supervisor.jobdir import records
from supervisor.keeper import registration
from supervisor.keeper.helper_starts import OWNERS, lock_name, owner_lives, take_lock
from supervisor.store.clock import Clock
from supervisor.store.state_errors import find_in_root, names_in, state_error
from supervisor.system import processes
from supervisor.system.observing import NotKnown, is_there

__all__ = ["DIRECTORY", "Owners", "is_of_another_boot"]

DIRECTORY: Final = OWNERS
_NOT_KNOWN: Final = "cannot tell whether a supervisor is alive"


class Owners:
    """Registers supervisors on a state root, and tells whether they are alive."""

    def __init__(self, root: str, clock: Clock) -> None:
        """Use the files below ``root``."""
        self._root = root
        self._clock = clock
        self._own: set[str] = set()

    def register(self) -> str:
        """Register a supervisor of this process and return its name."""
        self._clock.mark()
        try:
            pid, start = processes.own_identity()
            name = f"{pid}.{start}.{processes.boot_id()[:12]}.{processes.pid_namespace()}.{os.urandom(4).hex()}"
            descriptor = os.open(self.path(name), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            os.fchmod(descriptor, 0o600)
            os.close(descriptor)
        except OSError as error:
            raise state_error(error, "cannot register the supervisor") from error
        with contextlib.suppress(OSError):
            records.make_spares(self._root)
        self._own.add(name)
        return name

    def path(self, name: str) -> str:
        """Return the path of the file of a supervisor."""
        return f"{self._root}/{DIRECTORY}/{name}"

    def poke(self, names: Iterable[str]) -> None:
        """Have other supervisors look now whether a job of theirs was admitted; they look every second anyway.

        That is no signal: a supervisor is a guest in its process.
        """
        for name in {*names} - self._own:
            with contextlib.suppress(OSError, ValueError):
                os.utime(self.path(name))

    def unregister(self, name: str) -> None:
        """Record that a supervisor launches nothing more."""
        with contextlib.suppress(OSError):
            os.unlink(self.path(name))

    def observe(self, name: str) -> bool:
        """Whether a supervisor is alive, and may launch the jobs that it has made.

        Raises:
            NotKnown: that cannot be observed now.
        """
        return owner_lives(name) and is_there(self.path(name))

    def is_alive(self, name: str) -> bool:
        """Return what ``observe`` does, for callers outside the engines.

        Raises:
            StateBusy: that cannot be observed now.
        """
        try:
            return self.observe(name)
        except NotKnown as error:
            raise state_error(error, _NOT_KNOWN) from error

    def may_be_alive(self, name: str) -> bool:
        """Whether a supervisor is alive, or is registered from another container, where it cannot be observed."""
        if not _is_in_another_container(name):
            return self.is_alive(name)
        return find_in_root(self.path(name)) is not None

    def any_may_be_alive(self) -> bool:
        """Whether any supervisor may be open on the state root, and about to make a job."""
        return any(map(self.may_be_alive, names_in(f"{self._root}/{DIRECTORY}")))

    def others_may_be_alive(self) -> bool:
        """Whether another process may have a supervisor open on the state root; also if that cannot be observed now."""
        pid, start = processes.own_identity()
        own = f"{pid}.{start}.{processes.boot_id()[:12]}.{processes.pid_namespace()}."
        try:
            names = names_in(f"{self._root}/{DIRECTORY}")
            return any(self.may_be_alive(name) for name in names if not name.startswith(own))
        except SupervisorError:
            return True

    def sweep(self) -> None:
        """Remove the files of supervisors and keepers that have died without removing them, and locks of containers."""
        with contextlib.suppress(OSError):
            registration.sweep(self._root, processes.boot_id(), processes.pid_namespace(), processes.is_alive)
        with contextlib.suppress(OSError):
            _sweep_locks(self._root)
        with contextlib.suppress(OSError, SupervisorError):
            for name in os.listdir(f"{self._root}/{DIRECTORY}"):
                if not self.may_be_alive(name):
                    self.unregister(name)


def _sweep_locks(root: str) -> None:
    """Remove the locks of other pid namespaces that no process holds."""
    for name in os.listdir(root):
        if name.startswith("queue.") and name.endswith(".lock") and name != lock_name():
            descriptor = take_lock(f"{root}/{name}")
            if descriptor is not None:
                os.unlink(f"{root}/{name}")
                os.close(descriptor)


def is_of_another_boot(name: str) -> bool:
    """Whether a supervisor was certainly registered in an earlier boot.

    Raises:
        StateBusy: that cannot be observed now.
    """
    words = name.split(".")
    try:
        return len(words) == 5 and processes.is_another_boot(words[2])
    except NotKnown as error:
        raise state_error(error, _NOT_KNOWN) from error


def _is_in_another_container(name: str) -> bool:
    words = name.split(".")
    try:
        return len(words) == 5 and words[3] != processes.pid_namespace() and not processes.is_another_boot(words[2])
    except NotKnown as error:
        raise state_error(error, _NOT_KNOWN) from error
