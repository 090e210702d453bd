"""What is put into a shared directory: the keeper that the nodes run, and what is meant for it alone."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from hashlib import sha256
from typing import Any, Final

__all__ = ["KEEPER_FILES", "program_in", "write_private"]

KEEPER_FILES: Final = (
    "keeper.py",
    "inotify.py",
    "keeper_job.py",
    "keeper_launch.py",
    "keeper_limits.py",
    "keeper_line.py",
    "keeper_loop.py",
    "keeper_output.py",
    "keeper_owed.py",
    "keeper_relay.py",
    "keeper_spawn.py",
    "keeper_turns.py",
    "kin.py",
    "looking.py",
    "measures.py",
    "plain_json.py",
    "processes.py",
    "records.py",
    "trees.py",
)


def write_private(path: str, content: bytes) -> None:
    """Write a file that is not there yet and that nobody else may read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "wb") as file:
        os.fchmod(descriptor, 0o600)
        file.write(content)


def program_in(shared: str) -> str:
    """Return the path of the keeper in a shared directory, after putting it there if need be.

    Nodes need not have this package, and jobs that wait keep the keeper that they were submitted with.
    """
    here = os.path.dirname(os.path.abspath(__file__))
    sources: dict[str, bytes] = {}
    for name in KEEPER_FILES:
        sources[name] = _source(f"{here}/{name}")
    digest = sha256(b"\0".join(sources.values())).hexdigest()[:12]
    home = f"{shared}/.keeper-{digest}"
    program = f"{home}/engines/keeper.py"
    if not os.path.exists(program):
        aside = tempfile.mkdtemp(prefix=".keeper-", dir=shared)
        os.mkdir(f"{aside}/engines", 0o700)
        for name, source in sources.items():
            with open(f"{aside}/engines/{name}", "wb") as file:
                file.write(source)
        _compile(f"{aside}/engines")
        try:
            os.rename(aside, home)
        except OSError:  # somebody else was first
            shutil.rmtree(aside, ignore_errors=True)
    return program


def _source(path: str) -> bytes:
    """Return a file of this package, which may be in an archive (a zip application)."""
    loader: Any = __spec__.loader
    if not os.path.exists(path) and hasattr(loader, "get_data"):
        content: bytes = loader.get_data(path)
        return content
    with open(path, "rb") as file:
        return file.read()


def _compile(directory: str) -> None:
    """Compile the keeper once instead of at every start; a node with another Python does without."""
    import py_compile

    for name in KEEPER_FILES[1:]:
        with contextlib.suppress(OSError, py_compile.PyCompileError):
            mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
            py_compile.compile(f"{directory}/{name}", invalidation_mode=mode, doraise=True)
