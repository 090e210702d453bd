"""The keeper over an ``os`` of which one call fails: the one that the plan beside this file names."""

import mmap
import os
import struct
import sys
import types
from pathlib import Path
from typing import Any

PLAN = struct.Struct("=5q")  # errno, calls to let through, failures left, calls so far, failures so far
UNTOUCHED = (
    "W",
    "_",
    "abort",
    "cpu",
    "fork",
    "fs",
    "get",
    "major",
    "minor",
    "strerror",
    "sysconf",
    "umask",
    "waitstatus",
)
"""What cannot fail, by how its name begins."""


class Plan:
    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), PLAN.size)

    def next_error(self) -> int:
        """Count a call; return the errno that it is to fail with, 0 if it is not."""
        error, skipped, left, calls, failed = PLAN.unpack(self._memory[:])
        calls += 1
        fails = bool(left) and not skipped
        if left and skipped:
            skipped -= 1
        self._memory[:] = PLAN.pack(error, skipped, left - fails, calls, failed + fails)
        return error if fails else 0

    def wrap(self, name: str, call: Any) -> Any:
        def wrapped(*args: Any, **named: Any) -> Any:
            error = self.next_error()
            if not error:
                return call(*args, **named)
            if name == "close":  # it is closed all the same
                call(*args, **named)
            raise OSError(error, os.strerror(error), f"os.{name}")

        return wrapped


class Library:
    """The C library, whose ``posix_spawn`` fails by its return value."""

    def __init__(self, plan: Plan, real: Any) -> None:
        self._plan = plan
        self._real = real

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._real, name)
        return call if name != "posix_spawn" else lambda *args: self._plan.next_error() or call(*args)


def main() -> None:
    here = Path(__file__)
    real = here.with_name("real").read_text(encoding="utf-8")
    sys.path.append(real)
    import entry

    sys.path.remove(real)
    entry.prepare(os.path.dirname(real))
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir(sys.argv[1])
    from supervisor.keeper.loop import Keeper

    made = Keeper(".")
    from supervisor.keeper import spawn

    plan = Plan(here.with_name("plan"))
    for name in dir(os):
        call = getattr(os, name)
        if isinstance(call, types.BuiltinFunctionType) and not name.startswith(UNTOUCHED):
            setattr(os, name, plan.wrap(name, call))
    if spawn.CAN_SHARE:
        spawn._library = Library(plan, spawn._library)
    made.run()
    os._exit(0)


if __name__ == "__main__":
    main()
