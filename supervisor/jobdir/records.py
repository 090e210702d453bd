"""Reads and writes the records of a job.

A record that cannot be read now is neither missing nor damaged: see ``observing``.

Every record is one flat JSON object on one line; ``"v"`` is the version of the shape, and a reader
ignores members that it does not know. Most are written under a temporary name and renamed or linked
into place, so that readers find all of it or none. Frequent records do without, since making a file can be the most
expensive part of a job: ``process.json`` is written in place by the only process that may; ``stop.json`` is updated by
further lines; and the exit is a further line of ``process.json``, which then gets the name ``exit.json`` as well. So of
``process.json`` the first line counts, of every other record the last whole one.
"""

from __future__ import annotations

import os
import stat
from _thread import get_ident
from errno import EDQUOT, EINVAL, EISDIR, ELOOP, ENOSPC, ENXIO

from supervisor.jobdir.plain_json import loads, quote
from supervisor.system.observing import find, is_absent, not_known
from supervisor.system.processes import boottime_ns
from supervisor.system.syncing import sync_descriptor, sync_directory, sync_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

__all__ = [
    "AWAITED",
    "CGROUP",
    "CHANGING",
    "CLAIM",
    "CONTROLS",
    "EXIT",
    "GRANTED",
    "IGNORED_LIMITS",
    "INPUT",
    "JOB",
    "MEMORY_CGROUP",
    "NOBODY",
    "NO_ROOM",
    "ORDERS",
    "PAUSE",
    "PAUSED",
    "PROCESS",
    "QUEUE",
    "RESERVED",
    "RUNNING",
    "SHARED",
    "SPARES",
    "STDERR",
    "STDIN",
    "STDOUT",
    "STOP",
    "SUBMISSION",
    "THAWS",
    "VERSION",
    "append",
    "begin",
    "create",
    "end",
    "is_gone",
    "make_spares",
    "read",
    "read_pause",
    "replace",
    "take_claim",
    "write_all",
]

VERSION: Final = 1
CGROUP: Final = "cgroup"
"""The member of ``process.json`` with the directory of the control group that holds the processes of the job."""
MEMORY_CGROUP: Final = "memory_cgroup"
"""The same of the control group that limits its memory."""
IGNORED_LIMITS: Final = "ignored_limits"
"""The member with the names of the limits that could not be set."""
JOB: Final = "job.json"
CLAIM: Final = "claim"
PROCESS: Final = "process.json"
STOP: Final = "stop.json"
EXIT: Final = "exit.json"
PAUSE: Final = "pause.json"
"""Whether the processes of a job are stopped, and for how long that has held its deadline."""
STDOUT: Final = "result.json"
STDERR: Final = "stderr.log"
GRANTED: Final = "granted"
"""The job was given its slots at the time of this file, for an index that is made anew. Its content means nothing."""
RESERVED: Final = "reserved.json"
"""What a job has reserved that was admitted by a group with budgets, for an index that is made anew."""
AWAITED: Final = "awaited"
"""An empty file: a job waits for this one. The keeper looks for it when this job ends and no supervisor is left."""
ANNOUNCED: Final = "announced"
"""An empty file: the deliveries of the end of this job were made, see ``store.outbox``."""
QUEUE: Final = "queue.json"
"""What was changed about a waiting job since it was made."""
ORDERS: Final = "orders"
STDIN: Final = "stdin"
"""What a job that waits is launched from: its command and environment, and its input."""
INPUT: Final = "input"
"""The socket by which other processes reach the input of a job with an open stdin, or its terminal."""
SUBMISSION: Final = "submission.json"
"""In the directory of a job of a cluster: when it was submitted, and how the cluster knows it."""
SHARED: Final = "shared"  # a link from the state root to the job's directory, where that is shared with other machines

SPARES: Final = ".spare"
"""In the state root: files that take records on a full disk."""
_MAX_SPARES: Final = 16
_SPARE_BYTES: Final = 4096

NO_ROOM: Final = frozenset({ENOSPC, EDQUOT})

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
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, dict):
        members: dict[str, object] = value  # pyright: ignore[reportUnknownVariableType]
        return "{" + ",".join(f"{quote(name)}:{_encode_value(each)}" for name, each in members.items()) + "}"
    if isinstance(value, list | tuple):
        items: list[object] | tuple[object, ...] = value  # pyright: ignore[reportUnknownVariableType]
        return "[" + ",".join(map(_encode_value, items)) + "]"
    message = f"a record cannot have {value!r:.80}"
    raise TypeError(message)


def encode(record: dict[str, object]) -> bytes:
    """Return a record as one line of JSON; ``json`` would be imported in a keeper that runs, and may be gone then."""
    members = [f'"v":{VERSION}']
    for name, value in record.items():
        # Most are whole numbers, and two records are written for every job.
        members.append(f'"{name}":{value}' if type(value) is int else f'"{name}":{_encode_value(value)}')
    return ("{" + ",".join(members) + "}\n").encode("ascii")


def _write_aside(directory: str, name: str, data: bytes, *, durable: bool = False) -> str:
    aside = f"{directory}/.{name}.{os.getpid()}.{get_ident()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(aside, flags, 0o600)
        try:
            os.fchmod(descriptor, 0o600)  # for any umask of the writer
            write_all(descriptor, data)
            if durable:
                sync_descriptor(descriptor)
        except OSError:
            os.unlink(aside)
            raise
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in NO_ROOM or not _write_in_spare(directory, aside, data):
            raise
        if durable:
            sync_file(aside)
    return aside


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write all of ``data``, in as many calls as that takes."""
    while data:
        data = data[os.write(descriptor, data) :]


def make_spares(root: str) -> None:
    """Make the files of a state root that take a record when the disk has no room for it."""
    directory = f"{root}/{SPARES}"
    try:
        left = len(os.listdir(directory))
    except FileNotFoundError:
        os.mkdir(directory, 0o700)
        os.chmod(directory, 0o700)
        left = 0
    for _ in range(left, _MAX_SPARES):
        os.rename(_write_aside(root, "spare", bytes(_SPARE_BYTES)), f"{directory}/{os.urandom(8).hex()}")


def _write_in_spare(directory: str, aside: str, data: bytes) -> bool:
    """Write ``data`` into the inode and the block of a spare file."""
    spares = f"{os.path.dirname(os.path.dirname(directory))}/{SPARES}"
    try:
        names = os.listdir(spares) if len(data) <= _SPARE_BYTES else []
    except OSError:
        return False
    for name in names:
        try:
            os.rename(f"{spares}/{name}", aside)  # of several processes one gets it
            descriptor = os.open(aside, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            write_all(descriptor, data)
            os.ftruncate(descriptor, len(data))
        except OSError:
            os.unlink(aside)
        else:
            return True
        finally:
            os.close(descriptor)
    return False


def replace(directory: str, name: str, record: dict[str, object], *, durable: bool = False) -> None:
    """Write a record, over an older one if there is one.

    ``durable``: it is on the disk when this returns, and until then the disk has the older one.
    """
    path, aside = f"{directory}/{name}", _write_aside(directory, name, encode(record), durable=durable)
    try:
        os.rename(aside, path)
    except IsADirectoryError:  # another program's: it is moved out of the way
        os.rename(path, f"{aside}.in-the-way")
        os.rename(aside, path)
    if durable:
        sync_directory(directory)


def begin(directory: str, record: dict[str, object]) -> None:
    """Write ``process.json``; only the holder of the claim may.

    Raises:
        OSError: it could not be written whole; ``replace`` repairs that.
    """
    path = f"{directory}/{PROCESS}"
    _write_whole(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, encode(record))


def end(directory: str, record: dict[str, object]) -> None:
    """Write ``exit.json`` for a job whose ``process.json`` this process has begun.

    Raises:
        OSError: it could not be written whole; ``replace`` repairs that.
    """
    append(directory, PROCESS, record)
    os.link(f"{directory}/{PROCESS}", f"{directory}/{EXIT}", follow_symlinks=False)


def _write_whole(path: str, flags: int, data: bytes) -> None:
    descriptor = os.open(path, flags, 0o600)
    try:
        if os.write(descriptor, data) != len(data):
            raise OSError(ENOSPC, os.strerror(ENOSPC), path)
    finally:
        os.close(descriptor)


def create(directory: str, name: str, record: dict[str, object], *, durable: bool = False) -> bool:
    """Write a record unless there is one already; ``False`` when there is. ``durable``: as for ``replace``."""
    aside = _write_aside(directory, name, encode(record), durable=durable)
    path = f"{directory}/{name}"
    try:
        os.link(aside, path, follow_symlinks=False)
    except FileExistsError:
        return False
    except OSError as error:
        # A second name may need room as well, a rename does not.
        if error.errno not in NO_ROOM or find(path) is not None:
            raise
        os.rename(aside, path)
        return True
    finally:
        try:  # noqa: SIM105  # contextlib would cost the keeper 2 ms
            os.unlink(aside)
        except FileNotFoundError:
            pass
        if durable:
            sync_directory(directory)
    return True


def append(directory: str, name: str, record: dict[str, object]) -> None:
    """Write a newer version of a record as a further line: a hundredth of the cost of a new file.

    One call writes the line, and a line without its newline does not count, so this is as
    safe as a renamed file. The first newline ends a line that a full disk may have cut off.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    _write_whole(f"{directory}/{name}", flags, b"\n" + encode(record))


_LONGEST: Final = 1 << 20
_LONGEST_JOB: Final = 1 << 26  # it has the whole command in it


def read(directory: str, name: str, *, newer: bool = False) -> dict[str, Any] | None:
    """Return a record; ``None`` when there is none (yet), ``{}`` when the file holds no record.

    ``newer``: return a record of a newer version as well.

    Raises:
        NotKnown: it cannot be read now.
    """
    path = f"{directory}/{name}"
    try:
        content = _slurp(path, _LONGEST_JOB if name == JOB else _LONGEST)
    except (OSError, MemoryError) as error:
        if isinstance(error, OSError) and is_absent(error, path):
            return None
        raise not_known(error, path) from error
    if content is None:
        return {}
    if name == PROCESS:
        if not content:
            return None  # its keeper is about to write it, or was killed before
        content = content.partition(b"\n")[0]
    whole, _, _ = content.rpartition(b"\n")
    record: Any
    try:
        try:  # there may be several versions, of which the last whole one counts
            record = loads(str(whole.rstrip(b"\n").rpartition(b"\n")[2] or content, "utf-8"))
        except ValueError:
            record = loads(content)  # spread over several lines by an editor
    except (ValueError, RecursionError, StopIteration):
        return {}
    except MemoryError as error:
        raise not_known(error, path) from error
    if not isinstance(record, dict):
        return {}
    held: dict[str, Any] = record  # pyright: ignore[reportUnknownVariableType]  # JSON
    version = held.get("v")
    return held if version == VERSION or (newer and type(version) is int and version > VERSION) else {}


def _slurp(path: str, longest: int) -> bytes | None:
    """Return all of a file, ``None`` for one that is longer than a record can be, or not regular."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            parts: list[bytes] = []
            left = longest + 1
            while left and (data := os.read(descriptor, min(left, 1 << 20))):
                parts.append(data)
                left -= len(data)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in {ELOOP, ENXIO, EISDIR}:
            raise
        found = find(path)  # a link, a socket, a directory
        if found is None or stat.S_ISREG(found.st_mode):
            raise
        return None
    return b"".join(parts) if left else None


CONTROLS: Final = 2
"""In ``process.json``, by keepers that move deadlines as pauses say, know the first signal of a stop, and thaw."""
THAWS: Final = 2
"""The least that a keeper writes there which thaws the control group of a job that it stops."""

PAUSED: Final = "paused"
RUNNING: Final = "running"
CHANGING: Final = "changing"
"""Between the other two: some processes may be stopped, and some may run."""


def read_pause(directory: str) -> dict[str, Any] | None:
    """Return the last pause of a job, ``{}`` for a record that makes no sense, ``None`` when it was never paused.

    ``state`` is ``PAUSED``, ``RUNNING`` or ``CHANGING``; ``held_since_boot_ns`` is since when the deadline is held, or
    ``None``; ``held_ns`` is for how long it was held before; ``before`` names, as ``pid.start`` with spaces between
    them, the processes that were stopped already when the pause began.

    Raises:
        NotKnown: it cannot be read now.
    """
    record = read(directory, PAUSE)
    if not record:
        return record
    now = boottime_ns()
    since, held = record.get("held_since_boot_ns"), record.get("held_ns")
    fits = (
        record.get("state") in (PAUSED, RUNNING, CHANGING)  # it may be a list
        and (since is None or (type(since) is int and 0 <= since <= now))
        and (type(held) is int and 0 <= held <= now)
        and isinstance(record.get("before"), str)
    )
    return record if fits else {}


def is_gone(directory: str) -> bool:
    """Whether a job directory does not exist (any more): only finished jobs are deleted.

    Raises:
        NotKnown: that cannot be read now.
    """
    found = find(directory)
    return found is None or not stat.S_ISDIR(found.st_mode)


def take_claim(directory: str, holder: str, like: str | None = None) -> bool:
    """Claim the right to launch a job, or to rule that no process will; ``False`` when it is taken.

    ``like`` is the directory of another job that the same holder has claimed: its claim then gets
    a second name, which needs no new inode, wherever that is possible.

    A claim is a symbolic link to no file, because making one is a single system call that is exclusive *and* records
    the holder: a claim never exists without its holder. It is read with ``readlink`` and never followed.
    """
    try:
        if like is not None:
            try:
                os.link(f"{like}/{CLAIM}", f"{directory}/{CLAIM}", follow_symlinks=False)
            except FileExistsError:
                return False
            except OSError:  # that job is deleted, its inode can have no more names, links cannot be linked
                pass
            else:
                return True
        os.symlink(holder, f"{directory}/{CLAIM}")
    except FileExistsError:
        return False
    return True


def read_claim(directory: str) -> str | None:
    """Return the holder of the claim, ``""`` when the claim is damaged, ``None`` when there is none.

    Raises:
        NotKnown: it cannot be read now.
    """
    path = f"{directory}/{CLAIM}"
    try:
        return os.readlink(path)
    except OSError as error:
        if is_absent(error, path):
            return None
        found = find(path) if error.errno == EINVAL else None
        if found is not None and not stat.S_ISLNK(found.st_mode):
            return ""
        raise not_known(error, path) from error


def keeper_claim(pid: int, start: int, boot: str, namespace: str) -> str:
    """Return the claim of a keeper; short enough for the inode of the link."""
    return f"keeper.{pid}.{start}.{boot[:12]}.{namespace}"
