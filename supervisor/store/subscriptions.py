"""Subscriptions of MCP clients to events by webhook: ``<root>/subscriptions/<id>.json`` and ``<id>.progress``.

The first file has the request, with the secret that signs the webhooks, so only the user can read it. Each request that
subscribes or refreshes replaces it. The second file says how far the events were delivered; only the process that has
the lease (``subscriptions.lock``) writes it. Requests write the one and deliveries the other, so neither loses what the
other has written.

A subscription that has expired may be made anew under the same id. ``made_ns`` in the second file says to which of the
two it belongs.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Generator, Iterator, Mapping
from hashlib import sha256
from typing import Any, Final, TypeVar

import attrs

from supervisor.store.named_files import replace_file
from supervisor.system.observing import is_there
from supervisor.system.syncing import sync_names

__all__ = [
    "LEASE",
    "Progress",
    "Subscription",
    "id_of",
    "load",
    "load_all",
    "load_progress",
    "locked",
    "remove",
    "remove_expired",
    "save",
    "save_progress",
    "scan",
]

DIRECTORY: Final = "subscriptions"
LEASE: Final = "subscriptions.lock"
"""The lock (flock) of the process that delivers."""

_VERSION: Final = 1
_NAME: Final = re.compile(r"(sub_[0-9a-f]{32})\.json", re.ASCII)
_T = TypeVar("_T", "Subscription", "Progress")


@attrs.frozen(slots=True, kw_only=True)
class Subscription:
    """What a client has subscribed to, and where its events go. All times are in ns since the epoch of Unix.

    Attributes:
        subscription_id: made of the next four, so it is always the same for them.
        principal: who has subscribed.
        url: of the receiver.
        name: the type of the events.
        arguments: which of these events.
        secret: signs the webhooks.
        old_secret: signs them, too, until ``old_until_ns``: the receiver may not know the new one yet.
        old_until_ns: the end of the rotation.
        start: the position in the journal after which the events begin.
        since_ns: events that happened before are not delivered.
        made_ns: when it was made.
        refreshed_ns: when it was refreshed last.
        expires_ns: until when it lasts.
    """

    subscription_id: str
    principal: str
    url: str = attrs.field(repr=False)
    name: str
    arguments: Mapping[str, str]
    secret: str = attrs.field(repr=False)
    old_secret: str | None = attrs.field(default=None, repr=False)
    old_until_ns: int = 0
    start: str
    since_ns: int = 0
    made_ns: int
    refreshed_ns: int
    expires_ns: int


@attrs.frozen(slots=True, kw_only=True)
class Progress:
    """How far a subscription was delivered.

    Attributes:
        made_ns: that of the subscription.
        position: in the journal: each event before it was accepted, or given up.
        suspended_ns: the last refresh before delivery was suspended, until the next one; 0 while it is not.
        delivered_ns: when the receiver accepted an event last; 0 for never.
        error: why the last attempt has failed, one of the words of the protocol; ``None`` after one that has not.
        failing_ns: since when attempts fail; 0 if they do not.
    """

    made_ns: int
    position: str
    suspended_ns: int = 0
    delivered_ns: int = 0
    error: str | None = None
    failing_ns: int = 0


def id_of(principal: str, url: str, name: str, arguments: Mapping[str, str]) -> str:
    """Return the id of a subscription. It routes, and authorizes nothing."""
    key = json.dumps([principal, url, name, arguments], sort_keys=True, separators=(",", ":"))
    return f"sub_{sha256(key.encode()).hexdigest()[:32]}"


# ------------------------------------------------------------ the subscriptions


@contextlib.contextmanager
def locked(root: str) -> Generator[None]:
    """Keep other processes from adding subscriptions, and from removing expired ones."""
    directory = f"{root}/{DIRECTORY}"
    with contextlib.suppress(FileExistsError):
        os.mkdir(directory, 0o700)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def scan(root: str) -> dict[str, int]:
    """Return the ids of the subscriptions, each with a number that changes with the file.

    Raises:
        OSError: they are not known now. So do the next functions.
    """
    try:
        with os.scandir(f"{root}/{DIRECTORY}") as entries:
            found = {entry.name: entry.inode() for entry in entries}
    except FileNotFoundError:
        return {}
    return {match[1]: number for name, number in found.items() if (match := _NAME.fullmatch(name))}


def load(root: str, subscription_id: str) -> Subscription | None:
    """Return a subscription; ``None`` if there is none of this id that this version can read."""
    return _read(Subscription, f"{root}/{DIRECTORY}/{subscription_id}.json")


def load_all(root: str) -> Iterator[Subscription]:
    """Yield all subscriptions, also expired ones that no process has removed yet."""
    for subscription_id in scan(root):
        found = load(root, subscription_id)
        if found is not None:
            yield found


def save(root: str, subscription: Subscription, *, durable: bool = False) -> None:
    """Write a subscription, over the one with the same id if there is one; only within ``locked``.

    ``durable``: see ``named_files``.
    """
    _replace(root, f"{subscription.subscription_id}.json", subscription, durable=durable)


def remove(root: str, subscription_id: str, *, durable: bool = False) -> bool:
    """Delete a subscription; return whether there was one. ``durable``: see ``named_files``."""
    directory, was_there = f"{root}/{DIRECTORY}", True
    try:
        os.unlink(f"{directory}/{subscription_id}.json")
    except FileNotFoundError:
        was_there = False
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{directory}/{subscription_id}.progress")
    if durable:
        with contextlib.suppress(FileNotFoundError):  # there never was its directory
            sync_names(directory, root)
    return was_there


def remove_expired(root: str, subscription_id: str, now_ns: int) -> bool:
    """Delete a subscription, unless it was refreshed or made anew meanwhile; return whether it was deleted."""
    with locked(root):
        found = load(root, subscription_id)
        return found is not None and found.expires_ns <= now_ns and remove(root, subscription_id)


# ------------------------------------------------------------ how far they were delivered


def load_progress(root: str, subscription: Subscription) -> Progress:
    """Return how far a subscription was delivered."""
    found = _read(Progress, f"{root}/{DIRECTORY}/{subscription.subscription_id}.progress")
    if found is None or found.made_ns != subscription.made_ns:
        return Progress(made_ns=subscription.made_ns, position=subscription.start)
    return found


def save_progress(root: str, subscription_id: str, progress: Progress) -> None:
    """Write how far a subscription was delivered, unless it was removed meanwhile."""
    _replace(root, f"{subscription_id}.progress", progress)
    path = f"{root}/{DIRECTORY}/{subscription_id}"
    if not is_there(f"{path}.json"):  # the process that has removed it may have done so before this file was there
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{path}.progress")


# ------------------------------------------------------------ files


def _read(cls: type[_T], path: str) -> _T | None:
    try:
        with open(path, "rb") as file:
            held: dict[str, Any] = json.load(file)
        if held.pop("v") != _VERSION:
            return None
        known = {field.name for field in attrs.fields(cls)}
        return cls(**{name: held[name] for name in held if name in known})
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _replace(root: str, name: str, record: Subscription | Progress, *, durable: bool = False) -> None:
    content = json.dumps({"v": _VERSION, **attrs.asdict(record)}).encode("ascii")
    replace_file(f"{root}/{DIRECTORY}/{name}", content, root if durable else None)
