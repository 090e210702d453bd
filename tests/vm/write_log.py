"""The log that QEMU (``blklogwrites``) makes of the writes and flushes of a disk, and the disks after a loss of power.

The format is that of dm-log-writes. An entry is made once its write or flush is done, and before the guest knows. A
disk has a cache that is lost with the power: a write that no later flush has followed is there or not, each part of it
by itself.
"""

from __future__ import annotations

import os
import random
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import attrs

__all__ = ["WriteLog", "copy_into"]

_SECTOR = 512
_PART = 4096  # the least that a disk writes as a whole
_FLUSH, _DISCARD, _MARK = 1, 4, 8


@attrs.frozen
class Entry:
    """One write or flush.

    Attributes:
        end: where it ends in the log.
        offset: where it was written on the disk.
        at: where its data are in the log.
        size: of the data.
        is_flush: whether all writes before it are on the disk.
    """

    end: int
    offset: int
    at: int
    size: int
    is_flush: bool


class WriteLog:
    """A log, and the disk that it was made of as it was before.

    Args:
        log: the file of the log.
        before: the disk.
        size: of the disk.
    """

    def __init__(self, log: Path, before: Path, size: int) -> None:
        self._log = log
        self._before = before
        self._size = size
        self.entries = list(self._parsed())

    def _parsed(self) -> Iterator[Entry]:
        """Yield the entries up to one that was not written whole, as QEMU was killed."""
        size, at = self._log.stat().st_size, _SECTOR
        with open(self._log, "rb") as log:
            while at + _SECTOR <= size:
                log.seek(at)
                sector, sectors, flags, _ = struct.unpack("<4Q", log.read(32))
                begin, at = at + _SECTOR, at + _SECTOR
                has_data = not flags & (_FLUSH | _DISCARD | _MARK)
                at += sectors * _SECTOR if has_data else 0
                if at > size or not (sectors or flags):
                    return
                length = sectors * _SECTOR if has_data else 0
                yield Entry(at, sector * _SECTOR, begin, length, bool(flags & _FLUSH))

    def disks(self, places: list[int], scratch: Path, chance: random.Random) -> Iterator[Path]:
        """Yield the disk after a cut behind each of these entries, which rise; a disk is there until the next one."""
        kept, cut = scratch / "kept", scratch / "cut"
        shutil.copyfile(self._before, kept)
        done, unflushed = 0, list[Entry]()
        with open(self._log, "rb") as log:
            for place in places:
                with open(kept, "r+b") as disk:
                    for entry in self.entries[done : place + 1]:
                        if entry.is_flush:
                            self._write(log.fileno(), disk.fileno(), unflushed)
                            unflushed = []
                        else:
                            unflushed.append(entry)
                done = place + 1
                cut.unlink(missing_ok=True)
                with open(cut, "w+b") as file:
                    file.truncate(self._size)
                    copy_into(file.fileno(), 0, kept)
                    self._write(log.fileno(), file.fileno(), unflushed, chance)
                yield cut
        kept.unlink()
        cut.unlink(missing_ok=True)

    @staticmethod
    def _write(log: int, disk: int, entries: list[Entry], chance: random.Random | None = None) -> None:
        """Repeat writes, or with ``chance`` about half of their parts."""
        for entry in entries:
            for begin in range(0, entry.size, _PART):
                if chance is None or chance.random() < 0.5:
                    data = os.pread(log, min(_PART, entry.size - begin), entry.at + begin)
                    os.pwrite(disk, data, entry.offset + begin)


def copy_into(disk: int, offset: int, source: Path) -> None:
    """Copy a disk, but for its holes, into another one at an offset where that has only holes."""
    with open(source, "rb") as file:
        size, at = os.fstat(file.fileno()).st_size, 0
        while at < size:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:  # only holes are left
                return
            end = os.lseek(file.fileno(), at, os.SEEK_HOLE)
            while at < end:
                at += os.copy_file_range(file.fileno(), disk, min(end - at, 1 << 24), at, offset + at)
