"""What jobs have spent, ``<root>/spend/YYYY-MM.jsonl``: the truth about spending, which outlives the jobs.

There is one line for each job that has ended, in the file of the month (UTC) in which it ended. It is appended in the
transaction that records the end, before the commit. If the process is killed in between, the next one that records the
end appends a line again. So the last line of a job counts, and only that.

A line begins with a newline, too: the rest of one that was cut off by a full disk spoils no other.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

from supervisor.jobdir.records import write_all
from supervisor.store.state_errors import names_in, state_error
from supervisor.system.syncing import sync_descriptor, sync_names

__all__ = ["DIRECTORY", "Tail", "append", "read_all"]

DIRECTORY: Final = "spend"
_SUFFIX: Final = ".jsonl"
_LONGEST_LINE: Final = 1 << 22
_LIMIT: Final = 2**62
"""SQLite adds no higher numbers."""
_AT: Final = re.compile(rb'"at_ns":\s*(\d{1,20})\b')
_NUMBERS: Final = ("at_ns", "started_ns", "usd", "tokens", "seconds", "starts")
"""The members that are whole numbers, or null."""


def append(root: str, record: dict[str, Any], *, durable: bool = False) -> None:
    """Append the line of a job; the caller has the lock of the index. ``durable``: it is on the disk afterwards.

    Raises:
        StateFull, StateBusy, PermissionDenied: it cannot be written; the transaction must fail.
    """
    line = b"\n" + json.dumps(record, separators=(",", ":")).encode("ascii") + b"\n"
    path = f"{root}/{DIRECTORY}/{_month(record['at_ns'])}{_SUFFIX}"
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        try:
            descriptor = os.open(path, flags, 0o600)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                os.mkdir(f"{root}/{DIRECTORY}", 0o700)  # not the root: it may have been moved away
            descriptor = os.open(path, flags, 0o600)
        try:
            write_all(descriptor, line)  # after a part on a full disk, the next write says why
            if durable:
                sync_descriptor(descriptor)
        finally:
            os.close(descriptor)
        if durable:
            sync_names(f"{root}/{DIRECTORY}", root)
    except OSError as error:
        raise state_error(error, "cannot record what a job has spent") from error


def _month(at_ns: int) -> str:
    return datetime.fromtimestamp(max(at_ns, 0) // 10**9, UTC).strftime("%Y-%m")


def read_all(root: str, since_ns: int = 0) -> list[dict[str, Any]]:
    """Return the last line of each job that has ended since a time, in the order of these lines.

    Raises:
        StateBusy, PermissionDenied: a file cannot be read now.
    """
    first = _month(since_ns)
    found: dict[str, dict[str, Any]] = {}
    for name in sorted(names_in(f"{root}/{DIRECTORY}")):
        month = name.removesuffix(_SUFFIX)
        if month != name and month >= first:
            for record in _lines(f"{root}/{DIRECTORY}/{name}"):
                found.pop(record["job_id"], None)
                found[record["job_id"]] = record
    return [record for record in found.values() if record["at_ns"] >= since_ns]


class Tail:
    """Reads what the ledger grows by.

    Args:
        root: the state root.
    """

    def __init__(self, root: str) -> None:
        """Begin at the beginning."""
        self._directory = f"{root}/{DIRECTORY}"
        self._read: dict[str, tuple[tuple[int, int], int]] = {}
        """How far each file was read, and which file it was."""
        self._is_new = True

    def rewind(self) -> None:
        """Begin at the beginning again."""
        self._read.clear()
        self._is_new = True

    def read(self, since_ns: int) -> tuple[bool, list[dict[str, Any]]]:
        """Return the next lines of jobs that have ended since a time, and whether they are the first ones.

        They are the first ones again after a file was replaced, cut or removed. A line that has no end yet comes later.

        Raises:
            StateBusy, PermissionDenied: a file cannot be read now; the next call returns all lines.
        """
        first, found = _month(since_ns), list[dict[str, Any]]()
        try:
            names = sorted(names_in(self._directory))
            if not self._read.keys() <= set(names):
                self.rewind()
            for name in names:
                if (
                    name.endswith(_SUFFIX)
                    and name.removesuffix(_SUFFIX) >= first
                    and not self._add(name, since_ns, found)
                ):
                    self.rewind()
                    return self.read(since_ns)
        except OSError as error:
            self.rewind()
            raise state_error(error, "cannot read what jobs have spent") from error
        is_new, self._is_new = self._is_new, False
        return is_new, found

    def _add(self, name: str, since_ns: int, found: list[dict[str, Any]]) -> bool:
        """Add the next lines of a file; return ``False`` if it is not the file that was read before."""
        with open(f"{self._directory}/{name}", "rb") as file:
            about = os.fstat(file.fileno())
            identity, at = self._read.get(name, ((about.st_dev, about.st_ino), 0))
            if identity != (about.st_dev, about.st_ino) or about.st_size < at:
                return False
            if about.st_size > at:
                file.seek(at)
                while (line := file.readline(_LONGEST_LINE)) and (line.endswith(b"\n") or len(line) == _LONGEST_LINE):
                    at += len(line)
                    ended = _AT.search(line)
                    if ended is None or int(ended[1]) < since_ns:  # without a parser, as it may be a million lines
                        continue
                    if (record := _understood(line)) is not None and record["at_ns"] >= since_ns:
                        found.append(record)
            self._read[name] = identity, at
        return True


def _lines(path: str) -> Iterator[dict[str, Any]]:
    """Yield the lines that can be understood; a torn one cannot."""
    try:
        with open(path, "rb") as file:
            while line := file.readline(_LONGEST_LINE):
                if len(line) > 1 and (record := _understood(line)) is not None:
                    yield record
    except FileNotFoundError:
        return
    except OSError as error:
        raise state_error(error, "cannot read what jobs have spent") from error


def _is_amount(held: Any) -> bool:
    return held is None or (type(held) is int and 0 <= held < _LIMIT)


def _is_charge(held: Any) -> bool:
    return isinstance(held, dict) and all(each is not None and _is_amount(each) for each in held.values())  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]


def _understood(line: bytes) -> dict[str, Any] | None:
    try:
        held: Any = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(held, dict):
        return None
    record: dict[str, Any] = {"groups": [], "labels": {}, "charged": {}, **held}  # pyright: ignore[reportUnknownArgumentType]
    groups: Any = record["groups"]
    is_known = (
        type(record.get("job_id")) is str
        and record.get("at_ns") is not None
        and all(_is_amount(record.get(name)) for name in _NUMBERS)
        and isinstance(groups, list)
        and set(map(type, groups)) <= {str}  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        and type(record["labels"]) is type(record["charged"]) is dict
        and all(map(_is_charge, record["charged"].values()))
    )
    return record if is_known else None
