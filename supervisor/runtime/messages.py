"""The messages of the registry actor: what each asks to be recorded, and how new jobs are recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from supervisor.errors import GroupNotFound, IdempotencyConflict, SupervisorError
from supervisor.runtime.entry import Entry
from supervisor.store import Index, Row
from supervisor.store.tickets import has_ticket, ticket_of

__all__ = [
    "Create",
    "CreateMany",
    "Finish",
    "Message",
    "NoteFetched",
    "NoteLaunch",
    "NoteLimit",
    "NoteSpent",
    "TakeTurn",
    "changes_queue",
    "create_all",
    "creations_of",
    "frees_slots",
    "is_one_statement",
    "may_wait",
    "waits_for_disk",
    "why_not_fired",
    "why_unfit",
]


class Create(NamedTuple):
    """Record a new job; ``begin`` starts its actor.

    On failure ``entry.started`` is set, with ``entry.problem`` or ``entry.key_conflict``.
    """

    entry: Entry
    cap: int
    begin: Callable[[], None]


class CreateMany(NamedTuple):
    """Record new jobs in one transaction, all or none; no two of them have the same idempotency key.

    On failure the ``started`` of all is set, and all have a ``problem``, or ``key_conflict`` if that is the cause.
    """

    creations: Sequence[Create]


class NoteLaunch(NamedTuple):
    """Deferred: record that the command was launched."""

    entry: Entry


class Finish(NamedTuple):
    """Record how a job ended; ``row`` is the finished row."""

    entry: Entry
    row: Row
    reason: str


class TakeTurn(NamedTuple):
    """Take the next turn of the waiting jobs: the last one has not decided everything."""


class NoteFetched(NamedTuple):
    """Record that the result of a job was fetched: it may be evicted first."""

    job_id: str


class NoteLimit(NamedTuple):
    """Record what the output of a running job says about a usage limit: its groups may have to wait."""

    entry: Entry
    limit: Mapping[str, Any]


class NoteSpent(NamedTuple):
    """Record what a running job has spent so far: billionths of a dollar, and tokens."""

    entry: Entry
    usd: int
    tokens: int


Message = Create | CreateMany | NoteLaunch | NoteLimit | NoteSpent | Finish | NoteFetched | TakeTurn


def is_one_statement(message: Message) -> bool:
    """Whether a message changes one row only."""
    if isinstance(message, Finish):
        return message.row.ends_alone
    return not creations_of(message) and not isinstance(message, NoteLimit)


def waits_for_disk(message: Message) -> bool:
    """Whether files beside the index are on the disk before the commit, also where a commit does not wait for that."""
    return isinstance(message, Finish) and message.row.is_durable and not message.row.ends_alone


def changes_queue(message: Message) -> bool:
    """Whether a message may let a waiting job run: a job has ended, or was launched."""
    return isinstance(message, (Finish, NoteLaunch))


def frees_slots(message: Message) -> bool:
    """Whether a job of groups has ended."""
    return isinstance(message, Finish) and has_ticket(message.row.request)


def may_wait(message: Message) -> bool:
    """Whether a message has new jobs that may wait."""
    return any(creation.entry.pending for creation in creations_of(message))


def creations_of(message: Message) -> Sequence[Create]:
    """Return the new jobs of a message."""
    match message:
        case Create():
            return (message,)
        case CreateMany(creations):
            return creations
        case _:
            return ()


def create_all(index: Index, creations: Sequence[Create], protected: Iterable[str]) -> bool:
    """Insert all jobs, or none if a group has no place for one or another job has the key of one."""
    fit: set[object] = set()
    for number, (entry, _, _) in enumerate(creations):
        request = entry.row.request
        place = (tuple(request.get("groups", ())), request.get("weight"))
        entry.problem = None if place in fit else why_unfit(index, entry.row)
        fit.add(place)
        key = entry.row.idempotency_key
        if entry.problem is not None:
            entry.problem.details["index"] = number
            for other, _, _ in creations:
                other.problem = entry.problem
        elif key is None or index.with_key(entry.row.workspace_key, key) is None:
            continue
        return False
    index.insert_all(entry.row for entry, _, _ in creations)
    for workspace, cap in {entry.row.workspace_key: cap for entry, cap, _ in creations}.items():
        index.evict(workspace, cap, protected)
    return True


def why_unfit(index: Index, row: Row) -> SupervisorError | None:
    """Return why a job cannot wait in its groups, which may have changed since its request was checked."""
    ticket = ticket_of(row.request)
    name = None if ticket is None else index.queue.unfit(ticket)
    if name is None:
        return None
    message = f"group {name} was removed or given a lower limit at this moment: the job could never run"
    return GroupNotFound(message, repair="Look at the group with `supervisor group list`.", details={"group": name})


def why_not_fired(index: Index, row: Row) -> SupervisorError | None:
    """Decide the instant of a job of a schedule; return why it gets no job, if another process was first.

    A job that holds the key of the instant decides it, too, and the insertion finds that.
    """
    instant_ns: int | None = row.request.get("instant_ns")
    if instant_ns is None:
        return None
    key, name = row.idempotency_key, row.request["schedule"]
    if key is not None and index.with_key(row.workspace_key, key) is not None:
        return None
    if index.schedules.decide(name, instant_ns, row.job_id):
        return None
    message = f"this instant of schedule {name} was decided, or the schedule was paused or removed at this moment"
    return IdempotencyConflict(message, details={"schedule": name})
