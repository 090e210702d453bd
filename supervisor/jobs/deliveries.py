"""What can be asked for to be delivered at the end of a job, and how the deliveries of a state root stand."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Final

from supervisor.errors import FeatureUnavailable, InvalidArguments, InvalidSettings
from supervisor.jobdir.durability import POWER
from supervisor.model import JobSpec
from supervisor.settings import Settings
from supervisor.store import outbox
from supervisor.store.outbox import Delivery
from supervisor.store.receivers import command_of
from supervisor.store.state_errors import state_error
from supervisor.system.syncing import sync_descriptor, sync_names
from supervisor.text.webhook_signatures import new_secret, parse_secrets
from supervisor.text.webhook_urls import parse_networks, parse_url, shown

__all__ = [
    "SECRET_FILE",
    "count_dead",
    "deliveries",
    "drop",
    "members_of",
    "receiver_of",
    "resolve",
    "retry",
    "to_json",
    "webhook_keys",
]

SECRET_FILE: Final = "webhook-secret"  # noqa: S105  # a name
_SHORTEST: Final = 4


# ------------------------------------------------------------ at the start of a job


def members_of(spec: JobSpec, settings: Settings, root: str, workspace: str) -> dict[str, Any]:
    """Return the members of ``job.json`` about the delivery of the end, checked as far as that is possible now.

    Raises:
        InvalidArguments: there is no such command, or no webhook can be sent to the URL.
        InvalidSettings: the secret cannot sign webhooks.
        FeatureUnavailable: the extra that sends webhooks is not installed.
    """
    members: dict[str, Any] = {}
    if spec.on_end:
        members[outbox.ON_END] = command_of(spec.on_end, workspace)
    if spec.webhook:
        try:
            parse_url(spec.webhook, parse_networks(settings.webhook_allow))
        except ValueError as error:
            message = f"no webhook can be sent to the URL that was given: {error}"
            repair = "Give a URL such as https://example.com/hook; see docs/deliveries.md."
            raise InvalidArguments(message, repair=repair, details={"argument": outbox.WEBHOOK}) from error
        if find_spec("h11") is None:
            message = "webhooks need h11, which is not installed"
            raise FeatureUnavailable(message, repair="Install trio-supervisor[webhooks].")
        webhook_keys(settings, root)
        members[outbox.WEBHOOK] = spec.webhook
    return members


def webhook_keys(settings: Settings, root: str) -> list[bytes]:
    """Return the keys that sign webhooks: of the setting, else of the file, which is made if there is none.

    Raises:
        InvalidSettings: the secret cannot sign. The message does not have it.
        StateFull, StateBusy, PermissionDenied: the file cannot be read or made.
    """
    text, where = settings.webhook_secret, "SUPERVISOR_WEBHOOK_SECRET"
    if not text:
        where = f"{root}/{SECRET_FILE}"
        try:
            text = _secret_file(where, durable_in=root if settings.durability == POWER else None)
        except OSError as error:
            raise state_error(error, f"cannot use {where}") from error
    try:
        return parse_secrets(text)
    except ValueError as error:
        message = f"{where} cannot sign webhooks: {error}"
        repair = f"Set another secret, or none: then one is made in {root}/{SECRET_FILE}."
        raise InvalidSettings(message, repair=repair, details={"variable": where}) from error


def _secret_file(path: str, durable_in: str | None) -> str:
    flags = os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(path, os.O_RDONLY | flags)
    except FileNotFoundError:
        aside = f"{path}.{os.getpid()}.{os.urandom(4).hex()}"
        with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | flags, 0o600), "w", encoding="ascii") as file:
            file.write(f"{new_secret()}\n")
            if durable_in is not None:
                file.flush()
                sync_descriptor(file.fileno())
        try:
            with contextlib.suppress(FileExistsError):  # another process was first
                os.link(aside, path)
        finally:
            os.unlink(aside)
        if durable_in is not None:
            sync_names(durable_in, durable_in)
        descriptor = os.open(path, os.O_RDONLY | flags)
    with open(descriptor, encoding="ascii", errors="replace") as file:
        return file.read(4096)


# ------------------------------------------------------------ the deliveries


def deliveries(root: str, *, only_dead: bool = False) -> list[Delivery]:
    """Return the deliveries that are to be made, and the dead ones, the oldest first.

    Raises:
        StateBusy: they cannot be read now.
    """
    try:
        names = [*outbox.dead(root), *([] if only_dead else outbox.pending(root))]
        found = filter(None, (outbox.read(root, name) for name in names))
        return sorted(found, key=lambda each: (each.made_ns, each.delivery_id))
    except OSError as error:
        raise state_error(error, "cannot read the deliveries") from error


def count_dead(root: str) -> int:
    """Return how many deliveries are not tried any more; 0 if that is not known now."""
    try:
        return len(outbox.dead(root))
    except OSError:
        return 0


def resolve(root: str, prefix: str) -> str:
    """Return the id of the only delivery that begins with ``prefix``, of at least 4 characters.

    Raises:
        InvalidArguments: there is none, or there are several.
    """
    try:
        names = {*outbox.dead(root), *outbox.pending(root)}
    except OSError as error:
        raise state_error(error, "cannot read the deliveries") from error
    found = sorted(name for name in names if name.startswith(prefix)) if len(prefix) >= _SHORTEST else []
    if prefix in names:
        return prefix
    if len(found) != 1:
        what = f"{len(found)} deliveries begin with" if found else "there is no delivery"
        message = f"{what} {prefix!r:.80}"
        repair = "`supervisor deliveries` lists them."
        raise InvalidArguments(message, repair=repair, details={"delivery_id": prefix[:80]})
    return found[0]


def retry(root: str, delivery_id: str) -> Delivery | None:
    """Have a delivery be tried at once, and for another day; ``None`` if it was made at this moment."""
    try:
        return outbox.read(root, delivery_id) if outbox.revive(root, delivery_id) else None
    except OSError as error:
        raise state_error(error, "cannot change a delivery") from error


def drop(root: str, delivery_id: str) -> None:
    """Delete a delivery: it is not made."""
    try:
        outbox.drop(root, delivery_id)
    except OSError as error:
        raise state_error(error, "cannot delete a delivery") from error


def to_json(delivery: Delivery) -> Mapping[str, Any]:
    """Return a delivery for programs, without its body and the path of its URL, which may hold a secret."""
    from supervisor.model import converter, from_ns

    is_command = isinstance(delivery.target, tuple)
    return {
        "delivery_id": delivery.delivery_id,
        "event_id": delivery.event_id,
        "job_id": delivery.job_id,
        "channel": delivery.channel,
        "to": list(delivery.target) if is_command else receiver_of(delivery),
        "state": "dead" if delivery.is_dead else "waiting",
        "made_at": converter.unstructure(from_ns(delivery.made_ns)),
        "failures": delivery.failures,
        "next_attempt_at": converter.unstructure(from_ns(delivery.due_ns)) if delivery.due_ns else None,
        "error": delivery.error,
    }


def receiver_of(delivery: Delivery) -> str:
    """Return the receiver of a delivery for people: the program, or scheme and host of the URL."""
    if isinstance(delivery.target, tuple):
        return delivery.target[0]
    return shown(delivery.target)
