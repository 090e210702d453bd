"""Reads the output of a job: the only module that opens its streams to read them.

Three rules hold for every reader:

* Of a job that has ended it reads as many bytes as the record of the end says: bytes that a leftover
  process writes afterwards are no part of the job. Fewer bytes than that are an error, ``OutputLost``.
* It reads no more at once than it is asked for, and nothing past the output limit: a hole makes a file of any size.
* A command can truncate its own output (``> /dev/stderr``). A reader that finds the file shorter than it has read, or
  with other bytes where it has just read, starts over and counts that. Bytes that were cut off unread are gone.

A file of the right size that holds zeros, as some file systems leave it after a loss of power, looks like
one that the command wrote so.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import Final, NamedTuple

from supervisor.errors import OutputLost
from supervisor.jobdir import records
from supervisor.system.observing import ABSENT, find, not_known

__all__ = [
    "CHUNK_BYTES",
    "STREAMS",
    "Output",
    "Piece",
    "check_made",
    "read_output",
    "read_piece",
    "size_of",
    "written_ns",
]

CHUNK_BYTES: Final = 65536
STREAMS: Final = {"stdout": records.STDOUT, "stderr": records.STDERR}
"""The file that holds each stream."""

_REMEMBERED_BYTES: Final = 256
_MAX_AT_ONCE: Final = 1 << 30
_BLOCK_BYTES: Final = 1 << 18
_MAX_ATTEMPTS: Final = 5
"""How often the last lines of a file are looked for that is truncated meanwhile."""


class Output:
    """A stream of a job, read from where the last reading ended. Its file may not exist yet.

    Every method that reads the file raises ``NotKnown`` where that fails now.

    Attributes:
        end: how many bytes belong to the job, once that is recorded; ``None`` before.
        offset: how many were read.
        restarts: how often the file was found truncated, so that reading started over.
        is_cut: whether there are bytes past ``limit``, as of the last observation.
        made: whether the file was made, as it is for each command that is launched.
    """

    def __init__(self, directory: str, stream: str, *, end: int | None = None, limit: int | None = None) -> None:
        """Open nothing yet; ``stream`` is ``"stdout"`` or ``"stderr"``. No byte past ``limit`` is read."""
        self.end = end
        self.made = False
        self.is_cut = False
        self.offset = 0
        self.restarts = 0
        self._limit = limit
        self._directory = directory
        self._stream = stream
        self._path = f"{directory}/{STREAMS[stream]}"
        self._descriptor: int | None = None
        self._last = b""
        self._changed_ns = 0

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def size(self) -> int:
        """Return how many bytes belong to the job so far.

        Raises:
            OutputLost: there are fewer than belong to the job.
        """
        found = self._stat()
        size = 0 if found is None else found.st_size
        if self.end is not None:
            if found is None and self.made and not self.end:
                raise OutputLost.gone(self._directory, self._stream)
            if size < self.end:
                raise OutputLost.of(self._directory, self._stream, self.end, size)
            size = self.end
        self.is_cut = self._limit is not None and size > self._limit
        return size if self._limit is None else min(size, self._limit)

    def left(self) -> int:
        """Return how many bytes there are that were not read."""
        size = self.size()
        return size if size < self.offset and self.end is None else max(0, size - self.offset)

    def read(self, most: int = CHUNK_BYTES) -> bytes:
        """Return the next bytes, ``most`` at most; nothing if there are none now.

        Raises:
            OutputLost: there are fewer than belong to the job.
        """
        found = self._stat()
        if found is None or self._descriptor is None:
            self.size()
            return b""
        if found.st_size < self.offset or self._is_rewritten(self._descriptor, found):
            self.size()
            self.offset, self._last = 0, b""
            self.restarts += 1
        self._changed_ns = found.st_mtime_ns
        if self.end is not None or self._limit is not None:
            most = min(most, self.size() - self.offset)
        data = self._read_at(self._descriptor, most, self.offset) if most > 0 else b""
        self.offset += len(data)
        self._last = (self._last + data)[-_REMEMBERED_BYTES:] if len(data) < _REMEMBERED_BYTES else data[-256:]
        return data

    def seek(self, offset: int) -> None:
        """Go on from another byte."""
        self.offset, self._last = offset, b""

    def seek_last_lines(self, count: int) -> int:
        """Go on from the beginning of the last ``count`` lines, and return how many bytes belong to the job so far.

        The file is read backwards, a block at a time. An unfinished line at the end counts as one.

        Raises:
            OutputLost: there are fewer bytes than belong to the job.
        """
        size = self.size()
        for _ in range(_MAX_ATTEMPTS):
            begin = self._begin_of_lines(size, count)
            if begin is not None:
                self.seek(begin)
                return size
            size = self.size()  # it was truncated meanwhile
        self.seek(0)
        return size

    def _begin_of_lines(self, size: int, count: int) -> int | None:
        """Return where the last lines of the first ``size`` bytes begin; ``None`` where there are fewer bytes now."""
        if self._descriptor is None or not count:
            return size
        position, missing = size, count
        while position:
            begin = max(0, position - _BLOCK_BYTES)
            block = self._read_at(self._descriptor, position - begin, begin)
            if len(block) < position - begin:
                return None
            end = len(block)
            if position == size and block.endswith(b"\n"):  # the end of the last line, and no beginning of another one
                end -= 1
            breaks = block.count(b"\n", 0, end)
            if breaks >= missing:
                for _ in range(missing):
                    end = block.rindex(b"\n", 0, end)
                return begin + end + 1
            missing -= breaks
            position = begin
        return 0

    def _is_rewritten(self, descriptor: int, found: os.stat_result) -> bool:
        """Whether the bytes that were read last have changed. Appending leaves them alone."""
        if found.st_mtime_ns == self._changed_ns or not self._last:
            return False
        return self._read_at(descriptor, len(self._last), self.offset - len(self._last)) != self._last

    def _stat(self) -> os.stat_result | None:
        """Return the status of the file, ``None`` without a regular one."""
        try:
            if self._descriptor is None:
                flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
                self._descriptor = os.open(self._path, flags)
            found = os.fstat(self._descriptor)
        except ABSENT:
            return None
        except OSError as error:
            there = find(self._path)
            if there is None or not stat.S_ISREG(there.st_mode):
                return None
            raise not_known(error, self._path) from error
        return found if stat.S_ISREG(found.st_mode) else None

    def _read_at(self, descriptor: int, count: int, offset: int) -> bytes:
        try:
            return os.pread(descriptor, min(count, _MAX_AT_ONCE), offset)
        except (OSError, MemoryError) as error:
            raise not_known(error, self._path) from error


class Piece(NamedTuple):
    """A part of a stream.

    Attributes:
        data: its bytes.
        offset: of the first one.
        size: how many bytes belong to the job so far, up to its output limit.
        restarted: whether the job goes on with fewer bytes than were asked for, so that the part is from the beginning.
        is_cut: whether there are bytes past the output limit.
    """

    data: bytes
    offset: int
    size: int
    restarted: bool
    is_cut: bool


def read_piece(output: Output, offset: int | None, most: int) -> Piece:
    """Return up to ``most`` bytes from ``offset`` on, or the last ones without one, and close the output.

    Past the end there are none, unless a running command has truncated its output: then the part is from the beginning.

    Raises:
        OutputLost: there are fewer bytes than belong to the job.
        NotKnown: it cannot be read now.
    """
    with contextlib.closing(output):
        size = output.size()
        restarted = offset is not None and offset > size and output.end is None
        begin = max(0, size - most) if offset is None else 0 if restarted else min(offset, size)
        output.seek(begin)
        data = output.read(most)
        return Piece(data, output.offset - len(data), size, restarted or output.restarts > 0, output.is_cut)


def size_of(directory: str, stream: str) -> int:
    """Return how many bytes a stream holds now; 0 without a file.

    Raises:
        NotKnown: that cannot be read now.
    """
    found = find(f"{directory}/{STREAMS[stream]}")
    return found.st_size if found is not None and stat.S_ISREG(found.st_mode) else 0


def written_ns(directory: str) -> int:
    """Return when the last byte of either stream was written, in nanoseconds since the epoch; 0 without a file.

    Raises:
        NotKnown: that cannot be read now.
    """
    found = (find(f"{directory}/{name}") for name in STREAMS.values())
    return max((each.st_mtime_ns for each in found if each is not None), default=0)


def check_made(directory: str, stream: str) -> None:
    """Raise ``OutputLost`` where the file is gone that was made for a stream of a command."""
    found = find(f"{directory}/{STREAMS[stream]}")
    if found is None or not stat.S_ISREG(found.st_mode):
        raise OutputLost.gone(directory, stream)


def read_output(directory: str, stream: str, *, size: int | None = None, last: int | None = None) -> bytes:
    """Return a stream of a job, or its ``last`` bytes; nothing when there is no such file.

    ``size``: how many bytes belong to the job; ``None`` takes all that are there.

    Raises:
        OutputLost: there are fewer.
        NotKnown: it cannot be read now.
    """
    output = Output(directory, stream, end=size)
    try:
        output.end = output.size()
        output.seek(max(0, output.end - last) if last is not None else 0)
        data = output.read(output.end)
        if output.offset < output.end:  # more than one call reads, or it shrinks meanwhile
            parts = [data]
            while not output.restarts and (more := output.read(output.end)):
                parts.append(more)
            data = b"".join(parts)
        if output.restarts:  # meanwhile
            raise OutputLost.of(directory, stream, output.end, len(data))
        return data
    finally:
        output.close()
