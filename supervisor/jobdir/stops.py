"""The ``stop.json`` of a job: the request to stop it, and how far that has got."""

from __future__ import annotations

from supervisor.jobdir import records

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

__all__ = ["REASONS", "mark_stop", "read_stop", "take_back_stop"]

REASONS: Final = frozenset(
    {"cancelled", "deadline", "output_limit", "memory_limit", "dependency_failed", "start_expired", "budget"}
)
_MAX_SIGNAL: Final = 64


def read_stop(directory: str) -> dict[str, Any] | None:
    """Return the request to stop a job, ``{}`` for a damaged one, ``None`` when there is none.

    ``why`` is one of ``REASONS`` or a word of a newer version, ``signalled_boot_ns`` a time
    or ``None``, ``survivors`` a text, as is ``refused`` if it is there (see ``take_back_stop``). ``signal``, if it is
    there, is the number of the first signal.

    Raises:
        NotKnown: it cannot be read now.
    """
    record = records.read(directory, records.STOP)
    if not record:
        return record
    why, signalled = record.get("why"), record.get("signalled_boot_ns")
    if not isinstance(why, str) or not (signalled is None or (type(signalled) is int and 0 <= signalled < 2**63)):
        return {}
    named = why in REASONS or (why.isidentifier() and why.isascii() and len(why) <= 40)
    record["why"] = why if named else "cancelled"
    record["signalled_boot_ns"] = signalled
    record["gone"] = record.get("gone") is True
    survivors = record.get("survivors")
    record["survivors"] = survivors if isinstance(survivors, str) else ""
    if not isinstance(record.get("refused", ""), str):
        del record["refused"]
    if not (type(first := record.get("signal", 1)) is int and 0 < first <= _MAX_SIGNAL):
        del record["signal"]
    return record


def mark_stop(
    directory: str,
    *,
    signalled: int | None = None,
    gone: bool = False,
    survivors: str = "",
    known: dict[str, object] | None = None,
    sizes: dict[str, object] | None = None,
) -> None:
    """Record in ``stop.json`` that the first signal is about to go out, or that no process is left.

    ``known`` is the record there, if it was read or written already; ``sizes`` is ``measures.sizes``
    when no process is left: the first to be recorded count.
    """
    there = known or read_stop(directory)
    record = _bare(there)
    if signalled is not None and record.get("signalled_boot_ns") is None:
        record["signalled_boot_ns"] = signalled
    if gone:
        if sizes is not None and not record.get("gone"):
            record |= sizes
        record["gone"] = True
    if survivors:
        record["survivors"] = survivors
    if there:
        records.append(directory, records.STOP, record)
    else:
        records.replace(directory, records.STOP, record)


def take_back_stop(directory: str, refused: str = "", known: dict[str, object] | None = None) -> None:
    """Record in ``stop.json`` that no signal has reached the command: its end, when it comes, is its own.

    ``refused`` are the pids, with spaces between them, that this user may not signal, if that is why. The request
    stays. Nothing is taken back where another process, which may signal them, has ended the tree.
    """
    there = read_stop(directory) or known
    if there and there.get("gone"):
        return
    record = {**_bare(there), "signalled_boot_ns": None}
    if refused:
        record["refused"] = refused
    records.append(directory, records.STOP, record)


def _bare(there: dict[str, Any] | None) -> dict[str, object]:
    """Return a request to stop as it is written, without the outcome of an earlier attempt."""
    record: dict[str, object] = dict(there) if there else {"why": "cancelled"}
    for name in ("v", "refused", *(["survivors"] if not record.get("survivors") else [])):
        record.pop(name, None)
    return record
