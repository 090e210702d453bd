"""What a forked child must leave alone of what it inherited, and how it is told so.

After ``os.fork()`` the child holds copies of everything. The locks that SQLite believes to have are
not the child's, so that it may neither use such a connection nor close it, nor open the same
registry anew: rows were seen to vanish then, without an error. The line to the keeper is a sign of
life, which a child must not go on giving for a parent that is gone. So whoever holds such a thing
lets go of it in the child before anything else happens there, and every call refuses.
"""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet

from supervisor.errors import SupervisorClosed

__all__ = ["Heir", "forked_error", "inherited", "never_free", "tell_in_child"]

inherited: set[str] = set()
"""The registries that were open in a process that this one is a fork of."""


class Heir(Protocol):
    """Holds something that a forked child must leave alone."""

    def in_child(self) -> None:
        """Let go of it: this is a forked child. Must take no lock, which a thread of the parent may hold."""


_heirs: WeakSet[Heir] = WeakSet()


def tell_in_child(heir: Heir) -> None:
    """Have ``heir.in_child()`` called in every child that is forked off from now on, while it lives."""
    _heirs.add(heir)


def _in_child() -> None:
    for heir in tuple(_heirs):
        heir.in_child()


os.register_at_fork(after_in_child=_in_child)


def never_free(held: object) -> None:
    """Keep an object for as long as this process lives, even while the interpreter is taken down."""
    import ctypes  # the engine has it loaded already

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(held))


def forked_error() -> SupervisorClosed:
    """Return the error that says that this process is a fork of the one that opened the supervisor."""
    return SupervisorClosed(
        "this process was forked from the one that has opened the supervisor",
        repair="Open supervisors after the fork, or start the child by executing a program (multiprocessing: spawn).",
    )
