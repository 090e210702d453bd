"""Has systemd move this process into a scope: a unit with a control group of its own, which is delegated to it.

This is one request over D-Bus. A program that makes it (``systemd-run --scope``) takes longer than a keeper to start. A
library would have to be installed, and the keeper has only the standard library: so ``message_bus`` is our own.
"""

from __future__ import annotations

import os
import time

from supervisor.system import cgroups, message_bus, processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final, TypeVar

    T = TypeVar("T")

__all__ = ["ROOT", "ScopeError", "enter", "find_manager", "move_into_scope", "own_group"]

ROOT: Final = "/sys/fs/cgroup"
_PREFIX: Final = "supervisor-"
_SECONDS: Final = 2.0
"""The longest that a request may take. A job that needs no limits does without a manager that is this busy."""
_UNITS: Final = (".service", ".scope")
_SYSTEMD: Final = "org.freedesktop.systemd1"


class ScopeError(Exception):
    """Why there is no scope, in words.

    Attributes:
        may_pass: whether a later request may have an answer.
    """

    def __init__(self, message: str, *, may_pass: bool = False) -> None:
        super().__init__(message)
        self.may_pass = may_pass


def enter() -> None:
    """Move this process into a scope of its own, unless its control group is delegated already, and limits work there.

    A scope also keeps it from ending with the service or the session in which it was started.

    Raises:
        ScopeError: there is none for it.
    """
    manager = find_manager(mover=os.getpid())
    if manager is not None:
        move_into_scope(manager, f"{_PREFIX}{os.getpid()}-{time.time_ns()}.scope", "Jobs of supervisor")


def find_manager(*, mover: int = 0) -> str | None:
    """Return the socket of the manager that has a scope for a process like this one.

    ``None``: it needs none, since its control group is delegated. A delegated one that holds other processes itself is
    left all the same: jobs could not be limited in it. They could if those processes were moved into a part of it, but
    then a service whose stop spares jobs (``KillMode=process``) could not be started again while one of them runs.

    ``mover``: the pid of the process that is to enter a scope, 0 if it is still to be started.

    Raises:
        ScopeError: no manager has one.
    """
    try:
        own = own_group()
    except OSError as error:
        message = f"the control group of a process cannot be read: {error.strerror}"
        raise ScopeError(message, may_pass=True) from None
    uid = os.geteuid()
    places = cgroups.find_places(spawns_into=True, prepare=False, mover=mover)
    usable = not places.crowded or bool(places.limits)
    if usable and _is_delegated(uid, own):
        return None
    below, unit = _is_below_manager(uid, own), _unit_of(own)
    if unit.startswith(_PREFIX) and (below or _is_delegated(uid, own)):
        return None
    manager = _manager_of(uid, own)
    if usable and below and _ask(manager, lambda connection: _has_delegate(connection, unit)):
        return None
    return manager


def own_group() -> str:
    """Return the name of the unified control group of this process.

    Raises:
        ScopeError: there is none, or it has no controllers, which are in older hierarchies then.
        OSError: it cannot be read.
    """
    lines = processes.slurp("/proc/self/cgroup").decode("utf-8", "surrogateescape").splitlines()
    own = next((line[3:] for line in lines if line.startswith("0::")), "")
    if not own or not os.path.exists(f"{ROOT}{own}/cgroup.controllers"):
        message = "systemd has no unified control groups here"
        raise ScopeError(message)
    return own.rstrip("/")


def _manager_of(uid: int, own: str) -> str:
    """Return the socket of the manager that can move a process of this user; ``own`` is its control group.

    A manager of a user that ends with the last logout would end the process then. So it is asked only if it stays, or
    if the process is below it already.

    Raises:
        ScopeError: there is none, or not one that stays.
    """
    if uid == 0:
        path = "/run/dbus/system_bus_socket"
        if not os.path.isdir("/run/systemd/system") or not os.path.exists(path):
            message = "systemd does not run here"
            raise ScopeError(message)
        return path
    path = f"/run/user/{uid}/bus"
    if not os.path.exists(path):
        message = "this user has no user manager of systemd"
        raise ScopeError(message)
    if not _is_below_manager(uid, own) and not _lingers(uid):
        message = "the user manager ends with the last logout"
        raise ScopeError(message)
    return path


def _lingers(uid: int) -> bool:
    try:
        with open(f"/run/systemd/users/{uid}", encoding="utf-8", errors="surrogateescape") as file:
            names = [line[5:].strip() for line in file if line.startswith("NAME=")]
    except OSError:
        return False
    return any(os.path.exists(f"/var/lib/systemd/linger/{name}") for name in names)


def _is_below_manager(uid: int, own: str) -> bool:
    return f"/user@{uid}.service/" in f"{own}/"


def _unit_of(own: str) -> str:
    """Return the name of the unit whose control group holds another one, ``""`` if none does."""
    return next((name for name in reversed(own.split("/")) if name.endswith(_UNITS)), "")


def _is_delegated(uid: int, own: str) -> bool:
    """Whether the system's manager leaves a control group, or the unit that it is a part of, to the unit.

    User managers leave no such mark, and their user owns the control groups of all of their units.
    """
    if uid and not _is_below_manager(uid, own):
        return os.access(f"{ROOT}{own}/cgroup.procs", os.W_OK)
    while own:
        for name in ("user.delegate", "trusted.delegate"):  # the first since systemd 251
            try:
                if hasattr(os, "getxattr") and os.getxattr(f"{ROOT}{own}", name) == b"1":
                    return True
            except OSError:
                continue
        if own.endswith(_UNITS):
            break
        own = own.rpartition("/")[0]
    return False


def move_into_scope(manager: str, name: str, description: str) -> None:
    """Have the manager behind a socket move this process into a new scope, and wait until it is there.

    Raises:
        ScopeError: the manager does not do it, or not in time.
    """
    _ask(manager, lambda connection: _start_scope(connection, name, description))


def _ask(manager: str, question: Callable[[message_bus.Connection], T]) -> T:
    try:
        connection = message_bus.Connection(manager, _SECONDS)
        try:
            return question(connection)
        finally:
            connection.close()
    except message_bus.BusError as error:
        message = f"the manager of systemd refuses: {error}"
        raise ScopeError(message) from None
    except (OSError, IndexError) as error:
        message = f"the manager of systemd does not answer: {getattr(error, 'strerror', None) or error}"
        raise ScopeError(message, may_pass=True) from None


def _has_delegate(connection: message_bus.Connection, unit: str) -> bool:
    """Whether a unit has Delegate=yes."""
    escaped = "".join(each if each.isalpha() else f"_{ord(each):02x}" for each in unit)
    kind = f"{_SYSTEMD}.{'Scope' if unit.endswith('.scope') else 'Service'}"
    get = message_bus.Body().string(kind).string("Delegate")
    path, interface = f"/org/freedesktop/systemd1/unit/{escaped}", f"{message_bus.BUS}.Properties"
    connection.send(
        connection.call("/org/freedesktop/DBus", message_bus.BUS, message_bus.BUS, "Hello")
        + connection.call(path, _SYSTEMD, interface, "Get", "ss", get)
    )
    while (received := connection.receive()).reply_to != connection.serial:
        continue
    return received.body[:3] == b"\1b\0" and any(received.body[4:8])  # a variant that holds a boolean


def _start_scope(connection: message_bus.Connection, name: str, description: str) -> None:
    """Start a scope for the process at this end, and return when it is there."""
    rule = message_bus.Body().string(f"type='signal',interface='{_SYSTEMD}.Manager',member='JobRemoved'")
    request = message_bus.Body().string(name).string("fail").array(8)
    # 0 is the sender, whose pid the kernel has told the manager: in a container ours would be another process's.
    request.struct().string("PIDs").signature("au").array(4).number(0).end()
    request.struct().string("Delegate").signature("b").number(1)
    request.struct().string("Description").signature("s").string(description)
    request.struct().string("CollectMode").signature("s").string("inactive-or-failed")
    request.end().array(8).end()
    connection.send(
        connection.call("/org/freedesktop/DBus", message_bus.BUS, message_bus.BUS, "Hello")
        + connection.call("/org/freedesktop/DBus", message_bus.BUS, message_bus.BUS, "AddMatch", "s", rule)
        + connection.call("/org/freedesktop/systemd1", _SYSTEMD, f"{_SYSTEMD}.Manager", "Subscribe")
        + connection.call(
            *("/org/freedesktop/systemd1", _SYSTEMD, f"{_SYSTEMD}.Manager", "StartTransientUnit"),
            *("ssa(sv)a(sa(sv))", request),
        )
    )
    while True:
        received = connection.receive()
        if received.member == "JobRemoved":
            values = message_bus.Values(received.body)
            values.number()
            values.string()
            unit, result = values.string(), values.string()
            if unit == name and result == "done":
                return
            if unit == name:
                message = f"the manager of systemd could not make the scope: {result}"
                raise ScopeError(message)
