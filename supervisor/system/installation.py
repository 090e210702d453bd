"""The files of this package, which an upgrade may replace, move or delete while the process runs.

Most modules are imported where they are first needed, so that commands begin quickly. A process that lives longer
loads the rest of them when it has a moment (``steps``), and needs no file of the package from then on. It
loads nothing of an installation that is not the one it began with: modules of two versions would not fit together.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from typing import Final

from supervisor import log

__all__ = ["PACKAGE", "has_changed", "load_rest", "steps"]

PACKAGE: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
"""The directory of the package, or the path of it in an archive."""

_ROOMS_OF_OTHERS: Final = frozenset({"cli", "keeper", "load", "testing"})
"""A command has what it needs of these when it has begun, and a keeper imports all that it needs at its start."""
_WITH_EVENT_LOOP: Final = frozenset({"engines", "system"})
"""The rooms in which modules import Trio, and a process without it needs only what follows."""
_WITHOUT_EVENT_LOOP: Final = (
    "supervisor.engines.interpreter",
    "supervisor.engines.local.pausing",
    "supervisor.engines.local.stopping",
)
_FOR_COMMANDS: Final = ("supervisor.cli.table", "supervisor.cli.text")
_OTHERS: Final = (
    "cattrs.gen",
    "difflib",
    "fcntl",
    "hashlib",
    "importlib.metadata",
    "json",
    "logging",
    "pwd",
    "py_compile",
    "shlex",
    "shutil",
    "socket",
    "subprocess",
    "tempfile",
    "unicodedata",
    "zoneinfo",
)
"""What functions of this package import of other distributions and of Python."""


def _identity() -> tuple[int, int, int] | None:
    """Return what a file of the package is known by; ``None`` if it does not exist.

    Raises:
        OSError: that is not known now.
    """
    try:
        found = os.stat(f"{PACKAGE}/__init__.py")
    except (FileNotFoundError, NotADirectoryError):  # the latter in an archive
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns


def _identity_at_start() -> tuple[int, int, int] | None:
    try:
        return _identity()
    except OSError:
        return None


_AT_START: Final = _identity_at_start()


def has_changed() -> bool:
    """Whether the package is certainly not the one that this process began with: replaced, moved or deleted."""
    try:
        return _AT_START is not None and _identity() != _AT_START
    except OSError:
        return False


def _unloaded() -> list[str]:
    """Return the modules that this process has not loaded and may need: of each room of which it has loaded any."""
    rooms = {name.split(".")[1] for name in list(sys.modules) if name.startswith("supervisor.")}
    names: list[str] = [*_OTHERS]
    if "cli" in rooms:
        names += _FOR_COMMANDS
    others = _ROOMS_OF_OTHERS
    if "trio" not in sys.modules:
        others |= _WITH_EVENT_LOOP
        names += _WITHOUT_EVENT_LOOP
    for room in sorted(rooms - others):
        if hasattr(sys.modules.get(f"supervisor.{room}"), "__path__"):
            names += _modules_in(f"{PACKAGE}/{room}", f"supervisor.{room}")
    return [name for name in names if name not in sys.modules]


def _modules_in(directory: str, package: str) -> Iterator[str]:
    from pkgutil import iter_modules  # few processes live that long

    for found in iter_modules([directory], f"{package}."):
        yield found.name
        if found.ispkg:
            yield from _modules_in(f"{directory}/{found.name.rpartition('.')[2]}", found.name)


def _load(name: str) -> None:
    """Import a module, its parents first.

    An import of ``a.b`` takes the lock of ``a.b`` and then that of ``a``. Another thread that imports ``a``, which
    imports ``a.b``, takes them the other way round: one of the two would get an error from the interpreter.
    """
    end = name.find(".")
    while end >= 0:
        import_module(name[:end])
        end = name.find(".", end + 1)
    import_module(name)


def steps() -> Iterator[None]:
    """Load a module at each step, until all that this process may need later are loaded.

    If the package has changed, nothing more of it is loaded.
    """
    tried: set[str] = set()
    while names := [name for name in _unloaded() if name not in tried]:  # what was loaded may need further rooms
        for name in names:
            tried.add(name)
            # It may be of an extra that is not installed, or not for this system; or a descriptor is missing.
            with contextlib.suppress(ImportError, OSError, MemoryError):
                if not has_changed():
                    _load(name)
            if has_changed():
                log.warning("installation_changed", package=PACKAGE)
                return
            yield
    log.debug("installation_loaded")


@cache
def load_rest() -> None:
    """Take all steps in this thread; calls after the first one do nothing."""
    for _ in steps():
        pass
