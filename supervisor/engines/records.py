"""The records that say what became of a job's process, and how they are written.

Standard library only, no import from the package: the keeper runs this file too.

Every record is one flat JSON object on one line; without its final newline it is not there yet.
``"v"`` is the version of the shape; a reader ignores members that it does not know. Most records
are written under a temporary name and renamed or linked into place. The two that every job gets are
written where they stand, since making a file can be the dearest part of a job: ``process.json`` by
the only one who may, and the exit as a second line of the same file, which then gets the name
``exit.json`` as well. So the first line of ``process.json`` and the last one of ``exit.json`` count.
"""

from __future__ import annotations

import errno
import os
from _thread import get_ident

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

__all__ = [
    "CLAIM",
    "EXIT",
    "JOB",
    "NOBODY",
    "PROCESS",
    "STDERR",
    "STDOUT",
    "STOP",
    "VERSION",
    "begin",
    "create",
    "end",
    "is_gone",
    "mark_stop",
    "read",
    "replace",
    "take_claim",
]

VERSION: Final = 1
JOB: Final = "job.json"
CLAIM: Final = "claim"
PROCESS: Final = "process.json"
STOP: Final = "stop.json"
EXIT: Final = "exit.json"
STDOUT: Final = "result.json"
STDERR: Final = "stderr.log"

NOBODY: Final = "nobody"

_PLAIN: Final = frozenset(map(ord, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 _.,:;/()'-+=@"))


def _encode_value(value: object) -> str:
    if value is None:
        return "null"
    if value is True:
        return "true"
    if value is False:
        return "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str) and ((value.isascii() and value.isalnum()) or _PLAIN.issuperset(map(ord, value))):
        return f'"{value}"'
    from json import dumps  # 10 ms of imports, for the rare text that needs escaping

    return dumps(value)


def encode(record: dict[str, object]) -> bytes:
    """Return a flat record as one line of JSON."""
    members = [f'"v":{VERSION}']
    for name, value in record.items():
        # Most are whole numbers, and two records are written for every job.
        members.append(f'"{name}":{value}' if type(value) is int else f'"{name}":{_encode_value(value)}')
    return ("{" + ",".join(members) + "}\n").encode("ascii")


def _write_aside(directory: str, name: str, data: bytes) -> str:
    aside = f"{directory}/.{name}.{os.getpid()}.{get_ident()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(aside, flags, 0o600)
    try:
        os.fchmod(descriptor, 0o600)  # whatever the umask of whoever writes
        written = os.write(descriptor, data)
        while written < len(data):
            written += os.write(descriptor, data[written:])
    except OSError:
        os.close(descriptor)
        os.unlink(aside)
        raise
    os.close(descriptor)
    return aside


def replace(directory: str, name: str, record: dict[str, object]) -> None:
    """Write a record, over an older one if there is one."""
    os.rename(_write_aside(directory, name, encode(record)), f"{directory}/{name}")


def begin(directory: str, record: dict[str, object]) -> None:
    """Write ``process.json``, which only the holder of the claim does.

    Raises:
        OSError: it could not be written, at least not all of it; ``replace`` mends that.
    """
    path = f"{directory}/{PROCESS}"
    _write_whole(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), encode(record))


def end(directory: str, record: dict[str, object]) -> None:
    """Write ``exit.json`` for a job whose ``process.json`` this process has begun.

    Raises:
        OSError: it could not be written, at least not all of it; ``replace`` mends that.
    """
    path = f"{directory}/{PROCESS}"
    # The empty line between them is for a first one that somebody has cut short.
    _write_whole(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW), b"\n" + encode(record))
    os.link(path, f"{directory}/{EXIT}", follow_symlinks=False)


def _write_whole(descriptor: int, data: bytes) -> None:
    try:
        if os.write(descriptor, data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(descriptor)


def create(directory: str, name: str, record: dict[str, object]) -> bool:
    """Write a record unless there is one already; ``False`` when somebody else was first."""
    aside = _write_aside(directory, name, encode(record))
    try:
        os.link(aside, f"{directory}/{name}", follow_symlinks=False)
    except FileExistsError:
        return False
    finally:
        os.unlink(aside)
    return True


def read(directory: str, name: str) -> dict[str, Any] | None:
    """Return a record; ``None`` when there is none (yet), ``{}`` when what is there is no record."""
    from json import loads

    try:
        descriptor = os.open(f"{directory}/{name}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        return {}
    record: Any
    try:
        parts: list[bytes] = []
        while data := os.read(descriptor, 1 << 20):
            parts.append(data)
        data = b"".join(parts)
        if name == PROCESS:
            if b"\n" not in data:
                return None  # its keeper is about to write it, or was killed before it could
            data = data[: data.index(b"\n")]
        elif name == EXIT:
            data = data[data.rstrip(b"\n").rfind(b"\n") + 1 :]
        record = loads(data)
    except (OSError, ValueError, RecursionError):
        return {}
    finally:
        os.close(descriptor)
    if not isinstance(record, dict):
        return {}
    held: dict[str, Any] = record  # pyright: ignore[reportUnknownVariableType]  # JSON
    return held if held.get("v") == VERSION else {}


def is_gone(directory: str) -> bool:
    """Whether a job directory is not there (any more): only finished jobs are ever forgotten."""
    return not os.path.isdir(directory)


def take_claim(directory: str, holder: str, like: str | None = None) -> bool:
    """Claim the right to launch a job, or to rule that nobody will; ``False`` when it is taken.

    ``like`` is the directory of another job that the same holder has claimed: its claim then gets
    a second name, which needs no new inode, wherever that can be done.

    A symbolic link that leads nowhere, because making one is a single system call that is
    exclusive *and* carries who made it: there is no moment at which a claim exists and its holder
    is not known. It is read with ``readlink`` and never followed.
    """
    try:
        if like is not None:
            try:
                os.link(f"{like}/{CLAIM}", f"{directory}/{CLAIM}", follow_symlinks=False)
            except FileExistsError:
                return False
            except OSError:  # that job is forgotten, its inode has all the names it can have, links cannot be linked
                pass
            else:
                return True
        os.symlink(holder, f"{directory}/{CLAIM}")
    except FileExistsError:
        return False
    return True


def read_claim(directory: str) -> str | None:
    """Return who holds the claim, ``""`` when it cannot be told, ``None`` when nobody does."""
    try:
        return os.readlink(f"{directory}/{CLAIM}")
    except FileNotFoundError:
        return None
    except OSError:
        return ""


def keeper_claim(pid: int, start: int, boot: str, namespace: str) -> str:
    """Return the claim of a keeper; short enough to stand in the link's own inode."""
    return f"keeper.{pid}.{start}.{boot[:12]}.{namespace}"


def mark_stop(directory: str, *, signalled: int | None = None, gone: bool = False, survivors: str = "") -> None:
    """Note in ``stop.json`` that the first signal is about to go out, or that nothing is left."""
    record: dict[str, object] = read(directory, STOP) or {"why": "cancelled"}
    record.pop("v", None)
    if signalled is not None and record.get("signalled_boot_ns") is None:
        record["signalled_boot_ns"] = signalled
    if gone:
        record["gone"] = True
    if survivors:
        record["survivors"] = survivors
    replace(directory, STOP, record)
