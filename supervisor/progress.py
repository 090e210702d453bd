"""How far a running job is, by what it has written so far: the part that needs no event loop.

A reader is fed the whole of stdout by whoever takes care of the job. Anybody else reads the last
part of it once, within bounds; then the snapshot says that it is ``partial``, and what it counts
is a lower bound.
"""

from __future__ import annotations

import os
import stat
from functools import cache
from typing import Any, Final

from supervisor import log
from supervisor.engines import records
from supervisor.interpret import ProgressReader, Reports, get_interpreter

__all__ = ["CHUNK_BYTES", "Output", "is_silent", "read_so_far", "reader_of", "snapshot_of"]

CHUNK_BYTES: Final = 65536


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


class Output:
    """The stdout of a job, read from where the last reading ended. It may not be there yet."""

    def __init__(self, directory: str) -> None:
        """Open nothing yet."""
        self._path = f"{directory}/{records.STDOUT}"
        self._descriptor: int | None = None
        self._done = 0

    def _open(self) -> int | None:
        if self._descriptor is None:
            try:
                descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            except OSError:
                return None
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.close(descriptor)
                return None
            self._descriptor = descriptor
        return self._descriptor

    @property
    def left(self) -> int:
        """How many bytes there are that were not read."""
        descriptor = self._open()
        return 0 if descriptor is None else max(0, os.fstat(descriptor).st_size - self._done)

    def skip(self, count: int) -> None:
        """Leave out the next bytes."""
        self._done += count

    def go_back(self, count: int) -> None:
        """Have the last bytes read again."""
        self._done -= count

    def read(self) -> bytes:
        """Return the next bytes, at most ``CHUNK_BYTES``; nothing at the end."""
        descriptor = self._open()
        data = b"" if descriptor is None else os.pread(descriptor, CHUNK_BYTES, self._done)
        self._done += len(data)
        return data

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def read_so_far(directory: str, kind: str, most: int) -> dict[str, Any] | None:
    """Return how far the job in ``directory`` is, by the last ``most`` bytes that it wrote at most."""
    reader = reader_of(kind)
    if reader is None:
        return None
    output = Output(directory)
    try:
        left = output.left
        before = max(0, left - most)
        output.skip(before)
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
