"""Which Python runs the keeper, and where its program stands."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from typing import Any, Final

from supervisor.engines import staging
from supervisor.errors import LaunchFailed
from supervisor.keeper import entry as keeper_entry
from supervisor.system import installation

__all__ = ["find_python", "helper_command", "keeper_program", "what_is_gone"]

_FROM_ARCHIVE: Final = (
    "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); "
    "runpy.run_module('supervisor', run_name='__main__', alter_sys=True)"
)
"""``python -m supervisor`` for a package in an archive (a zip application), which comes first in the arguments."""
_PYTHON: Final = re.compile(r"(python|pypy)[0-9.]*[a-z]?(-[a-z0-9_.-]+)?(\.exe)?")


def find_python(given: str | os.PathLike[str] | None = None) -> str:
    """Return the interpreter that was given, else that of this process, else the one that it was made from.

    A process may be run by something that is no Python (uWSGI, a frozen program), or not know what runs it.

    Raises:
        LaunchFailed: there is none.
    """
    if given is not None:
        return os.fspath(given)
    for candidate in _candidates():
        if _is_python(candidate):
            return candidate
    found = f"sys.executable is {sys.executable!r}, which is no Python" if sys.executable else "sys.executable is empty"
    message = f"no Python was found to run the keeper: {found}"
    raise LaunchFailed(message, repair="Name a Python 3.11 or newer by SUPERVISOR_PYTHON.")


def _candidates() -> Iterator[str]:
    frozen = getattr(sys, "frozen", False)
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    if not frozen:
        yield sys.executable or ""
        base: Any = getattr(sys, "_base_executable", None)
        yield base or ""
        yield f"{sys.base_prefix}/bin/{version}"
        yield f"{sys.base_prefix}/bin/python3"
    yield shutil.which(version) or ""
    yield shutil.which("python3") or ""


def _is_python(path: str) -> bool:
    names = {os.path.basename(path), os.path.basename(os.path.realpath(path))}
    return any(map(_PYTHON.fullmatch, names)) and os.path.isfile(path) and os.access(path, os.X_OK)


def helper_command() -> list[str]:
    """Return the command that launches the waiting jobs of the state root in its environment.

    Raises:
        LaunchFailed: there is no Python to run it.
    """
    python, package = find_python(), os.path.dirname(os.path.dirname(os.path.abspath(keeper_entry.__file__)))
    if os.path.isdir(package):
        return [python, "-P", "-m", "supervisor", "launch-waiting"]
    return [python, "-P", "-c", _FROM_ARCHIVE, os.path.dirname(package), "launch-waiting"]


def keeper_program(root: str) -> str:
    """Return the path of the keeper, which is put below the state root if this package is in an archive.

    Raises:
        OSError: it cannot be put there.
    """
    path = os.path.abspath(keeper_entry.__file__)
    return path if os.path.isfile(path) else staging.program_in(root)


def what_is_gone(given: str | os.PathLike[str] | None = None) -> str | None:
    """Return what of the installation is not as it was when this process began: a reason why no keeper starts.

    ``given``: the interpreter that was given for the keeper.
    """
    if installation.has_changed():
        how = "replaced" if os.path.isfile(keeper_entry.__file__) else "moved or deleted"
        return f"the package at {installation.PACKAGE} was {how} under this process"
    if given is None and sys.executable and not os.path.exists(sys.executable):
        return f"the Python at {sys.executable} was moved or deleted under this process"
    return None
