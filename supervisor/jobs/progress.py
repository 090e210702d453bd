"""How far a running job is, by what it has written so far: the part that needs no event loop.

A reader is fed the whole of stdout by whoever takes care of the job. Anybody else reads the last
part of it once, within bounds; then the snapshot says that it is ``partial``, and what it counts
is a lower bound.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from supervisor import log
from supervisor.interpret import ProgressReader, Reports, get_interpreter
from supervisor.jobdir.output import CHUNK_BYTES, Output

__all__ = ["is_silent", "read_so_far", "reader_of", "snapshot_of"]

_silent: set[str] = set()


@cache
def _reports(kind: str) -> Reports | None:
    interpreter = get_interpreter(kind)
    if isinstance(interpreter, Reports):
        return interpreter
    _silent.add(kind)
    return None


def is_silent(kind: str) -> bool:
    """Whether it is known that a kind reports no progress: whoever has asked for a reader of it has found out."""
    return kind in _silent


def reader_of(kind: str) -> ProgressReader | None:
    """Return a fresh reader for one run, or ``None`` where the kind has none or cannot be used here."""
    try:
        reports = _reports(kind)
        return None if reports is None else reports.progress()
    except Exception as error:  # noqa: BLE001  # somebody else's kind, or one that is not installed here
        log.info("no_progress", kind=kind, error=repr(error))
        return None


def snapshot_of(reader: ProgressReader, *, partial: bool) -> dict[str, Any]:
    """Return what a reader knows; ``partial``: it has not seen what came first."""
    return {**reader.snapshot(), "partial": partial}


def read_so_far(directory: str, kind: str, most: int) -> dict[str, Any] | None:
    """Return how far the job in ``directory`` is, by the last ``most`` bytes that it wrote at most."""
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
            if torn and chunk:  # what the cut has left of a line
                _, newline, chunk = chunk.partition(b"\n")
                torn = not newline
            if not chunk and not torn:
                break
            reader.feed(chunk)
        return snapshot_of(reader, partial=before > 0)
    except Exception as error:  # noqa: BLE001  # the job is what was asked for, with or without this
        log.info("no_progress", kind=kind, error=repr(error))
        return None
    finally:
        output.close()
