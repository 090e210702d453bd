"""The part of a request for admission: the groups of the job, its order, and what it has to wait for."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

__all__ = ["CONDITIONS", "WALL", "Moment", "Ticket", "groups_of", "has_ticket", "holds", "ticket_of"]

CONDITIONS: Final = ("ok", "any", "failed", "start")
"""When a dependency holds: the job is done, has ended, has ended otherwise than done, or was launched."""

WALL: Final = ""
"""The name of the wall clock among clocks; any other clock is the boot clock of the boot with that name."""

_MEMBERS: Final = frozenset({"groups", "after", "not_before_ns", "delay_ns", "hold", "retry"})
"""A job without any of these members in its request is launched at once, and has no ticket."""


class Moment(NamedTuple):
    """The time by two clocks, in nanoseconds; ``boot`` names the boot clock: the id of the boot, shortened."""

    wall_ns: int
    boot_ns: int
    boot: str

    def by(self, clock: str) -> int | None:
        """Return the time by a clock, ``None`` for the clock of another boot."""
        if clock == WALL:
            return self.wall_ns
        return self.boot_ns if clock == self.boot else None


class Ticket(NamedTuple):
    """What a request says about admission.

    Attributes:
        groups: sorted.
        priority: a point is worth the aging time of the groups.
        weight: the slots that it takes in each group.
        hold: whether it waits until it is released.
        after: its dependencies, each a job id and one of ``CONDITIONS``.
        not_before_ns: the wall-clock time before which it is not launched.
        delay_ns: how long after its creation it is not launched.
        start_within_ns: how long after its creation it may be launched.
        created: when it was created.
        first_ns: for a job that was moved to the front of its lane, higher for a later move.
        workspace: of the job.
        labels: of the job.
    """

    groups: tuple[str, ...] = ()
    priority: int = 0
    weight: int = 1
    hold: bool = False
    after: tuple[tuple[str, str], ...] = ()
    not_before_ns: int | None = None
    delay_ns: int | None = None
    start_within_ns: int | None = None
    created: Moment = Moment(0, 0, WALL)
    first_ns: int | None = None
    workspace: str = ""
    labels: Mapping[str, str] = MappingProxyType({})

    def rank(self, aging_ns: int) -> int:
        """Return its place in the order of its lane, the lowest first: by its creation and priority, or a move."""
        return self.created.wall_ns - self.priority * aging_ns if self.first_ns is None else -self.first_ns

    @property
    def must_wait(self) -> bool:
        """Whether it waits for anything else than the room in its groups."""
        return bool(self.hold or self.after or self.not_before_ns or self.delay_ns)

    def _since_creation(self, length_ns: int, now: Moment) -> tuple[str, int]:
        """Return a clock, and the time by it at ``length_ns`` after the creation; after a reboot the wall clock."""
        if self.created.boot == now.boot != WALL:
            return now.boot, self.created.boot_ns + length_ns
        return WALL, self.created.wall_ns + length_ns

    def due(self, now: Moment) -> list[tuple[str, int]]:
        """Return the times, each with its clock, that must have come before it is launched."""
        times = [] if self.not_before_ns is None else [(WALL, self.not_before_ns)]
        return times if self.delay_ns is None else [*times, self._since_creation(self.delay_ns, now)]

    def is_due(self, now: Moment) -> bool:
        """Whether its time has come."""
        return all(at_ns <= (now.by(clock) or 0) for clock, at_ns in self.due(now))

    def expiry(self, now: Moment) -> tuple[str, int] | None:
        """Return the time, with its clock, after which it is not launched any more."""
        return None if self.start_within_ns is None else self._since_creation(self.start_within_ns, now)

    def has_expired(self, now: Moment) -> bool:
        """Whether it is too late to launch it."""
        expiry = self.expiry(now)
        return expiry is not None and expiry[1] <= (now.by(expiry[0]) or 0)


def has_ticket(request: Mapping[str, Any]) -> bool:
    """Whether the request in ``job.json`` has a ticket, so that the job may have to wait.

    A job that its cluster admits has none.
    """
    if _MEMBERS.isdisjoint(request) or not any(map(request.get, _MEMBERS)):
        return False
    return "admission" not in request.get("engine_options", ())


def groups_of(request: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the groups of a job, sorted: those that it was moved to, or those of its request."""
    return tuple(sorted(set(request.get("queue", request).get("groups", request.get("groups", ())))))


def holds(when: str, state: str, *, started: bool, ended: bool) -> bool | None:
    """Return whether a dependency on a job in a state holds; ``None`` while that is open."""
    if when == "start" and started:
        return True
    if not ended:
        return None
    return {"any": True, "start": False, "ok": state == "done"}.get(when, state != "done")


def ticket_of(request: Mapping[str, Any]) -> Ticket | None:
    """Return the ticket of the request in ``job.json``; ``None`` for a job that is launched at once."""
    if not has_ticket(request):
        return None
    changes = request.get("queue", {})
    return Ticket(
        groups=groups_of(request),
        priority=changes.get("priority", request.get("priority", 0)),
        weight=request.get("weight", 1),
        hold=changes.get("hold", request.get("hold", False)),
        after=tuple((each["job_id"], each["when"]) for each in request.get("after", ())),
        not_before_ns=request.get("not_before_ns"),
        delay_ns=request.get("delay_ns"),
        start_within_ns=request.get("start_within_ns"),
        created=Moment(request["created_ns"], request.get("created_boot_ns", 0), str(request.get("boot", ""))[:12]),
        first_ns=changes.get("first_ns"),
        workspace=request.get("workspace", ""),
        labels=request.get("labels", {}),
    )
