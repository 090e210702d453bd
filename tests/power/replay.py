"""The states in which a loss of power can leave the disk, by a log of ``recorder``; and what each is settled to.

The model, as ALICE has it, is more pessimistic than the file systems are: since the last sync of a directory each of
its names may have any of the values that it had since, whatever the other names have. Since the last sync of a file its
content may be any that it had since, a half of one, or as many zeros. The index is as of the last commit that has
waited for the disk, or as of any later one, or it is gone.
"""

from __future__ import annotations

import base64
import itertools
import json
import math
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import attrs

from tests.power.recorder import COMMIT, MARK, SYNC

Name = tuple[str, str]
"""A directory, and a name in it."""
Value = tuple[str, Any] | None
"""What a name stands for: a kind, and the number of a file, the target of a link, or the path of a directory."""


class Crash(NamedTuple):
    """A disk after a loss of power: its names, the content of its files, and the copy of the index."""

    names: tuple[tuple[Name, Value], ...]
    content: tuple[tuple[int, bytes], ...]
    registry: str | None

    def write(self, recorded: str, top: Path, root: str) -> None:
        """Make it below ``top``; in the log that place was ``recorded``, and the state root is ``root`` below it."""
        held = dict(self.content)
        named = {name: value for name, value in self.names if value is not None}

        def fill(directory: str, place: Path) -> None:
            for (above, name), (kind, what) in named.items():
                if above != directory:
                    continue
                if kind == "directory":
                    (place / name).mkdir(mode=0o700)
                    fill(what, place / name)
                elif kind == "link":
                    (place / name).symlink_to(what)
                elif not (place / name).exists():
                    first = next((other for other in made.get(what, ()) if other.exists()), None)
                    if first is None:
                        (place / name).write_bytes(held[what])
                        (place / name).chmod(0o600)
                    else:
                        os.link(first, place / name)
                    made.setdefault(what, []).append(place / name)

        made: dict[int, list[Path]] = {}
        fill(recorded, top)
        if self.registry is not None and (top / root).is_dir():
            shutil.copyfile(self.registry, top / root / "registry.db")
            (top / root / "registry.db").chmod(0o600)


@attrs.define
class Moment:
    """What may be on the disk after one entry of the log.

    Attributes:
        names: the possible values of each name, the last one as in the page cache.
        content: the possible contents of each file.
        indices: the possible copies of the index.
        marks: what had happened by then.
    """

    names: dict[Name, list[Value]]
    content: dict[int, list[bytes]]
    indices: list[str | None]
    marks: list[dict[str, Any]]

    def crashes(self, most: float, chance: random.Random) -> Iterator[Crash]:
        """Return the states; if there are more than ``most``, that many of them."""
        names, files = list(self.names), list(self.content)
        choices: list[list[Any]] = [*self.names.values(), *self.content.values(), self.indices]
        many = math.prod(map(len, choices)) > most
        picks = (tuple(map(chance.choice, choices)) for _ in range(int(most))) if many else itertools.product(*choices)
        for picked in picks:
            held = zip(names, picked[: len(names)], strict=True)
            content = zip(files, picked[len(names) : -1], strict=True)
            yield Crash(tuple(held), tuple(content), picked[-1])


def moments(log: Path) -> Iterator[Moment]:
    """Return what may be on the disk after each entry of a log."""
    numbers: dict[str, int] = {}  # of files by their inodes, which are used again
    made = itertools.count()
    names: dict[Name, list[Value]] = {}
    content: dict[int, list[bytes]] = {}
    indices: list[str | None] = [None]
    marks: list[dict[str, Any]] = []
    whole, _, _ = log.read_text(encoding="ascii").rpartition("\n")  # the keeper may still write its last line
    for line in whole.splitlines():
        entry: dict[str, Any] = json.loads(line)
        tree = entry["tree"]
        numbers = {inode: numbers[inode] if inode in numbers else next(made) for inode in tree["content"]}
        _extend(names, _names_in(tree["names"], numbers))
        for inode, encoded in tree["content"].items():
            _extend_content(content.setdefault(numbers[inode], [b""]), base64.b64decode(encoded))
        match entry["op"]:
            case "fsync" if entry["directory"]:
                for name in [name for name in names if name[0] == entry["path"]]:
                    names[name] = names[name][-1:]
            case "fsync":
                number = numbers[str(entry["inode"])]
                content[number] = [base64.b64decode(tree["content"][str(entry["inode"])])]
            case "commit":
                kept = [None] if entry["full"] else indices
                indices = [*kept, entry["copy"]]
            case "mark":
                marks = [*marks, entry]
            case _:
                pass
        yield Moment(
            {name: [*values] for name, values in names.items() if values != [None]},
            {number: [*held] for number, held in content.items()},
            indices,
            marks,
        )


def _names_in(tree: dict[str, dict[str, Any]], numbers: dict[str, int]) -> dict[Name, Value]:
    return {
        (directory, name): (kind, numbers[what] if kind == "file" else what)
        for directory, held in tree.items()
        for name, (kind, what) in held.items()
    }


def _extend(names: dict[Name, list[Value]], now: dict[Name, Value]) -> None:
    """Add the values of the names now; a name that is new, or gone, had or has none."""
    for name in {*names, *now}:
        held = names.setdefault(name, [None])
        value = now.get(name)
        if held[-1] != value:
            if value in held:
                held.remove(value)
            held.append(value)


def _extend_content(held: list[bytes], now: bytes) -> None:
    """Add what may be on the disk of a content that was just written."""
    if held[-1] == now:
        return
    for possible in (now[: len(now) // 2], bytes(len(now)), now):
        if possible in held:
            held.remove(possible)
        held.append(possible)


__all__ = ["COMMIT", "MARK", "SYNC", "Crash", "Moment", "moments"]
