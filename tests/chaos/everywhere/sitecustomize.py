"""Part of every Python process in a round of ``queues.py``, but for keepers: a wall clock that is set, and a kill.

Keepers, which start without the module ``site``, get their program from ``clocked``, with the same clock.

``QUEUES_BASE`` is the directory of the round. Its file ``clock`` has the nanoseconds that are added to the wall clock
of all processes; the driver changes it while they run. Some processes kill themselves at one of the ``POINTS``, and
note that in the file ``kills``; none that begins after the file ``calm`` was made. Warnings go to the file ``log``, and
after SIGUSR2 what the threads of a process do to ``stacks``.
"""

from __future__ import annotations

import faulthandler
import functools
import importlib
import inspect
import logging
import mmap
import os
import random
import signal
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

POINTS: tuple[tuple[str, str, str], ...] = (
    ("supervisor.store.grants", "Grants.add", "before"),
    ("supervisor.store.grants", "Grants.add", "after"),
    ("supervisor.store.index", "Index.take_turn", "after"),
    ("supervisor.store.index", "Index.take_turns", "before"),
    ("supervisor.store.index", "Index.take_turns", "after"),
    ("supervisor.store.index", "Index.insert", "after"),
    ("supervisor.store.index", "Index.finish", "before"),
    ("supervisor.store.index", "Index.finish", "after"),
    ("supervisor.store.index", "Index.set_owner", "after"),
    ("supervisor.store.index", "Index.import_all", "after"),
    ("supervisor.admission.orders", "spool", "before"),
    ("supervisor.admission.orders", "spool", "after"),
    ("supervisor.admission.orders", "read", "after"),
    ("supervisor.store.order_files", "drop_orders", "before"),
    ("supervisor.store.index", "Index.change_waiting", "after"),
    ("supervisor.store.changes", "write_changes", "after"),
    ("supervisor.admission.launch_helper", "ensure", "before"),
    ("supervisor.admission.launch_helper", "ensure", "after"),
    ("supervisor.runtime.registry_actor", "Registry._commit", "after"),
    ("supervisor.runtime.registry_actor", "Registry._begin", "before"),
    ("supervisor.jobdir.records", "take_claim", "before"),
    ("supervisor.jobdir.records", "take_claim", "after"),
    ("supervisor.store.groups", "save", "after"),
)
SHARE = 0.3
"""The part of the processes that has a point."""


def note_kill(base: str, what: str) -> None:
    """Add a line to the list of kills."""
    descriptor = os.open(f"{base}/kills", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{what}\n".encode())
    os.close(descriptor)


def set_clock(base: str, shift_ns: int) -> None:
    """Set the clock of every process of the round."""
    with open(f"{base}/clock", "r+b") as file:
        file.write(struct.pack("<q", shift_ns))


def _follow_clock(base: str) -> None:
    with open(f"{base}/clock", "rb") as file:
        shared = mmap.mmap(file.fileno(), 8, prot=mmap.PROT_READ)
    real, unpack = time.time_ns, struct.Struct("<q").unpack_from
    time.time_ns = lambda: real() + unpack(shared)[0]
    time.time = lambda: time.time_ns() / 1e9


def owner_of(module: str, path: str) -> tuple[Any, str]:
    """Return what has the function of a point as an attribute, and its name."""
    owner: Any = importlib.import_module(module)
    *outer, name = path.split(".")
    for each in outer:
        owner = getattr(owner, each)
    return owner, name


def _arm(base: str, point: tuple[str, str, str], nth: int) -> None:
    module, path, when = point
    owner, name = owner_of(module, path)
    inner: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def die() -> None:
        nonlocal calls
        calls += 1
        if calls == nth:
            note_kill(base, f"{path} {when}")
            os.kill(os.getpid(), signal.SIGKILL)

    @functools.wraps(inner)
    def outer(*args: Any, **named: Any) -> Any:
        if when == "before":
            die()
        result = inner(*args, **named)
        if when == "after":
            die()
        return result

    static = isinstance(inspect.getattr_static(owner, name), staticmethod)
    setattr(owner, name, staticmethod(outer) if static else outer)


class _Whole(logging.Formatter):
    """Writes all facts of an event."""

    _USUAL = vars(logging.LogRecord("", 0, "", 0, "", (), None)).keys() | {"asctime", "message"}

    def format(self, record: logging.LogRecord) -> str:
        facts = {name: value for name, value in vars(record).items() if name not in self._USUAL}
        return f"{super().format(record)} {facts}"


def take_part(base: str) -> None:
    """Make this process one of the round."""
    _follow_clock(base)
    keeper: Any = importlib.import_module("supervisor.keeper.entry")
    keeper.__file__ = str(Path(__file__).parents[1] / "clocked" / "keeper" / "entry.py")
    with open(f"{base}/stacks", "a", encoding="ascii") as file:  # kept open as descriptor of the handler
        faulthandler.register(signal.SIGUSR2, os.dup(file.fileno()))
    handler = logging.FileHandler(f"{base}/log")
    handler.setFormatter(_Whole("%(asctime)s %(process)d %(message)s"))
    logging.getLogger("supervisor").addHandler(handler)
    descriptor = os.open(f"{base}/processes", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, b".")
    number = os.fstat(descriptor).st_size
    os.close(descriptor)
    chance = random.Random(f"{base.rpartition('-')[0]} {os.environ['QUEUES_SEED']} {number}")
    if chance.random() < SHARE and not os.path.exists(f"{base}/calm"):
        _arm(base, chance.choice(POINTS), chance.choice([1, 1, 1, 2, 3]))


if __name__ == "sitecustomize" and "QUEUES_BASE" in os.environ:
    take_part(os.environ["QUEUES_BASE"])
