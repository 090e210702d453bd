"""Keeps a forked child from using what it inherited: connections to SQLite and to the keeper.

The locks that SQLite believes to have are not the child's, so the child may neither use such a connection nor close it,
nor open the same registry anew: rows vanished then, without an error. The connection to the keeper proves that the
supervisor lives, which must not outlive the parent in a child. So each object that holds one releases it in the child
before other code runs there, and every call raises.
"""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet

from supervisor.errors import SupervisorClosed

__all__ = ["Heir", "forked_error", "inherited", "never_free", "tell_in_child"]

inherited: set[str] = set()
"""The registries that were open in the process that this one was forked from."""


class Heir(Protocol):
    """An object that holds something that a forked child must not use."""

    def in_child(self) -> None:
        """Release it: this is a forked child. Must take no lock, which a thread of the parent may hold."""


_heirs: WeakSet[Heir] = WeakSet()


def tell_in_child(heir: Heir) -> None:
    """Have ``heir.in_child()`` called in every child that is forked from now on, while ``heir`` lives."""
    _heirs.add(heir)


def _in_child() -> None:
    for heir in tuple(_heirs):
        heir.in_child()


os.register_at_fork(after_in_child=_in_child)


def never_free(held: object) -> None:
    """Keep an object for as long as this process lives, even while the interpreter shuts down."""
    import ctypes  # the engine has it loaded already

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(held))


def forked_error() -> SupervisorClosed:
    """Return the error of a call in a fork of the process that opened the supervisor."""
    return SupervisorClosed(
        "this process was forked from the one that has opened the supervisor",
        repair="Open supervisors after the fork, or start the child by executing a program (multiprocessing: spawn).",
    )
