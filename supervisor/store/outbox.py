"""The outbox: a file for each event that is to be delivered, ``<root>/deliveries/<job id>.<channel>``.

The transaction that records the end of a job makes the files, before it commits; the first delivery deletes them. What
a file holds does not change with the job, which may be forgotten meanwhile. After the files the transaction makes
``announced`` in the directory of the job, so that a new index, which records all ends anew, announces none twice. A
process that was killed before that mark is followed by one that records the same end, under the same id.

A delivery that has failed for a day gets another name, ``<job id>.<channel>.dead``, and stays until it is retried or
removed. Only the process that has the lease (``deliveries.lock``) sends, and changes files; ``retry`` and ``remove``
only rename and delete, which it notices by the time of the directory.

The deliveries of a job that survives the loss of power do so, too: they are on the disk before the end is recorded, and
each change is before the change is told. That a delivery was made may be forgotten: then it is made once more.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable
from itertools import count
from typing import Any, Final

import attrs

from supervisor.jobdir.records import ANNOUNCED
from supervisor.model import to_json
from supervisor.store.jobs_of_rows import job_of
from supervisor.store.rows import Row
from supervisor.system.observing import is_there
from supervisor.system.syncing import sync_descriptor, sync_directory, sync_names

__all__ = [
    "CHANNELS",
    "DIRECTORY",
    "LEASE",
    "ON_END",
    "WEBHOOK",
    "Delivery",
    "add",
    "bury",
    "dead",
    "drop",
    "is_any_pending",
    "pending",
    "read",
    "remove",
    "revive",
    "save",
    "scan",
    "stamp",
]

DIRECTORY: Final = "deliveries"
LEASE: Final = "deliveries.lock"
"""The lock (flock) of the process that delivers."""
ON_END: Final = "on_end"
WEBHOOK: Final = "webhook"
CHANNELS: Final = (ON_END, WEBHOOK)
"""The members of ``job.json`` that ask for a delivery, which are the channels of a delivery, too."""

_DEAD: Final = ".dead"
_NAME: Final = re.compile(r"[0-9a-f]{32}\.(on_end|webhook)", re.ASCII)
_VERSION: Final = 1
_numbers: Final = count()


@attrs.frozen(slots=True, kw_only=True)
class Delivery:
    """An event on its way to one receiver.

    Attributes:
        delivery_id: ``<job id>.<channel>``.
        event_id: the same for all deliveries of one end, and for all attempts.
        channel: ``on_end`` or ``webhook``.
        target: the words of the command, or the URL.
        job_id: of the job that has ended.
        series_id: of its series; a job that is not tried again is one by itself.
        attempt: its number in the series: a later one is delivered later.
        workspace: of the job.
        made_ns: when the end was recorded, by the wall clock.
        body: what is delivered, as JSON.
        failures: how many attempts have failed.
        due_ns: when the next attempt is made, by the wall clock.
        error: why the last attempt has failed.
        durable: it survives the loss of power, as its job does.
        is_dead: it is not tried again.
    """

    delivery_id: str
    event_id: str
    channel: str
    target: tuple[str, ...] | str
    job_id: str
    series_id: str
    attempt: int
    workspace: str
    made_ns: int
    body: str
    failures: int = 0
    due_ns: int = 0
    error: str | None = None
    durable: bool = False
    is_dead: bool = False


def add(root: str, directory: str, row: Row, now_ns: int) -> None:
    """Make the files for the end of a job, within the transaction that records it; ``directory`` is that of the job.

    Raises:
        OSError: they cannot be made now; then the end must not be recorded.
    """
    if is_there(f"{directory}/{ANNOUNCED}"):
        return
    request = row.request
    job = to_json(job_of(row, request.get("directory", directory)))
    event = {"type": "job.ended", "timestamp": job["completed_at"], "data": job}
    body = json.dumps(event, separators=(",", ":"))
    for channel in CHANNELS:
        if channel in request:
            target = request[channel]
            _make(
                root,
                Delivery(
                    delivery_id=f"{row.job_id}.{channel}",
                    event_id=f"evt_{row.job_id}",
                    channel=channel,
                    target=target if isinstance(target, str) else tuple(target),
                    job_id=row.job_id,
                    series_id=request.get("series_id", row.job_id),
                    attempt=request.get("attempt", 1),
                    workspace=request["workspace"],
                    made_ns=now_ns,
                    body=body,
                    durable=row.is_durable,
                ),
            )
    with contextlib.suppress(FileNotFoundError):  # a job without a directory is in no new index
        os.close(os.open(f"{directory}/{ANNOUNCED}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        if row.is_durable:
            sync_directory(directory)


def _make(root: str, delivery: Delivery) -> None:
    """Write a new file, unless there is one: the process before was killed, and the delivery may have begun."""
    path = _path(root, delivery)
    if is_there(path + _DEAD):
        return
    aside = _write(root, delivery)
    try:
        with contextlib.suppress(FileExistsError):
            os.link(aside, path)
    finally:
        os.unlink(aside)
    _sync_names(root, delivery)


def _path(root: str, delivery: Delivery) -> str:
    return f"{root}/{DIRECTORY}/{delivery.delivery_id}"


def _write(root: str, delivery: Delivery) -> str:
    """Write a file beside, and return its path."""
    held = {"v": _VERSION, **attrs.asdict(delivery, filter=attrs.filters.exclude("is_dead"))}
    aside = f"{root}/{DIRECTORY}/.{delivery.delivery_id}.{os.getpid()}.{next(_numbers)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(aside, flags, 0o600)
    except FileNotFoundError:
        with contextlib.suppress(FileExistsError):
            os.mkdir(f"{root}/{DIRECTORY}", 0o700)
        descriptor = os.open(aside, flags, 0o600)
    try:
        with open(descriptor, "w", encoding="ascii") as file:
            json.dump(held, file)
            if delivery.durable:
                file.flush()
                sync_descriptor(descriptor)
    except BaseException:
        os.unlink(aside)
        raise
    return aside


def _sync_names(root: str, delivery: Delivery | None) -> None:
    if delivery is not None and delivery.durable:
        sync_names(f"{root}/{DIRECTORY}", root)


def _move(root: str, delivery: Delivery, before: str, after: str) -> None:
    """Write a delivery, and have it have another name, unless it was removed meanwhile.

    Its old name goes when the new one is on the disk: so at each moment it has one.
    """
    aside = _write(root, delivery)
    try:
        if is_there(before):
            os.rename(aside, after)
        else:
            os.unlink(aside)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(aside)
        raise
    _sync_names(root, delivery)
    if before != after:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(before)
        _sync_names(root, delivery)


# ------------------------------------------------------------ the process that delivers


def save(root: str, delivery: Delivery) -> None:
    """Write a delivery after an attempt that has failed, unless it was removed meanwhile."""
    path = _path(root, delivery)
    _move(root, delivery, path, path)


def bury(root: str, delivery: Delivery) -> None:
    """Have a delivery not be tried again: it is dead."""
    path = _path(root, delivery)
    _move(root, delivery, path, path + _DEAD)


def stamp(root: str) -> tuple[int, int]:
    """Return what changes when a file is added, replaced, removed, or renamed; zeros if there has never been any."""
    try:
        found = os.stat(f"{root}/{DIRECTORY}")
    except FileNotFoundError:
        return 0, 0
    return found.st_ino, found.st_mtime_ns


def scan(root: str) -> dict[str, int]:
    """Return the ids of the deliveries that are to be made, each with a number that changes with the file."""
    try:
        with os.scandir(f"{root}/{DIRECTORY}") as entries:
            return {entry.name: entry.inode() for entry in entries if _NAME.fullmatch(entry.name)}
    except FileNotFoundError:
        return {}


# ------------------------------------------------------------ all processes


def _names(root: str) -> list[str]:
    try:
        return os.listdir(f"{root}/{DIRECTORY}")
    except FileNotFoundError:
        return []


def pending(root: str) -> list[str]:
    """Return the ids of the deliveries that are to be made.

    Raises:
        OSError: they are not known now. So do the next functions.
    """
    return [name for name in _names(root) if _NAME.fullmatch(name)]


def is_any_pending(root: str) -> bool:
    """Whether any delivery is to be made."""
    return any(_NAME.fullmatch(name) for name in _names(root))


def dead(root: str) -> list[str]:
    """Return the ids of the deliveries that are not tried again."""
    found = (name.removesuffix(_DEAD) for name in _names(root) if name.endswith(_DEAD))
    return [name for name in found if _NAME.fullmatch(name)]


def read(root: str, delivery_id: str) -> Delivery | None:
    """Return a delivery; ``None`` if there is none of this id, or only a newer version can read it."""
    for ending in ("", _DEAD):
        try:
            with open(f"{root}/{DIRECTORY}/{delivery_id}{ending}", "rb") as file:
                held: dict[str, Any] = json.load(file)
            if held.pop("v") != _VERSION:
                return None
            known = {field.name for field in attrs.fields(Delivery)}
            target: Any = held["target"]
            held["target"] = target if isinstance(target, str) else tuple(target)
            return Delivery(**{name: held[name] for name in held if name in known}, is_dead=bool(ending))
        except FileNotFoundError:
            continue
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
    return None


def revive(root: str, delivery_id: str) -> bool:
    """Have a delivery be tried at once, with a day of attempts before it; return whether there is such a one."""
    delivery = read(root, delivery_id)
    if delivery is None:
        return False
    path = _path(root, delivery)
    _move(root, attrs.evolve(delivery, failures=0, due_ns=0), path + _DEAD if delivery.is_dead else path, path)
    return True


def remove(root: str, delivery_ids: Iterable[str]) -> None:
    """Delete deliveries that were made."""
    for delivery_id in delivery_ids:
        for ending in ("", _DEAD):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{root}/{DIRECTORY}/{delivery_id}{ending}")


def drop(root: str, delivery_id: str) -> None:
    """Delete a delivery that is not to be made."""
    delivery = read(root, delivery_id)
    remove(root, [delivery_id])
    _sync_names(root, delivery)
