"""How far a running job is, by what it has written so far: the part that needs no event loop.

The supervisor of a job feeds a reader the whole of stdout. Other processes read the last part of stdout once, within
bounds; their snapshot is ``partial``, and its counts are lower bounds.
"""

from __future__ import annotations

from typing import Any, Final

from supervisor import log
from supervisor.interpret import ProgressReader, get_interpreter, read_progress
from supervisor.jobdir.output import CHUNK_BYTES, Output

__all__ = ["is_silent", "read_so_far", "reader_of", "snapshot_of"]

_silent: Final[set[str]] = set()
"""Kinds that report no progress; the first lookup of a kind may import its package (43 ms for a registered kind)."""


def is_silent(kind: str) -> bool:
    """Whether a kind is known to report no progress: an earlier ``reader_of`` has found out."""
    return kind in _silent


def reader_of(kind: str) -> ProgressReader | None:
    """Return a fresh reader for one run, or ``None`` where the kind has none or cannot be used here."""
    if kind in _silent:
        return None
    try:
        reader = read_progress(get_interpreter(kind))
    except Exception as error:  # noqa: BLE001  # a kind of another package, or one that is not installed here
        log.info("no_progress", kind=kind, error=repr(error))
        return None
    if reader is None:
        _silent.add(kind)
    return reader


def snapshot_of(reader: ProgressReader, *, partial: bool) -> dict[str, Any]:
    """Return the snapshot of a reader; ``partial``: it was not fed the beginning of stdout."""
    return {**reader.snapshot(), "partial": partial}


def read_so_far(directory: str, kind: str, most: int) -> dict[str, Any] | None:
    """Return the progress of the job in ``directory``, from at most the last ``most`` bytes of its stdout."""
    reader = reader_of(kind)
    if reader is None:
        return None
    output = Output(directory, "stdout")
    try:
        before = max(0, output.size() - most)
        output.seek(before)
        torn = before > 0
        for _ in range(-(-most // CHUNK_BYTES)):
            chunk = output.read()
            if torn and chunk:  # the rest of a line that begins before the cut
                _, newline, chunk = chunk.partition(b"\n")
                torn = not newline
            if not chunk and not torn:
                break
            reader.feed(chunk)
        return snapshot_of(reader, partial=before > 0)
    except Exception as error:  # noqa: BLE001  # the caller asked for the job, with or without its progress
        log.info("no_progress", kind=kind, error=repr(error))
        return None
    finally:
        output.close()
