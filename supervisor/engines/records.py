"""The records that say what became of a job's process, and how they are written.

Standard library only, no import from the package: the keeper runs this file too.

Every record is one flat JSON object on one line, written under a temporary name and renamed or
linked into place, so that whoever reads it sees all of it or none. ``"v"`` is the version of the
shape; a reader ignores members that it does not know.
"""

from __future__ import annotations

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
    "SHARED",
    "STDERR",
    "STDOUT",
    "STOP",
    "VERSION",
    "create",
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
SHARED: Final = "shared"  # a link from the state root to the job's directory, where that is shared with other machines

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
    """Return a record; ``None`` when there is none, ``{}`` when what is there is no record."""
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
        record = loads(b"".join(parts))
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


def take_claim(directory: str, holder: str) -> bool:
    """Claim the right to launch a job, or to rule that nobody will; ``False`` when it is taken.

    A symbolic link that leads nowhere, because making one is a single system call that is
    exclusive *and* carries who made it: there is no moment at which a claim exists and its holder
    is not known. It is read with ``readlink`` and never followed.
    """
    try:
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
