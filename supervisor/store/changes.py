"""``queue.json`` in a job directory: what ``hold``, ``release``, ``move`` and ``group rm --to`` have changed since.

It is the truth about these changes; the row of the job has a copy, as the member ``queue`` of its request. It is
written inside the transaction that changes the index, so SQLite's writer serialises the writers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from supervisor.errors import StateCorrupt
from supervisor.jobdir import records

__all__ = ["MEMBER", "is_valid", "read_changes", "write_changes"]

MEMBER: Final = "queue"
"""The member of the request in a row that holds the changes."""

_LARGEST: Final = 2**62
"""Of a number: SQLite compares it with others."""
_DAMAGED: Final = {"hold": True}
"""What is true of a job whose changes are damaged: it may have been held, so it waits until it is released."""


def read_changes(directory: str) -> dict[str, Any]:
    """Return the changes of a job, with the members that only a newer version knows.

    Raises:
        NotKnown: they cannot be read now.
    """
    record = records.read(directory, records.QUEUE, newer=True)
    if record is None:
        return {}
    record.pop("v", None)
    return record if record and is_valid(record) else dict(_DAMAGED)


def is_valid(changes: Mapping[str, Any]) -> bool:
    """Whether the members that this version knows have values that it writes."""
    numbers = (changes.get("priority", 0), changes.get("first_ns", 0))
    groups: Any = changes.get("groups", [])
    fit = all(type(number) is int and abs(number) <= _LARGEST for number in numbers)
    fit = fit and type(groups) is list and {str}.issuperset(map(type, groups))  # pyright: ignore[reportUnknownArgumentType]
    return fit and type(changes.get("hold", False)) is bool


def write_changes(directory: str, changes: Mapping[str, Any], *, durable: bool = False) -> None:
    """Write the changes of a job over the ones that it has. ``durable``: they are on the disk afterwards.

    Raises:
        StateCorrupt: a newer version has written them in a shape of its own.
        OSError: they cannot be read or written now.
    """
    there = records.read(directory, records.QUEUE, newer=True) or {}
    if there.get("v", records.VERSION) > records.VERSION:
        message = f"{records.QUEUE} of job {directory.rpartition('/')[2]} was written by a newer version"
        raise StateCorrupt(message, repair="Use that version, or a newer one.")
    records.replace(directory, records.QUEUE, dict(changes), durable=durable)
